//! What copies are called and made of, from values alone.

use bollard::models::{
    ContainerConfig, ContainerInspectResponse, EndpointSettings, HostConfig, NetworkSettings, PortBinding,
};

use super::copy::{check, choose, request};
use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn service() -> Service {
    Service { project: "shop".into(), name: "agent".into() }
}

fn replica(number: u32, runs: bool, created: i64) -> Replica {
    Replica {
        id: format!("{number:064x}"),
        name: format!("shop_agent_{number}"),
        number,
        worker: None,
        runs,
        restarts: false,
        created,
        config: "hash".into(),
        folder: None,
    }
}

/// A container as docker-compose of this version makes it.
fn made_by(version: &str, name: &str) -> ContainerInspectResponse {
    let labels = [
        (PROJECT, "shop"),
        (SERVICE, "agent"),
        (NUMBER, "1"),
        (ONE_OFF, "False"),
        (CONFIG_HASH, "hash"),
        (VERSION, version),
        (WORKING_DIR, "/srv/shop"),
        ("com.docker.compose.project.config_files", "docker-compose.yml"),
        ("team", "tides"),
    ];
    let aliases = ["agent", "0123456789ab", "shop_agent_1"].map(str::to_owned);
    let endpoint = EndpointSettings {
        aliases: Some(aliases.into()),
        ip_address: Some("172.18.0.3".into()),
        mac_address: Some("02:42:ac:12:00:03".into()),
        ..Default::default()
    };
    let networks = ["shop_default", "shop_back"].map(|name| (name.to_owned(), endpoint.clone()));
    ContainerInspectResponse {
        id: Some(ID.into()),
        name: Some(format!("/{name}")),
        image: Some("sha256:1".into()),
        config: Some(ContainerConfig {
            hostname: Some("0123456789ab".into()),
            env: Some(vec!["A=b".into()]),
            labels: Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
            stop_timeout: Some(150),
            ..Default::default()
        }),
        host_config: Some(HostConfig {
            network_mode: Some("shop_default".into()),
            memory: Some(1 << 30),
            ..Default::default()
        }),
        network_settings: Some(NetworkSettings { networks: Some(networks.into()), ..Default::default() }),
        ..Default::default()
    }
}

fn copied(source: &ContainerInspectResponse, number: u32) -> Result<super::copy::Request, NotCopied> {
    let copy = Copy { service: service(), worker_id: "agent-x-7".into(), fleet: "research".into() };
    request(&copy, source, "acme/agent:1", number, "abcdef")
}

#[test]
fn the_lowest_free_number_is_taken() {
    let of = |numbers: &[u32]| numbers.iter().map(|number| replica(*number, true, 0)).collect::<Vec<_>>();
    assert_eq!(lowest_free(&of(&[])), 1);
    assert_eq!(lowest_free(&of(&[1, 2, 4])), 3);
    assert_eq!(lowest_free(&of(&[2, 3])), 1);
}

#[test]
fn names_are_as_the_version_of_docker_compose_makes_them() {
    let name = |version, source| copied(&made_by(version, source), 3).map(|request| request.name);
    assert_eq!(name("1.29.2", "shop_agent_1").as_deref(), Ok("shop_agent_3"));
    assert_eq!(name("2.24.5", "shop-agent-1").as_deref(), Ok("shop-agent-3"));
    // 2.x in its compatible mode; one that 1.x is about to replace.
    assert_eq!(name("2.24.5", "shop_agent_1").as_deref(), Ok("shop_agent_3"));
    assert_eq!(name("1.29.2", "9f86d081884c_shop_agent_1").as_deref(), Ok("shop_agent_3"));
    assert_eq!(name("1.29.2", "crane"), Err(NotCopied::Name { service: service() }));
}

#[test]
fn a_copy_has_all_of_its_sibling_but_who_it_is() {
    let source = made_by("1.29.2", "shop_agent_1");
    let Ok(super::copy::Request { name, body, networks }) = copied(&source, 3) else { panic!("a request") };
    let labels = body.labels.expect("labels");
    for (label, value) in [
        (PROJECT, "shop"),
        (SERVICE, "agent"),
        (NUMBER, "3"),
        (ONE_OFF, "False"),
        (CONFIG_HASH, "hash"),
        (VERSION, "1.29.2"),
        (WORKING_DIR, "/srv/shop"),
        ("com.docker.compose.project.config_files", "docker-compose.yml"),
        ("team", "tides"),
        (label::REPLICA, "agent-x-7"),
        (label::INSTALLATION, "abcdef"),
    ] {
        assert_eq!(labels.get(label).map(String::as_str), Some(value), "{label}");
    }
    assert_eq!(
        (body.hostname, body.stop_timeout, body.image.as_deref()),
        (None, Some(150), Some("acme/agent:1"))
    );
    assert_eq!(body.env, Some(vec!["A=b".into(), "LONGSHORE_WORKER_ID=agent-x-7".into()]));
    assert_eq!(body.host_config.expect("limits").memory, Some(1 << 30));
    let first = body.networking_config.and_then(|config| config.endpoints_config).expect("a network");
    assert_eq!(first.keys().collect::<Vec<_>>(), ["shop_default"]);
    let [(other, endpoint)] = &networks[..] else { panic!("one more: {networks:?}") };
    assert_eq!((other.as_str(), &endpoint.ip_address, &endpoint.mac_address), ("shop_back", &None, &None));
    assert_eq!(endpoint.aliases, Some(vec!["agent".into(), name]));
}

