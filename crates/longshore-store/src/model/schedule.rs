//! Schedules: what was declared, how they stand, what happened to them.

use longshore_core::id::TaskId;
use longshore_core::json::Json;
use longshore_core::schedule::{Schedule, ScheduleName};
use longshore_core::time::Timestamp;
use serde_json::{Value, json};

use super::{Idempotency, NewTask};

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

/// What a new declaration of all schedules means for one of them.
#[derive(Debug, PartialEq)]
pub(crate) enum ScheduleChange<'a> {
    /// It is left out; what is known of it stays.
    Remove(&'a ScheduleName),
    Put {
        declaration: &'a Schedule,
        cursor: Timestamp,
        /// What an operator said about its pause stands.
        keeps_word: bool,
    },
}

/// What to change so that exactly these are declared; nothing for those that are as they were.
pub(crate) fn schedule_changes<'a>(
    known: &'a [ScheduleRecord],
    next: &'a [Schedule],
    now: Timestamp,
) -> Vec<ScheduleChange<'a>> {
    let stays = |record: &ScheduleRecord| next.iter().any(|it| it.name == record.name);
    let left_out = known.iter().filter(|it| it.active && !stays(it));
    let declared = next.iter().filter_map(|it| {
        let known = known.iter().find(|record| record.name == it.name && record.active);
        declared(known, it, now)
    });
    left_out.map(|it| ScheduleChange::Remove(&it.name)).chain(declared).collect()
}

fn declared<'a>(
    known: Option<&ScheduleRecord>,
    next: &'a Schedule,
    now: Timestamp,
) -> Option<ScheduleChange<'a>> {
    if known.is_some_and(|it| it.declaration == *next) {
        return None;
    }
    // Ticks of another rhythm, or of a time when there was none, are not made up for.
    let rhythm = |it: &Schedule| (it.cron.clone(), it.timezone.clone(), it.paused);
    let same_rhythm = known.filter(|it| rhythm(&it.declaration) == rhythm(next));
    // The newest word counts: what an operator said stands until the declaration says something else about it.
    let keeps_word = known.is_some_and(|it| it.declaration.paused == next.paused);
    let cursor = same_rhythm.map_or(now, |it| it.cursor);
    Some(ScheduleChange::Put { declaration: next, cursor, keeps_word })
}

impl Fire {
    /// Whether the schedule is still as it was when these ticks were decided about.
    pub(crate) fn is_planned_from(&self, record: &ScheduleRecord) -> bool {
        record.active
            && !record.paused
            && record.generation == self.generation
            && record.cursor == self.cursor
    }

    /// Holds even if a cursor were moved back by hand: one tick is one task.
    pub(crate) fn key(&self, tick: Timestamp) -> Idempotency {
        // The tick is the whole request: another input for it must not make another task of it.
        Idempotency { scope: "schedule".into(), key: format!("{}@{tick}", self.name), fingerprint: [0; 32] }
    }

    /// Entries of the schedule's log: which ticks became which tasks, and what was lost.
    pub(crate) fn told(&self, tasks: &[TaskId]) -> Vec<(&'static str, Value)> {
        let fired = self.tasks.iter().zip(tasks);
        let mut told: Vec<_> =
            fired.map(|((tick, _), task)| ("fired", json!({ "tick": tick, "task": task }))).collect();
        let (after, until) = (self.cursor, self.next_cursor);
        let lost = |ticks: u64| json!({ "ticks": ticks, "after": after, "until": until });
        if self.missed > 0 {
            told.push(("missed", lost(self.missed)));
        }
        if self.overlapped > 0 {
            told.push(("overlapped", lost(self.overlapped)));
        }
        if let Some((ticks, why)) = &self.refused {
            told.push(("refused", json!({ "ticks": ticks, "after": after, "until": until, "why": why })));
        }
        told
    }

    /// Ticks whose tasks were not accepted.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.as_ref().map_or(0, |(ticks, _)| *ticks)
    }
}
