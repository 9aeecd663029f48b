//! What goes wrong during the tour, on purpose: one busy worker is killed, another one is drained.
//!
//! Chooses workers whose task has long to go and, for the kill, has answers of the LLM already: so that something is
//! interrupted, and something is there to be given again. Kills only a process that is certainly that worker.

use std::path::PathBuf;

use longshore_api::client::Client;
use longshore_api::fleet::{DrainWorker, Worker};
use longshore_api::journal::{Call, Journal};
use longshore_api::link::WorkerState;
use longshore_api::task::Task;
use longshore_core::id::TaskId;
use longshore_core::time::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use super::book::{Book, Look};
use super::{leftovers, trace};
use crate::error::Outcome;
use crate::output;

/// When what happens, in tasks that have ended, of all.
const KILL_AT: f64 = 0.33;
const DRAIN_AT: f64 = 0.55;
/// From here on any busy worker will do.
const HURRY: f64 = 0.15;

pub struct Chaos {
    agent: PathBuf,
    total: u64,
    speed: u64,
    /// A worker is worth it if its task runs this much longer.
    enough_ms: u64,
    pub killed: Vec<Killed>,
    pub drained: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Killed {
    pub worker: String,
    pub at: Timestamp,
    /// What it was running.
    task: TaskId,
    /// The task was seen to run elsewhere.
    followed: bool,
}

/// A worker and the task that it runs.
struct Busy {
    worker: Worker,
    task: TaskId,
    left_ms: u64,
    /// Answers that its agent was given.
    answers: u64,
    /// It waits for another one.
    asking: bool,
}

/// What a worker's task should be like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Long,
    LongWithAnswers,
}

impl Chaos {
    pub fn new(agent: PathBuf, total: u64, speed: u64) -> Chaos {
        let enough_ms = 400 / speed.max(1);
        Chaos { agent, total, speed, enough_ms, killed: Vec::new(), drained: Vec::new() }
    }

    /// Does what is due after this look.
    pub async fn step(&mut self, client: &Client, look: &Look, book: &mut Book) -> Outcome<()> {
        let done = look.ended() as f64 / self.total.max(1) as f64;
        if self.killed.is_empty() {
            if done >= KILL_AT
                && let Some(victim) =
                    self.choose(client, look, Wanted::LongWithAnswers, done - KILL_AT).await?
            {
                self.kill(victim, book);
            }
        } else if self.drained.is_empty()
            && done >= DRAIN_AT
            && let Some(victim) = self.choose(client, look, Wanted::Long, done - DRAIN_AT).await?
        {
            self.drain(client, victim, book).await?;
        }
        self.follow(client, book).await
    }

    /// The ready worker whose task suits best.
    async fn choose(&self, client: &Client, look: &Look, wanted: Wanted, late: f64) -> Outcome<Option<Busy>> {
        let ready =
            look.workers.iter().filter(|worker| worker.state == WorkerState::Ready && worker.pid.is_some());
        let mut busy = Vec::new();
        for worker in ready.filter(|worker| worker.in_flight > 0) {
            busy.extend(self.busy(client, &worker.id).await?);
        }
        let Some(best) = busy.into_iter().max_by_key(|busy| self.rank(busy, wanted)) else { return Ok(None) };
        // Looking at all of them took its time: what was true of the first may not be any more.
        let now = self.busy(client, &best.worker.id).await?;
        Ok(now.filter(|now| now.task == best.task && (self.suits(now, wanted) || late > HURRY)))
    }

    /// A worker and its task; `None`: it has none.
    async fn busy(&self, client: &Client, worker: &str) -> Outcome<Option<Busy>> {
        let worker = client.worker(worker).await?;
        let Some(id) = worker.tasks.first().and_then(|id| id.parse::<TaskId>().ok()) else { return Ok(None) };
        let (task, journal) = (client.task(id).await?, client.journal(id).await?);
        let (answers, asking) = (answers(&journal), asking(&journal));
        let left_ms = left_ms(&task, answers + u64::from(asking), self.speed);
        Ok(Some(Busy { worker, task: id, left_ms, answers, asking }))
    }

    fn suits(&self, busy: &Busy, wanted: Wanted) -> bool {
        busy.left_ms >= self.enough_ms && (wanted == Wanted::Long || busy.answers > 0)
    }

    /// A call in flight is best interrupted, too: it ends without its agent, and the next attempt is given its answer.
    fn rank(&self, busy: &Busy, wanted: Wanted) -> (bool, bool, bool, u64) {
        let kill = wanted == Wanted::LongWithAnswers;
        (self.suits(busy, wanted), kill && busy.answers > 0, kill && busy.asking, busy.left_ms)
    }

    fn kill(&mut self, victim: Busy, book: &mut Book) {
        let Busy { worker, task, answers, asking, .. } = victim;
        let Some(pid) = worker.pid.and_then(|pid| i32::try_from(pid).ok()) else { return };
        if !leftovers::is_worker(pid, &worker.id, &self.agent) {
            return;
        }
        let at = output::now();
        if kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
            let answers = if answers == 1 { "1 answer".into() } else { format!("{answers} answers") };
            let asking = if asking { ", one under way" } else { "" };
            book.tell(format!("kill -9 {pid}: {}, {answers} into its task{asking}", worker.id));
            self.killed.push(Killed { worker: worker.id, at, task, followed: false });
        }
    }

    async fn drain(&mut self, client: &Client, victim: Busy, book: &mut Book) -> Outcome<()> {
        let id = victim.worker.id;
        client.drain_worker(&id, &DrainWorker::default()).await?;
        book.tell(format!("{id} is told to drain: it finishes its task and leaves"));
        self.drained.push(id);
        Ok(())
    }

    /// Tells when a killed worker's task runs elsewhere.
    async fn follow(&mut self, client: &Client, book: &mut Book) -> Outcome<()> {
        for killed in self.killed.iter_mut().filter(|killed| !killed.followed) {
            let task = client.task(killed.task).await?;
            let lost = task.attempts.iter().find(|attempt| attempt.worker == killed.worker);
            let after = lost.map_or(0, |lost| lost.number);
            if let Some(next) = task.attempts.iter().find(|attempt| attempt.number > after) {
                let later = output::length(next.started_at.since(killed.at).as_millis() as u64);
                book.tell(format!("its task runs again on {}, {later} after the kill", next.worker));
                killed.followed = true;
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Work {
    tokens: u64,
}

/// Answers that reached the agent.
fn answers(journal: &Journal) -> u64 {
    let had = |call: &&Call| call.asks.iter().any(|ask| ask.state == "delivered");
    journal.calls.iter().filter(had).count() as u64
}

fn asking(journal: &Journal) -> bool {
    journal.calls.iter().any(|call| call.state == "open")
}

/// How long a task of the burst still runs after so many calls, at least: its age would say less on a busy machine.
fn left_ms(task: &Task, made: u64, speed: u64) -> u64 {
    let tokens =
        task.input.as_ref().and_then(|input| input.read::<Work>().ok()).map_or(0, |work| work.tokens);
    let calls = trace::calls(tokens);
    trace::work_ms(tokens * calls.saturating_sub(made) / calls, speed)
}
