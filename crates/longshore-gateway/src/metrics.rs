//! What the gateway counts for Prometheus.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OfModel {
    pub fleet: String,
    pub provider: String,
    pub model: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfOutcome {
    fleet: String,
    provider: String,
    model: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfReason {
    provider: String,
    reason: &'static str,
}

type Times = Family<OfModel, Histogram>;

/// Cheap to clone: clones count together.
#[derive(Clone)]
pub struct Metrics {
    calls: Family<OfOutcome, Counter>,
    retries: Family<OfReason, Counter>,
    maybe_billed: Family<OfModel, Counter>,
    first: Times,
    total: Times,
    waited: Times,
    open: Gauge,
}

/// Seconds: from what a gateway adds to what the slowest models take.
fn buckets() -> Histogram {
    Histogram::new([0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0])
}

impl Default for Metrics {
    fn default() -> Self {
        let times = || Times::new_with_constructor(buckets as fn() -> Histogram);
        Metrics {
            calls: Family::default(),
            retries: Family::default(),
            maybe_billed: Family::default(),
            first: times(),
            total: times(),
            waited: times(),
            open: Gauge::default(),
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "llm_calls",
            "Agents' calls to LLM APIs, by what became of them: live, replayed, failed, passed",
            self.calls.clone(),
        );
        registry.register(
            "llm_retries",
            "Tries at a provider that were repeated, by reason",
            self.retries.clone(),
        );
        registry.register(
            "llm_maybe_billed",
            "Tries without an answer that the provider may have billed",
            self.maybe_billed.clone(),
        );
        registry.register(
            "llm_first_token_seconds",
            "From an agent's request to the first byte of a live answer",
            self.first.clone(),
        );
        registry.register(
            "llm_call_seconds",
            "From an agent's request to the end of a live answer",
            self.total.clone(),
        );
        registry.register(
            "llm_permit_wait_seconds",
            "Time that live calls waited for the provider's limits",
            self.waited.clone(),
        );
        registry.register("llm_open_calls", "Calls under way at providers", self.open.clone());
    }

    pub fn ended(&self, of: &OfModel, outcome: &'static str) {
        let OfModel { fleet, provider, model } = of.clone();
        self.calls.get_or_create(&OfOutcome { fleet, provider, model, outcome }).inc();
    }

    pub fn retried(&self, provider: &str, reason: &'static str) {
        self.retries.get_or_create(&OfReason { provider: provider.into(), reason }).inc();
    }

    pub fn maybe_billed(&self, of: &OfModel, times: u32) {
        self.maybe_billed.get_or_create(of).inc_by(times.into());
    }

    pub fn took(&self, of: &OfModel, waited: Duration, first: Duration, total: Duration) {
        self.waited.get_or_create(of).observe(waited.as_secs_f64());
        self.first.get_or_create(of).observe(first.as_secs_f64());
        self.total.get_or_create(of).observe(total.as_secs_f64());
    }

    pub fn open(&self, change: i64) {
        self.open.inc_by(change);
    }
}
