//! Chat completions, and completions: unnamed chunks until `[DONE]`.

use super::key::Key;
use super::{Seen, Stage};
use crate::facts::{Facts, finish_reason};
use crate::fault::error_in;
use crate::fields::Fields;
use crate::usage;

pub(super) struct Chat {
    stopped: bool,
    finish: Key,
    usage: Key,
    error: Key,
    model: Key,
}

impl Default for Chat {
    fn default() -> Self {
        Chat {
            stopped: false,
            finish: Key::new("\"finish_reason\""),
            usage: Key::new("\"usage\""),
            error: Key::new("\"error\""),
            model: Key::new("\"model\""),
        }
    }
}

impl Chat {
    pub fn read(&mut self, data: &str, facts: &mut Facts) -> Option<Seen> {
        if data.trim() == "[DONE]" {
            return self.stopped.then_some(Seen::Reached(Stage::Done));
        }
        let fields = if self.is_telling(data, facts) { Fields::read(data)? } else { return None };
        if let Some(message) = error_in(&fields) {
            return Some(Seen::Error(message));
        }
        // Some providers leave the first chunks' model empty.
        facts.model = facts.model.take().or_else(|| fields.string("model").filter(|model| !model.is_empty()));
        facts.tokens = fields.fields("usage").and_then(|usage| usage::openai(&usage)).or(facts.tokens);
        let reason = finish_reason(&fields)?;
        facts.finish.get_or_insert(reason);
        self.stopped = true;
        Some(Seen::Reached(Stage::Stopped))
    }

    /// Most chunks are a few words of text, and are not parsed.
    fn is_telling(&self, data: &str, facts: &Facts) -> bool {
        self.finish.is_set_in(data)
            || self.usage.is_set_in(data)
            || self.error.is_set_in(data)
            || (facts.model.is_none() && self.model.is_set_in(data))
    }
}
