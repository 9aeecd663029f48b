//! Whole renderings, as they are applied.

use std::collections::BTreeMap;

use longshore_core::fleet::Platform;
use longshore_core::kubernetes::digest;
use serde_json::{Value, json};

use super::*;

pub(super) const SMALL: &str = include_str!("fixtures/small.toml");

pub(super) const RICH: &str = include_str!("fixtures/rich.toml");

pub(super) const PLANE: &str = include_str!("fixtures/plane.yaml");

pub(super) const CRAWL: &str = include_str!("fixtures/crawl.yaml");

pub(super) fn overlays(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(path, text)| (format!("/srv/{path}"), (*text).to_owned())).collect()
}

pub(super) fn declared(text: &str) -> Declared {
    read(text, "longshore.toml", "/srv").unwrap_or_else(|errors| panic!("{errors:?}"))
}

struct Case<'a> {
    text: &'a str,
    overlays: &'a [(&'a str, &'a str)],
    only: &'a [&'a str],
    prepull: bool,
}

fn case(text: &str) -> Case<'_> {
    Case { text, overlays: &[], only: &[], prepull: false }
}

impl Case<'_> {
    fn render(&self) -> Result<Rendered, Vec<Problem>> {
        let only: Vec<FleetName> = self.only.iter().map(|name| name.parse().expect("valid")).collect();
        render(&Request {
            declared: &declared(self.text),
            config: self.text,
            overlays: &overlays(self.overlays),
            version: "1.2.3",
            only: &only,
            prepull: self.prepull,
        })
    }

    fn objects(&self) -> Vec<Value> {
        let rendered = self.render().unwrap_or_else(|problems| panic!("{problems:?}"));
        rendered.groups.into_iter().flat_map(|group| group.objects).collect()
    }

    fn yaml(&self) -> String {
        let rendered = self.render().unwrap_or_else(|problems| panic!("{problems:?}"));
        let groups =
            rendered.groups.iter().map(|group| format!("# {}\n{}", group.name, print(&group.objects)));
        groups.collect::<Vec<_>>().join("---\n")
    }

    fn problems(&self) -> String {
        let problems = self.render().expect_err("something is wrong");
        problems.iter().map(|problem| format!("{problem}\n")).collect()
    }
}

