//! Submissions that care whether their conversations are busy: each has a transaction of its own, since what it does depends
//! on what it finds, and may be undone.

use std::collections::HashSet;

use longshore_core::id::{ConversationId, TaskId};
use longshore_core::task::{Arrival, OnBusy, State};

use super::Shared;
use super::changes::{self, Changes};
use super::connection::Connection;
use super::core::Core;
use super::fault::DbError;
use super::live::{Live, live_columns};
use super::sql::args;
use super::submit::{self, Answer, Begun, Places, Refused, Submission};
use super::{ending, list, lock};
use crate::error::StoreError;
use crate::model::NewTask;

/// Their conversations' rows are locked: nobody else joins or leaves. With their parents, which may wait for them.
const UNFINISHED: &str = concat!(
    "SELECT ",
    live_columns!(),
    " FROM @live AS live WHERE conversation = ANY($1) OR id = ANY(ARRAY(
        SELECT child.parent FROM @live AS child WHERE child.conversation = ANY($1) AND child.parent IS NOT NULL))
     ORDER BY id FOR UPDATE"
);

pub(super) const STATEMENTS: &[&str] = &[UNFINISHED, lock::TASKS];

/// Whether a task among these does anything but line up.
pub(super) fn is_choosy(tasks: &[NewTask]) -> bool {
    tasks.iter().any(|task| task.conversation.is_some() && task.on_busy != OnBusy::Enqueue)
}

impl Shared {
    pub(super) async fn submit_alone(&self, submission: &Submission) -> Result<Answer, StoreError> {
        let core = self.core();
        let answer = core.run(async |it| {
            let answer = alone(core, &it, submission).await?;
            if answer.is_err() {
                // Nothing of it stays: no place, no key, nobody was stopped for it.
                it.roll_back().await;
            }
            Ok(answer)
        });
        Ok(answer.await?)
    }
}

async fn alone(core: &Core, connection: &Connection, submission: &Submission) -> Result<Answer, DbError> {
    connection.ready(STATEMENTS).await?;
    let Begun { mut answers, accepted, batches } =
        submit::begin(connection, std::slice::from_ref(submission)).await?;
    let answer = answers.pop().ok_or(DbError::Missing)?;
    if accepted.is_empty() {
        connection.commit().await?;
        return Ok(answer);
    }
    let mut changes = Changes::new(submission.now);
    if let Err(refused) = arrive_all(connection, &mut changes, &accepted).await? {
        return Ok(Err(refused));
    }
    connection.ready(changes::STATEMENTS).await?;
    submit::finish(core, connection, changes, &batches).await?;
    Ok(answer)
}

/// Brings all tasks to their places, one submission after the other. Refused: all of it is to be rolled back.
pub(super) async fn arrive_all(
    connection: &Connection,
    changes: &mut Changes,
    accepted: &[&Submission],
) -> Result<Result<(), Refused>, DbError> {
    let mut stopped = Stopped::default();
    for submission in accepted {
        for tasks in runs(&submission.tasks) {
            if let Err(refused) = arrive(connection, changes, &mut stopped, submission, tasks).await? {
                return Ok(Err(refused));
            }
        }
    }
    ending::leave_all(connection, changes, stopped.rows).await?;
    submit::remember(connection, accepted).await?;
    Ok(Ok(()))
}

/// Cuts tasks so that one that stops others begins a run if there are some of its conversation in the one before: they have
/// to be there to be stopped. Returns where runs begin, but for the first.
fn cuts<'a>(tasks: impl Iterator<Item = (Option<&'a ConversationId>, OnBusy)>) -> Vec<usize> {
    let (mut cuts, mut seen) = (Vec::new(), HashSet::new());
    for (at, (conversation, on_busy)) in tasks.enumerate() {
        let Some(conversation) = conversation else { continue };
        if on_busy == OnBusy::Interrupt && seen.contains(conversation) {
            cuts.push(at);
            seen.clear();
        }
        seen.insert(conversation);
    }
    cuts
}

fn runs(tasks: &[NewTask]) -> Vec<&[NewTask]> {
    let (mut runs, mut begin) = (Vec::new(), 0);
    for at in cuts(tasks.iter().map(|task| (task.conversation.as_ref(), task.on_busy))) {
        runs.push(&tasks[begin..at]);
        begin = at;
    }
    runs.push(&tasks[begin..]);
    runs
}

