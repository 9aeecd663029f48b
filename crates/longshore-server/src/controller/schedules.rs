//! Turns ticks of schedules into tasks.
//!
//! What is due is decided in core; the store takes a decision only while the cursor that it was made from still stands. So
//! a leader that does not know yet that it was replaced, and the new one, make one task of a tick.

use std::time::Duration;

use longshore_api::task::Submit;
use longshore_core::access::Verb;
use longshore_core::errors::chain;
use longshore_core::schedule::{Overlap, Plan, Schedule, Standing, Timing, plan};
use longshore_core::time::Timestamp;
use longshore_core::units::show_duration;
use longshore_store::{Fire, Fired, NewTask, ScheduleRecord, StoreError, SubmitError};
use tracing::{info, warn};

use crate::app::{App, now};
use crate::caller::Caller;
use crate::error::Refused;
use crate::routes::tasks;

/// The longest between two looks: another control plane may have changed something.
const EVERY: Duration = Duration::from_secs(5);

/// How soon what failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The labels that a schedule's tasks carry.
pub const NAME_LABEL: &str = "longshore.schedule";
pub const TICK_LABEL: &str = "longshore.tick";

/// Why ticks that are due stay due.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A task could not be made for a reason that is not the task's.
    #[error("{why} [{code}]")]
    Task { status: u16, code: String, why: String },
}

impl Failed {
    /// Whether the store is not there at all, so that nobody else's tick fares better.
    fn is_outage(&self) -> bool {
        match self {
            Failed::Store(error) => matches!(error, StoreError::Unavailable { .. } | StoreError::Closed),
            Failed::Task { status, .. } => *status == 503,
        }
    }
}

pub async fn run(app: App) -> &'static str {
    let (mut changed, mut leading) = (app.store.signals().schedules(), app.leading.clone());
    while !app.is_stopping() {
        let wait = if app.epoch().is_some() { tend_all(&app).await } else { EVERY };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = changed.wait() => {}
            () = App::leads_or_not(&mut leading) => {}
            () = app.stopped() => {}
        }
    }
    "schedules"
}

/// Returns how long to wait for what is next.
async fn tend_all(app: &App) -> Duration {
    match look(app).await {
        Ok(next) => next.map_or(EVERY, |next| next.since(now()).clamp(Duration::from_millis(1), EVERY)),
        Err(error) => {
            warn!(error = %chain(&error), "schedules cannot be looked at; it is tried again");
            AGAIN
        }
    }
}

/// Deals with all that is due; returns when something is next.
async fn look(app: &App) -> Result<Option<Timestamp>, Failed> {
    let mut next: Option<Timestamp> = None;
    for record in app.store.schedules().await?.into_iter().filter(|it| it.active && !it.paused) {
        let declared = &record.declaration;
        match Timing::new(&declared.cron, &declared.timezone) {
            Ok(timing) => {
                let name = record.name.clone();
                let at = match tend(app, record, &timing).await {
                    Err(error) if error.is_outage() => return Err(error),
                    // Its ticks stay due, and those of the others do not wait for them.
                    Err(error) => {
                        let error = chain(&error);
                        warn!(schedule = %name, error, "schedule cannot be tended; it is tried again");
                        Some(now().after(AGAIN))
                    }
                    Ok(at) => at,
                };
                next = [next, at].into_iter().flatten().min();
            }
            // Declared by another version, which knows more.
            Err(error) => warn!(schedule = %record.name, %error, "schedule cannot be read"),
        }
    }
    Ok(next)
}

async fn tend(app: &App, record: ScheduleRecord, timing: &Timing) -> Result<Option<Timestamp>, Failed> {
    let mut cursor = record.cursor;
    loop {
        let standing = Standing { cursor, now: now(), running: is_running(app, &record).await? };
        let declared = &record.declaration;
        let plan = plan(timing, (declared.missed, declared.missed_limit, declared.overlap), standing);
        if plan.cursor == cursor {
            return Ok(timing.next(cursor));
        }
        let (more, reached) = (plan.more, plan.cursor);
        if !carry_out(app, &record, cursor, plan).await? {
            // Somebody else was quicker; what they left is seen at the next look.
            return Ok(Some(now()));
        }
        cursor = reached;
        if !more {
            return Ok(timing.next(cursor));
        }
    }
}

/// Whether a task of an earlier tick keeps the next away.
async fn is_running(app: &App, record: &ScheduleRecord) -> Result<bool, StoreError> {
    match record.last_task.filter(|_| record.declaration.overlap == Overlap::Skip) {
        // A task that is forgotten has ended.
        Some(task) => Ok(app.store.task_state(task).await?.is_some_and(|state| !state.is_terminal())),
        None => Ok(false),
    }
}