fn rich() -> Case<'static> {
    Case { overlays: &[("plane.yaml", PLANE), ("crawl.yaml", CRAWL)], prepull: true, ..case(RICH) }
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|it| it["kind"] == kind && it["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

#[test]
fn a_small_file_is_a_control_plane_and_a_fleet() {
    insta::assert_snapshot!("small", case(SMALL).yaml());
    let warnings = case(SMALL).render().expect("renders").warnings;
    assert!(matches!(&warnings[..], [plain] if plain.key == "server.tls"), "{warnings:?}");
    let encrypted = SMALL.replace("[kubernetes]", "[server]\ntls = \"auto\"\n[kubernetes]");
    assert_eq!(case(&encrypted).render().expect("renders").warnings, []);
}

#[test]
fn a_rich_file_uses_all_of_it() {
    insta::assert_snapshot!("rich", rich().yaml());
}

#[test]
fn the_same_file_gives_the_same_bytes() {
    assert_eq!(rich().yaml(), rich().yaml());
    assert_eq!(case(SMALL).yaml(), case(SMALL).yaml());
}

#[test]
fn what_is_printed_reads_as_what_was_rendered() {
    for case in [case(SMALL), rich()] {
        let objects = case.objects();
        assert_eq!(yaml::read_all(&print(&objects)).expect("it reads"), objects);
    }
}

/// What the types of the Kubernetes API do not know they drop, and what they cannot hold they refuse.
fn as_the_api_reads_it(object: &Value) -> Value {
    use k8s_openapi::api::{apps, autoscaling, core, networking, policy, rbac};
    use k8s_openapi::kube_aggregator::pkg::apis::apiregistration;
    fn typed<T: serde::de::DeserializeOwned + serde::Serialize>(object: &Value) -> Value {
        let read: T =
            serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"));
        serde_json::to_value(read).expect("it serialises")
    }
    match object["kind"].as_str().expect("it has a kind") {
        "ServiceAccount" => typed::<core::v1::ServiceAccount>(object),
        "ConfigMap" => typed::<core::v1::ConfigMap>(object),
        "Secret" => typed::<core::v1::Secret>(object),
        "Service" => typed::<core::v1::Service>(object),
        "Deployment" => typed::<apps::v1::Deployment>(object),
        "DaemonSet" => typed::<apps::v1::DaemonSet>(object),
        "PodDisruptionBudget" => typed::<policy::v1::PodDisruptionBudget>(object),
        "HorizontalPodAutoscaler" => typed::<autoscaling::v2::HorizontalPodAutoscaler>(object),
        "NetworkPolicy" => typed::<networking::v1::NetworkPolicy>(object),
        "Role" => typed::<rbac::v1::Role>(object),
        "RoleBinding" => typed::<rbac::v1::RoleBinding>(object),
        "ClusterRole" => typed::<rbac::v1::ClusterRole>(object),
        "ClusterRoleBinding" => typed::<rbac::v1::ClusterRoleBinding>(object),
        "APIService" => typed::<apiregistration::v1::APIService>(object),
        // KEDA's own: held by the snapshot, whose fields are those of its documentation.
        "ScaledObject" | "TriggerAuthentication" => object.clone(),
        other => panic!("nobody has looked at {other}"),
    }
}

#[test]
fn every_field_is_one_of_the_api() {
    let objects = rich().objects();
    assert!(objects.len() > 30);
    for object in &objects {
        assert_eq!(as_the_api_reads_it(object), *object);
    }
    let mut odd = find(&objects, "Deployment", "plain").clone();
    odd["spec"]["template"]["spec"]["enableServiceLink"] = false.into();
    assert_ne!(as_the_api_reads_it(&odd), odd, "the test is blind");
}

#[test]
fn one_fleet_is_rendered_as_it_is_among_all() {
    let all = rich().objects();
    let one = Case { only: &["crawl"], ..rich() }.objects();
    assert!(one.iter().all(|object| all.contains(object)));
    assert_eq!(one.iter().filter(|object| object["kind"] == "Deployment").count(), 1);
    // Its image holds longshore, so nothing else is needed.
    let bare = SMALL.replace("image = \"registry.internal/longshore:0.1.0\"", "");
    assert_eq!(Case { only: &["research"], ..case(&bare) }.objects().len(), 5);
}

#[test]
fn every_object_says_whose_it_is_and_no_two_are_the_same() {
    let objects = rich().objects();
    let mut seen = std::collections::BTreeSet::new();
    for object in &objects {
        let meta = &object["metadata"];
        let labels = &meta["labels"];
        for label in ["name", "component", "part-of", "managed-by", "version"] {
            assert!(labels[format!("app.kubernetes.io/{label}")].is_string(), "{object}");
        }
        let id = format!("{} {} {}", object["kind"], meta["namespace"], meta["name"]);
        assert!(seen.insert(id), "twice: {} {}", object["kind"], meta["name"]);
    }
}

#[test]
fn nothing_but_the_control_plane_says_how_many_there_are() {
    for object in rich().objects() {
        let replicas = object["spec"].get("replicas");
        assert_eq!(
            replicas.is_some(),
            object["kind"] == "Deployment" && object["metadata"]["name"] == "longshore"
        );
    }
}

#[test]
fn every_container_is_hardened_and_no_pod_of_a_fleet_has_a_token() {
    let mut pods = 0;
    for object in rich().objects() {
        let pod = &object["spec"]["template"]["spec"];
        if pod.is_null() {
            continue;
        }
        pods += 1;
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["enableServiceLinks"], false);
        let own = object["metadata"]["name"] == "longshore";
        assert_eq!(pod["automountServiceAccountToken"], own, "{object}");
        let containers =
            ["containers", "initContainers"].iter().filter_map(|key| pod[key].as_array()).flatten();
        for container in containers.filter(|container| container["name"] != "proxy") {
            let security = &container["securityContext"];
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(security["allowPrivilegeEscalation"], false);
            assert!(container["resources"]["limits"]["memory"].is_string(), "{container}");
        }
    }
    assert_eq!(pods, 7);
}

