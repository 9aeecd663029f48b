//! Metrics of the control plane, in Prometheus text format.
//!
//! Counters live here; gauges are read from the store when somebody asks.

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use http::StatusCode;
use longshore_api::link::WorkerState;
use longshore_store::{FleetCounts, WorkerFilter};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::app::{App, now};
use crate::convert;
use crate::error::Answer;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    listener: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfFleet {
    fleet: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfFleetState {
    fleet: String,
    state: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfFleetKind {
    fleet: String,
    kind: String,
}

type Seconds = Gauge<f64, AtomicU64>;

/// All metrics of one control plane.
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<Answered, Counter>,
    claimed: Counter,
    accepted: Counter,
    refused: Counter,
    expired: Counter,
    decisions: Family<OfFleetKind, Counter>,
    tasks: Family<OfFleetState, Gauge>,
    runnable: Family<OfFleet, Gauge>,
    oldest: Family<OfFleet, Seconds>,
    workers: Family<OfFleetState, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("longshore");
        let metrics = Metrics {
            registry: Mutex::default(),
            requests: Family::default(),
            claimed: Counter::default(),
            accepted: Counter::default(),
            refused: Counter::default(),
            expired: Counter::default(),
            decisions: Family::default(),
            tasks: Family::default(),
            runnable: Family::default(),
            oldest: Family::default(),
            workers: Family::default(),
        };
        registry.register(
            "http_requests",
            "Requests answered, by listener and status",
            metrics.requests.clone(),
        );
        registry.register("tasks_claimed", "Tasks handed to workers", metrics.claimed.clone());
        registry.register("attempts_ended", "Attempts whose ending was accepted", metrics.accepted.clone());
        registry.register("endings_refused", "Endings refused for an old fence", metrics.refused.clone());
        registry.register(
            "leases_expired",
            "Leases that no heartbeat renewed in time",
            metrics.expired.clone(),
        );
        registry.register("scale_decisions", "Decisions of the scaler, by kind", metrics.decisions.clone());
        registry.register("tasks", "Tasks by state", metrics.tasks.clone());
        registry.register("runnable_tasks", "Tasks that could run now", metrics.runnable.clone());
        registry.register(
            "oldest_runnable_seconds",
            "How long the oldest runnable task has waited",
            metrics.oldest.clone(),
        );
        registry.register("workers", "Workers by state", metrics.workers.clone());
        *metrics.registry.lock().expect("no holder panics") = registry;
        metrics
    }
}

impl Metrics {
    pub fn answered(&self, listener: &'static str, status: StatusCode) {
        self.requests.get_or_create(&Answered { listener, status: status.as_u16() }).inc();
    }

    pub fn claimed(&self, tasks: usize) {
        self.claimed.inc_by(tasks as u64);
    }

    pub fn ended(&self, accepted: usize, refused: usize) {
        self.accepted.inc_by(accepted as u64);
        self.refused.inc_by(refused as u64);
    }

    pub fn expired(&self, leases: usize) {
        self.expired.inc_by(leases as u64);
    }

    pub fn decided(&self, fleet: &str, kind: &str) {
        self.decisions.get_or_create(&OfFleetKind { fleet: fleet.into(), kind: kind.into() }).inc();
    }

    fn count_tasks(&self, counts: &FleetCounts) {
        let states = [
            ("queued", counts.queued()),
            ("running", counts.running),
            ("waiting", counts.waiting),
            ("succeeded", counts.succeeded),
            ("failed", counts.failed),
            ("cancelled", counts.cancelled),
        ];
        for (state, count) in states {
            let labels = OfFleetState { fleet: counts.fleet.to_string(), state: state.into() };
            self.tasks.get_or_create(&labels).set(count as i64);
        }
    }

    /// The text that a scrape gets.
    pub async fn scrape(&self, app: &App) -> Answer<String> {
        for record in app.store.fleets().await? {
            let name = record.name;
            let load = app.store.load(name.clone()).await?;
            let fleet = OfFleet { fleet: name.to_string() };
            self.runnable.get_or_create(&fleet).set(load.runnable as i64);
            let oldest = load.oldest_runnable_since.map_or(0.0, |since| now().since(since).as_secs_f64());
            self.oldest.get_or_create(&fleet).set(oldest);
            let workers = app.store.workers(WorkerFilter { fleet: Some(name.clone()), gone: false }).await?;
            // Counted first and set at once: two scrapes at the same time must not add up.
            for state in
                [WorkerState::Starting, WorkerState::Ready, WorkerState::NotReady, WorkerState::Draining]
            {
                let count = workers.iter().filter(|worker| convert::worker_state(worker) == state).count();
                let labels = OfFleetState { fleet: name.to_string(), state: state.as_str().into() };
                self.workers.get_or_create(&labels).set(count as i64);
            }
        }
        for counts in app.store.counts().await? {
            self.count_tasks(&counts);
        }
        let mut text = String::new();
        let registry = self.registry.lock().expect("no holder panics");
        if encode(&mut text, &registry).is_err() {
            let _ = writeln!(text, "# encoding failed");
        }
        Ok(text)
    }
}
