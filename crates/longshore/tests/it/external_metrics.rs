//! A real HorizontalPodAutoscaler of a real cluster, which scales by what a control plane beside the cluster tells it.
//!
//! The control plane runs on this machine; a Service without a selector leads to it. Pods are of the cluster's own pause
//! image: none of them works, since it is the numbers that are tested.

use std::io::Write;
use std::net::{IpAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::plane::{Plane, pause};

/// HorizontalPodAutoscalers look every 5 to 15 s.
const PATIENCE: Duration = Duration::from_secs(120);

const API_SERVICE: &str = "v1beta1.external.metrics.k8s.io";
const FLEET: &str = "research";

/// A namespace of a real cluster, and the APIService of all; both go with it.
struct Cluster {
    kubeconfig: String,
    namespace: String,
    /// Where its API server finds what runs on this machine.
    host: IpAddr,
}

/// Not a failure where all tests must run: there a cluster need not be.
fn skip(why: &str) -> Option<Cluster> {
    println!("SKIPPED: {why}");
    None
}

impl Cluster {
    fn find() -> Option<Cluster> {
        let kubeconfig = std::env::var("LONGSHORE_TEST_KUBECONFIG").ok().filter(|path| !path.is_empty());
        let Some(kubeconfig) = kubeconfig else {
            return skip(
                "LONGSHORE_TEST_KUBECONFIG is not set: the path of a kubeconfig, as admin of a cluster for tests whose API server reaches this machine",
            );
        };
        let mut cluster = Cluster {
            kubeconfig,
            namespace: format!("longshore-test-{}", std::process::id()),
            host: IpAddr::from([127, 0, 0, 1]),
        };
        let server =
            cluster.kubectl(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"]);
        let address = server.trim_start_matches("https://").trim_end_matches('/');
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.connect(address).expect("the API server's address, with its port");
        cluster.host = socket.local_addr().expect("bound").ip();
        let path = "jsonpath={.spec.service.namespace}";
        let owner =
            cluster.try_kubectl(&["get", "apiservice", API_SERVICE, "-o", path], "").unwrap_or_default();
        if !owner.is_empty() && !owner.starts_with("longshore-test-") {
            // Dropping it must remove nothing.
            std::mem::forget(cluster);
            return skip(&format!("external metrics of this cluster are served from namespace `{owner}`"));
        }
        Some(cluster)
    }

    fn try_kubectl(&self, args: &[&str], input: &str) -> Result<String, String> {
        let mut child = Command::new("kubectl")
            .env("KUBECONFIG", &self.kubeconfig)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl is installed");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args, "").unwrap_or_else(|said| panic!("kubectl {args:?}: {said}"))
    }

    fn apply(&self, items: &Value) {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        let done = self.try_kubectl(&["apply", "-f", "-"], &list.to_string());
        done.unwrap_or_else(|said| panic!("kubectl apply: {said}"));
    }

    fn object(&self, kind: &str, name: &str) -> Value {
        let text = self.kubectl(&["-n", &self.namespace, "get", kind, name, "-o", "json"]);
        serde_json::from_str(&text).expect("JSON")
    }

    /// The version of the API that autoscalers have here; what is used of them is the same in both.
    fn autoscaling(&self) -> &'static str {
        match self.kubectl(&["api-versions"]).lines().any(|line| line == "autoscaling/v2") {
            true => "autoscaling/v2",
            false => "autoscaling/v2beta2",
        }
    }

    /// The control plane's Service, and who serves external metrics.
    fn register(&self, port: u16) {
        let metadata = json!({ "name": "longshore-metrics", "namespace": self.namespace });
        self.apply(&json!([
            { "apiVersion": "v1", "kind": "Service", "metadata": metadata,
              "spec": { "ports": [{ "name": "https", "port": 443, "targetPort": port }] } },
            { "apiVersion": "v1", "kind": "Endpoints", "metadata": metadata,
              "subsets": [{ "addresses": [{ "ip": self.host }], "ports": [{ "name": "https", "port": port }] }] },
            { "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": { "name": API_SERVICE },
              "spec": { "group": "external.metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100,
                        "versionPriority": 100, "service": metadata } },
        ]));
    }

    /// A Deployment of pods that do nothing, and its autoscaler.
    fn deploy(&self, name: &str, metric: &str, each: &str) {
        let metadata = json!({ "name": name, "namespace": self.namespace });
        let mut labels = json!({ "app": name });
        if name == FLEET {
            labels["longshore.dev/fleet"] = FLEET.into();
        }
        let pod = json!({
            "terminationGracePeriodSeconds": 0, "enableServiceLinks": false, "automountServiceAccountToken": false,
            "containers": [{ "name": "agent", "image": "longshore-pause", "imagePullPolicy": "Never" }],
        });
        let selector = json!({ "matchLabels": { "fleet": FLEET } });
        let external = json!({
            "metric": { "name": metric, "selector": selector },
            "target": { "type": "AverageValue", "averageValue": each },
        });
        self.apply(&json!([
            { "apiVersion": "apps/v1", "kind": "Deployment",
              "metadata": { "name": name, "namespace": self.namespace, "labels": labels },
              "spec": { "selector": { "matchLabels": labels },
                        "template": { "metadata": { "labels": labels }, "spec": pod } } },
            { "apiVersion": self.autoscaling(), "kind": "HorizontalPodAutoscaler", "metadata": metadata,
              "spec": { "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": name },
                        "minReplicas": 1, "maxReplicas": 8, "metrics": [{ "type": "External", "external": external }],
                        "behavior": { "scaleDown": { "stabilizationWindowSeconds": 0 } } } },
        ]));
    }

    /// Somebody who may do nothing else, and of whom longshore asks the API server.
    fn lets_a_reader_read(&self) {
        let metadata = json!({ "name": "reader", "namespace": self.namespace });
        let rbac = "rbac.authorization.k8s.io/v1";
        self.apply(&json!([
            { "apiVersion": rbac, "kind": "Role", "metadata": metadata, "rules": [
                { "apiGroups": ["external.metrics.k8s.io"], "resources": ["longshore_pending"], "verbs": ["list"] },
            ] },
            { "apiVersion": rbac, "kind": "RoleBinding", "metadata": metadata,
              "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader" },
              "subjects": [{ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "reader" }] },
        ]));
        let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{}/", self.namespace);
        let read =
            |metric: &str| self.try_kubectl(&["get", "--as=reader", "--raw", &format!("{path}{metric}")], "");
        let pending: Value = serde_json::from_str(&read("longshore_pending").expect("it may")).expect("JSON");
        assert_eq!(pending["items"][0]["value"], "0");
        assert!(read("longshore_desired_workers").is_err_and(|said| said.contains("Forbidden")));
    }

    fn replicas(&self, deployment: &str) -> u64 {
        self.object("deployment", deployment)["spec"]["replicas"].as_u64().unwrap_or(0)
    }

    async fn until(&self, plane: &Plane, what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds() {
            if Instant::now() > end {
                let autoscalers = self.kubectl(&["-n", &self.namespace, "describe", "hpa"]);
                panic!("waited for {what}\n{autoscalers}\n{}", plane.log());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn scales(&self, plane: &Plane, deployment: &str, to: u64) {
        let begin = Instant::now();
        self.until(plane, &format!("{to} pods of {deployment}"), || self.replicas(deployment) == to).await;
        println!("{deployment} is at {to} pods after {:.1} s", begin.elapsed().as_secs_f64());
    }

    /// The autoscaler says that it gets no numbers.
    fn is_blind(&self, name: &str) -> bool {
        let metadata = &self.object("hpa.v1.autoscaling", name)["metadata"]["annotations"];
        let conditions = metadata["autoscaling.alpha.kubernetes.io/conditions"].as_str().unwrap_or("[]");
        let conditions: Value = serde_json::from_str(conditions).expect("JSON");
        let of = |it: &Value| it["type"] == "ScalingActive" && it["reason"] == "FailedGetExternalMetric";
        conditions.as_array().is_some_and(|all| all.iter().any(of))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let remove = |what: &[&str]| {
            self.try_kubectl(&[&["delete", "--ignore-not-found", "--wait=false"], what].concat(), "")
        };
        let done = [remove(&["apiservice", API_SERVICE]), remove(&["namespace", &self.namespace])];
        for said in done.into_iter().filter_map(Result::err) {
            println!("something is left behind in the cluster: {said}");
        }
    }
}

fn metrics_port(plane: &Plane) -> u16 {
    let text = std::fs::read_to_string(plane.dir().join(".longshore/addresses.json"))
        .expect("it says where it listens");
    let addresses: Value = serde_json::from_str(&text).expect("JSON");
    let metrics = addresses["metrics"].as_str().expect("external metrics are served");
    metrics.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
}

#[tokio::test]
async fn an_autoscaler_follows_the_control_plane_and_holds_while_it_is_gone() {
    let Some(cluster) = Cluster::find() else { return };
    cluster.kubectl(&["create", "namespace", &cluster.namespace]);
    let settings = format!(
        "[kubernetes]\nnamespace = \"{}\"\nmetrics = \"{}:0\"\n[fleet.{FLEET}]\nplatform = \"kubernetes\"\n\
         image = \"longshore-pause\"\nscaling = {{ by = \"hpa\", min = 2, max = 8 }}\n\
         rollout = {{ owner = \"external\" }}\n",
        cluster.namespace, cluster.host
    );
    let mut plane = Plane::start_with(&settings, &[("KUBECONFIG", &cluster.kubeconfig)]).await;
    let port = metrics_port(&plane);
    cluster.register(port);
    cluster.deploy(FLEET, "longshore_desired_workers", "1");
    cluster.deploy("by-pending", "longshore_pending", "4");
    // By the scaler's own decision: its minimum, an operator's number, and tasks.
    cluster.scales(&plane, FLEET, 2).await;
    cluster.lets_a_reader_read();
    plane.client.set_scale(FLEET, Some(5)).await.expect("accepted");
    cluster.scales(&plane, FLEET, 5).await;
    // By tasks that could run: nobody takes them here.
    let ids = plane.submit_many(FLEET, (0..16).map(|n| json!(n))).await;
    cluster.scales(&plane, "by-pending", 4).await;
    // A control plane that is gone is no empty queue.
    plane.kill();
    cluster
        .until(&plane, "both autoscalers to get no numbers", || {
            cluster.is_blind(FLEET) && cluster.is_blind("by-pending")
        })
        .await;
    assert_eq!((cluster.replicas(FLEET), cluster.replicas("by-pending")), (5, 4));
    plane.restart().await;
    assert_eq!(metrics_port(&plane), port, "where its Service leads to");
    for id in ids {
        plane.client.cancel(id, None).await.expect("cancelled");
    }
    plane.client.set_scale(FLEET, Some(3)).await.expect("accepted");
    cluster.scales(&plane, "by-pending", 1).await;
    cluster.scales(&plane, FLEET, 3).await;
    // Another adapter comes and takes the place.
    let service =
        json!({ "spec": { "service": { "namespace": "keda", "name": "keda-metrics" } } }).to_string();
    cluster.kubectl(&["patch", "apiservice", API_SERVICE, "--type=merge", "-p", &service]);
    let end = Instant::now() + PATIENCE;
    loop {
        let fleet = plane.client.fleet(FLEET).await.expect("it answers");
        let said: Vec<_> = fleet.trouble.iter().chain(&fleet.notes).collect();
        if said.iter().any(|it| it.contains("keda/keda-metrics") && it.contains("scaling.by = \"keda\"")) {
            break;
        }
        assert!(Instant::now() < end, "nobody is told: {said:?}");
        pause().await;
    }
}
