//! The providers' wire formats: what goes over the line for an answer.

mod chat;
mod embeddings;
pub(crate) mod error;
pub(crate) mod headers;
mod messages;
pub(crate) mod models;
mod responses;
mod script;

pub(crate) use script::{Played, Script};

use serde_json::Value;

use crate::answer::Answer;
use crate::ask::{Api, Ask};

/// Answers are the same bytes at any time, so they were all given at the beginning of 2026.
const CREATED: u64 = 1_767_225_600;

/// What the renderers need to know.
pub(crate) struct Reply<'a> {
    pub(crate) body: &'a Value,
    pub(crate) ask: &'a Ask,
    pub(crate) answer: &'a Answer,
    pub(crate) seed: u64,
    /// Whether usage is told at all.
    pub(crate) usage: bool,
}

impl Reply<'_> {
    /// Everything that will be sent, with where it may be cut.
    pub(crate) fn script(&self, api: Api) -> Script {
        match (api, self.ask.stream) {
            (Api::Responses, true) => responses::stream(self),
            (Api::Messages, true) => messages::stream(self),
            (Api::Chat, true) => chat::stream(self),
            (Api::Responses, false) => self.whole(&responses::whole(self)),
            (Api::Messages, false) => self.whole(&messages::whole(self)),
            (Api::Chat, false) => self.whole(&chat::whole(self)),
            (Api::Embeddings, _) => self.whole(&embeddings::whole(self)),
        }
    }

    fn whole(&self, answer: &Value) -> Script {
        Script::whole(answer, self.answer.usage.output)
    }
}