/// Whom the tasks of a submission have stopped, or told to.
#[derive(Default)]
struct Stopped {
    rows: Vec<Live>,
    tasks: HashSet<TaskId>,
    /// Conversations of those that still run.
    running: HashSet<ConversationId>,
}

/// Brings the tasks of one run to their places.
async fn arrive(
    connection: &Connection,
    changes: &mut Changes,
    stopped: &mut Stopped,
    submission: &Submission,
    tasks: &[NewTask],
) -> Result<Result<(), Refused>, DbError> {
    let mut places = submit::line_up(connection, tasks.iter(), submission.now).await?;
    make_way(connection, changes, stopped, tasks, &mut places).await?;
    let mut rows = Vec::with_capacity(tasks.len());
    for task in tasks {
        let busy = |conversation| places.get(conversation).is_some_and(|(_, busy)| *busy);
        if let Some(conversation) = &task.conversation
            && task.on_busy.arrival(busy(conversation)) == Arrival::Refuse
        {
            return Ok(Err(Refused::ConversationBusy(conversation.clone())));
        }
        rows.push(submit::place(submission, task, &mut places, changes));
    }
    submit::insert_tasks(connection, &rows).await?;
    submit::insert_live(connection, &rows).await?;
    Ok(Ok(()))
}

/// Cancels all unfinished tasks of conversations that somebody wants to be next in.
async fn make_way(
    connection: &Connection,
    changes: &mut Changes,
    stopped: &mut Stopped,
    tasks: &[NewTask],
    places: &mut Places,
) -> Result<(), DbError> {
    let comes = |task: &&NewTask| task.on_busy == OnBusy::Interrupt;
    let newcomers: Vec<(&ConversationId, TaskId)> = tasks
        .iter()
        .filter(comes)
        .filter_map(|task| Some((task.conversation.as_ref()?, task.id)))
        .filter(|(conversation, _)| places.get(*conversation).is_some_and(|(_, busy)| *busy))
        .collect();
    if newcomers.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = newcomers.iter().map(|(name, _)| name.as_str()).collect();
    for row in connection.query(UNFINISHED, args![names]).await? {
        stop(changes, stopped, Live::read(&row)?, &newcomers);
    }
    for (name, _) in newcomers {
        if let Some((_, busy)) = places.get_mut(name) {
            *busy = stopped.running.contains(name);
        }
    }
    Ok(())
}

fn stop(
    changes: &mut Changes,
    stopped: &mut Stopped,
    mut row: Live,
    newcomers: &[(&ConversationId, TaskId)],
) {
    let conversation = row.conversation.as_ref().map(|(name, _)| name.clone());
    let newcomer = newcomers.iter().find(|(name, _)| Some(*name) == conversation.as_ref());
    let (Some((_, newcomer)), Some(conversation)) = (newcomer, conversation) else {
        changes.parents.insert(row.id, row);
        return;
    };
    if !stopped.tasks.insert(row.id) {
        return;
    }
    list::cancel(changes, &mut row, Some(format!("interrupted by task {newcomer}")));
    if row.state == State::Running {
        stopped.running.insert(conversation);
    }
    stopped.rows.push(row);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tasks by conversation, `-`: none; in upper case they stop others.
    fn check(tasks: &str, expected: &[usize]) {
        let id = |name: char| ConversationId::new(name.to_ascii_lowercase().to_string()).expect("a letter");
        let ids: Vec<Option<ConversationId>> =
            tasks.chars().map(|name| name.is_alphabetic().then(|| id(name))).collect();
        let on_busy = |name: char| if name.is_uppercase() { OnBusy::Interrupt } else { OnBusy::Enqueue };
        let tasks = ids.iter().map(Option::as_ref).zip(tasks.chars().map(on_busy));
        assert_eq!(cuts(tasks), expected);
    }

    #[test]
    fn whoever_is_to_be_stopped_is_there_before() {
        check("ABC", &[]);
        check("aaa", &[]);
        check("-A-Bb", &[]);
        check("aA", &[1]);
        check("AbAcBAA", &[2, 5, 6]);
    }
}
