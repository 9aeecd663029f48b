//! The journal's protocol: how a call is identified, who may make it, and what a later attempt gets back.
//!
//! Decides from rows that somebody else loaded and saves nothing. A store applies these decisions to its tables;
//! [`Journal`] applies them to memory, where every interleaving can be tried.

mod machine;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use machine::{Begun, Journal, Key};

/// How an ask of this fence stands. An ask is one request of the agent: repeated by its relay it stays the same ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AskState {
    /// Not ended yet.
    Open,
    /// The agent has the whole answer.
    Delivered,
    /// It ended without the agent having the whole answer.
    Undelivered,
    /// It ended in an error that was not journaled.
    Failed,
}

impl AskState {
    pub const ALL: [AskState; 4] =
        [AskState::Open, AskState::Delivered, AskState::Undelivered, AskState::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            AskState::Open => "open",
            AskState::Delivered => "delivered",
            AskState::Undelivered => "undelivered",
            AskState::Failed => "failed",
        }
    }

    pub fn parse(text: &str) -> Option<AskState> {
        AskState::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// One ask of a request within a fence: which occurrence it was given, and how it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub occurrence: u32,
    pub state: AskState,
    /// The task's counter when it ended; 0 while it is open.
    pub ended: u64,
}

/// Chooses the occurrence for a new ask.
///
/// Shape: `asks` are all earlier asks of the same request in the same fence, in order of asking; `retry` says that the
/// agent's SDK repeats a request of its own. A first ask gets the next occurrence, so that five equal samples stay
/// five. A retry takes the oldest occurrence that ended undelivered or in an error that was not journaled, else the one
/// that ended last, else the next: so that a retry stays one.
pub fn allot(asks: &[Asked], retry: bool) -> u32 {
    let next = asks.iter().map(|ask| ask.occurrence).max().map_or(0, |newest| newest + 1);
    if !retry {
        return next;
    }
    let newest = newest_of_each(asks);
    let lacking = |ask: &&Asked| matches!(ask.state, AskState::Undelivered | AskState::Failed);
    let oldest_lacking = newest.iter().filter(lacking).map(|ask| ask.occurrence).min();
    let last_ended = newest.iter().filter(|ask| ask.state != AskState::Open).max_by_key(|ask| ask.ended);
    oldest_lacking.or(last_ended.map(|ask| ask.occurrence)).unwrap_or(next)
}

/// The newest ask of each occurrence: an occurrence that was asked for again stands as that ask does.
fn newest_of_each(asks: &[Asked]) -> Vec<Asked> {
    let mut newest: Vec<Asked> = Vec::new();
    for ask in asks {
        match newest.iter_mut().find(|known| known.occurrence == ask.occurrence) {
            Some(known) => *known = *ask,
            None => newest.push(*ask),
        }
    }
    newest
}

/// What is known of the entry that an ask leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// An intent without an answer; `owner_gone`: whoever made it cannot answer any more.
    Intent {
        owner_gone: bool,
    },
    Answered,
}

/// What an ask with a valid fence does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The stored answer is given again.
    Replay,
    /// Somebody is at it: wait for the answer.
    Join,
    /// An intent is written, and the call is made.
    Live,
    /// The intent of an owner that is gone is taken over: its call may have been billed.
    TakeOver,
}

pub fn way(found: Found) -> Way {
    match found {
        Found::Answered => Way::Replay,
        Found::Intent { owner_gone: false } => Way::Join,
        Found::Intent { owner_gone: true } => Way::TakeOver,
        Found::Nothing => Way::Live,
    }
}

/// Whether a generation inherits answers of the one before. The first is 0 and has none before it; the first failure
/// keeps what it can, the second nothing, and then the count restarts.
pub fn inherits(generation: u32) -> bool {
    generation % 2 == 1
}

/// When an ask of the failed attempt began and ended, by the task's counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub begun: u64,
    /// 0: it never ended.
    pub ended: u64,
    pub delivered: bool,
}

/// Which asks of a failed attempt taint their answers, so that its successor asks for those anew.
///
/// Shape: the last delivered one (it may be what the agent failed on) and all whose calls overlapped it; in the order
/// of `spans`. None was delivered: none taints.
pub fn tainted(spans: &[Span]) -> Vec<bool> {
    let last = spans.iter().filter(|span| span.delivered).max_by_key(|span| span.ended);
    let Some(last) = last else { return vec![false; spans.len()] };
    let overlaps = |span: &Span| span.begun < last.ended && (span.ended == 0 || span.ended > last.begun);
    spans.iter().map(|span| span == last || overlaps(span)).collect()
}

/// What an attempt made of the answers that earlier attempts of its generation were given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    /// Answers that were there and were asked for again.
    pub replayed: u32,
    /// Answers that were there, had been delivered, and were not asked for.
    pub unasked: u32,
    /// Calls that this attempt made itself.
    pub live: u32,
}

impl Divergence {
    /// It went another way than the attempt before it.
    pub fn diverged(&self) -> bool {
        self.live > 0 && self.unasked > 0
    }

    /// Calls that were paid for though an answer was waiting at the same place on the old way.
    pub fn bought_again(&self) -> u32 {
        self.live.min(self.unasked)
    }
}
