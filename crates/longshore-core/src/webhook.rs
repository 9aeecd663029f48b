//! Webhooks: who is told about the end of a task, where that may go, and when it is tried again.
//!
//! Sends nothing and knows no secret: a secret stays the name of its source until a delivery is signed.

mod address;
mod retry;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::fleet::SecretSource;
use crate::id::{FleetName, IdError, TaskId, is_label, name_type, shorten};
use crate::task::State;

pub use address::{Refusal, check as check_address};
pub use retry::{GIVE_UP_AFTER, Heard, Next, next};

name_type!(
    /// Names a webhook: a DNS label of at most 40 characters.
    WebhookName,
    "webhook name",
    "1 to 40 of a-z, 0-9 and -, beginning with a letter and not ending with -",
    is_label
);

/// Everything declared about one webhook, defaults filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Webhook {
    pub name: WebhookName,
    /// May hold a token of its receiver in its query: shown only by [`Webhook::shown_url`].
    pub url: String,
    /// Each delivery is signed with all of them, so that one can take over from another.
    pub secrets: Vec<SecretSource>,
    /// None: all.
    pub fleets: Vec<FleetName>,
    /// Terminal ones.
    pub states: Vec<State>,
    /// Its receiver may be at an address that only this machine or its network can reach.
    pub allow_private: bool,
}

impl Webhook {
    /// The address without its query.
    pub fn shown_url(&self) -> String {
        match self.url.split_once('?') {
            Some((address, _)) => format!("{address}?…"),
            None => self.url.clone(),
        }
    }
}

/// The terminal states, which are those that a webhook may tell about.
pub const STATES: [State; 3] = [State::Succeeded, State::Failed, State::Cancelled];

/// What a message about this state is called, such as `task.succeeded`.
pub fn message_type(state: State) -> String {
    format!("task.{}", state.as_str())
}

/// The id of the message that tells one webhook about the end of one task: the same at every try, so that a receiver
/// can drop repetitions.
///
/// Holds no `.`, which separates the parts of what is signed.
pub fn message_id(task: TaskId, webhook: &WebhookName) -> String {
    format!("{task}-{webhook}")
}

/// The task of a message's id, when it is one of this webhook.
pub fn task_of_message(id: &str, webhook: &WebhookName) -> Option<TaskId> {
    id.strip_suffix(webhook.as_str())?.strip_suffix('-')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_leads_back_to_its_task_and_to_no_other_webhook() {
        let (task, name) = (TaskId(uuid::Uuid::from_u128(7)), WebhookName::new("a-b").expect("valid"));
        let id = message_id(task, &name);
        assert!(!id.contains('.'), "{id}");
        assert_eq!(task_of_message(&id, &name), Some(task));
        assert_eq!(task_of_message(&id, &WebhookName::new("b").expect("valid")), None);
        assert_eq!(task_of_message("a-b", &name), None);
    }
}