#[test]
fn what_holds_an_image_is_not_taken_for_a_worker() {
    for object in rich().objects().iter().filter(|object| object["kind"] == "DaemonSet") {
        let label = |object: &Value| object["metadata"]["labels"]["longshore.dev/fleet"].clone();
        assert!(label(object).is_null() && label(&object["spec"]["template"]).is_null(), "{object}");
    }
}

#[test]
fn a_fleets_secrets_are_in_no_other_pod() {
    let objects = rich().objects();
    let with = |key: &str| -> Vec<&str> {
        let pods = objects.iter().filter(|object| object["spec"]["template"].to_string().contains(key));
        pods.filter_map(|object| object["metadata"]["name"].as_str()).collect()
    };
    assert_eq!(with("TAVILY_FOR_CHAT"), ["chat"]);
    for key in ["OPENAI_API_KEY", "DATABASE_URL", "HOOK_NEW", "HOOK_OLD", "API_TOKEN"] {
        assert_eq!(with(key), ["longshore"], "{key}");
    }
}

#[test]
fn pods_say_which_declaration_they_follow() {
    let declared = declared(RICH);
    let objects = rich().objects();
    for fleet in declared.settings.fleets.iter().filter(|fleet| fleet.platform == Platform::Kubernetes) {
        let template = &find(&objects, "Deployment", fleet.name.as_str())["spec"]["template"];
        assert_eq!(template["metadata"]["annotations"]["longshore.dev/declaration"], digest(fleet).as_str());
    }
}

#[test]
fn a_changed_file_replaces_the_control_plane_and_not_the_fleets() {
    let changed = format!("{SMALL}\n# a remark\n");
    let (before, after) = (case(SMALL).objects(), case(&changed).objects());
    let template = |objects: &[Value], name| find(objects, "Deployment", name)["spec"]["template"].clone();
    assert_ne!(template(&before, "longshore"), template(&after, "longshore"));
    assert_eq!(template(&before, "research"), template(&after, "research"));
}

#[test]
fn the_control_plane_may_do_what_the_fleets_need_and_no_more() {
    let rules = |text: &str| find(&case(text).objects(), "Role", "longshore")["rules"].to_string();
    let direct = rules(SMALL);
    assert!(
        direct.contains("deployments/scale") && direct.contains("[\"list\",\"watch\",\"patch\"]"),
        "{direct}"
    );
    assert!(!direct.contains("create") && direct.contains("[\"longshore-worker-research\"]"), "{direct}");
    let external =
        rules(&format!("{SMALL}rollout = {{ owner = \"external\" }}\nscaling = {{ by = \"hpa\" }}\n"));
    assert!(!external.contains("deployments/scale"), "{external}");
    assert!(!external.contains("\"resourceNames\":[\"research\"]"), "{external}");
    let cluster =
        |text: &str| case(text).objects().iter().filter(|it| it["metadata"]["namespace"].is_null()).count();
    assert_eq!(cluster(SMALL), 0, "nothing of the whole cluster");
    let none = SMALL
        .replace("platform = \"kubernetes\"", "platform = \"external\"")
        .replace("image = \"registry.internal/research:1.4\"", "command = [\"x\"]");
    assert!(case(&none).objects().iter().all(|object| object["kind"] != "Role"));
}

/// A variable with what would be its value.
fn as_a_pod_has_it(variable: &Value) -> (String, String) {
    let name = variable["name"].as_str().expect("it has a name");
    let of_a_secret = match name {
        "DATABASE_URL" => "postgres://db/longshore",
        "REDIS_URL" => "redis://cache",
        _ => "secret",
    };
    let of_the_pod = match variable.pointer("/valueFrom/fieldRef/fieldPath").and_then(Value::as_str) {
        Some("metadata.namespace") => Some("elsewhere"),
        _ => None,
    };
    let value = variable["value"].as_str().or(of_the_pod).unwrap_or(of_a_secret);
    (name.to_owned(), value.to_owned())
}

