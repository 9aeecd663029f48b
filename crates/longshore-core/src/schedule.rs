//! Schedules: which ticks are due, what becomes of missed ones, and when the next one is.
//!
//! Submits nothing: the control plane turns each tick of [`Plan::fire`] into a task and moves the schedule's cursor in
//! the same transaction.

mod timing;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::id::{ConversationId, FleetName, IdError, is_label, name_type, shorten};
use crate::json::Json;
use crate::task::OnInterrupt;
use crate::time::Timestamp;

pub use timing::{Timing, TimingError};

name_type!(
    /// Names a schedule: a DNS label of at most 40 characters.
    ScheduleName,
    "schedule name",
    "1 to 40 of a-z, 0-9 and -, beginning with a letter and not ending with -",
    is_label
);

/// Everything declared about one schedule, defaults filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    pub name: ScheduleName,
    pub fleet: FleetName,
    /// Five fields; see [`Timing::new`].
    pub cron: String,
    /// A name of the IANA time zone database.
    pub timezone: String,
    pub missed: Missed,
    /// With [`Missed::All`]: the most ticks that are made up for; older ones are given up.
    pub missed_limit: u32,
    pub overlap: Overlap,
    pub paused: bool,
    /// Of its tasks, as in a submission; what is absent is the fleet's.
    pub input: Json,
    pub conversation: Option<ConversationId>,
    pub priority: i32,
    pub timeout_ms: Option<u64>,
    pub max_attempts: Option<u32>,
    pub on_interrupt: Option<OnInterrupt>,
    pub labels: BTreeMap<String, String>,
}

/// What becomes of ticks that nobody was there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// Nothing.
    #[default]
    Skip,
    /// All that are due become one task, that of the newest tick.
    Once,
    /// A task each, up to the limit.
    All,
}

/// What becomes of a tick while a task of an earlier one has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// A task all the same.
    #[default]
    Allow,
    /// Nothing.
    Skip,
}

/// The most that `missed_limit` may be.
pub const LARGEST_LIMIT: u32 = 1_000;

/// A tick that is handled later than this was missed: nobody was there when it was due.
pub const GRACE: Duration = Duration::from_secs(60);

/// The most ticks that one plan looks at, a week of minutes: after a longer absence the rest waits for the next plan.
const MOST: usize = 10_000;

/// How many of these are given up when there are more: the others may be among the newest that are made up for.
const GIVEN_UP: usize = MOST - LARGEST_LIMIT as usize;

/// How a schedule stands when it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Ticks up to this time are dealt with.
    pub cursor: Timestamp,
    pub now: Timestamp,
    /// A task of an earlier tick has not ended.
    pub running: bool,
}

/// What is to be done about the ticks that are due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Each becomes one task; oldest first.
    pub fire: Vec<Timestamp>,
    /// Ticks that were late and are given up.
    pub missed: u64,
    /// Ticks that would have been tasks, had the earlier task ended.
    pub overlapped: u64,
    /// Where the cursor belongs once this is done; where it is already when nothing is due.
    pub cursor: Timestamp,
    /// More ticks are due than one plan looks at: plan again at once.
    pub more: bool,
}

/// Decides about all ticks after the cursor and not after now.
///
/// Shape: a tick is late when it is more than [`GRACE`] ago. `Skip` fires those that are not late; `Once` the newest of
/// all; `All` the newest `limit`. With [`Overlap::Skip`] at most the newest of these is fired, and none while an earlier
/// task runs. A clock that went back makes nothing due twice, since the cursor never does.
pub fn plan(timing: &Timing, policy: (Missed, u32, Overlap), at: Standing) -> Plan {
    let (missed, limit, overlap) = policy;
    let mut ticks = timing.after(at.cursor).take_while(|tick| *tick <= at.now);
    let mut due: VecDeque<Timestamp> = ticks.by_ref().take(MOST).collect();
    let cursor = due.back().copied().unwrap_or(at.cursor);
    let count = due.len() as u64;
    if ticks.next().is_some() {
        let (missed, cursor) = (GIVEN_UP as u64, due[GIVEN_UP - 1]);
        return Plan { fire: Vec::new(), missed, overlapped: 0, cursor, more: true };
    }
    let late = |tick: &Timestamp| at.now.since(*tick) > GRACE;
    let wanted = match missed {
        Missed::Skip => due.iter().filter(|tick| !late(tick)).count(),
        Missed::Once => due.len().min(1),
        Missed::All => due.len().min(limit.max(1) as usize),
    };
    due.drain(..due.len() - wanted);
    let missed = count - wanted as u64;
    let kept = match overlap {
        Overlap::Allow => wanted,
        Overlap::Skip if at.running => 0,
        Overlap::Skip => wanted.min(1),
    };
    due.drain(..wanted - kept);
    Plan { fire: due.into(), missed, overlapped: (wanted - kept) as u64, cursor, more: false }
}

#[cfg(test)]
mod tests;