#[test]
fn a_copy_of_a_copy_is_another_worker() {
    let mut source = made_by("1.29.2", "shop_agent_1");
    let config = source.config.as_mut().expect("a configuration");
    config.env = Some(vec!["LONGSHORE_WORKER_ID=agent-x-6".into()]);
    assert_eq!(check(&service(), &source), Err(NotCopied::WorkerId { service: service() }));
    let config = source.config.as_mut().expect("a configuration");
    config.labels.as_mut().expect("labels").insert(label::REPLICA.into(), "agent-x-6".into());
    let body = copied(&source, 2).map(|request| request.body).expect("a request");
    assert_eq!(body.env, Some(vec!["LONGSHORE_WORKER_ID=agent-x-7".into()]));
}

#[test]
fn what_only_one_container_can_have_is_not_copied() {
    let mut named = made_by("1.29.2", "shop_agent_1");
    named.config.as_mut().expect("a configuration").hostname = Some("crane".into());
    assert_eq!(check(&service(), &named), Err(NotCopied::HostName { service: service() }));
    let publishes = |port: &str| {
        let mut source = made_by("1.29.2", "shop_agent_1");
        let binding = PortBinding { host_ip: None, host_port: Some(port.into()) };
        let bindings = [("8080/tcp".to_owned(), Some(vec![binding]))];
        source.host_config.as_mut().expect("limits").port_bindings = Some(bindings.into());
        check(&service(), &source)
    };
    assert_eq!(publishes("8080"), Err(NotCopied::Port { service: service(), port: "8080".into() }));
    assert_eq!((publishes(""), publishes("0")), (Ok(()), Ok(())));
}

#[test]
fn the_newest_that_runs_is_copied() {
    let number = |replicas: &[Replica]| choose(&service(), replicas).map(|replica| replica.number);
    let looping = Replica { restarts: true, ..replica(4, true, 90) };
    assert_eq!(number(&[replica(1, true, 10), replica(2, true, 20), replica(3, false, 30), looping]), Ok(2));
    assert_eq!(number(&[replica(1, false, 10), replica(2, false, 20)]), Ok(2));
    assert_eq!(number(&[]), Err(NotCopied::Nothing { service: service() }));
}

#[test]
fn only_containers_that_docker_compose_lists_as_replicas_are_the_services() {
    let listed = |change: &dyn Fn(&mut HashMap<String, String>)| {
        let mut labels = made_by("1.29.2", "x").config.and_then(|config| config.labels).expect("labels");
        change(&mut labels);
        service().owns(&labels)
    };
    assert!(listed(&|_| {}));
    assert!(!listed(&|labels| drop(labels.insert(ONE_OFF.into(), "True".into()))));
    assert!(!listed(&|labels| drop(labels.insert(PROJECT.into(), "shop2".into()))));
    assert!(!listed(&|labels| drop(labels.insert(SERVICE.into(), "agents".into()))));
    assert!(!listed(&|labels| drop(labels.remove(CONFIG_HASH))));
}

#[test]
fn the_override_file_says_scale_and_is_never_written_over_another_one() {
    let counts: Counts = [("agent".to_owned(), 4), ("writer".to_owned(), 2)].into();
    let text = override_text("shop", &counts);
    assert!(text.ends_with("services:\n  \"agent\":\n    scale: 4\n  \"writer\":\n    scale: 2\n"), "{text}");
    let folder = std::env::temp_dir().join(format!("longshore-override-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let at = folder.to_str().expect("text");
    let file = OverrideFile::find(None, Some(at)).expect("none is there");
    assert_eq!(file.path(), folder.join("docker-compose.override.yml"));
    assert_eq!((file.write(&text), file.write(&text)), (Ok(true), Ok(false)));
    assert_eq!(OverrideFile::find(None, Some(at)).as_ref(), Ok(&file), "ours is found again");
    assert_eq!((file.clear("shop"), file.clear("shop")), (Ok(true), Ok(false)), "no replica is left");
    let cleared = std::fs::read_to_string(file.path()).expect("it is there");
    assert!(cleared.ends_with("version: \"3.8\"\nservices: {}\n"), "{cleared}");
    assert_eq!(file.write(&text), Ok(true));
    std::fs::write(file.path(), "services: {}\n").expect("it is ours");
    assert!(file.write(&text).is_err_and(|why| why.contains("stays as it is")));
    assert_eq!(file.clear("shop"), Ok(false), "it is somebody's own");
    assert!(OverrideFile::find(None, Some(at)).is_err_and(|why| why.contains("[docker] override")));
    std::fs::remove_file(file.path()).expect("it is there");
    assert_eq!((file.clear("shop"), file.path().exists()), (Ok(false), false), "none is made");
    assert!(OverrideFile::find(None, Some("/nowhere/at-all")).is_err_and(|why| why.contains("mount it")));
    std::fs::remove_dir_all(folder).expect("cleaned up");
}
