//! What one gateway remembers: its contact with Redis, and what it used itself.

use std::collections::HashMap;

use longshore_core::limit::split::{Source, Split, share};
use longshore_core::limit::{self, Need, Window};
use longshore_core::provider::Limit;

use super::{Answer, Permit, Place};

pub(super) struct Memory {
    split: Split,
    /// Redis' clock and this process's, at the newest answer.
    clocks: Option<(u64, u64)>,
    /// The state that knows what this gateway used.
    joined: Option<String>,
    /// Of one joining: told twice, it counts once.
    nonce: u64,
    /// Nothing was used before this process began.
    quiet: bool,
    lines: HashMap<String, Line>,
}

struct Line {
    /// Everything that this gateway was admitted, wherever it is counted; not limited.
    used: Window,
    /// What it admits without Redis.
    alone: Window,
}

/// A message on its way.
pub(super) struct Sent {
    /// As far as known; 0: not at all, and the message only learns it.
    pub(super) at_redis_ms: u64,
    second: u64,
    before: u64,
}

/// While only the part of a gateway that is alone is too small.
const LATER_S: u64 = 5;

impl Memory {
    pub(super) fn new(now_ms: u64, quiet: bool) -> Memory {
        Memory {
            split: Split::new(now_ms / 1_000),
            clocks: None,
            joined: None,
            nonce: rand::random(),
            quiet,
            lines: HashMap::new(),
        }
    }

    pub(super) fn joined(&self) -> Option<String> {
        self.joined.clone()
    }

    pub(super) fn leave(&mut self) {
        self.joined = None;
    }

    /// What to tell a state that does not know this gateway. Admissions of another state are void from now on.
    pub(super) fn join(&mut self, now_ms: u64) -> (String, bool, Vec<(String, u64, u64)>) {
        self.joined = None;
        let now_s = now_ms / 1_000;
        let used = self.lines.iter().map(|(name, line)| {
            let (requests, tokens) = line.used.in_use(now_s);
            (name.clone(), requests, tokens)
        });
        let used = used.filter(|(_, requests, tokens)| *requests > 0 || *tokens > 0).collect();
        (self.nonce.to_string(), self.quiet || self.split.remembers_a_window(now_s), used)
    }

    /// Unless something was admitted since that was not told.
    pub(super) fn has_joined(&mut self, epoch: String, nonce: &str) {
        if nonce == self.nonce.to_string() {
            self.joined = Some(epoch);
        }
    }

    pub(super) fn send(&mut self, now_ms: u64) -> Sent {
        let (second, before) = (now_ms / 1_000, self.split.contact());
        self.split.sent(second);
        let at_redis_ms =
            self.clocks.map_or(0, |(redis, own)| redis.saturating_add(now_ms.saturating_sub(own)));
        Sent { at_redis_ms, second, before }
    }

    /// An answer: was the message too old to change anything?
    pub(super) fn heard(&mut self, sent: &Sent, stale: bool, redis_ms: u64, now_ms: u64) {
        self.clocks = Some((redis_ms, now_ms));
        match stale {
            true => self.split.unsent(sent.second, sent.before),
            false => self.split.sent(sent.second),
        }
    }

    pub(super) fn unheard(&mut self, sent: &Sent, undone: bool) {
        match undone {
            true => self.split.unsent(sent.second, sent.before),
            false => self.split.sent(sent.second),
        }
    }

    /// Notes what Redis admitted; None if the state that did so is not the one that knows this gateway.
    pub(super) fn note(
        &mut self,
        line: &str,
        tokens: u64,
        epoch: &str,
        now_ms: u64,
    ) -> Option<limit::Permit> {
        (self.joined.as_deref() == Some(epoch)).then(|| self.line(line).remember(tokens, now_ms / 1_000))
    }

    pub(super) fn ask_alone(
        &mut self,
        name: &str,
        limit: Limit,
        need: Need,
        gateways: u32,
        now_ms: u64,
    ) -> Answer {
        let now_s = now_ms / 1_000;
        if let Source::Wait { seconds } = self.split.without(now_s) {
            return Answer::Wait { seconds };
        }
        let line = self.line(name);
        line.alone.set_limit(share(limit, 1, gateways));
        match line.alone.ask(now_s, need) {
            limit::Answer::Admitted(alone) => {
                let own = line.remember(need.tokens, now_s);
                // No state knows of it: it is told when joining again.
                self.joined = None;
                self.nonce = rand::random();
                let (line, tokens) = (name.to_owned(), need.tokens);
                Answer::Admitted(Permit { line, tokens, own, place: Place::Alone(alone) })
            }
            limit::Answer::Wait { seconds } => Answer::Wait { seconds },
            limit::Answer::TooLarge { .. } => Answer::Wait { seconds: LATER_S },
        }
    }

    pub(super) fn settle(&mut self, permit: &Permit, tokens: u64) {
        let line = self.line(&permit.line);
        line.used.settle(&permit.own, tokens);
        if let Place::Alone(alone) = &permit.place {
            line.alone.settle(alone, tokens);
        }
    }

    pub(super) fn withdraw(&mut self, permit: Permit) {
        let line = self.line(&permit.line);
        line.used.withdraw(permit.own);
        if let Place::Alone(alone) = permit.place {
            line.alone.withdraw(alone);
        }
    }

    pub(super) fn block(&mut self, line: &str, seconds: u64, now_ms: u64) {
        self.line(line).alone.block_until((now_ms / 1_000).saturating_add(seconds));
    }

    fn line(&mut self, name: &str) -> &mut Line {
        // Not `entry`: a name is copied once, not once a call.
        if !self.lines.contains_key(name) {
            let fresh = || Window::new(Limit::default());
            self.lines.insert(name.to_owned(), Line { used: fresh(), alone: fresh() });
        }
        self.lines.get_mut(name).expect("just made sure")
    }
}

impl Line {
    fn remember(&mut self, tokens: u64, now_s: u64) -> limit::Permit {
        match self.used.ask(now_s, Need { tokens }) {
            limit::Answer::Admitted(permit) => permit,
            limit::Answer::Wait { .. } | limit::Answer::TooLarge { .. } => {
                unreachable!("a window without limits and blocks admits everything")
            }
        }
    }
}