#[test]
fn a_control_plane_starts_with_what_it_is_told() {
    for case in [case(SMALL), rich()] {
        let objects = case.objects();
        let plane = find(&objects, "Deployment", "longshore");
        let variables = plane.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array);
        let told: Vec<(String, String)> = variables.into_iter().flatten().map(as_a_pod_has_it).collect();
        let (settings, _) = longshore_core::settings::parse(case.text, "x", &told, "/etc/longshore")
            .unwrap_or_else(|errors| panic!("{errors:?}"));
        assert!(settings.store.shared.is_some());
        assert_eq!(settings.store.dir, "/var/lib/longshore");
        let server = &settings.server;
        let listeners = [server.api, server.link, server.probes].map(|address| address.to_string());
        assert_eq!(listeners, ["0.0.0.0:7117", "0.0.0.0:7118", "0.0.0.0:7119"]);
        assert_eq!(
            settings.kubernetes.namespace.as_deref(),
            Some("elsewhere"),
            "where its pod is, whatever the file says"
        );
        assert_eq!(server.link_url, None, "it follows from the pod's address");
        assert!(told.iter().any(|(name, _)| name == "LONGSHORE_POD_IP"));
        assert_eq!(settings.kubernetes.metrics.to_string(), "0.0.0.0:7120");
        // Pods say which declaration they follow, and the control plane knows it again.
        let rendered = declared(case.text).settings.fleets;
        let pairs = settings.fleets.iter().zip(&rendered);
        for (here, there) in pairs.filter(|(here, _)| here.platform == Platform::Kubernetes) {
            assert_eq!(digest(here), digest(there), "{}", here.name);
        }
    }
}

#[test]
fn what_stands_in_the_way_is_said_all_at_once_with_what_to_do() {
    let file = r#"
        [store]
        dir = "/data"
        [server]
        token = { file = "token" }
        tls = { cert = "a.pem", key = "b.pem" }
        [provider.openai]
        base_url = "https://api.openai.com/v1"
        api_key = { file = "/run/key" }
        [fleet.longshore]
        platform = "kubernetes"
        image = "a"
        [fleet.b]
        platform = "kubernetes"
        image = "b"
        supervisor = "inject"
        secrets = { A = { file = "a" } }
        [fleet.c]
        platform = "kubernetes"
        image = "c"
        kubernetes = { overlay = "gone.yaml" }
        [fleet.d]
        platform = "docker"
        image = "d"
    "#;
    insta::assert_snapshot!("problems", case(file).problems());
    insta::assert_snapshot!("unknown_fleets", Case { only: &["d", "e"], ..case(file) }.problems());
}

#[test]
fn keda_asks_as_the_control_plane_answers_and_whom_it_has_to_trust_is_told() {
    let plain = format!("{SMALL}scaling = {{ by = \"keda\" }}\n");
    let url = |file: &str| {
        let objects = case(file).objects();
        find(&objects, "ScaledObject", "research").pointer("/spec/triggers/0/metadata/url").cloned()
    };
    let told = |file: &str| {
        let warnings = case(file).render().expect("renders").warnings;
        warnings.iter().any(|it| it.key == "fleet.research.scaling.by" && it.problem.contains("/custom/ca"))
    };
    let address = "longshore.longshore.svc:7117/v1/fleets/research/scale";
    assert_eq!(url(&plain), Some(format!("http://{address}").into()));
    let encrypted = format!("[server]\ntls = \"auto\"\n{plain}");
    assert_eq!(url(&encrypted), Some(format!("https://{address}").into()));
    assert_eq!(
        (told(&plain), told(&encrypted), told(&encrypted.replace("keda", "hpa"))),
        (false, true, false)
    );
    let objects = case(&encrypted).objects();
    let agent = &find(&objects, "Deployment", "research")["spec"]["template"]["spec"]["containers"][0];
    let link = agent["env"].as_array().into_iter().flatten().find(|one| one["name"] == "LONGSHORE_LINK");
    assert_eq!(link.expect("told")["value"], "https://longshore-link.longshore.svc:7118");
}

