//! Keys for clusters.

use super::*;
use crate::container::Egress;
use crate::rollout::Owner;

const POD: &str = "[fleet.research]\nplatform = \"kubernetes\"\nimage = \"acme/research:1.4\"\n";

#[test]
fn an_image_is_all_that_a_fleet_on_kubernetes_must_declare() {
    assert_eq!(warnings(POD, &[]), "");
    let settings = good(POD, &[]);
    let fleet = &settings.fleets[0];
    assert!(fleet.command.is_empty() && fleet.working_dir.is_empty() && fleet.check().is_ok());
    assert_eq!((fleet.scaling.by, fleet.rollout.owner), (ScaledBy::Direct, Owner::Longshore));
    assert_eq!((settings.kubernetes.secret.as_str(), settings.kubernetes.replicas), ("longshore", 2));
}

#[test]
fn what_is_declared_for_a_cluster_is_read_and_printed_again() {
    let file = r#"
        [kubernetes]
        namespace = "agents"
        image = "registry.internal/longshore:0.1.0"
        image_pull_secrets = ["a", "b-c"]
        insecure_registries = ["registry.internal:5000"]
        secret = "keys"
        store_secret = "store"
        replicas = 3
        overlay = "k8s/plane.yaml"
        metrics = "[::]:7120"
        [fleet.research]
        platform = "kubernetes"
        image = "acme/research:1.4"
        egress = ["10.0.0.0/8:5432", "fd00::/8", "10.0.0.0/8:5432"]
        scaling = { by = "hpa" }
        rollout = { owner = "external" }
        kubernetes = { overlay = "k8s/pod.yaml" }
    "#;
    let settings = good(file, &[]);
    let cluster = &settings.kubernetes;
    assert_eq!(cluster.namespace.as_deref(), Some("agents"));
    assert_eq!(cluster.metrics.to_string(), "[::]:7120");
    assert_eq!((cluster.image_pull_secrets.len(), cluster.store_secret.as_deref()), (2, Some("store")));
    assert_eq!(cluster.insecure_registries, ["registry.internal:5000"]);
    assert_eq!(cluster.overlay.as_deref(), Some("/srv/agents/k8s/plane.yaml"));
    let fleet = &settings.fleets[0];
    assert_eq!((fleet.scaling.by, fleet.rollout.owner), (ScaledBy::Hpa, Owner::External));
    assert_eq!(fleet.overlay.as_deref(), Some("/srv/agents/k8s/pod.yaml"));
    let egress = &fleet.container.as_ref().expect("it has containers").egress;
    assert!(matches!(egress, Egress::Only(to) if to.len() == 2), "{egress:?}");
    assert_eq!(good(&settings.to_toml_redacted(), &[]), settings);
}

#[test]
fn what_is_wrong_with_a_cluster_is_said_where_it_stands() {
    let file = r#"
        [kubernetes]
        namespace = "Agents"
        image = "https://x/y"
        image_pull_secrets = ["a", "B"]
        insecure_registries = ["registry", "https://registry.internal", "registry.internal/team"]
        replicas = 0
        metrics = "7120"
        context = "prod"
        [fleet.a]
        platform = "kubernetes"
        image = "a"
        egress = ["10.1.0.0/8", "db:5432", 7]
        working_dir = "app"
        scaling = { by = "cron" }
        rollout = { owner = "argo" }
        pin_release = true
        kubernetes = { overlays = "x" }
        [fleet.b]
        platform = "docker"
        image = "b"
        scaling = { by = "hpa" }
        rollout = { owner = "external" }
    "#;
    insta::assert_snapshot!("cluster", complaints(file, &[]));
}

#[test]
fn a_fleet_that_is_not_on_a_cluster_is_told_what_it_does_not_use() {
    let file = format!("{MINIMAL}kubernetes = {{ overlay = \"pod.yaml\" }}\n");
    assert!(warnings(&file, &[]).contains("not used: the fleet is of platform `process`"));
    let lonely =
        format!("[kubernetes]\nreplicas = 1\n{POD}scaling = {{ by = \"keda\", min = 0, max = 4 }}\n");
    let told = warnings(&lonely, &[]);
    assert!(
        told.contains("below 2: while the only control plane") && told.contains("does not go below 1"),
        "{told}"
    );
}

#[test]
fn the_documented_cluster_is_read_without_a_word_and_shows_the_defaults() {
    let page = include_str!("../../../../../docs/configuration.md");
    let (_, rest) = page.split_once("```toml\n[kubernetes]").expect("the page shows a cluster");
    let (sample, _) = rest.split_once("\n```").expect("the block ends");
    let sample = format!("[kubernetes]{sample}");
    assert_eq!(warnings(&sample, &[]), "");
    let smallest = POD.replace("acme", "registry.internal");
    let (shown, bare) = (good(&sample, &[]), good(&smallest, &[]));
    assert_eq!((shown.kubernetes, &shown.fleets), (bare.kubernetes, &bare.fleets));
    let all: String = sample
        .lines()
        .map(|line| line.strip_prefix("# ").unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    let all = good(&all, &[]);
    assert!(
        all.kubernetes.namespace.is_some()
            && all.kubernetes.store_secret.is_some()
            && all.kubernetes.overlay.is_some()
            && all.fleets[0].overlay.is_some()
    );
}
