//! What `/metrics` shows, in the Prometheus text format.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use longshore_api::link::Outcome;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

type Labels = [(&'static str, &'static str); 1];

pub struct Metrics {
    registry: Registry,
    pub in_flight: Gauge<i64, AtomicI64>,
    attempts: Family<Labels, Counter>,
    pub agent_restarts: Counter,
    pub refused_endings: Counter,
    link_errors: Family<Labels, Counter>,
    claim_seconds: Histogram,
    memory: Gauge<i64, AtomicI64>,
    llm_calls: Family<Labels, Counter>,
    pub llm_retries: Counter,
    llm_breaks: Family<Labels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("longshore_worker");
        let claim_seconds = Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]);
        let metrics = Metrics {
            in_flight: Gauge::default(),
            attempts: Family::default(),
            agent_restarts: Counter::default(),
            refused_endings: Counter::default(),
            link_errors: Family::default(),
            claim_seconds,
            memory: Gauge::default(),
            llm_calls: Family::default(),
            llm_retries: Counter::default(),
            llm_breaks: Family::default(),
            registry: Registry::default(),
        };
        registry.register("in_flight", "Attempts that run now", metrics.in_flight.clone());
        registry.register("attempts", "Attempts that ended, by outcome", metrics.attempts.clone());
        registry.register("agent_restarts", "Restarts of the http agent", metrics.agent_restarts.clone());
        registry.register("refused_endings", "Endings that came too late", metrics.refused_endings.clone());
        registry.register(
            "link_errors",
            "Requests to the control plane that failed",
            metrics.link_errors.clone(),
        );
        registry.register(
            "claim_seconds",
            "Time from asking for tasks to getting some",
            metrics.claim_seconds.clone(),
        );
        registry.register("memory_bytes", "Resident memory of the worker process", metrics.memory.clone());
        registry.register("llm_calls", "Agents' LLM calls, by outcome", metrics.llm_calls.clone());
        registry.register("llm_retries", "Asks of the gateway after the first", metrics.llm_retries.clone());
        registry.register("llm_breaks", "LLM answers broken off, by whom", metrics.llm_breaks.clone());
        Metrics { registry, ..metrics }
    }
}

impl Metrics {
    pub fn text(&self) -> String {
        self.memory.set(i64::try_from(crate::memory::resident()).unwrap_or(0));
        let mut text = String::new();
        // Writing to a string cannot fail.
        _ = encode(&mut text, &self.registry);
        text
    }

    /// `None`: the lease was lost.
    pub fn ended(&self, outcome: Option<&Outcome>) {
        let outcome = match outcome {
            Some(Outcome::Succeeded { .. }) => "succeeded",
            Some(Outcome::Failed(_)) => "failed",
            Some(Outcome::Interrupted(_)) => "interrupted",
            Some(Outcome::Waited(_)) => "waited",
            None => "lost",
        };
        self.attempts.get_or_create(&[("outcome", outcome)]).inc();
    }

    pub fn link_error(&self, kind: &'static str) {
        self.link_errors.get_or_create(&[("kind", kind)]).inc();
    }

    pub fn llm_call(&self, outcome: &'static str) {
        self.llm_calls.get_or_create(&[("outcome", outcome)]).inc();
    }

    pub fn llm_break(&self, by: &'static str) {
        self.llm_breaks.get_or_create(&[("by", by)]).inc();
    }

    pub fn claimed(&self, after: Duration) {
        self.claim_seconds.observe(after.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_in_the_text() {
        let metrics = Metrics::default();
        metrics.in_flight.set(3);
        metrics.ended(None);
        let text = metrics.text();
        assert!(text.contains("longshore_worker_in_flight 3"), "{text}");
        assert!(text.contains(r#"longshore_worker_attempts_total{outcome="lost"} 1"#), "{text}");
    }
}