#[test]
fn fleets_that_only_the_api_declares_are_told() {
    let file = format!("[server]\nfleets = \"api\"\n{SMALL}");
    let warnings = case(&file).render().expect("renders").warnings;
    assert!(warnings.iter().any(|it| it.key == "server.fleets" && it.problem.contains("`longshore apply`")));
}

#[test]
fn a_variable_that_comes_from_a_secret_has_no_value_left_of_before() {
    let file = format!("{SMALL}secrets = {{ KEY = {{ env = \"KEY\" }} }}\n");
    let objects = case(&file).objects();
    let agent = &find(&objects, "Deployment", "research")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(agent["env"][0]["value"], "", "whoever applies it owns it");
    assert_eq!(agent["env"][0]["valueFrom"]["secretKeyRef"]["key"], "KEY");
}

#[test]
fn files_are_taken_where_an_overlay_may_bring_them() {
    let file = SMALL.replace("{ env = \"DATABASE_PASSWORD\" }", "{ file = \"/run/db\" }");
    assert!(case(&file).problems().contains("store.database_password: comes from a file"));
    let file = file.replace("[kubernetes]", "[kubernetes]\noverlay = \"plane.yaml\"");
    Case { overlays: &[("plane.yaml", PLANE)], ..case(&file) }.objects();
}

#[test]
fn where_the_store_is_comes_from_a_secret_unless_the_file_says_it() {
    let plane = |text: &str| find(&case(text).objects(), "Deployment", "longshore").to_string();
    let bare =
        SMALL.split_once("[kubernetes]").map(|(_, rest)| format!("[kubernetes]{rest}")).expect("it has one");
    let from = |name: &str, key: &str, optional: &str| {
        format!("\"valueFrom\":{{\"secretKeyRef\":{{\"key\":\"{key}\",\"name\":\"{name}\"{optional}}}}}")
    };
    let told = plane(&bare);
    assert!(told.contains(&from("longshore", "DATABASE_URL", "")), "{told}");
    assert!(told.contains(&from("longshore", "REDIS_URL", ",\"optional\":true")), "{told}");
    let told = plane(&bare.replace("[kubernetes]", "[kubernetes]\nstore_secret = \"store\""));
    assert!(told.contains(&from("store", "DATABASE_URL", "")), "{told}");
    let redis = "[store]\nschema = \"x\"\nredis = { env = \"REDIS_URL\" }\n";
    let told = plane(&format!("{redis}{bare}"));
    assert!(told.contains(&from("longshore", "REDIS_URL", "")), "{told}");
}

