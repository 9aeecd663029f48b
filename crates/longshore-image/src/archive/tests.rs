use proptest::prelude::*;
use serde_json::{Value, json};

use super::make::{config, docker, gzip, oci};
use super::*;
use crate::tar::make::{archive, entry, file, header, pax};

fn small() -> Limits {
    Limits {
        total: 4 << 20,
        entries: 50,
        expansion: 20,
        expansion_from: 256 << 10,
        document: 64 << 10,
        header: 4 << 10,
        ..Limits::default()
    }
}

fn faults(bytes: &[u8]) -> Vec<String> {
    match read(bytes, &small()) {
        Ok(image) => {
            image.faults.iter().map(|fault| format!("{}: {}: {}", fault.code, fault.at, fault.what)).collect()
        }
        Err(error) => vec![format!(
            "error: {error}{}",
            std::error::Error::source(&error).map_or(String::new(), |s| format!(": {s}"))
        )],
    }
}

fn check(bytes: &[u8], expected: &str) {
    let told = faults(bytes);
    assert_eq!(told.join("\n"), expected);
}

fn layers() -> Vec<Vec<u8>> {
    vec![
        archive(&[file("etc/passwd", "agent:x:10001:10001::/:/bin/sh\n")]),
        archive(&[file("agent/a.py", "print(1)\n")]),
    ]
}

#[test]
fn both_forms_of_an_archive_are_read_whole() {
    let layers = layers();
    let config = config(&layers, json!({"User": "10001"}));
    for bytes in [docker(&layers, &config), oci(&layers, &config)] {
        check(&bytes, "");
        let image = read(bytes.as_slice(), &small()).expect("an image");
        assert_eq!(image.layers.len(), 2);
        assert_eq!(&*image.layers[1].entries[0].path, "agent/a.py");
        assert!(image.layers[0].passwd.is_some());
        assert_eq!(image.id, format!("sha256:{}", make::digest(config.to_string().as_bytes())));
    }
}

#[test]
fn a_layer_that_stands_twice_is_read_once() {
    let layers = layers();
    let config = config(&[layers[0].clone(), layers[1].clone(), layers[0].clone()], json!({}));
    let name = "c.json";
    let manifest =
        json!([{"Config": name, "RepoTags": null, "Layers": ["a/layer.tar", "b/layer.tar", "c/layer.tar"]}]);
    let bytes = archive(&[
        file("a/layer.tar", &layers[0]),
        file("b/layer.tar", &layers[1]),
        entry("c/layer.tar", b'2', 0o777, "../a/layer.tar", b""),
        file(name, config.to_string()),
        file("manifest.json", manifest.to_string()),
    ]);
    check(&bytes, "");
}

#[test]
fn what_is_no_image_is_said_to_be_none() {
    check(b"", "error: this is no image archive: it has neither manifest.json nor index.json");
    check(b"PK\x03\x04 not a tar at all", "error: could not read the archive: the archive breaks off");
    check(&archive(&[file("manifest.json", "[]")]), "error: this is no image archive: its manifest is empty");
    check(
        &archive(&[file("manifest.json", r#"[{"Config":"x.json","Layers":[]}]"#)]),
        "error: this is no image archive: `x.json`, which its manifest names, is missing",
    );
    assert!(
        faults(&archive(&[file("manifest.json", "[nonsense")]))[0]
            .contains("`manifest.json` in the archive is not what")
    );
}

#[test]
fn a_layer_that_is_changed_cut_or_missing_is_a_finding() {
    let layers = layers();
    let config = config(&layers, json!({}));
    let changed = vec![layers[0].clone(), archive(&[file("agent/a.py", "print(2)\n")])];
    check(
        &docker(&changed, &config),
        "digest_mismatch: layer 2: its bytes are not those that its digest names",
    );
    let cut = vec![layers[0].clone(), layers[1][..600].to_vec()];
    check(&docker(&cut, &config), "corrupt_archive: layer 2: the archive breaks off");
    let manifest = json!([{"Config": "c.json", "Layers": ["gone/layer.tar"]}]);
    let bytes = archive(&[file("c.json", config.to_string()), file("manifest.json", manifest.to_string())]);
    check(&bytes, "corrupt_archive: layer 1: `gone/layer.tar` was not read, or is not in the archive");
}

#[test]
fn paths_and_hard_links_that_lead_out_are_findings() {
    let layers = vec![archive(&[
        file("../../etc/cron.d/x", "* * * * * root x"),
        entry("a", b'1', 0o644, "../../etc/shadow", b""),
        entry("b", b'2', 0o777, "../../../../etc/shadow", b""),
        file("ok", "x"),
    ])];
    check(
        &docker(&layers, &config(&layers, json!({}))),
        "path_traversal: layer 1: the entry `../../etc/cron.d/x` leads out of the image\n\
         path_traversal: layer 1: the hard link `a` leads out of the image, to `../../etc/shadow`",
    );
}

#[test]
fn a_packed_bomb_is_left_at_the_bound() {
    let bomb = archive(&[file("zeros", vec![0; 3 << 20])]);
    let bytes = oci(std::slice::from_ref(&bomb), &config(std::slice::from_ref(&bomb), json!({})));
    let told = faults(&bytes);
    assert!(
        told[0].starts_with("too_large: layer 1: ") && told[0].contains("unpack to more than "),
        "{told:?}"
    );
}

#[test]
fn sizes_and_numbers_beyond_the_bounds_are_findings() {
    // A header that promises a terabyte, and nothing behind it.
    let promised = [pax(&[("size", "1099511627776")]), header("big", b'0', 0o644, 0, "", 0)].concat();
    let layers = vec![promised];
    let told = faults(&docker(&layers, &config(&layers, json!({}))));
    assert!(told[0].starts_with("too_large: layer 1: it unpacks to more bytes than are read"), "{told:?}");
    let many = vec![archive(&(0..60).map(|index| file(&format!("f{index}"), "")).collect::<Vec<_>>())];
    let told = faults(&docker(&many, &config(&many, json!({}))));
    assert!(
        told[0].starts_with("too_large: layer 1: it has more than the entries that are read"),
        "{told:?}"
    );
    // What comes after is told to be unread, not passed over.
    let more = vec![many[0].clone(), archive(&[file("a", "x")])];
    let told = faults(&docker(&more, &config(&more, json!({}))));
    assert!(told.len() == 2 && told[1].starts_with("too_large: layer 2:"), "{told:?}");
}

#[test]
fn a_layer_of_unknown_packing_is_not_passed_over() {
    let blob = b"\x28\xb5\x2f\xfd rest of it".to_vec();
    let config = config(std::slice::from_ref(&blob), json!({}));
    check(&docker(&[blob], &config), "layer_unread: layer 1: it is packed with zstd, which is not read");
    let broken = gzip(&archive(&[file("a", "x")]))[..30].to_vec();
    let told = faults(&docker(&[broken], &config));
    assert!(told[0].starts_with("corrupt_archive: layer 1: "), "{told:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn damage_anywhere_never_makes_it_panic(at in 0usize..1_000_000, byte in any::<u8>(), cut in any::<bool>(), form in any::<bool>()) {
        let layers = layers();
        let config: Value = config(&layers, json!({"Env": ["A=b"]}));
        let mut bytes = if form { docker(&layers, &config) } else { oci(&layers, &config) };
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let _ = faults(&bytes);
    }
}
