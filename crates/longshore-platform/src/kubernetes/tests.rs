//! What is seen of objects as the API server writes them, and what is written of a release.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use longshore_core::container::{Container, Image, Resources, Supervisor};
use longshore_core::fleet::{Fleet, Platform};
use longshore_core::id::FleetName;
use longshore_core::kubernetes::digest;
use serde_json::{Value, json};

use super::*;
use crate::End;

fn merged(mut base: Value, more: Value) -> Value {
    fn merge(base: &mut Value, more: Value) {
        match (base, more) {
            (Value::Object(base), Value::Object(more)) => {
                more.into_iter()
                    .for_each(|(key, value)| merge(base.entry(key).or_insert(Value::Null), value));
            }
            (base, more) => *base = more,
        }
    }
    merge(&mut base, more);
    base
}

fn pod(more: Value) -> PodSeen {
    let base = json!({
        "metadata": {
            "name": "research-7f-x", "uid": "u-1", "labels": { "longshore.dev/fleet": "research" },
            "annotations": { "longshore.dev/declaration": "0011" },
        },
        "spec": { "containers": [{ "name": "sidecar", "image": "mesh:1" }, { "name": "agent", "image": "research:1" }] },
        "status": { "phase": "Running" },
    });
    let pod: Pod = serde_json::from_value(merged(base, more)).expect("a pod");
    PodSeen::of(&pod).expect("of a fleet")
}

/// The status of its agent's container.
fn agent(status: Value) -> Value {
    let whole = merged(
        json!({ "name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 0 }),
        status,
    );
    json!({ "status": { "containerStatuses": [whole] } })
}

#[test]
fn a_pod_is_known_by_its_agents_image_and_its_declaration() {
    let seen = pod(json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } }));
    assert_eq!((seen.name.as_str(), seen.fleet.as_str()), ("research-7f-x", "research"));
    assert_eq!(seen.mark.image.as_deref(), Some("research:1"));
    assert_eq!(seen.mark.declaration.as_deref(), Some("0011"));
    assert!(seen.ready && !seen.leaves && seen.stuck.is_none() && seen.ended.is_none());
    let stranger: Pod = serde_json::from_value(json!({ "metadata": { "name": "x" } })).expect("a pod");
    assert_eq!(PodSeen::of(&stranger), None);
}

#[test]
fn what_keeps_a_pod_from_running_is_told_and_what_passes_is_not() {
    let waiting = |reason: &str, message: &str| {
        pod(agent(json!({ "state": { "waiting": { "reason": reason, "message": message } } }))).stuck
    };
    assert_eq!(waiting("ContainerCreating", ""), None);
    assert_eq!(waiting("ErrImagePull", "not found").as_deref(), Some("ErrImagePull: not found"));
    let full = json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes" });
    let seen = pod(json!({ "status": { "phase": "Pending", "conditions": [full] } }));
    assert_eq!(seen.stuck.as_deref(), Some("no node takes it: 0/3 nodes"));
}

#[test]
fn the_end_of_an_agents_container_is_told_with_its_cause() {
    let seen = |last: Value| {
        let last =
            merged(json!({ "exitCode": 0, "finishedAt": "2026-11-30T12:00:00Z", "containerID": "c" }), last);
        pod(agent(json!({ "lastState": { "terminated": last }, "state": { "running": {} } })))
    };
    let ended = |last: Value| seen(last).ended;
    assert!(seen(json!({})).runs, "again");
    assert!(!pod(agent(json!({ "state": { "terminated": { "exitCode": 1 } } }))).runs);
    let memory = ended(json!({ "reason": "OOMKilled", "exitCode": 137 })).expect("it ended");
    assert_eq!((memory.end, memory.at, memory.container.as_str()), (End::OutOfMemory, 1_796_040_000, "c"));
    assert_eq!(ended(json!({ "exitCode": 3 })).map(|it| it.end), Some(End::Exited(3)));
    assert_eq!(ended(json!({ "exitCode": 137, "reason": "Error" })).map(|it| it.end), Some(End::Signaled(9)));
    assert_eq!(
        ended(json!({ "exitCode": 1, "message": " no\n" })).and_then(|it| it.said).as_deref(),
        Some(" no\n")
    );
}

