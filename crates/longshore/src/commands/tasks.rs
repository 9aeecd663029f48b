//! `longshore tasks`: list, show, watch, cancel, retry, input.

mod bulk;
mod filter;
mod journal;
mod waits;

pub use journal::summary as calls_in_words;

use longshore_api::client::Client;
use longshore_api::task::{Attempt, Task, TaskPage};
use longshore_api::waiting;
use longshore_core::id::{TaskId, TenantName};
use longshore_core::json::Json;
use longshore_core::task::{Hold, State};

use super::wait::{self, Show};
use crate::cli::{Format, Remote};
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output::{self, Table, ago, clean, length, paint, paint_of, shorten};
use bulk::{Action, Carefully};
use filter::Filters;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List tasks, newest first
    List(List),
    /// Show one task with its attempts, or its LLM calls
    Show(ShowOne),
    /// Follow a task until its end, then print its result
    Watch(One),
    /// Cancel tasks, running ones as well
    Cancel(Cancel),
    /// Run a task that ended once more, as a new task
    Retry(Retry),
    /// Answer what a task waits for: a question of its agent, or whether it may run again after an interruption
    Input(Input),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    filters: Filters,

    /// How many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,

    /// Go on where an earlier list ended
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
struct One {
    /// Task
    #[arg(value_name = "ID")]
    id: TaskId,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
struct ShowOne {
    #[command(flatten)]
    task: One,

    /// Its LLM calls and steps: what was bought, what was replayed, and where an attempt went another way
    #[arg(long)]
    journal: bool,
}

#[derive(Debug, clap::Args)]
struct Input {
    #[command(flatten)]
    task: One,

    /// JSON, or any other text as it is; after an interruption `resume` or `fail`
    #[arg(value_name = "ANSWER", allow_hyphen_values = true)]
    answer: String,

    /// Which question, if several are open
    #[arg(long, value_name = "NAME")]
    question: Option<String>,
}

/// Named tasks, or all that a filter finds.
#[derive(Debug, clap::Args)]
struct Many {
    /// Tasks; without any, all that the filters below find
    #[arg(value_name = "ID")]
    ids: Vec<TaskId>,

    #[command(flatten)]
    filters: Filters,

    #[command(flatten)]
    how: Carefully,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

impl Many {
    /// Whether tasks are named; else a filter says which.
    fn named(&self) -> Outcome<bool> {
        let filtered = !self.filters.is_empty() || self.how.said();
        match (self.ids.is_empty(), filtered) {
            (false, false) => Ok(true),
            (true, true) => Ok(false),
            (false, true) => Err(Fault::usage("either name tasks or filter them, not both")),
            (true, false) => Err(Fault::usage("no task is named")
                .hint("name tasks by their ids, or filter them, such as --state failed --fleet NAME")),
        }
    }
}

#[derive(Debug, clap::Args)]
struct Cancel {
    #[command(flatten)]
    tasks: Many,