#[test]
fn an_overlay_that_breaks_what_longshore_needs_is_refused() {
    let own = "command = [\"run\"]\nenv = { MODEL = \"small\" }\n";
    let file = format!("{SMALL}{own}kubernetes = {{ overlay = \"pod.yaml\" }}\n");
    let refused = |overlay: &str| Case { overlays: &[("pod.yaml", overlay)], ..case(&file) }.problems();
    for (overlay, expected) in [
        ("- a", "/srv/pod.yaml: is no mapping"),
        ("spec: [", "/srv/pod.yaml: "),
        ("nodeSelector: {a: b}", "`nodeSelector` is none of a pod's keys"),
        (
            "kind: Ingress",
            "no Ingress is rendered here; there are ServiceAccount `longshore-research`, Secret `longshore-worker-research`",
        ),
        ("kind: Deployment\nmetadata: {name: other}", "no Deployment `other` is rendered here"),
        ("kind: Deployment\nspec: {replicas: 3}", "`spec.replicas` belongs to whoever scales the fleet"),
        (
            "kind: Deployment\nspec: {selector: {matchLabels: {a: b}}}",
            "`spec.selector` is not the overlay's to change",
        ),
        (
            "kind: ServiceAccount\nmetadata: {namespace: x}",
            "`metadata.namespace` is not the overlay's to change",
        ),
        (
            "metadata: {labels: {longshore.dev/fleet: null}}",
            "its pods need the label `longshore.dev/fleet: research`",
        ),
        ("spec: {containers: [{name: agent, $patch: delete}]}", "its container `agent` is longshore's own"),
        (
            "spec: {containers: [{name: agent, resources: {limits: {memory: 8Gi}}}]}",
            "`spec.template.spec.containers[agent].resources.limits.memory` is written again by every `longshore deploy`, \
             without the overlay: set `resources` in longshore.toml",
        ),
        (
            "kind: Deployment\nspec: {template: {spec: {containers: [{name: agent, resources: null}]}}}",
            "resources.requests.cpu` is written again",
        ),
        ("spec: {containers: [{name: agent, args: [a]}]}", "set `command` in longshore.toml"),
        ("spec: {containers: [{name: agent, image: other}]}", "set `image` in longshore.toml"),
        (
            "spec: {containers: [{name: agent, env: [{name: MODEL, value: x}]}]}",
            "containers[agent].env[MODEL]` is written",
        ),
        (
            "spec: {containers: [{name: agent, env: [{name: MODEL, $patch: replace, valueFrom: {fieldRef: {fieldPath: a}}}]}]}",
            "set `env` in longshore.toml",
        ),
        ("spec: {terminationGracePeriodSeconds: 7200}", "set `drain.timeout` in longshore.toml"),
        ("metadata: {annotations: {longshore.dev/declaration: x}}", "without the overlay: leave it out"),
        ("spec: {containers: [{image: a}]}", "/srv/pod.yaml: spec.containers[0]: has no `name`"),
        ("kind: Pod\n---\nspec: {volumes: {}}", "/srv/pod.yaml, document 2: spec.volumes: is a list"),
    ] {
        let told = refused(overlay);
        assert!(told.contains(expected), "{overlay}: {told}");
    }
}

#[test]
fn an_overlay_may_change_beside_what_a_release_writes_and_all_where_none_is_written() {
    let own = "env = { MODEL = \"small\" }\nkubernetes = { overlay = \"pod.yaml\" }\n";
    let file = format!("{SMALL}{own}");
    let rendered = |file: &str, overlay: &str| {
        let objects = Case { overlays: &[("pod.yaml", overlay)], ..case(file) }.objects();
        find(&objects, "Deployment", "research")["spec"]["template"]["spec"]["containers"][0].clone()
    };
    let agent = rendered(
        &file,
        "spec: {containers: [{name: agent, args: [a], resources: {limits: {example.com/gpu: 1}}, env: [{name: PROXY, value: x}]}]}",
    );
    assert_eq!(
        (&agent["resources"]["limits"]["example.com/gpu"], &agent["args"][0]),
        (&json!(1), &json!("a"))
    );
    let by_git = format!("{file}rollout = {{ owner = \"external\" }}\n");
    let agent = rendered(&by_git, "spec: {containers: [{name: agent, resources: {limits: {memory: 8Gi}}}]}");
    assert_eq!(agent["resources"]["limits"]["memory"], "8Gi");
}

#[test]
fn what_works_but_may_surprise_is_warned_about() {
    let file = format!("{RICH}\n[fleet.local]\nplatform = \"docker\"\nimage = \"x\"\n");
    let rendered = Case { overlays: &[("plane.yaml", PLANE), ("crawl.yaml", CRAWL)], ..case(&file) }.render();
    let warnings: Vec<String> =
        rendered.expect("renders").warnings.iter().map(|warning| warning.key.clone()).collect();
    // The sidecar of the overlay is not hardened.
    let sidecar = ["Deployment crawl"; 3];
    let expected =
        [&["fleet.chat.drain.timeout", "fleet.local.platform", "server.tls"], &sidecar[..]].concat();
    assert_eq!(warnings, expected);
}

