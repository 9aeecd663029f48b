//! Metrics of schedules and webhooks.

use longshore_core::webhook::{Next, WebhookName};
use longshore_store::StoreError;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Seconds;
use crate::app::{App, now};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfSchedule {
    schedule: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfWebhook {
    webhook: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfTry {
    webhook: String,
    outcome: &'static str,
}

#[derive(Default)]
pub struct HookMetrics {
    ticks: Family<OfSchedule, Gauge>,
    tries: Family<OfTry, Counter>,
    pending: Family<OfWebhook, Gauge>,
    oldest: Family<OfWebhook, Seconds>,
    disabled: Family<OfWebhook, Gauge>,
}

impl HookMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "schedule_ticks",
            "Ticks of schedules by outcome, ever: fired, missed, overlapped, refused",
            self.ticks.clone(),
        );
        registry.register(
            "webhook_tries",
            "Tries to deliver messages, by what followed: delivered, retried, given_up, disabled",
            self.tries.clone(),
        );
        registry.register("webhook_pending", "Messages that webhooks are owed", self.pending.clone());
        registry.register(
            "webhook_oldest_pending_seconds",
            "How long ago the task of the oldest message that is owed ended",
            self.oldest.clone(),
        );
        registry.register(
            "webhook_disabled",
            "1 when nothing is sent to the webhook any more",
            self.disabled.clone(),
        );
    }

    pub fn tried(&self, webhook: &WebhookName, next: Next) {
        let outcome = match next {
            Next::Delivered => "delivered",
            Next::RetryAt(_) => "retried",
            Next::GiveUp => "given_up",
            Next::Disable => "disabled",
        };
        self.tries.get_or_create(&OfTry { webhook: webhook.to_string(), outcome }).inc();
    }

    /// What the store knows, for a scrape.
    pub async fn read(&self, app: &App) -> Result<(), StoreError> {
        for record in app.store.schedules().await? {
            let outcomes = [
                ("fired", record.fired),
                ("missed", record.missed),
                ("overlapped", record.overlapped),
                ("refused", record.refused),
            ];
            for (outcome, ticks) in outcomes {
                let of = OfSchedule { schedule: record.name.to_string(), outcome };
                self.ticks.get_or_create(&of).set(ticks as i64);
            }
        }
        for record in app.store.webhooks().await? {
            let of = OfWebhook { webhook: record.name.to_string() };
            let backlog = app.store.webhook_backlog(record.name).await?;
            self.pending.get_or_create(&of).set(backlog.pending as i64);
            let oldest = backlog.oldest.map_or(0.0, |at| now().since(at).as_secs_f64());
            self.oldest.get_or_create(&of).set(oldest);
            self.disabled.get_or_create(&of).set(i64::from(record.disabled.is_some()));
        }
        Ok(())
    }
}