    /// Why; kept with the task
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Retry {
    #[command(flatten)]
    tasks: Many,

    /// Go on with an earlier retry by a filter that was broken off: no task is retried twice
    #[arg(long, value_name = "KEY", conflicts_with = "ids")]
    idempotency_key: Option<String>,
}

pub async fn run(args: Args) -> Outcome {
    match args.what {
        What::List(args) => list(args).await,
        What::Show(args) => show(&args).await,
        What::Watch(args) => watch(&args).await,
        What::Cancel(args) => cancel(args).await,
        What::Retry(args) => retry(args).await,
        What::Input(args) => input(&args).await,
    }
}

async fn list(args: List) -> Outcome {
    let client = args.remote.client()?;
    let page = pages(&client, &args).await?;
    if args.format.json {
        output::json(&page)?;
        return Ok(Exit::Done);
    }
    if page.items.is_empty() {
        output::note(
            match &page.next_cursor {
                None => "no tasks".to_owned(),
                Some(cursor) => format!("none among the newest; look further with --cursor {cursor}"),
            }
            .as_str(),
        );
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["ID", "FLEET", "STATE", "ATTEMPTS", "AGE", "NOTE"]);
    for task in &page.items {
        table.row(vec![
            task.id.to_string(),
            task.fleet.to_string(),
            task.state.as_str().to_owned(),
            task.attempts_begun.to_string(),
            ago(task.created_at),
            shorten(&remark(task), 60),
        ]);
    }
    table.print()?;
    if let Some(cursor) = page.next_cursor {
        output::note(&format!("there are more: --cursor {cursor}"));
    }
    Ok(Exit::Done)
}

/// Pages that one list asks for: each looks at a bounded number of tasks and may come back empty.
const PAGES: usize = 20;

/// The most that one request may ask for.
const PAGE: u32 = 500;

async fn pages(client: &Client, args: &List) -> Outcome<TaskPage> {
    let (filter, limit) = (args.filters.filter(), args.limit as usize);
    let mut all = TaskPage { items: Vec::new(), next_cursor: args.cursor.clone() };
    for _ in 0..PAGES {
        let wanted = (args.limit - all.items.len() as u32).min(PAGE);
        let page = client.tasks(&filter.clone().page(Some(wanted.into()), all.next_cursor)).await?;
        all.items.extend(page.items);
        all.next_cursor = page.next_cursor;
        if all.next_cursor.is_none() || all.items.len() >= limit {
            break;
        }
    }
    Ok(all)
}

/// What is worth saying beside a task's state.
fn remark(task: &Task) -> String {
    match (task.hold, &task.failure) {
        _ if task.cancel_requested && !task.state.is_terminal() => "is being cancelled".into(),
        _ if task.state == State::Waiting => waits::remark(task.waiting.as_ref()),
        (Some(Hold::Scheduled), _) => {
            task.run_at.map_or_else(|| "scheduled".into(), |at| format!("scheduled for {at}"))
        }
        (Some(Hold::Conversation), _) => "waits for its conversation".into(),
        (Some(Hold::Backoff), Some(failure)) => {
            format!("tries again after {}: {}", failure.code, failure.message)
        }
        (Some(Hold::Backoff), None) => "tries again soon".into(),
        (_, Some(failure)) if task.state != State::Succeeded => {
            format!("{}: {}", failure.code, failure.message)
        }
        _ => String::new(),
    }
}

async fn show(args: &ShowOne) -> Outcome {
    let One { id, format, remote } = &args.task;
    let client = remote.client()?;
    match (args.journal, format.json) {
        (true, true) => output::json(&client.journal(*id).await?)?,
        (true, false) => {
            if client.task(*id).await?.journal_expired {
                output::note("its LLM calls and steps were kept for a time after its end, and are deleted");
            }
            journal::print(&client.journal(*id).await?)?;
        }
        (false, true) => output::json(&client.task(*id).await?)?,
        (false, false) => print(&client.task(*id).await?)?,
    }
    Ok(Exit::Done)
}

async fn input(args: &Input) -> Outcome {
    let One { id, format, remote } = &args.task;
    let answer = Json::parse(args.answer.trim()).unwrap_or_else(|_| Json::string(&args.answer));
    let said = waiting::Input { answer, question: args.question.clone() };
    let task = remote.client()?.input(*id, &said).await?;
    match (format.json, task.state) {
        (true, _) => output::json(&task)?,
        (false, State::Queued) => output::line(&format!("{id} is queued again"))?,
        (false, State::Failed) => output::line(&format!("{id} has failed"))?,
        (false, _) => output::line(&format!("{id} has its answer"))?,
    }
    Ok(Exit::Done)
}

fn print(task: &Task) -> Outcome<()> {
    for (name, value) in facts(task) {
        output::line(&format!("{name:<13} {value}"))?;
    }
    attempts(&task.attempts)?;
    waits::questions(&task.questions)?;
    for (name, json) in [("input", &task.input), ("result", &task.result)] {
        if let Some(json) = json {
            output::line(&format!("\n{name}"))?;
            output::text(json.text())?;
        }
    }
    Ok(())
}

fn facts(task: &Task) -> Vec<(&'static str, String)> {
    let state = task.state.as_str();
    let mut facts = vec![
        ("task", task.id.to_string()),
        ("fleet", task.fleet.to_string()),
        ("state", paint_of(state).map_or_else(|| state.to_owned(), |colour| paint(state, colour))),
    ];
    let mut add = |name, value: Option<String>| facts.extend(value.map(|value| (name, clean(&value))));
    add("note", Some(remark(task)).filter(|note| !note.is_empty()));
    add("tenant", (task.tenant != TenantName::default()).then(|| task.tenant.to_string()));
    add("conversation", task.conversation.as_ref().map(ToString::to_string));
    add("batch", task.batch.map(|id| id.to_string()));
    add("parent", task.parent.map(|id| id.to_string()));
    add("retry of", task.retry_of.map(|id| id.to_string()));
    let labels: Vec<_> = task.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    add("labels", Some(labels.join(" ")).filter(|labels| !labels.is_empty()));
    add("priority", (task.priority != 0).then(|| task.priority.to_string()));
    add("created", Some(format!("{} ({} ago)", task.created_at, ago(task.created_at))));
    add("deadline", task.deadline.filter(|_| !task.state.is_terminal()).map(|at| at.to_string()));
    add("started", task.started_at.map(|at| format!("{at} (waited {})", between(task.created_at, at))));
    let from = task.started_at.unwrap_or(task.created_at);
    add("finished", task.finished_at.map(|at| format!("{at} (took {})", between(from, at))));
    let counts = format!(
        "{} begun, {} of {} failed, {} interrupted; {} each at most",
        task.attempts_begun,
        task.failed_attempts,
        task.max_attempts,
        task.interrupted,
        length(task.timeout_ms)
    );
    add("attempts", Some(counts));
    add("llm calls", task.calls.as_ref().map(journal::summary));
    let expired = [(task.result_expired, "result"), (task.journal_expired, "LLM calls and steps")];
    for (_, what) in expired.into_iter().filter(|(expired, _)| *expired) {
        add("expired", Some(format!("its {what}: kept for a time after its end, and deleted")));
    }
    if task.no_gateway_calls {
        let warning =
            "its fleet has providers, but it called none through them: is a base URL wired into the agent?";
        add("warning", Some(warning.into()));
    }
    facts
}

fn between(from: longshore_core::time::Timestamp, to: longshore_core::time::Timestamp) -> String {
    length(to.since(from).as_millis() as u64)
}

fn attempts(attempts: &[Attempt]) -> Outcome<()> {
    if attempts.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["ATTEMPT", "WORKER", "OUTCOME", "TOOK", "REASON"]);
    for attempt in attempts {
        table.row(vec![
            attempt.number.to_string(),
            attempt.worker.clone(),
            attempt.outcome.clone().unwrap_or_else(|| "running".into()),
            attempt.ended_at.map_or_else(|| ago(attempt.started_at), |at| between(attempt.started_at, at)),
            shorten(attempt.reason.as_deref().unwrap_or(""), 80),
        ]);
    }
    output::line("")?;
    table.print()
}

async fn watch(args: &One) -> Outcome {
    let client = args.remote.client()?;
    let show = if args.format.json { Show::Json } else { Show::Lines };
    let task = wait::for_end(&client, args.id, None, show).await?;
    wait::report(&task, args.format.json)
}

async fn cancel(args: Cancel) -> Outcome {
    let client = args.tasks.remote.client()?;
    let Many { ids, filters, how, format, .. } = &args.tasks;
    if !args.tasks.named()? {
        let action = Action::Cancel { reason: args.reason };
        return bulk::run(&client, action, filters.filter(), how, format.json).await;
    }
    for id in ids {
        let task = client.cancel(*id, args.reason.clone()).await?;
        match (format.json, task.state) {
            (true, _) => output::json_line(&task)?,
            (false, State::Cancelled) => output::line(&format!("{id} is cancelled"))?,
            (false, _) => output::line(&format!("{id} is being cancelled: its agent is told to stop"))?,
        }
    }
    Ok(Exit::Done)
}

async fn retry(args: Retry) -> Outcome {
    let client: Client = args.tasks.remote.client()?;
    let Many { ids, filters, how, format, .. } = &args.tasks;
    if !args.tasks.named()? {
        let action = Action::Retry { key: args.idempotency_key };
        return bulk::run(&client, action, filters.filter(), how, format.json).await;
    }
    for id in ids {
        let key = uuid::Uuid::now_v7().to_string();
        let task = client.retry(*id, Some(&key)).await?;
        match format.json {
            true => output::json_line(&task)?,
            false => output::line(&task.id.to_string())?,
        }
    }
    Ok(Exit::Done)
}
