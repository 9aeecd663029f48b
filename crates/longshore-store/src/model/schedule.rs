//! Schedules: what was declared, how they stand, what happened to them.

use longshore_core::id::TaskId;
use longshore_core::json::Json;
use longshore_core::schedule::{Schedule, ScheduleName};
use longshore_core::time::Timestamp;

use super::NewTask;

#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleRecord {
    pub name: ScheduleName,
    pub declaration: Schedule,
    /// Grows by one with each change of the declaration.
    pub generation: u64,
    /// False when it is no longer declared.
    pub active: bool,
    /// By the newest word: the declaration's or an operator's.
    pub paused: bool,
    /// Ticks up to this time are dealt with.
    pub cursor: Timestamp,
    pub last_task: Option<TaskId>,
    /// The tick of the last task; none when somebody asked for it.
    pub last_tick: Option<Timestamp>,
    /// Ticks that became tasks, ever; the others did not, for the reason that the field is named by.
    pub fired: u64,
    pub missed: u64,
    pub overlapped: u64,
    pub refused: u64,
    pub changed_at: Timestamp,
}

/// Ticks of a schedule that were decided about.
#[derive(Clone, Debug)]
pub struct Fire {
    pub name: ScheduleName,
    /// What the decision was made from: when either is another by now, nothing is written.
    pub generation: u64,
    pub cursor: Timestamp,
    /// Where the cursor is afterwards.
    pub next_cursor: Timestamp,
    /// A task for each tick that becomes one, oldest first.
    pub tasks: Vec<(Timestamp, NewTask)>,
    pub missed: u64,
    pub overlapped: u64,
    /// Ticks whose tasks were not accepted, and why.
    pub refused: Option<(u64, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fired {
    Done(Vec<TaskId>),
    /// Somebody else dealt with these ticks, or the schedule was changed or paused: nothing was written.
    Lost,
}

/// One thing that happened to a schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleEvent {
    pub at: Timestamp,
    /// `fired`, `missed`, `overlapped`, `refused`, `run`, `paused`, `resumed`, `changed`.
    pub kind: String,
    pub data: Json,
}
