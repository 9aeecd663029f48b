//! What earlier decisions leave behind for the next one: the stabilisation window and the last growth.

use serde::{Deserialize, Serialize};

use super::{Decision, millis};
use crate::fleet::Scaling;
use crate::time::Timestamp;

/// Carried from one decision to the next. The default knows nothing: a shrink then waits for a whole window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// When the queue was last read.
    pub looked_at: Option<Timestamp>,
    /// Since when every look has wanted fewer workers than there were.
    pub fewer_since: Option<Timestamp>,
    /// What was wanted within the window, oldest first and falling: a later, higher one covers those before it.
    pub recommendations: Vec<Recommendation>,
    /// When a growth that had been decided was last seen to have come.
    pub grew_at: Option<Timestamp>,
    /// How many workers there were when a growth was last decided that has not been seen to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grows_from: Option<u32>,
    /// The same of a shrink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shrinks_from: Option<u32>,
}

/// How many workers one look at the fleet wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recommendation {
    pub at: Timestamp,
    pub workers: u32,
}

/// Looks further apart than this, or than the window if that is longer, say nothing about the time between them.
const BLIND_MS: u64 = 5_000;

impl Memory {
    /// What may still be believed at `now`.
    ///
    /// The window starts anew after a clock went back, and after a time without looks (an outage, a queue that could not
    /// be read, a clock that jumped ahead): nobody saw that the fleet was quiet. Whoever carries decisions out may take a while,
    /// or do nothing: a wish stands until the `workers` there are have changed.
    pub(super) fn as_of(&self, now: Timestamp, policy: &Scaling, workers: u32) -> Memory {
        let blind = BLIND_MS.max(policy.scale_down_after_ms);
        let unbroken = self.looked_at.is_some_and(|at| at <= now && millis(now, at) <= blind);
        let mut memory = self.clone();
        memory.grew_at = memory.grew_at.map(|at| at.min(now));
        if memory.grows_from.is_some_and(|from| workers > from) {
            (memory.grew_at, memory.grows_from) = (Some(now), None);
        }
        let shrunk = memory.shrinks_from.is_some_and(|from| workers < from);
        if !unbroken || shrunk {
            memory.forget_window();
        }
        let age = |at: Timestamp| millis(now, at);
        memory.recommendations.retain(|seen| age(seen.at) <= policy.scale_down_after_ms);
        memory
    }

    /// The highest recommendation of the window, `now_wanted` included.
    pub(super) fn highest(&self, now_wanted: u32) -> u32 {
        self.recommendations.iter().map(|seen| seen.workers).fold(now_wanted, u32::max)
    }

    /// How long ago must pass until a long wait may add workers again.
    pub(super) fn wait_left_ms(&self, policy: &Scaling, now: Timestamp) -> u64 {
        self.grew_at.map_or(0, |at| policy.scale_up_wait_ms.saturating_sub(millis(now, at)))
    }

    /// What the next decision should know. A look without fresh numbers is no look.
    pub(super) fn after(
        mut self,
        decision: &Decision,
        wanted: Option<u32>,
        workers: u32,
        now: Timestamp,
        fresh: bool,
    ) -> Memory {
        if !fresh {
            return self;
        }
        self.looked_at = Some(now);
        match (decision, wanted) {
            (Decision::Hold(_) | Decision::Shrink { .. }, Some(wanted)) if wanted < workers => {
                self.fewer_since = self.fewer_since.or(Some(now));
                self.remember(now, wanted);
            }
            // Whatever else happened, the quiet is broken.
            _ => self.forget_window(),
        }
        match decision {
            Decision::Grow { .. } => self.grows_from = Some(workers),
            Decision::Shrink { .. } => self.shrinks_from = Some(workers),
            Decision::Hold(_) => {}
        }
        self
    }

    fn remember(&mut self, at: Timestamp, workers: u32) {
        while self.recommendations.last().is_some_and(|seen| seen.workers <= workers) {
            self.recommendations.pop();
        }
        self.recommendations.push(Recommendation { at, workers });
    }

    fn forget_window(&mut self) {
        (self.fewer_since, self.shrinks_from) = (None, None);
        self.recommendations.clear();
    }
}
