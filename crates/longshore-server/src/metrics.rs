//! Metrics of the control plane, in Prometheus text format.
//!
//! Counters live here; gauges are read from the store when somebody asks.

mod hooks;

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::StatusCode;
use longshore_api::fleet::Depth;
use longshore_api::link::WorkerState;
use longshore_api::problem::Problem;
use longshore_store::{FleetCounts, WorkerFilter};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::app::{App, now};
use crate::convert;
use crate::depth;
use crate::error::{Answer, Refused};
use crate::look::{Looked, Silent};
use hooks::HookMetrics;

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

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfQueue {
    fleet: String,
    /// What its tasks wait for, or `running`.
    part: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfModel {
    fleet: String,
    provider: String,
    model: String,
    /// Of tokens, or of money.
    kind: String,
}

/// How long a scrape waits for the store, of the 10 s that Prometheus waits for it.
const PATIENCE: Duration = Duration::from_secs(8);

type Seconds = Gauge<f64, AtomicU64>;

/// All metrics of one control plane.
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Whether the store could be read for them.
    read: Looked<Result<(), Problem>>,
    /// The gateway counts by itself.
    pub gateway: longshore_gateway::Metrics,
    /// Of schedules and webhooks.
    pub hooks: HookMetrics,
    requests: Family<Answered, Counter>,
    claimed: Counter,
    looks: Counter,
    accepted: Counter,
    refused: Counter,
    expired: Counter,
    decisions: Family<OfFleetKind, Counter>,
    tasks: Family<OfFleetState, Gauge>,
    runnable: Family<OfFleet, Gauge>,
    depth: Family<OfQueue, Gauge>,
    paused: Family<OfFleet, Gauge>,
    oldest: Family<OfFleet, Seconds>,
    workers: Family<OfFleetState, Gauge>,
    replay_ratio: Family<OfFleet, Seconds>,
    bought_again: Family<OfFleet, Gauge>,
    tokens: Family<OfModel, Gauge>,
    cost: Family<OfModel, Seconds>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("longshore");
        let metrics = Metrics {
            registry: Mutex::default(),
            read: Default::default(),
            gateway: longshore_gateway::Metrics::default(),
            hooks: HookMetrics::default(),
            requests: Family::default(),
            claimed: Counter::default(),
            looks: Counter::default(),
            accepted: Counter::default(),
            refused: Counter::default(),
            expired: Counter::default(),
            decisions: Family::default(),
            tasks: Family::default(),
            runnable: Family::default(),
            depth: Family::default(),
            paused: Family::default(),
            oldest: Family::default(),
            workers: Family::default(),
            replay_ratio: Family::default(),
            bought_again: Family::default(),
            tokens: Family::default(),
            cost: Family::default(),
        };
        metrics.gateway.register(&mut registry);
        metrics.hooks.register(&mut registry);
        registry.register(
            "http_requests",
            "Requests answered, by listener and status",
            metrics.requests.clone(),
        );
        registry.register("tasks_claimed", "Tasks handed to workers", metrics.claimed.clone());
        registry.register(
            "claim_looks",
            "Looks into the store for tasks; a long poll may look several times",
            metrics.looks.clone(),
        );
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
            "queue_depth",
            "Unfinished tasks, each in one part: runnable, scheduled, conversation, cap, provider, paused, running, waiting",
            metrics.depth.clone(),
        );
        registry.register(
            "fleet_paused",
            "1 while an operator keeps the fleet from starting tasks",
            metrics.paused.clone(),
        );
        registry.register(
            "oldest_runnable_seconds",
            "How long the oldest runnable task has waited",
            metrics.oldest.clone(),
        );
        registry.register("workers", "Workers by state", metrics.workers.clone());
        registry.register(
            "replay_ratio",
            "Of the answers that later attempts could have been given again, the part that they were; absent: none",
            metrics.replay_ratio.clone(),
        );
        registry.register(
            "llm_bought_again",
            "Answers bought though an earlier attempt had one at the same place, ever",
            metrics.bought_again.clone(),
        );
        registry.register(
            "llm_tokens",
            "Tokens by kind, ever: input, cached (of the input), output, saved (given again)",
            metrics.tokens.clone(),
        );
        registry.register("llm_cost", "What live calls cost, ever, in the currency", metrics.cost.clone());
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

    /// A long poll looks into the store, whatever it finds.
    pub fn looked_for_tasks(&self) {
        self.looks.inc();
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

    fn count_queue(&self, fleet: &OfFleet, depth: &Depth) {
        self.runnable.get_or_create(fleet).set(depth.runnable as i64);
        let parts = [
            ("runnable", depth.runnable),
            ("scheduled", depth.scheduled),
            ("conversation", depth.held_by_conversation),
            ("cap", depth.held_by_cap),
            ("provider", depth.held_by_provider),
            ("paused", depth.held_by_pause),
            ("running", depth.running),
            ("waiting", depth.waiting),
        ];
        for (part, count) in parts {
            let labels = OfQueue { fleet: fleet.fleet.clone(), part };
            self.depth.get_or_create(&labels).set(count as i64);
        }
    }

    /// What the store adds up outlives this process, so it is shown as it stands there.
    async fn read_usage(&self, app: &App) -> Answer<()> {
        for record in app.store.replays().await? {
            let fleet = OfFleet { fleet: record.fleet.to_string() };
            let could = record.replayed + record.bought_again;
            if could > 0 {
                self.replay_ratio.get_or_create(&fleet).set(record.replayed as f64 / could as f64);
            }
            self.bought_again.get_or_create(&fleet).set(record.bought_again as i64);
        }
        for record in app.store.usage(None).await? {
            let of = |kind: &str| OfModel {
                fleet: record.fleet.to_string(),
                provider: record.provider.clone(),
                model: record.model.clone(),
                kind: kind.to_owned(),
            };
            let kinds = [
                ("input", record.used.input),
                ("cached", record.used.cached),
                ("output", record.used.output),
                ("saved", record.saved_tokens),
            ];
            for (kind, tokens) in kinds {
                self.tokens.get_or_create(&of(kind)).set(tokens as i64);
            }
            self.cost.get_or_create(&of(&record.currency)).set(record.cost_nano as f64 / 1e9);
        }
        Ok(())
    }

    /// The text that a scrape gets.
    pub async fn scrape(&self, app: &App) -> Answer<String> {
        let read = || {
            let app = app.clone();
            async move { app.metrics.read_store(&app).await.map_err(|refused| *refused.0) }
        };
        match self.read.lately(PATIENCE, read).await {
            Ok(read) => read?,
            Err(Silent(since)) => {
                let detail =
                    format!("the store has been read for {} s and has not answered", since.as_secs());
                return Err(Refused::new(503, "store_slow", detail).hint("ask again in a moment"));
            }
        }
        let mut text = String::new();
        let registry = self.registry.lock().expect("no holder panics");
        if encode(&mut text, &registry).is_err() {
            let _ = writeln!(text, "# encoding failed");
        }
        Ok(text)
    }

    async fn read_store(&self, app: &App) -> Answer<()> {
        for record in app.store.fleets().await? {
            let queue = depth::of(app, &record).await?;
            let name = record.name;
            let fleet = OfFleet { fleet: name.to_string() };
            self.count_queue(&fleet, &queue.depth);
            self.paused.get_or_create(&fleet).set(record.paused.into());
            let oldest = queue.oldest.map_or(0.0, |since| now().since(since).as_secs_f64());
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
        self.read_usage(app).await?;
        self.hooks.read(app).await?;
        for counts in app.store.counts().await? {
            self.count_tasks(&counts);
        }
        Ok(())
    }
}
