//! Delivers what webhooks are owed.
//!
//! One driver for each webhook, so that a receiver that is slow or dead keeps only its own messages waiting. A driver
//! keeps nothing: what it sends and what came of it are in the store, and a message whose outcome was not noted is
//! sent again with the same id.
//!
//! The leader sends. It takes hold of a message before, so that the next leader leaves alone what this one finishes.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use longshore_core::errors::chain;
use longshore_core::time::Timestamp;
use longshore_core::webhook::{Next, Webhook, WebhookName, message_id, next};
use longshore_store::{DeliveryRecord, StoreError, Tried};
use tokio::task::{AbortHandle, Id, JoinSet};
use tracing::{debug, warn};

use super::read_secret;
use crate::app::{App, now, roll};
use crate::error::Refused;
use crate::routes::tasks;
use crate::webhook::{Secret, Sent, message_of, signed_headers};

/// How often it is looked whether webhooks were added, removed, or switched on again.
const EVERY: Duration = Duration::from_secs(2);

/// Messages under way to one webhook at a time.
const PARALLEL: usize = 8;

/// How long nobody else sends a message that a leader has taken: longer than a try takes, with all that is written for it.
const HOLD: Duration = Duration::from_secs(30);

/// How soon one looks again whom other leaders keep from sending.
const SOON: Duration = Duration::from_secs(1);

/// Starts a driver for each webhook that wants one.
pub async fn run(app: App) -> &'static str {
    let (mut drivers, mut leading) = (Drivers::default(), app.leading.clone());
    while !app.is_stopping() {
        if app.epoch().is_some()
            && let Err(error) = drivers.start(&app).await
        {
            warn!(error = %chain(&error), "webhooks cannot be looked at; it is tried again");
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = App::leads_or_not(&mut leading) => {}
            () = app.stopped() => {}
        }
    }
    while drivers.set.join_next().await.is_some() {}
    "webhooks"
}

#[derive(Default)]
struct Drivers {
    set: JoinSet<()>,
    handles: HashMap<WebhookName, AbortHandle>,
}

impl Drivers {
    async fn start(&mut self, app: &App) -> Result<(), StoreError> {
        let records = app.store.webhooks().await?;
        self.handles.retain(|_, driver| !driver.is_finished());
        while self.set.try_join_next().is_some() {}
        for record in records.into_iter().filter(|it| it.active && it.disabled.is_none()) {
            let driver = || self.set.spawn(drive(app.clone(), record.name.clone()));
            self.handles.entry(record.name.clone()).or_insert_with(driver);
        }
        Ok(())
    }
}

/// Sends to one webhook until it is switched off or no longer declared, another replica leads, or the control plane stops.
async fn drive(app: App, name: WebhookName) {
    let mut flights = Flights::default();
    let mut wake = app.store.signals().webhooks();
    while !app.is_stopping() {
        let wait = match start_due(&app, &name, &mut flights).await {
            Ok(Some(wait)) => wait,
            Ok(None) => break,
            Err(error) => {
                warn!(webhook = %name, error = %chain(&error), "deliveries cannot be looked at; it is tried again");
                EVERY
            }
        };
        let full = flights.room() == 0;
        tokio::select! {
            () = flights.land() => {}
            () = tokio::time::sleep(wait), if !full => {}
            () = wake.wait(), if !full => {}
            () = app.stopped() => {}
        }
    }
    // What is on its way is waited for and noted: each try takes a bounded time.
    while !flights.set.is_empty() {
        flights.land().await;
    }
}

/// Starts as many deliveries as there is room for; returns how long to wait for the next, `None` when nothing is to be
/// sent any more.
async fn start_due(
    app: &App,
    name: &WebhookName,
    flights: &mut Flights,
) -> Result<Option<Duration>, StoreError> {
    let Some(epoch) = app.epoch() else { return Ok(None) };
    let record = app.store.webhook(name.clone()).await?;
    let Some(record) = record.filter(|it| it.active && it.disabled.is_none()) else { return Ok(None) };
    // Those under way may be due as well, and are passed over.
    let mut due = app.store.due_deliveries(name.clone(), now(), PARALLEL + flights.numbers.len()).await?;
    due.retain(|delivery| !flights.holds(delivery.seq));
    due.truncate(flights.room());
    let wanted: Vec<u64> = due.iter().map(|delivery| delivery.seq).collect();
    if !wanted.is_empty() {
        let held = app.store.hold_deliveries(wanted, epoch, now(), now().after(HOLD)).await?;
        for delivery in due.into_iter().filter(|it| held.contains(&it.seq)) {
            flights.start(delivery.seq, deliver(app.clone(), record.declaration.clone(), delivery));
        }
        return Ok(Some(SOON));
    }
    if !flights.set.is_empty() {
        return Ok(Some(SOON));
    }
    let next = app.store.next_delivery(name.clone()).await?;
    Ok(Some(next.map_or(EVERY, |at| at.since(now()).clamp(Duration::from_millis(5), EVERY))))
}