#[test]
fn a_pod_that_was_evicted_is_over_and_says_why() {
    let seen =
        pod(json!({ "status": { "phase": "Failed", "reason": "Evicted", "message": "low on memory" } }));
    assert!(seen.over && seen.leaves);
    let ended = seen.ended.expect("it ended");
    assert_eq!((ended.end, ended.said.as_deref()), (End::Gone, Some("low on memory")));
    // Its container was out of memory once, and was started again; then the node went.
    let again = json!({
        "state": { "terminated": { "exitCode": 137, "reason": "Error", "containerID": "c2" } },
        "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled", "containerID": "c1" } },
    });
    let over = json!({ "status": { "phase": "Failed", "reason": "Terminated", "message": "node shutdown" } });
    let ended = pod(merged(agent(again), over.clone())).ended.expect("it ended");
    assert_eq!((ended.end, ended.container.as_str()), (End::Signaled(9), "c2"));
    assert_eq!(ended.said.as_deref(), Some("node shutdown"));
    let unseen = json!({ "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } } });
    assert_eq!(pod(merged(agent(unseen), over)).ended.map(|it| it.end), Some(End::Gone));
    assert!(pod(json!({ "metadata": { "deletionTimestamp": "2026-11-30T12:00:00Z" } })).leaves);
}

fn deployment(more: Value) -> DeploymentSeen {
    let base = json!({
        "metadata": { "name": "research", "uid": "d-1", "generation": 7, "labels": { "longshore.dev/fleet": "research" } },
        "spec": {
            "replicas": 4, "selector": {},
            "template": {
                "metadata": { "annotations": { "longshore.dev/declaration": "0011", "longshore.dev/commit": "abc" } },
                "spec": { "containers": [{ "name": "agent", "image": "research:1" }] },
            },
        },
    });
    let it: Deployment = serde_json::from_value(merged(base, more)).expect("a Deployment");
    DeploymentSeen::of(&it).expect("of a fleet")
}

#[test]
fn a_deployment_is_seen_with_its_template_its_numbers_and_what_is_in_its_way() {
    let seen = deployment(json!({}));
    assert_eq!((seen.replicas, seen.generation, seen.uid.as_str()), (4, 7, "d-1"));
    assert_eq!((seen.mark.image.as_deref(), seen.commit.as_deref()), (Some("research:1"), Some("abc")));
    assert!(!seen.paused && seen.failure.is_none() && seen.tracked_by.is_none());
    let refused = json!({ "type": "ReplicaFailure", "status": "True", "message": "exceeded quota" });
    let seen = deployment(json!({ "status": { "conditions": [refused] } }));
    assert_eq!(seen.failure.as_deref(), Some("exceeded quota"));
}

#[test]
fn marks_of_tools_that_follow_git_are_known() {
    let by = |more: Value| deployment(json!({ "metadata": more })).tracked_by;
    let argo =
        json!({ "annotations": { "argocd.argoproj.io/tracking-id": "a:apps/Deployment:ns/research" } });
    assert_eq!(by(argo).as_deref(), Some("Argo CD"));
    assert_eq!(
        by(json!({ "labels": { "kustomize.toolkit.fluxcd.io/name": "agents" } })).as_deref(),
        Some("Flux")
    );
    let fields = |manager: &str, fields: Value| {
        by(json!({
            // As plain Helm sets them, and Argo CD 2.x the first.
            "labels": { "app.kubernetes.io/instance": "x", "app.kubernetes.io/managed-by": "Helm" },
            "managedFields": [{ "manager": "kubectl" }, { "manager": manager, "fieldsV1": fields }],
        }))
    };
    let template = json!({ "f:spec": { "f:template": { "f:spec": { "f:containers": {} } } } });
    for (manager, tool) in [
        ("argocd-controller", Some("Argo CD")),
        ("argocd-application-controller", Some("Argo CD")),
        ("kustomize-controller", Some("Flux")),
        ("helm-controller", Some("Flux")),
        ("helm", None),
        ("kubectl-client-side-apply", None),
        ("longshore", None),
    ] {
        assert_eq!(fields(manager, template.clone()).as_deref(), tool, "{manager}");
    }
    let scaled = json!({ "f:metadata": { "f:annotations": {} }, "f:spec": { "f:replicas": {} } });
    assert_eq!(fields("argocd-controller", scaled), None, "it says nothing of the pods");
}

#[test]
fn what_kubernetes_has_not_looked_at_is_not_counted_yet() {
    let seen = |observed: i64, more: Value| {
        let base = json!({
            "metadata": { "annotations": { "deployment.kubernetes.io/revision": "9" } },
            "status": { "observedGeneration": observed, "replicas": 4, "updatedReplicas": 4 },
        });
        deployment(merged(base, more))
    };
    assert_eq!((seen(7, json!({})).revision, seen(6, json!({})).revision), (Some(9), None));
    assert_eq!(seen(7, json!({ "spec": { "paused": true } })).revision, None);
    assert!(!seen(7, json!({})).replaces);
    assert!(seen(7, json!({ "status": { "updatedReplicas": 3 } })).replaces);
    assert!(seen(7, json!({ "status": { "replicas": 5 } })).replaces, "an old one is left");
}

#[test]
fn a_token_that_has_expired_is_no_matter_of_the_role() {
    let error = |code: u16| {
        let status = kube::core::Status { code, message: "Unauthorized".into(), ..Default::default() };
        ClusterError::of("list pods", kube::Error::Api(Box::new(status)))
    };
    let said = |code| error(code).to_string();
    assert!(said(401).contains("token") && !said(401).contains("Role"), "{}", said(401));
    assert!(said(403).contains("apply the Role"), "{}", said(403));
    for (code, refused) in [(401, true), (403, true), (422, true), (409, false), (500, false), (504, false)] {
        assert_eq!(error(code).is_refusal(), refused, "{code}");
    }
}

#[test]
fn a_release_writes_its_own_fields_and_no_others() {
    let name = FleetName::new("research").expect("a name");
    let mut fleet = Fleet::new(name, vec!["python".into(), "agent.py".into()], String::new());
    fleet.platform = Platform::Kubernetes;
    fleet.env.insert("MODEL".into(), "small".into());
    // A worker is told of it when it registers, its kubelet by nothing else.
    fleet.drain.timeout_ms = 600_000;
    fleet.container = Some(Container {
        image: Image::parse("research:2").expect("an image"),
        image_id: None,
        supervisor: Supervisor::Inject,
        egress: Default::default(),
        resources: Resources { cpu: 1500, cpu_limit: 2000, ..Resources::default() },
    });
    let template = Template::of(&fleet, Some("abc")).expect("it has an image");
    assert_eq!(template.mark().image.as_deref(), Some("research:2"));
    assert_eq!(template.mark().declaration, Some(digest(&fleet)));
    let digest = digest(&fleet);
    let expected = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "research" },
        "spec": { "template": {
            "metadata": { "annotations": { "longshore.dev/declaration": digest, "longshore.dev/commit": "abc" } },
            "spec": { "terminationGracePeriodSeconds": 615, "containers": [{
                "name": "agent", "image": "research:2", "args": ["python", "agent.py"],
                "env": [{ "name": "MODEL", "value": "small" }],
                "resources": {
                    "requests": { "cpu": "1500m", "memory": "512Mi" },
                    "limits": { "cpu": "2", "memory": "2Gi" },
                },
            }] },
        } },
    });
    assert_eq!(template.apply("research"), expected);
}