#[test]
fn what_an_overlay_weakens_is_told() {
    let file = SMALL.replace(
        "platform = \"kubernetes\"\n",
        "platform = \"kubernetes\"\nkubernetes = { overlay = \"pod.yaml\" }\n",
    );
    let told = |overlay: &str| {
        let warnings =
            Case { overlays: &[("pod.yaml", overlay)], ..case(&file) }.render().expect("renders").warnings;
        let told = warnings.iter().filter(|warning| !warning.key.contains('.')).map(|it| format!("{it}\n"));
        told.collect::<String>()
    };
    assert_eq!(told("spec: {nodeSelector: {disk: fast}}"), "");
    let of_agent =
        |text: &str| format!("spec: {{containers: [{{name: agent, securityContext: {{{text}}}}}]}}");
    let mut all = String::new();
    for overlay in [
        "spec: {hostNetwork: true, hostPID: true}".to_owned(),
        "spec: {serviceAccountName: longshore, automountServiceAccountToken: true}".to_owned(),
        "spec: {volumes: [{name: node, hostPath: {path: /}}]}".to_owned(),
        "spec: {securityContext: {runAsUser: 0, seccompProfile: {type: Unconfined}}}".to_owned(),
        of_agent("privileged: true, allowPrivilegeEscalation: true"),
        of_agent("readOnlyRootFilesystem: false, capabilities: null"),
        of_agent("capabilities: {add: [SYS_ADMIN]}, runAsNonRoot: false"),
        "spec: {securityContext: {seccompProfile: null}}".to_owned(),
        "spec: {containers: [{name: agent, ports: [{containerPort: 80, hostPort: 80}]}]}".to_owned(),
        "kind: NetworkPolicy\nspec: {ingress: [{}]}".to_owned(),
        "kind: NetworkPolicy\nspec: {egress: [{}], policyTypes: [Ingress, Egress]}".to_owned(),
        "kind: NetworkPolicy\nspec: {egress: [{ports: [{port: 1}]}], policyTypes: [Ingress]}".to_owned(),
        "kind: ServiceAccount\nautomountServiceAccountToken: true".to_owned(),
    ] {
        let said = told(&overlay);
        assert!(!said.is_empty(), "{overlay}");
        all += &format!("# {overlay}\n{said}");
    }
    insta::assert_snapshot!("weakened", all);
}

#[test]
fn what_is_right_for_one_machine_alone_is_refused() {
    let open = SMALL.replace("[kubernetes]", "[server]\nallow_insecure = true\n[kubernetes]");
    assert!(case(&open).problems().contains("server.allow_insecure: lets every pod of the cluster"));
    let elsewhere = SMALL.replace("[kubernetes]", "[server]\nlink_url = \"http://a:7118\"\n[kubernetes]");
    assert!(case(&elsewhere).problems().contains("server.link_url: is one address"));
    // An overlay could mount the certificate, and no worker would take it.
    let own = SMALL.replace(
        "[kubernetes]",
        "[server]\ntls = { cert = \"a\", key = \"b\" }\n[kubernetes]\noverlay = \"plane.yaml\"",
    );
    let problems = Case { overlays: &[("plane.yaml", PLANE)], ..case(&own) }.problems();
    assert!(problems.contains("server.tls: a certificate of your own"), "{problems}");
}

#[test]
fn what_the_api_server_would_refuse_is_refused_with_its_key() {
    let file = format!(
        "{}env = {{ \"bad name\" = \"a\", \"1X\" = \"b\", \"..\" = \"c\", \"a.b-C\" = \"d\" }}\n\
         secrets = {{ A = {{ env = \"bad key\" }}, B = {{ env = \"1.good-key\" }} }}\nrollout = {{ hold = \"30000d\", deadline = \"40000d\" }}\n",
        SMALL
            .replace("[kubernetes]", "[kubernetes]\nimage_pull_secrets = [\"a\", \"b\", \"a\"]")
            .replace("DATABASE_PASSWORD", "db/password")
    );
    let problems = case(&file).problems();
    let told: Vec<&str> = problems.lines().map(|line| line.split(" is ").next().unwrap_or(line)).collect();
    let told: Vec<&str> =
        told.into_iter().map(|line| line.split(" can be ").next().unwrap_or(line)).collect();
    let expected = [
        "fleet.research.env: `..`",
        "fleet.research.env: `1X`",
        "fleet.research.env: `bad name`",
        "fleet.research.rollout.deadline:",
        "fleet.research.rollout.hold:",
        "fleet.research.secrets.A: `bad key`",
        "kubernetes.image_pull_secrets: `a`",
        "store.database_password: `db/password`",
    ];
    assert_eq!(told, expected, "{problems}");
}

