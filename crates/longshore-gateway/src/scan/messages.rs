//! Anthropic's messages: content in numbered blocks, usage in instalments.

use std::collections::BTreeSet;

use super::{Seen, Stage, kind};
use crate::facts::Facts;
use crate::fault::error_in;
use crate::fields::Fields;
use crate::usage::Anthropic;

#[derive(Default)]
pub(super) struct Messages {
    /// Open blocks that are calls of the client's tools; blocks may be interleaved.
    tool_uses: BTreeSet<u64>,
    counts: Anthropic,
}

impl Messages {
    pub fn read(&mut self, name: Option<&str>, data: &str, facts: &mut Facts) -> Option<Seen> {
        // Most of a stream, and it tells nothing.
        if name == Some("content_block_delta") {
            return None;
        }
        let fields = Fields::read(data)?;
        match &*kind(name, &fields) {
            "message_start" => {
                let message = fields.fields("message")?;
                facts.model = message.string("model");
                self.count(&message, facts);
                None
            }
            "content_block_start" => {
                let block = fields.fields("content_block")?.string("type")?;
                if block == "tool_use" {
                    self.tool_uses.insert(fields.number("index").unwrap_or(0));
                }
                None
            }
            "content_block_stop" => {
                let tool_use = self.tool_uses.remove(&fields.number("index").unwrap_or(0));
                tool_use.then_some(Seen::Reached(Stage::Actable))
            }
            "message_delta" => {
                self.count(&fields, facts);
                let delta = fields.fields("delta")?;
                delta.text("stop_reason")?;
                facts.finish = delta.string("stop_reason");
                Some(Seen::Reached(Stage::Stopped))
            }
            "message_stop" => Some(Seen::Reached(Stage::Done)),
            _ => error_in(&fields).map(Seen::Error),
        }
    }

    fn count(&mut self, holder: &Fields<'_>, facts: &mut Facts) {
        if let Some(usage) = holder.fields("usage") {
            self.counts.add(&usage);
            facts.tokens = self.counts.usage();
        }
    }
}