/// Deliveries that are under way.
#[derive(Default)]
struct Flights {
    set: JoinSet<()>,
    numbers: HashMap<Id, u64>,
}

impl Flights {
    fn room(&self) -> usize {
        PARALLEL.saturating_sub(self.numbers.len())
    }

    fn holds(&self, seq: u64) -> bool {
        self.numbers.values().any(|number| *number == seq)
    }

    fn start(&mut self, seq: u64, flight: impl Future<Output = ()> + Send + 'static) {
        let id = self.set.spawn(flight).id();
        self.numbers.insert(id, seq);
    }

    /// Waits until one has come to its end; for ever when there is none.
    async fn land(&mut self) {
        let id = match self.set.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => return std::future::pending().await,
        };
        self.numbers.remove(&id);
    }
}

async fn deliver(app: App, webhook: Webhook, delivery: DeliveryRecord) {
    let sent = attempt(&app, &webhook, &delivery).await;
    let at = now();
    let next = next(sent.heard, delivery.tries + 1, delivery.since, at, roll());
    tell(&webhook, &delivery, &sent, next);
    app.metrics.hooks.tried(&webhook.name, next);
    let tried = Tried { seq: delivery.seq, at, status: sent.status(), error: sent.error, next };
    if let Err(error) = app.store.delivery_tried(tried).await {
        warn!(webhook = %webhook.name, error = %chain(&error), "a delivery's outcome was not noted; it is sent again");
        // Not at once: the receiver is not to pay for our trouble.
        super::sleep_or_stop(&app, EVERY).await;
    }
}

fn tell(webhook: &Webhook, delivery: &DeliveryRecord, sent: &Sent, next: Next) {
    let (name, task) = (&webhook.name, &delivery.task);
    let why = sent.error.as_deref().unwrap_or_default();
    match next {
        Next::Delivered => debug!(webhook = %name, %task, "message delivered"),
        Next::RetryAt(at) => debug!(webhook = %name, %task, why, %at, "message is tried again"),
        Next::GiveUp => warn!(webhook = %name, %task, why, "message given up"),
        Next::Disable => warn!(webhook = %name, "receiver says that it is gone: webhook disabled"),
    }
}

async fn attempt(app: &App, webhook: &Webhook, delivery: &DeliveryRecord) -> Sent {
    let task = match tasks::load(app, delivery.task).await {
        Ok(task) => Some(task),
        Err(Refused(problem)) if problem.status == 404 => None,
        Err(Refused(problem)) => return Sent::not(format!("the task could not be read: {}", problem.detail)),
    };
    let body = message_of(delivery, task);
    send(app, webhook, &message_id(delivery.task, &webhook.name), body).await
}

/// Signs a message and posts it once.
pub async fn send(app: &App, webhook: &Webhook, id: &str, body: Bytes) -> Sent {
    match signed(webhook, id, now(), &body) {
        Ok(headers) => app.post.send(webhook, headers, body).await,
        Err(why) => Sent::not(why),
    }
}

/// Secrets are read each time, so that a file that is replaced counts at once.
fn signed(webhook: &Webhook, id: &str, now: Timestamp, body: &[u8]) -> Result<HeaderMap, String> {
    Ok(signed_headers(&secrets(webhook)?, id, now.0.div_euclid(1000), body))
}

/// The secrets of a webhook; an error names where one should have come from, and nothing of it.
pub fn secrets(webhook: &Webhook) -> Result<Vec<Secret>, String> {
    let read = |source| {
        let text = read_secret(source).map_err(|error| chain(&error))?;
        Secret::parse(&text).map_err(|error| format!("{}: {error}", super::name_secret(source)))
    };
    webhook.secrets.iter().map(read).collect()
}