#[test]
fn an_overlay_takes_longshore_out_of_no_pod() {
    let file = format!(
        "{SMALL}supervisor = \"inject\"\ncommand = [\"run\"]\nkubernetes = {{ overlay = \"pod.yaml\" }}\nrollout = {{ owner = \"external\" }}\n"
    );
    let with = |file: &str, overlay: &str| Case { overlays: &[("pod.yaml", overlay)], ..case(file) }.render();
    let refused = |file: &str, overlay: &str| {
        let problems = with(file, overlay).expect_err("refused");
        problems.iter().map(|problem| format!("{problem}\n")).collect::<String>()
    };
    let command = "spec: {containers: [{name: agent, command: [sh, -c, run]}]}";
    assert!(refused(&file, command).contains("`command` of its container `agent` is longshore"));
    let held = file.replace("\"inject\"", "\"image\"");
    assert!(refused(&held, command).contains("`command` of its container `agent` is longshore"));
    for overlay in [
        "spec: {initContainers: [{name: supervisor, $patch: delete}]}",
        "spec: {initContainers: [{name: supervisor, args: [other]}]}",
        "spec: {initContainers: null}",
        "spec: {volumes: [{name: supervisor, $patch: delete}]}",
        "spec: {containers: [{name: agent, volumeMounts: [{mountPath: /opt/longshore, $patch: delete}]}]}",
    ] {
        assert!(refused(&file, overlay).contains("its init container `supervisor`, the volume of that name and where both containers have it, bring longshore into its pods"), "{overlay}");
    }
    let plane = SMALL.replace("[kubernetes]", "[kubernetes]\noverlay = \"pod.yaml\"");
    let other = "spec: {containers: [{name: longshore, command: [sh]}]}";
    assert!(refused(&plane, other).contains("`command` of its container `longshore` is longshore"));
    // Its image may come from elsewhere, and others may start first.
    let mirror =
        "spec: {initContainers: [{name: supervisor, image: mirror/longshore:1}, {name: first, image: a}]}";
    assert!(with(&file, mirror).is_ok());
}

#[test]
fn what_pulls_an_image_before_has_the_secrets_that_its_workers_pull_it_with() {
    let file = format!(
        "{}kubernetes = {{ overlay = \"pod.yaml\" }}\n",
        SMALL.replace("[kubernetes]", "[kubernetes]\nimage_pull_secrets = [\"a\"]")
    );
    let overlay = "spec: {imagePullSecrets: [{name: b}]}\n---\nkind: DaemonSet\nspec: {template: {spec: {imagePullSecrets: [{name: c}]}}}";
    let objects = Case { overlays: &[("pod.yaml", overlay)], prepull: true, ..case(&file) }.objects();
    let prepull = find(&objects, "DaemonSet", "longshore-prepull-research");
    assert_eq!(
        prepull["spec"]["template"]["spec"]["imagePullSecrets"],
        json!([{ "name": "a" }, { "name": "c" }, { "name": "b" }])
    );
}

#[test]
fn no_agent_is_given_what_opens_longshore_itself() {
    let with = |key: &str| format!("{SMALL}secrets = {{ MINE = {{ env = \"{key}\" }} }}\n");
    for key in ["admin-token", "keda-token", "DATABASE_PASSWORD"] {
        let problems = case(&with(key)).problems();
        assert!(
            problems.contains(&format!("fleet.research.secrets.MINE: `{key}` of the Secret `longshore`")),
            "{problems}"
        );
    }
    case(&with("TAVILY_API_KEY")).objects();
    // Where longshore's store is in a Secret of its own, this one is the agents'.
    let (_, rest) = SMALL.split_once("[kubernetes]").expect("a cluster");
    let secrets = "secrets = { DATABASE_URL = { env = \"DATABASE_URL\" } }\n";
    case(&format!("[kubernetes]\nstore_secret = \"store\"{rest}{secrets}")).objects();
    assert!(
        case(&format!("[kubernetes]{rest}{secrets}")).problems().contains("`DATABASE_URL` of the Secret")
    );
}
