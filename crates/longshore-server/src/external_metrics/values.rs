//! Metrics as the API gives them: names, lists, and quantities.

use longshore_core::id::FleetName;
use longshore_core::kubernetes::{
    DESIRED_WORKERS, METRICS_GROUP, METRICS_VERSION, PENDING, QUEUE_DEPTH_PER_WORKER,
};
use serde_json::{Value, json};

use super::selector::FLEET;
use crate::wanted::Mark;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    DesiredWorkers,
    Pending,
    QueueDepthPerWorker,
}

impl Metric {
    const ALL: [Metric; 3] = [Metric::DesiredWorkers, Metric::Pending, Metric::QueueDepthPerWorker];

    pub fn named(name: &str) -> Option<Metric> {
        Metric::ALL.into_iter().find(|metric| metric.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Metric::DesiredWorkers => DESIRED_WORKERS,
            Metric::Pending => PENDING,
            Metric::QueueDepthPerWorker => QUEUE_DEPTH_PER_WORKER,
        }
    }

    /// All names, for people.
    pub fn names() -> String {
        Metric::ALL.map(|metric| format!("`{}`", metric.name())).join(", ")
    }

    /// In thousandths. Errors: why a fleet has none now, in words that follow its name.
    pub fn of(self, mark: &Mark) -> Result<u64, String> {
        if self == Metric::DesiredWorkers {
            return Ok(u64::from(mark.told()?) * 1000);
        }
        // Nothing of it is runnable, which must not read as nothing to do.
        if mark.standstill.is_some() {
            return Err(
                "stands still (paused, or its provider is away), so its queue says nothing of workers".into(),
            );
        }
        let pending = mark.pending.saturating_mul(1000);
        Ok(match self {
            // An autoscaler multiplies by those that are ready.
            Metric::QueueDepthPerWorker => {
                pending.div_ceil(u64::from(mark.ready.unwrap_or(mark.workers).max(1)))
            }
            _ => pending,
        })
    }
}

/// As Kubernetes writes quantities: `7`, `1500m`.
pub fn quantity(thousandths: u64) -> String {
    match thousandths % 1000 {
        0 => (thousandths / 1000).to_string(),
        _ => format!("{thousandths}m"),
    }
}

fn group_version() -> String {
    format!("{METRICS_GROUP}/{METRICS_VERSION}")
}

pub fn item(metric: Metric, fleet: &FleetName, mark: &Mark, thousandths: u64) -> Value {
    json!({
        "metricName": metric.name(),
        "metricLabels": { FLEET: fleet.as_str() },
        // Of whole seconds, as the API has them.
        "timestamp": longshore_core::time::Timestamp(mark.at.0 - mark.at.0.rem_euclid(1000)).to_string().replace(".000", ""),
        "value": quantity(thousandths),
    })
}

pub fn list(items: Vec<Value>) -> Value {
    json!({ "kind": "ExternalMetricValueList", "apiVersion": group_version(), "metadata": {}, "items": items })
}

/// What there is in this version of the group.
pub fn resources() -> Value {
    let one = |metric: Metric| {
        json!({
            "name": metric.name(), "singularName": "", "namespaced": true, "kind": "ExternalMetricValueList",
            "verbs": ["get"],
        })
    };
    let all = Metric::ALL.map(one);
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(), "resources": all })
}

pub fn group() -> Value {
    let mut group = bare_group();
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    group
}

pub fn groups() -> Value {
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [bare_group()] })
}

/// As little as there can be: the API server asks again and again where there is none.
pub fn openapi() -> Value {
    json!({ "swagger": "2.0", "info": { "title": "longshore", "version": METRICS_VERSION }, "paths": {} })
}

fn bare_group() -> Value {
    let version = json!({ "groupVersion": group_version(), "version": METRICS_VERSION });
    json!({ "name": METRICS_GROUP, "versions": [version], "preferredVersion": version })
}

#[cfg(test)]
mod tests {
    use longshore_core::scale::Standstill;
    use longshore_core::time::Timestamp;

    use super::*;

    /// Of so many workers that are ready, beside three that start.
    fn mark(pending: u64, workers: u32) -> Mark {
        let ready = Some(workers);
        let at = Timestamp(1_700_000_000_123);
        Mark { at, desired: 5, pending, workers: workers + 3, ready, misread: None, standstill: None }
    }

    fn shown(metric: Metric, mark: &Mark) -> Result<String, String> {
        metric.of(mark).map(quantity)
    }

    #[test]
    fn quantities_are_whole_or_in_thousandths() {
        assert_eq!(quantity(0), "0");
        assert_eq!(quantity(37_000), "37");
        assert_eq!(quantity(1_500), "1500m");
        assert_eq!(quantity(1), "1m");
    }

    #[test]
    fn pending_tasks_are_divided_by_the_workers_that_are_ready() {
        let of = |pending, workers| shown(Metric::QueueDepthPerWorker, &mark(pending, workers));
        assert_eq!(of(3, 2).as_deref(), Ok("1500m"));
        assert_eq!(of(10, 3).as_deref(), Ok("3334m"));
        assert_eq!(of(8, 4).as_deref(), Ok("2"));
        assert_eq!(of(7, 0).as_deref(), Ok("7"), "without workers all are one's own");
        assert_eq!(shown(Metric::Pending, &mark(7, 2)).as_deref(), Ok("7"));
        assert_eq!(shown(Metric::DesiredWorkers, &mark(7, 2)).as_deref(), Ok("5"));
    }

    #[test]
    fn a_fleet_that_stands_still_has_no_queue_to_go_by_and_still_a_wanted_number() {
        let still = Mark { standstill: Some(Standstill::Provider), ..mark(0, 4) };
        assert!(
            shown(Metric::Pending, &still).is_err() && shown(Metric::QueueDepthPerWorker, &still).is_err()
        );
        assert_eq!(shown(Metric::DesiredWorkers, &still).as_deref(), Ok("5"));
    }

    #[test]
    fn values_and_discovery_have_the_form_of_the_api() {
        let fleet = FleetName::new("research").expect("valid");
        let value = item(Metric::Pending, &fleet, &mark(7, 2), 7000);
        let expected = json!({
            "metricName": "longshore_pending", "metricLabels": { "fleet": "research" },
            "timestamp": "2023-11-14T22:13:20Z", "value": "7",
        });
        assert_eq!(value, expected);
        assert_eq!(list(vec![value])["kind"], "ExternalMetricValueList");
        let names: Vec<_> = resources()["resources"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|it| it["name"].clone())
            .collect();
        assert_eq!(
            names,
            ["longshore_desired_workers", "longshore_pending", "longshore_queue_depth_per_worker"]
        );
        assert_eq!(group()["preferredVersion"]["groupVersion"], "external.metrics.k8s.io/v1beta1");
        assert_eq!(groups()["groups"][0]["name"], "external.metrics.k8s.io");
        assert_eq!(Metric::named("longshore_nonsense"), None);
    }
}
