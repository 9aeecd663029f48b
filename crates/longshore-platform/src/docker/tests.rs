//! The request that a container is created with, and what images are refused.

use serde_json::Value;

use super::spec::starts_longshore;
use super::*;

fn spec() -> ContainerSpec {
    let pair = |name: &str, value: &str| (name.to_owned(), Hidden(value.to_owned()));
    ContainerSpec {
        worker_id: "research-abcdef-7".into(),
        fleet: "research".into(),
        release: 3,
        image: "acme/research:1.4".into(),
        image_id: None,
        supervisor: Supervisor::Image,
        command: Vec::new(),
        working_dir: String::new(),
        env: vec![pair("MODEL", "m"), pair("LONGSHORE_FLEET", "research")],
        network: "longshore-abcdef-research".into(),
        limits: Limits { cpu: 500, cpu_limit: 2000, memory: 512 << 20, memory_limit: 2 << 30, pids: 512 },
        stop_grace_s: 140,
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn facts(entrypoint: &str, command: &str) -> ImageFacts {
    ImageFacts {
        id: "sha256:1".into(),
        os: "linux".into(),
        architecture: "amd64".into(),
        entrypoint: words(entrypoint),
        command: words(command),
        revision: Some("0a1b2c".into()),
    }
}

fn json(spec: &ContainerSpec, facts: &ImageFacts) -> Value {
    serde_json::to_value(request(spec, facts, "abcdef")).expect("plain data")
}

#[test]
fn the_request_of_a_container_with_longshore_in_its_image() {
    let sent = json(&spec(), &facts("/longshore worker --", "python agent.py"));
    insta::assert_snapshot!(serde_json::to_string_pretty(&sent).expect("plain data"));
}

#[test]
fn the_request_of_a_container_that_longshore_is_put_into() {
    let spec = ContainerSpec {
        supervisor: Supervisor::Volume("longshore-0.1.0-1".into()),
        working_dir: "/app".into(),
        ..spec()
    };
    let sent = json(&spec, &facts("/usr/bin/env", "python agent.py"));
    insta::assert_snapshot!(serde_json::to_string_pretty(&sent).expect("plain data"));
}

#[test]
fn a_declared_command_replaces_the_images_where_its_entrypoint_leaves_that_open() {
    let declared = ContainerSpec { command: words("node agent.js"), ..spec() };
    let check = |entrypoint: &str, expected: Value| {
        assert_eq!(json(&declared, &facts(entrypoint, "python agent.py"))["Cmd"], expected, "{entrypoint}");
    };
    check("/longshore worker --", serde_json::json!(["node", "agent.js"]));
    check("/longshore worker -- python agent.py", Value::Null);
    let injected = ContainerSpec { supervisor: Supervisor::Volume("v".into()), ..declared.clone() };
    let sent = json(&injected, &facts("/entrypoint.sh", "serve"));
    assert_eq!(sent["Cmd"], serde_json::json!(["node", "agent.js"]));
}

#[test]
fn small_promises_are_what_the_engine_can_keep() {
    let limits = Limits { cpu: 1, cpu_limit: 10, memory: 1, memory_limit: 16 << 20, pids: 16 };
    let host = &json(&ContainerSpec { limits, ..spec() }, &facts("/longshore worker --", ""))["HostConfig"];
    assert_eq!((&host["CpuShares"], &host["CpuQuota"]), (&Value::from(2), &Value::from(1000)));
    assert_eq!(host["MemoryReservation"], 0);
}

#[test]
fn an_image_is_for_this_machine_and_has_something_to_run() {
    let check = |facts: &ImageFacts, injected, command: &str, host, expected: &str| {
        let said = super::check("a:1", facts, injected, &words(command), host);
        let said = said.map_or_else(|unfit| unfit.to_string(), |()| "good".into());
        assert!(said.contains(expected), "{said}");
    };
    let good = facts("/longshore worker --", "x");
    check(&good, false, "", "x86_64", "good");
    check(&good, false, "", "aarch64", "is for linux/amd64, the Docker host is arm64");
    check(&facts("/bin/sh", "x"), false, "", "x86_64", "does not start longshore");
    check(&facts("/bin/sh", ""), true, "", "x86_64", "good");
    check(&facts("", ""), true, "", "x86_64", "says not what to run");
    check(&facts("", ""), true, "x", "x86_64", "good");
}

#[test]
fn an_entrypoint_that_starts_longshore_is_known() {
    for good in ["/longshore worker --", "longshore worker", "/sbin/tini /usr/bin/longshore worker -- x"] {
        assert!(starts_longshore(&words(good)), "{good}");
    }
    for bad in ["", "/longshore", "/longshore serve", "worker --", "/bin/sh -c longshore"] {
        assert!(!starts_longshore(&words(bad)), "{bad}");
    }
}

#[test]
fn secrets_in_a_spec_do_not_print() {
    let spec = ContainerSpec { env: vec![("KEY".into(), Hidden("s3cret".into()))], ..spec() };
    assert!(!format!("{spec:?}").contains("s3cret"));
}

#[test]
fn what_the_engine_refuses_is_told_with_what_to_do() {
    let check = |status_code: u16, message: &str, expected: &str| {
        let error =
            bollard::errors::Error::DockerResponseServerError { status_code, message: message.into() };
        let said =
            super::error::explain("unix:///engine.sock", "create a container".into(), error).to_string();
        assert!(said.contains(expected), "{said}");
    };
    check(500, "mkdir /var/lib/docker/overlay2/x: no space left on device", "`docker system prune`");
    check(500, "could not find an available, non-overlapping IPv4 address pool", "`docker network prune`");
    check(409, "Conflict. The container name is in use", "the Docker engine says: Conflict");
    let missing = bollard::errors::Error::SocketNotFoundError("/engine.sock".into());
    let said = super::error::explain("unix:///engine.sock", "connect".into(), missing).to_string();
    assert!(said.contains("there is no socket `/engine.sock`") && said.contains("[docker] host"), "{said}");
}