#[test]
fn what_a_release_does_not_write_is_told_apart_by_its_key_until_it_is_rendered_again() {
    let base = "[kubernetes]\nimage = \"longshore:1\"\n[fleet.research]\nplatform = \"kubernetes\"\n\
                image = \"research:1\"\ncommand = [\"run\"]\n";
    let declared = |more: &str| {
        let declared =
            render::read(&format!("{base}{more}"), "longshore.toml", "/srv").expect("a valid file");
        let fleet = declared.settings.fleets[0].clone();
        (declared, fleet)
    };
    let seen = |more: &str| {
        let (declared, _) = declared(more);
        let request = render::Request {
            declared: &declared,
            config: base,
            overlays: &Default::default(),
            version: "1.2.3",
            only: &[],
            prepull: false,
        };
        let rendered = render::render(&request).expect("it renders");
        let mut objects = rendered.groups.into_iter().flat_map(|group| group.objects);
        let it = objects.find(|it| it["kind"] == "Deployment" && it["metadata"]["name"] == "research");
        let it: Deployment = serde_json::from_value(it.expect("its Deployment")).expect("a Deployment");
        DeploymentSeen::of(&it).expect("of a fleet")
    };
    let plain = seen("");
    for (more, keys) in [
        ("env = { MODEL = \"a\" }\ndrain = { timeout = \"30m\" }\n", vec![]),
        ("working_dir = \"/app\"\n", vec!["working_dir"]),
        ("supervisor = \"inject\"\n", vec!["supervisor"]),
        ("probe = { interval = \"1500ms\" }\n", vec!["probe"]),
        ("probe = { timeout = \"1s\", startup = \"5s\" }\n", vec!["probe"]),
        ("probe = { startup = \"1ms\", interval = \"1ms\", failures = 9 }\n", vec!["probe"]),
        ("secrets = { KEY = { env = \"OTHER\" } }\n", vec!["secrets"]),
        ("rollout = { surge = 3 }\n", vec!["rollout"]),
        ("rollout = { surge = 0, batch = 2 }\n", vec!["rollout"]),
        ("rollout = { hold = \"11s\" }\n", vec!["rollout"]),
        ("rollout = { deadline = \"31m\" }\n", vec!["rollout"]),
        ("rollout = { ready = \"31m\", crashes = 7 }\n", vec![]),
        ("working_dir = \"/app\"\nsupervisor = \"inject\"\n", vec!["working_dir", "supervisor"]),
    ] {
        let (_, fleet) = declared(more);
        assert_eq!(plain.unlike(&fleet), keys, "{more}");
        assert_eq!(seen(more).unlike(&fleet), [""; 0], "rendered again: {more}");
        assert_eq!(seen(more).unlike(&declared("").1), keys, "taken out again: {more}");
    }
    // What a release writes is read back as it was declared.
    let (_, before) = declared("env = { OLD = \"1\" }\n");
    for more in [
        "",
        "env = { MODEL = \"a\", PRICE = \"$5 or $(MODEL) or $$\" }\n",
        "secrets = { KEY = { env = \"KEY\" } }\n",
        "resources = { cpu = \"250m\", cpu_limit = 3, memory = \"1536Mi\", memory_limit = \"3Gi\" }\n",
    ] {
        let (_, fleet) = declared(more);
        let mut base = before.clone();
        base.secrets.clone_from(&fleet.secrets);
        let read = seen(more).as_declared(&base).expect("it has an image");
        assert_eq!(digest(&read), digest(&fleet), "{more}");
    }
    let (_, mut fleet) = declared("env = { MODEL = \"a\" }\n");
    fleet.overlay = Some("/srv/pod.yaml".into());
    let read = seen("env = { MODEL = \"b\", EXTRA = \"1\" }\n").as_declared(&fleet).expect("it has an image");
    assert_eq!(
        read.env.into_iter().collect::<Vec<_>>(),
        [("MODEL".to_owned(), "b".to_owned())],
        "the rest may be the overlay's"
    );
    let (_, mut fleet) = declared("working_dir = \"/app\"\n");
    fleet.overlay = Some("/srv/pod.yaml".into());
    assert_eq!(plain.unlike(&fleet), [""; 0], "it may be the overlay's doing");
}
