//! Whole images, made in memory: what is found, where, and how it is told.

use serde_json::{Value, json};

use super::*;
use crate::archive::make::{config, docker, oci};
use crate::archive::read;
use crate::finding::Severity;
use crate::limits::Limits;
use crate::tar::make::{archive, entry, file, folder, header};

const CHANCE: &str = "q7Rk2ZpV9xTb4LmW8cYd1NfGs6HjUe3AoKiXuM5EvBt0QzPrDyCnSwFhJgOlIa7R2kVx9Zq4TbWm8LcY";

fn good() -> Value {
    json!({
        "User": "10001",
        "Env": ["PATH=/usr/local/bin:/usr/bin"],
        "Entrypoint": ["/usr/local/bin/longshore", "worker", "--", "python3", "agent.py"],
        "Healthcheck": {"Test": ["CMD", "/usr/local/bin/longshore", "probe", "live"]},
        "Labels": {
            "org.opencontainers.image.revision": "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
            "org.opencontainers.image.version": "1.4.2",
            "org.opencontainers.image.source": "https://git.example/acme/agent",
            "org.opencontainers.image.created": "2026-11-24T10:00:00Z"
        }
    })
}

fn report(layers: &[Vec<u8>], runtime: Value, asked: &Asked) -> Report {
    let bytes = docker(layers, &config(layers, runtime));
    check(read(bytes.as_slice(), &Limits::default()).expect("an image"), asked)
}

fn told(layers: &[Vec<u8>], runtime: Value) -> Vec<String> {
    let report = report(layers, runtime, &Asked::default());
    report.findings.iter().map(|found| format!("{} {}: {}", found.code, found.at, found.what)).collect()
}

fn base() -> Vec<u8> {
    archive(&[
        folder("usr/", 0o755),
        file("usr/local/bin/longshore", "x"),
        file("usr/bin/python3.13", "x"),
        folder("tmp", 0o1777),
    ])
}

#[test]
fn an_image_that_keeps_the_contract_has_no_finding() {
    let layers = [base(), archive(&[file("agent/agent.py", "import os\nprint(os.environ['MODEL'])\n")])];
    assert_eq!(told(&layers, good()), Vec::<String>::new());
    let bytes = oci(&layers, &config(&layers, good()));
    let report = check(read(bytes.as_slice(), &Limits::default()).expect("an image"), &Asked::default());
    assert_eq!((report.findings.len(), report.stack, report.layers), (0, Stack::Python, 2));
}

use crate::stack::Stack;

#[test]
fn a_secret_that_a_later_layer_deletes_is_still_found() {
    let env = format!("OPENAI_API_KEY=sk-proj-{}\n", &CHANCE[..80]);
    for hide in
        [file("app/.wh..env", ""), file("app/.wh..wh..opq", ""), file(".wh.app", ""), file("app/.env", "")]
    {
        let layers = [base(), archive(&[file("app/.env", &env)]), archive(&[hide])];
        let told = told(&layers, good());
        let expected = "secret_in_file layer 2, /app/.env:1 (deleted in layer 3, still in the image): an OpenAI project key (sk-proj-…)";
        assert_eq!(told[0], expected);
        assert!(!told.concat().contains(&CHANCE[..20]), "the secret itself is never shown");
    }
}

#[test]
fn what_is_configured_in_files_counts_only_where_it_is_seen() {
    let layers = [
        archive(&[
            file("agent/a.py", "m = 'gpt-5-mini'\n"),
            file("agent/b.py", "m = 'gpt-4o'\n"),
            file("agent/.env", "A=b\n"),
        ]),
        archive(&[file("agent/.wh.a.py", "")]),
    ];
    assert_eq!(
        told(&layers, good()),
        [
            "config_file layer 1, /agent/.env: configuration of one environment",
            "model_in_file layer 1, /agent/b.py:1: the model `gpt-4o`",
        ]
    );
}

#[test]
fn tools_caches_and_repositories_are_found() {
    let big = vec![b'x'; 70 << 10];
    let layers = [archive(&[
        file("usr/bin/gcc-12", "x"),
        file("usr/bin/make", "x"),
        file("root/.cache/pip/http/a", &big),
        file("var/lib/apt/lists/x", &big),
        file("app/.git/HEAD", "ref"),
        file("app/.git/objects/aa/bb", "x"),
        file("root/.aws/credentials", "x"),
        entry("usr/bin/su", b'0', 0o4755, "", b"x"),
        entry("agent/open", b'0', 0o666, "", b"x"),
        folder("agent/drop", 0o777),
        folder("tmp", 0o755),
        [header("agent/own.py", b'0', 0o644, 10001, "", 1), {
            let mut b = vec![b'x'];
            b.resize(512, 0);
            b
        }]
        .concat(),
        entry("agent/null", b'3', 0o644, "", b""),
    ])];
    assert_eq!(
        told(&layers, good()),
        [
            "credential_file layer 1, /root/.aws/credentials: AWS keys", // lint: path-ok
            "git_folder layer 1, /app/.git: a Git repository with its history",
            "compiler layer 1: `/usr/bin/gcc-12`, `/usr/bin/make`",
            "package_cache layer 1: the cache of apt, 0.1 MiB in 1 files: `/var/lib/apt/lists/x`",
            "package_cache layer 1: the cache of pip, 0.1 MiB in 1 files: `/root/.cache/pip/http/a`", // lint: path-ok
            "setuid_file layer 1: `/usr/bin/su`",
            "world_writable layer 1: `/agent/open`, `/agent/drop`",
            "tmp_not_open layer 1: `/tmp`",
            "device_file layer 1: `/agent/null`",
            "user_writable layer 1: `/agent/own.py`",
        ]
    );
}