/// False when nothing was written, since these ticks were not ours any more.
async fn carry_out(
    app: &App,
    record: &ScheduleRecord,
    cursor: Timestamp,
    plan: Plan,
) -> Result<bool, Failed> {
    let ticks = plan.fire.len();
    let mut fire = Fire {
        name: record.name.clone(),
        generation: record.generation,
        cursor,
        next_cursor: plan.cursor,
        tasks: Vec::with_capacity(ticks),
        missed: plan.missed,
        overlapped: plan.overlapped,
        refused: None,
    };
    for tick in plan.fire {
        match new_task(app, &record.declaration, Some(tick)).await {
            Ok(task) => fire.tasks.push((tick, task)),
            Err(refused) => return give_up(app, fire, ticks, why_not(refused)?).await,
        }
    }
    match app.store.fire_schedule(fire.clone(), now()).await {
        Ok(fired) => Ok(tell(&fire, &fired)),
        Err(SubmitError::Store(error)) => Err(error.into()),
        Err(refused) => give_up(app, fire, ticks, refused.to_string()).await,
    }
}

/// What is said of ticks whose tasks nobody will ever accept. Where the store could not say so, nothing is known about them.
fn why_not(refused: Refused) -> Result<String, Failed> {
    let problem = *refused.0;
    match problem.status {
        status @ 500.. => Err(Failed::Task { status, code: problem.code.to_string(), why: problem.detail }),
        _ => Ok(problem.detail),
    }
}

/// Its tasks are not accepted: the ticks are over all the same, and it is said.
async fn give_up(app: &App, fire: Fire, ticks: usize, why: String) -> Result<bool, Failed> {
    warn!(schedule = %fire.name, ticks, why, "schedule's tasks are refused");
    let fire = Fire { tasks: Vec::new(), refused: Some((ticks as u64, why)), ..fire };
    match app.store.fire_schedule(fire.clone(), now()).await {
        Ok(fired) => Ok(tell(&fire, &fired)),
        Err(SubmitError::Store(error)) => Err(error.into()),
        // Without tasks there is nothing to refuse.
        Err(_) => Ok(false),
    }
}

fn tell(fire: &Fire, fired: &Fired) -> bool {
    let Fired::Done(ids) = fired else { return false };
    if fire.missed > 0 {
        warn!(schedule = %fire.name, ticks = fire.missed, "schedule missed ticks");
    }
    if fire.overlapped > 0 {
        info!(schedule = %fire.name, ticks = fire.overlapped, "schedule waits for its earlier task");
    }
    for ((tick, _), task) in fire.tasks.iter().zip(ids) {
        info!(schedule = %fire.name, %tick, %task, "schedule fires");
    }
    true
}

/// The task of a tick, or of somebody's wish for one now.
pub async fn new_task(app: &App, declared: &Schedule, tick: Option<Timestamp>) -> Result<NewTask, Refused> {
    let mut submit = Submit::new(declared.fleet.clone(), declared.input.clone());
    submit.conversation = declared.conversation.clone();
    submit.priority = declared.priority;
    submit.timeout = declared.timeout_ms.map(show_duration);
    submit.max_attempts = declared.max_attempts;
    submit.on_interrupt = declared.on_interrupt;
    submit.labels = declared.labels.clone();
    submit.labels.insert(NAME_LABEL.into(), declared.name.to_string());
    submit.labels.extend(tick.map(|tick| (TICK_LABEL.into(), tick.to_string())));
    tasks::new_task(app, &Caller::operator(Verb::Submit), submit).await
}

#[cfg(test)]
mod tests {
    use longshore_core::id::FleetName;

    use super::*;

    #[test]
    fn a_tick_is_over_when_its_task_is_refused_and_stays_due_when_the_store_fails() {
        let fleet = FleetName::new("a").expect("a name");
        let refused = why_not(Refused::no_fleet(&fleet)).expect("it is over");
        assert!(refused.contains("`a`"), "{refused}");
        let busy = SubmitError::UnknownFleet(fleet);
        assert!(why_not(busy.into()).is_ok());
        let away = StoreError::Unavailable { why: "connection closed".into() };
        let failed = why_not(away.into()).expect_err("nobody refused it");
        assert!(failed.is_outage(), "{failed}");
        let source = std::sync::Arc::new(std::io::Error::other("not to be read"));
        let failed = why_not(StoreError::Internal { what: "read", source }.into()).expect_err("nor this");
        assert!(!failed.is_outage(), "the other schedules are tended: {failed}");
        assert!(why_not(StoreError::Closed.into()).expect_err("nor here").is_outage());
    }
}
