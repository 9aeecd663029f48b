//! `longshore render kubernetes`, and what the manifests have longshore do in pods.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::plane::binary;
use crate::run::{Ran, command, ran, run};

const FILE: &str = r#"
[kubernetes]
image = "registry.internal/longshore:0.1.0"
[fleet.research]
platform = "kubernetes"
image = "registry.internal/research:1.4"
kubernetes = { overlay = "k8s/pod.yaml" }
[fleet.chat]
platform = "kubernetes"
image = "registry.internal/chat:1"
"#;

fn folder(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join("longshore.toml"), text).expect("written");
    fs::create_dir(dir.path().join("k8s")).expect("made");
    let overlay = "spec: {nodeSelector: {disk: fast}}\n";
    fs::write(dir.path().join("k8s/pod.yaml"), overlay).expect("written");
    dir
}

fn render(dir: &Path, args: &[&str]) -> Ran {
    run(dir, [&["render", "kubernetes"], args].concat())
}

#[test]
fn manifests_are_printed_whatever_this_machine_has_in_its_environment() {
    let dir = folder(FILE);
    let plain = render(dir.path(), &[]);
    let note = "by tag, not by digest: kubernetes.image, fleet.chat.image, fleet.research.image; --pin names";
    assert!(plain.status == 0 && plain.err.contains(note) && plain.err.lines().count() == 2, "{plain:?}");
    assert!(plain.out.starts_with("apiVersion: v1\nkind: ServiceAccount\n"), "{plain:?}");
    assert!(plain.out.contains("        disk: fast\n"), "the overlay is in: {plain:?}");
    let mut elsewhere = command(dir.path());
    elsewhere
        .args(["render", "kubernetes"])
        .env("DATABASE_URL", "mysql://x")
        .env("LONGSHORE__SERVER__TLS", "auto");
    let elsewhere = ran(elsewhere.output().expect("the binary runs"));
    assert_eq!((elsewhere.status, &elsewhere.out), (0, &plain.out));
    let one = render(dir.path(), &["chat"]);
    assert!(
        one.status == 0 && plain.out.ends_with(&one.out) || plain.out.contains(one.out.trim_end()),
        "{one:?}"
    );
    assert!(!one.out.contains("research"), "{one:?}");
}

#[test]
fn manifests_go_into_files_and_what_an_earlier_rendering_left_is_named() {
    let dir = folder(FILE);
    let first = render(dir.path(), &["-o", "out"]);
    let files =
        ["control-plane", "rbac", "fleet-chat", "fleet-research"].map(|name| format!("out/{name}.yaml"));
    assert_eq!((first.status, first.out), (0, files.join("\n") + "\n"), "{}", first.err);
    fs::write(dir.path().join("out/own.yaml"), "a: 1\n").expect("written");
    let less = FILE.split("[fleet.chat]").next().expect("a part");
    fs::write(dir.path().join("longshore.toml"), less).expect("written");
    let second = render(dir.path(), &["-o", "out"]);
    assert_eq!(second.status, 0, "{second:?}");
    assert!(
        second.err.contains("`out/fleet-chat.yaml` is left") && !second.err.contains("own.yaml"),
        "{second:?}"
    );
    let chart = render(dir.path(), &["--helm", "chart"]);
    assert_eq!(chart.status, 0, "{chart:?}");
    assert!(
        chart.out.starts_with(
            "chart/Chart.yaml\nchart/values.yaml\nchart/values.schema.json\nchart/templates/control-plane.yaml\n"
        ),
        "{chart:?}"
    );
    let schema = fs::read(dir.path().join("chart/values.schema.json")).expect("written");
    assert!(
        serde_json::from_slice::<serde_json::Value>(&schema).is_ok(),
        "JSON, without a comment before it"
    );
    assert_eq!(render(dir.path(), &["--helm", "chart", "research"]).status, 2);
}

#[test]
fn what_is_in_the_way_is_said_with_what_to_do() {
    let dir = folder(&FILE.replace("image = \"registry.internal/longshore:0.1.0\"", ""));
    let ran = render(dir.path(), &[]);
    assert_eq!((ran.status, ran.out.as_str()), (1, ""), "{ran:?}");
    assert!(ran.err.contains("kubernetes.image: missing: the longshore image"), "{ran:?}");
    let unknown = render(dir.path(), &["sales"]);
    assert_eq!(unknown.status, 1, "{unknown:?}");
    assert!(
        unknown.err.contains("fleet.sales: there is no such fleet; of platform `kubernetes` are"),
        "{unknown:?}"
    );
    fs::remove_file(dir.path().join("k8s/pod.yaml")).expect("removed");
    let gone = render(dir.path(), &[]);
    assert_eq!(gone.status, 1, "{gone:?}");
    assert!(
        gone.err.contains("k8s/pod.yaml`") && gone.err.contains("hint: `overlay` in longshore.toml"),
        "{gone:?}"
    );
    assert_eq!(render(dir.path(), &["chat"]).status, 0, "another fleet's overlay is not asked for");
    fs::write(dir.path().join("longshore.toml"), "[kubernetes]\nimages = 1\n").expect("written");
    let mistaken = render(dir.path(), &[]);
    assert!(mistaken.err.contains("longshore.toml:2:1: kubernetes.images"), "{mistaken:?}");
}

#[test]
fn longshore_puts_itself_beside_an_agent() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("longshore");
    let installed = run(dir.path(), ["install", path.to_str().expect("text")]);
    assert_eq!(installed.status, 0, "{installed:?}");
    let both = [path.as_os_str(), binary().as_ref()]
        .map(|program| Command::new(program).arg("--version").output().expect("it runs").stdout);
    assert_eq!(both[0], both[1]);
    let nowhere = run(dir.path(), ["install", "absent/longshore"]);
    assert!(nowhere.status == 1 && nowhere.err.contains("could not copy longshore to"), "{nowhere:?}");
}
