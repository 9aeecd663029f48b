//! What files say of containers and of the Docker engine.

use super::*;
use crate::container::{Container, Egress, Image, Resources, Supervisor};

const DOCKER: &str = "[fleet.research]\nplatform = \"docker\"\nimage = \"acme/research:1.4\"\n";

fn container(keys: &str) -> Container {
    only_fleet(&format!("{DOCKER}{keys}\n"), &[]).container.expect("a container")
}

#[test]
fn an_image_is_all_that_a_fleet_on_docker_must_declare() {
    let fleet = only_fleet(DOCKER, &[]);
    assert_eq!((fleet.command.len(), fleet.working_dir.as_str(), fleet.check()), (0, "", Ok(())));
    let image = Image { repository: "acme/research".into(), tag: Some("1.4".into()), digest: None };
    let expected = Container {
        image,
        image_id: None,
        supervisor: Supervisor::Image,
        egress: Egress::Open,
        resources: Resources::default(),
    };
    assert_eq!(fleet.container, Some(expected));
}

#[test]
fn every_key_of_containers_is_read() {
    let file = r#"
        [docker]
        host = "tcp://127.0.0.1:2375"
        inject = "bin/longshore"
        cpu = 3.5
        memory = "6Gi"
        [fleet.research]
        platform = "docker"
        working_dir = "/app"
        image = { repository = "registry.internal:5000/research", tag = "1.4" }
        supervisor = "inject"
        egress = "closed"
        resources = { cpu = "250m", cpu_limit = 1, memory = "64Mi", memory_limit = "128Mi", pids = 64 }
    "#;
    let settings = good(file, &[]);
    let docker = DockerSettings {
        host: Some("tcp://127.0.0.1:2375".into()),
        inject: Some("/srv/agents/bin/longshore".into()),
        cpu: Some(3500),
        memory: Some(6 << 30),
        ..DockerSettings::default()
    };
    assert_eq!(settings.docker, docker);
    let fleet = &settings.fleets[0];
    let resources =
        Resources { cpu: 250, cpu_limit: 1000, memory: 64 << 20, memory_limit: 128 << 20, pids: 64 };
    let container = fleet.container.as_ref().expect("a container");
    assert_eq!((container.resources, container.egress.clone()), (resources, Egress::Closed));
    assert_eq!(
        (container.supervisor, container.image.to_string().as_str()),
        (Supervisor::Inject, "registry.internal:5000/research:1.4")
    );
    assert_eq!(fleet.working_dir, "/app");
}

#[test]
fn a_compose_fleet_is_a_service_of_its_own_name_unless_it_says_otherwise() {
    let file = "[docker]\nproject = \"shop\"\noverride = \"x/scaled.yml\"\n[fleet.research]\nplatform = \"compose\"\n";
    let settings = good(file, &[]);
    let docker = DockerSettings {
        project: Some("shop".into()),
        override_file: Some("/srv/agents/x/scaled.yml".into()),
        ..DockerSettings::default()
    };
    assert_eq!(settings.docker, docker);
    let fleet = &settings.fleets[0];
    assert_eq!(
        (fleet.service.as_deref(), &fleet.container, fleet.check()),
        (Some("research"), &None, Ok(()))
    );
    assert!(fleet.with_image("acme/x:2").is_err_and(|why| why.contains("docker-compose up")));
    let fleet = only_fleet(&format!("{file}service = \"agent_1\"\n"), &[]);
    assert_eq!(fleet.service.as_deref(), Some("agent_1"));
    assert!(complaints(&format!("{file}service = \"a b\"\n"), &[]).contains("no name of a service"));
    let unused = warnings(&format!("{file}env = {{ A = \"b\" }}\nimage = \"a\"\n"), &[]);
    assert!(unused.contains("env") && unused.contains("image"), "{unused}");
    assert!(warnings(&format!("{MINIMAL}service = \"agent\"\n"), &[]).contains("only platform `compose`"));
}

#[test]
fn undeclared_resources_follow_declared_ones() {
    let resources = |keys: &str| container(&format!("resources = {{ {keys} }}")).resources;
    assert_eq!(resources("cpu = 4").cpu_limit, 4000);
    assert_eq!(resources("cpu_limit = 0.1").cpu, 100);
    assert_eq!(resources("memory = \"3Gi\"").memory_limit, 3 << 30);
    assert_eq!(resources("memory_limit = \"100Mi\"").memory, 100 << 20);
}

#[test]
fn what_is_wrong_with_containers_is_said_where_it_stands() {
    let file = r#"
        [docker]
        host = "ssh://me@host"
        cpus = 2
        [fleet.a]
        platform = "docker"
        [fleet.b]
        platform = "docker"
        image = "https://registry.internal/research"
        working_dir = "app"
        supervisor = "sidecar"
        egress = ["10.0.0.0/8:5432"]
        resources = { cpu = "half", cpu_limit = 0.001, memory = 512, memroy_limit = "1Gi" }
        [fleet.c]
        platform = "docker"
        image = { repository = "a:1", tag = "2" }
        resources = { cpu = 3, cpu_limit = 2 }
        [fleet.d]
        platform = "docker"
        image = { tag = "2" }
        resources = { memory_limit = "1Mi" }
    "#;
    insta::assert_snapshot!("containers", complaints(file, &[]));
}

#[test]
fn a_fleet_without_containers_is_told_what_it_does_not_use() {
    let file = format!("{MINIMAL}image = \"a\"\nresources = {{ cpu = 1 }}\n");
    insta::assert_snapshot!("no_containers", warnings(&file, &[]));
}

prop_compose! {
    pub fn any_container()(
        tag in proptest::option::of("[a-z0-9]{1,9}"), repository in "[a-z]{1,4}(/[a-z]{1,4}){0,2}", injected: bool, closed: bool,
        cpu in 10u32..5000, more in 0u32..5000, memory in 16u64 << 20..1 << 40, more_memory in 0u64..1 << 40, pids in 16u32..4000,
    ) -> Container {
        Container {
            image_id: None,
            image: Image { repository, tag, digest: None },
            supervisor: if injected { Supervisor::Inject } else { Supervisor::Image },
            egress: if closed { Egress::Closed } else { Egress::Open },
            resources: Resources { cpu, cpu_limit: cpu + more, memory, memory_limit: memory + more_memory, pids },
        }
    }
}
