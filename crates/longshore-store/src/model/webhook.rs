//! Webhooks, and the messages that they are owed.

use longshore_core::id::{FleetName, TaskId};
use longshore_core::task::State;
use longshore_core::time::Timestamp;
use longshore_core::webhook::{Webhook, WebhookName};

#[derive(Clone, Debug, PartialEq)]
pub struct WebhookRecord {
    pub name: WebhookName,
    pub declaration: Webhook,
    /// False when it is no longer declared: it is owed nothing new, and what it is owed waits.
    pub active: bool,
    /// Why and since when nothing is sent to it.
    pub disabled: Option<(String, Timestamp)>,
    pub changed_at: Timestamp,
}

/// How many messages a webhook is owed, and since when the oldest of them. Counted up to 100,000.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookBacklog {
    pub pending: u64,
    pub oldest: Option<Timestamp>,
    pub failed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    Pending,
    Delivered,
    /// Given up.
    Failed,
}

impl DeliveryState {
    pub const ALL: [DeliveryState; 3] =
        [DeliveryState::Pending, DeliveryState::Delivered, DeliveryState::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            DeliveryState::Pending => "pending",
            DeliveryState::Delivered => "delivered",
            DeliveryState::Failed => "failed",
        }
    }

    pub fn parse(text: &str) -> Option<DeliveryState> {
        DeliveryState::ALL.into_iter().find(|it| it.as_str() == text)
    }
}

/// One message to one webhook about the end of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRecord {
    /// Orders deliveries by the end of their tasks.
    pub seq: u64,
    pub webhook: WebhookName,
    pub task: TaskId,
    pub fleet: FleetName,
    /// What the task ended as.
    pub ended_as: State,
    /// When the task ended.
    pub at: Timestamp,
    pub state: DeliveryState,
    /// Tries are given up some time after this.
    pub since: Timestamp,
    /// When it is tried next; only while pending.
    pub next_at: Option<Timestamp>,
    /// Since `since`.
    pub tries: u32,
    pub tried_at: Option<Timestamp>,
    /// The receiver's answer to the newest try, and what was wrong with that try.
    pub status: Option<u16>,
    pub error: Option<String>,
}

/// A try that was made.
#[derive(Clone, Debug)]
pub struct Tried {
    pub seq: u64,
    pub at: Timestamp,
    pub status: Option<u16>,
    pub error: Option<String>,
    /// What follows, as `longshore_core::webhook::next` decided.
    pub next: longshore_core::webhook::Next,
}

/// Which deliveries to list.
#[derive(Clone, Debug)]
pub struct DeliveryFilter {
    pub webhook: WebhookName,
    pub state: Option<DeliveryState>,
    /// Only numbers below this one.
    pub before: Option<u64>,
}

/// Which deliveries to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redeliver {
    /// The one about this task, delivered ones included.
    One(TaskId),
    /// Those that were given up.
    Failed,
}

/// What a new declaration of all webhooks means for one of them.
#[derive(Debug, PartialEq)]
pub(crate) enum WebhookChange<'a> {
    /// It is left out; what it is owed waits for it to be declared again.
    Remove(&'a WebhookName),
    Put {
        declaration: &'a Webhook,
        /// It has another address: who said that it is gone was at the old one.
        moved: bool,
    },
}

/// What to change so that exactly these are declared; nothing for those that are as they were.
pub(crate) fn webhook_changes<'a>(known: &'a [WebhookRecord], next: &'a [Webhook]) -> Vec<WebhookChange<'a>> {
    let stays = |record: &WebhookRecord| next.iter().any(|it| it.name == record.name);
    let left_out = known.iter().filter(|it| it.active && !stays(it));
    let declared = next.iter().filter_map(|declaration| {
        let known = known.iter().find(|record| record.name == declaration.name);
        let moved = known.is_some_and(|it| it.declaration.url != declaration.url);
        let is_new = !known.is_some_and(|it| it.active && it.declaration == *declaration);
        is_new.then_some(WebhookChange::Put { declaration, moved })
    });
    left_out.map(|it| WebhookChange::Remove(&it.name)).chain(declared).collect()
}

impl Tried {
    /// The delivery's state after it, and when it is tried next.
    pub(crate) fn leads_to(&self) -> (DeliveryState, Option<Timestamp>) {
        use longshore_core::webhook::Next;
        match self.next {
            Next::Delivered => (DeliveryState::Delivered, None),
            Next::RetryAt(at) => (DeliveryState::Pending, Some(at)),
            Next::GiveUp | Next::Disable => (DeliveryState::Failed, None),
        }
    }

    /// Why nothing more is sent to its webhook.
    pub(crate) fn disables(&self) -> Option<&'static str> {
        (self.next == longshore_core::webhook::Next::Disable).then_some("the receiver answered 410 Gone")
    }
}