#[test]
fn size_and_waste_are_told_in_mebibytes() {
    let big = vec![0; 11 << 20];
    let layers = [archive(&[file("opt/data", &big)]), archive(&[file("opt/.wh.data", "")])];
    let asked = Asked { budget: Some(10 << 20), ..Asked::default() };
    let report = report(&layers, good(), &asked);
    let told: Vec<_> =
        report.findings.iter().map(|found| format!("{}: {}", found.code, found.what)).collect();
    assert_eq!(
        told,
        [
            "size_budget: 11.0 MiB over all layers; 10.0 MiB is the budget of a native agent",
            "wasted_space: 11.0 MiB of it is hidden by later layers: `/opt/data`",
        ]
    );
}

#[test]
fn an_allowed_finding_is_counted_and_not_listed() {
    let layers =
        [archive(&[file("agent/a.py", "m = 'gpt-4o'\n"), entry("usr/bin/su", b'0', 0o4755, "", b"x")])];
    let allow = crate::allow::parse("setuid_file\nmodel_in_file:gpt-4o\n").expect("rules");
    let report = report(&layers, good(), &Asked { allow, ..Asked::default() });
    assert_eq!((report.findings.len(), report.allowed), (0, 2));
    assert_eq!(report.summary(), "0 errors, 0 warnings, 0 notes; 2 allowed");
}

#[test]
fn image_and_dockerfile_tell_one_thing_once() {
    let mut runtime = good();
    runtime["User"] = json!("");
    runtime["Env"] = json!(["MODEL=gpt-5-mini"]);
    let text = "FROM debian:12@sha256:00 AS build\nRUN true\nFROM debian:12@sha256:00\nENV MODEL=gpt-5-mini\nCOPY . .\n\
                HEALTHCHECK CMD [\"x\"]\nENTRYPOINT [\"x\"]\n";
    let asked = Asked { dockerfile: Some(text.into()), ..Asked::default() };
    let told: Vec<_> = report(&[base()], runtime, &asked)
        .findings
        .iter()
        .map(|found| format!("{} {} {:?}", found.code, found.at, found.dockerfile_line))
        .collect();
    assert_eq!(
        told,
        [
            "model_in_env ENV MODEL Some(4)",
            "user_root configuration Some(3)",
            "copy_everything Dockerfile:5 None"
        ]
    );
}

#[test]
fn the_text_for_people_says_what_where_and_what_to_do() {
    let env = format!("OPENAI_API_KEY=sk-proj-{}\n", &CHANCE[..80]);
    let layers = [base(), archive(&[file("app/.env", &env), file("app/a.py", "m = 'gpt-4o'\n")])];
    let mut config = config(
        &layers,
        json!({"User": "0:0", "Entrypoint": ["/bin/sh", "-c", "python agent.py"], "Env": ["LOG_LEVEL=debug"]}),
    );
    config["history"] = json!([{"created_by": "FROM base"}, {"created_by": "ENV LOG_LEVEL=debug", "empty_layer": true},
        {"created_by": "/bin/sh -c #(nop) COPY dir:1 in /app "}]);
    let bytes = docker(&layers, &config);
    let asked = Asked { name: "acme/agent:1.4.2".into(), ..Asked::default() };
    let mut report = check(read(bytes.as_slice(), &Limits::default()).expect("an image"), &asked);
    report.id = "sha256:0123456789abcdef".into();
    insta::assert_snapshot!(report.text(|_, word| word.to_owned()));
    assert_eq!(report.count(Severity::Error), 3);
}

#[test]
fn the_json_for_programs_has_stable_names() {
    let layers = [archive(&[file("app/.env", format!("K=gsk_{}\n", &CHANCE[..52]))])];
    let report = report(&layers, good(), &Asked::default());
    let told = serde_json::to_value(&report.findings[0]).expect("JSON");
    let expected = json!({
        "severity": "error", "code": "secret_in_file", "what": "a Groq key (gsk_…)", "fix": Code::SecretInFile.fix(),
        "where": {"in": "layer", "layer": 1, "path": "/app/.env", "line": 1},
    });
    assert_eq!(told, expected);
}
