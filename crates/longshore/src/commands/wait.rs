//! Waits for a task to end, through restarts of the control plane.
//!
//! Never submits or changes anything: who waits may stop at any time, and the task goes on.

use std::time::Duration;

use longshore_api::client::{Client, ClientError};
use longshore_api::task::{Event, Task};
use longshore_core::id::TaskId;
use longshore_core::task::State;
use tokio::time::{Instant, sleep, timeout};

use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output::{self, clean, clock, shorten};
use crate::signals;

/// What is shown while waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    Nothing,
    /// Lines for people on standard error, so that standard output holds the result alone.
    Lines,
    /// Events as JSON lines on standard output.
    Json,
}

/// How long a control plane that answered before may be away.
const PATIENCE: Duration = Duration::from_secs(300);

/// A stream without any event for so long is opened anew: its connection may be dead without having said so.
pub(super) const QUIET: Duration = Duration::from_secs(60);

pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Returns the task in its terminal state.
///
/// Errors: status 4 when `limit` has passed, 130 at Ctrl-C, 5 when the control plane was away for five minutes.
pub async fn for_end(client: &Client, id: TaskId, limit: Option<Duration>, show: Show) -> Outcome<Task> {
    let mut follower = Follower { client, id, show, seen: 0, patience: Patience::default() };
    tokio::select! {
        // A task that has ended counts, even if the time is up as well.
        biased;
        task = follower.run() => task,
        () = over(limit) => Err(timed_out(id, limit.unwrap_or_default())),
        () = signals::interrupted() => {
            output::note(&format!("interrupted; task {id} goes on: `longshore tasks watch {id}` follows it"));
            Err(Fault::quiet(Exit::Interrupted))
        }
    }
}

pub(super) async fn over(limit: Option<Duration>) {
    match limit {
        Some(limit) => sleep(limit).await,
        None => std::future::pending().await,
    }
}

fn timed_out(id: TaskId, limit: Duration) -> Fault {
    let limit = output::length(limit.as_millis() as u64);
    Fault::new(format!("task {id} has not ended within {limit}; it goes on"))
        .exit(Exit::TimedOut)
        .hint(format!("`longshore tasks watch {id}` follows it, `longshore tasks cancel {id}` ends it"))
}

/// Reads a task's log from where it was seen last.
struct Follower<'a> {
    client: &'a Client,
    id: TaskId,
    show: Show,
    /// Number of the last event that was shown.
    seen: u64,
    patience: Patience,
}

/// How a control plane that is away for a while is waited for.
#[derive(Default)]
pub(super) struct Patience {
    /// Since when it has not answered, if it did before.
    away: Option<Away>,
}

struct Away {
    since: Instant,
    pause: Duration,
}

impl Follower<'_> {
    async fn run(&mut self) -> Outcome<Task> {
        // Before anything else, so that an unknown task or an unreachable control plane is said at once.
        self.client.task(self.id).await?;
        loop {
            match self.once().await {
                Ok(Some(task)) => return Ok(task),
                Ok(None) => {
                    self.patience.reset();
                    sleep(FIRST_PAUSE).await;
                }
                Err(error) if passes(&error) => self.patience.pause(error).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Follows one stream to its end; returns the task if that was the task's end as well, and all of it was shown.
    async fn once(&mut self) -> Result<Option<Task>, Stumble> {
        let mut stream = self.client.follow(self.id, self.seen).await?;
        while let Ok(event) = timeout(QUIET, stream.next()).await {
            let Some(event) = event? else { break };
            if event.seq <= self.seen {
                continue;
            }
            self.seen = event.seq;
            self.patience.reset();
            self.tell(&event)?;
        }
        drop(stream);
        let task = self.client.task(self.id).await?;
        let shown = self.show == Show::Nothing || self.seen >= task.last_event;
        Ok((task.state.is_terminal() && shown).then_some(task))
    }

    fn tell(&self, event: &Event) -> Result<(), Stumble> {
        match self.show {
            Show::Nothing => {}
            Show::Lines => output::note(&describe(event)),
            Show::Json => output::json_line(event)?,
        }
        Ok(())
    }
}

impl Patience {
    /// It has answered.
    pub(super) fn reset(&mut self) {
        self.away = None;
    }

    /// Waits a little, longer each time; gives up after five minutes.
    pub(super) async fn pause(&mut self, error: Stumble) -> Outcome<()> {
        let first = self.away.is_none();
        let away = self.away.get_or_insert(Away { since: Instant::now(), pause: FIRST_PAUSE });
        if away.since.elapsed() > PATIENCE {
            return Err(error.into());
        }
        if first {
            output::note("the control plane is away; waiting until it is back");
        }
        sleep(away.pause).await;
        away.pause = (away.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// Why one stream was not followed to the task's end.
pub(super) enum Stumble {
    Client(ClientError),
    /// What was seen could not be shown.
    Said(Fault),
}

impl From<ClientError> for Stumble {
    fn from(error: ClientError) -> Self {
        Stumble::Client(error)
    }
}

impl From<Fault> for Stumble {
    fn from(fault: Fault) -> Self {
        Stumble::Said(fault)
    }
}

impl From<Stumble> for Fault {
    fn from(stumble: Stumble) -> Fault {
        match stumble {
            Stumble::Client(error) => error.into(),
            Stumble::Said(fault) => fault,
        }
    }
}

/// Whether asking again may help.
pub(super) fn passes(stumble: &Stumble) -> bool {
    match stumble {
        Stumble::Client(ClientError::Problem(problem)) => problem.status >= 500 || problem.status == 429,
        Stumble::Client(ClientError::Unreachable { .. }) => true,
        // A proxy in front of a control plane that restarts answers with pages of its own.
        Stumble::Client(ClientError::Unexpected { .. }) => true,
        Stumble::Said(_) => false,
    }
}

fn describe(event: &Event) -> String {
    let data = match event.data.text() {
        "null" | "{}" => String::new(),
        text => shorten(&clean(text), 400),
    };
    format!("{}  {:<14} {data}", clock(event.at), clean(&event.kind)).trim_end().to_owned()
}

/// Prints the result of a task that ended, or why there is none; the exit status says which.
///
/// A result that is a JSON string is printed as its text, unless `json`.
pub fn report(task: &Task, json: bool) -> Outcome {
    match task.state {
        State::Succeeded => {
            print_result(task, json)?;
            Ok(Exit::Done)
        }
        _ => Err(not_succeeded(task)),
    }
}

fn print_result(task: &Task, json: bool) -> Outcome<()> {
    if task.result_expired {
        output::note(&format!("the result of task {} was kept for a time and is deleted", task.id));
    }
    let Some(result) = &task.result else { return output::line("null") };
    match result.read::<String>() {
        Ok(text) if !json => output::text(&text),
        _ => output::line(result.text()),
    }
}

/// Why a task that ended has no result.
pub fn not_succeeded(task: &Task) -> Fault {
    let fault = match &task.failure {
        _ if task.state == State::Cancelled => Fault::new(format!("task {} was cancelled", task.id)),
        Some(failure) => {
            Fault::new(format!("task {} failed: {}", task.id, failure.message)).code(&failure.code)
        }
        None => Fault::new(format!("task {} failed", task.id)),
    };
    fault.exit(Exit::TaskFailed)
}
