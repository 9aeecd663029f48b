//! `longshore submit`: one task, or one per line of a file; waits for them if asked to.

use std::io::{self, IsTerminal};
use std::time::Duration;

use longshore_api::batch::BatchQuery;
use longshore_api::client::{Client, ClientError};
use longshore_api::task::{Backoff, BatchAccepted, Submit, Task};
use longshore_core::batch::BatchId;
use longshore_core::id::{ConversationId, FleetName, TaskId, TenantName};
use longshore_core::json::Json;
use longshore_core::task::OnBusy;
use longshore_core::time::Timestamp;
use uuid::Uuid;

use super::batches::watch;
use super::wait::{self, Show};
use crate::cli::{Format, Remote};
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output;

mod input;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  longshore submit hello --input '\"world\"' --wait\n  \
    longshore submit research --input @question.json --follow\n  longshore submit research --batch inputs.jsonl")]
pub struct Args {
    /// Fleet that shall run it
    #[arg(value_name = "FLEET")]
    fleet: FleetName,

    /// Input: JSON, @FILE with JSON in it, or - for standard input [default: null]
    #[arg(short, long, value_name = "JSON|@FILE|-", conflicts_with = "batch")]
    input: Option<String>,

    /// Submit one task per line of a file (- for standard input); each line is the input of one
    #[arg(short, long, value_name = "FILE.jsonl", conflicts_with_all = ["follow", "conversation"])]
    batch: Option<String>,

    /// Name of the batch, for `longshore batches`
    #[arg(long, value_name = "TEXT", requires = "batch")]
    name: Option<String>,

    /// Wait for the end and print the result
    #[arg(short, long)]
    wait: bool,

    /// Wait, and show what happens until then
    #[arg(short, long)]
    follow: bool,

    /// Give up waiting after this long; the task goes on
    #[arg(long, value_name = "60s", value_parser = duration)]
    timeout: Option<Duration>,

    /// Whose task it is: tenants take turns [default: default]
    #[arg(long, value_name = "NAME")]
    tenant: Option<TenantName>,

    /// Conversation that it belongs to
    #[arg(long, value_name = "ID")]
    conversation: Option<ConversationId>,

    /// If an earlier task of the conversation is not finished: enqueue, reject or interrupt it, instead of the fleet's
    #[arg(long, value_name = "POLICY", value_parser = on_busy, requires = "conversation")]
    on_busy: Option<OnBusy>,

    /// Label; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<(String, String)>,

    /// Higher runs first
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    priority: i32,

    /// Not before this time, such as 2026-11-23T21:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    run_at: Option<Timestamp>,

    /// Give it up at this time, such as 2026-11-23T21:00:00Z, wherever it stands
    #[arg(long, value_name = "TIME", value_parser = time)]
    deadline: Option<Timestamp>,

    /// Give it up this long from now, wherever it stands
    #[arg(long, value_name = "10m", value_parser = duration)]
    expires_in: Option<Duration>,

    /// Limit of each attempt instead of the fleet's
    #[arg(long, value_name = "15m", value_parser = duration)]
    task_timeout: Option<Duration>,

    /// Attempts that may fail, instead of the fleet's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    max_attempts: Option<u32>,

    /// The longest first wait after a failed attempt, instead of the fleet's; each further one is twice as long
    #[arg(long, value_name = "1s", value_parser = duration)]
    backoff_base: Option<Duration>,

    /// The longest wait after any failed attempt, instead of the fleet's
    #[arg(long, value_name = "5m", value_parser = duration)]
    backoff_cap: Option<Duration>,

    /// Submitting again with the same key changes nothing
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let ms = longshore_core::units::parse_duration(text).map_err(|error| error.to_string())?;
    Ok(Duration::from_millis(ms))
}

fn on_busy(text: &str) -> Result<OnBusy, String> {
    let known = OnBusy::ALL.into_iter().find(|policy| policy.as_str() == text);
    known.ok_or_else(|| "expected `enqueue`, `reject` or `interrupt`".into())
}

fn time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| "expected a time with zone such as 2026-11-23T21:00:00Z".to_owned())
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    match name.trim() {
        "" => Err("expected NAME=VALUE".into()),
        name => Ok((name.to_owned(), value.to_owned())),
    }
}

pub async fn run(args: Args) -> Outcome {
    if args.timeout.is_some() && !args.wait && !args.follow {
        return Err(Fault::usage("--timeout limits a wait: add --wait or --follow")
            .hint("--task-timeout limits each attempt of the task"));
    }
    let client = args.remote.client()?;
    // A key of our own makes it safe to send again when an answer was lost.
    let key = args.idempotency_key.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
    match &args.batch {
        Some(file) => batch(&args, &client, file, &key).await,
        None => single(&args, &client, &key).await,
    }
}

async fn single(args: &Args, client: &Client, key: &str) -> Outcome {
    let input = input::one(args.input.as_deref())?;
    let wanted = wanted(args, input);
    let task = again(async || client.submit(&wanted, Some(key)).await).await?;
    if !args.wait && !args.follow {
        match args.format.json {
            true => output::json(&task)?,
            false => output::line(&task.id.to_string())?,
        }
        return Ok(Exit::Done);
    }
    let show = match (args.follow, args.format.json) {
        (false, _) => Show::Nothing,
        (true, false) => Show::Lines,
        (true, true) => Show::Json,
    };
    if show == Show::Lines {
        output::note(&format!("task {}", task.id));
    }
    let task = wait::for_end(client, task.id, args.timeout, show).await?;
    wait::report(&task, args.format.json)
}

fn wanted(args: &Args, input: Json) -> Submit {
    let written = |wait: Duration| format!("{}ms", wait.as_millis());
    let (base, cap) = (args.backoff_base.map(written), args.backoff_cap.map(written));
    Submit {
        tenant: args.tenant.clone(),
        conversation: args.conversation.clone(),
        on_busy: args.on_busy,
        priority: args.priority,
        run_at: args.run_at,
        deadline: args.deadline,
        expires_in: args.expires_in.map(written),
        timeout: args.task_timeout.map(written),
        max_attempts: args.max_attempts,
        backoff: (base.is_some() || cap.is_some()).then_some(Backoff { base, cap }),
        labels: args.label.iter().cloned().collect(),
        ..Submit::new(args.fleet.clone(), input)
    }
}

/// Sends a request that carries an idempotency key, again if its answer was lost on the way.
pub(super) async fn again<T>(send: impl AsyncFn() -> Result<T, ClientError>) -> Result<T, ClientError> {
    for pause_ms in [200, 1_000, 3_000] {
        match send().await {
            Err(ClientError::Unreachable { source, .. }) if !source.is_connect() && !source.is_builder() => {
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            }
            answer => return answer,
        }
    }
    send().await
}

/// What one request carries at most; the control plane takes 50,000 tasks and 64 MiB.
const BATCH_TASKS: usize = 10_000;
const BATCH_BYTES: usize = 32 << 20;

async fn batch(args: &Args, client: &Client, file: &str, key: &str) -> Outcome {
    let lines: Vec<String> = input::lines(file)?.into_iter().map(|input| line(args, input)).collect();
    let parts = parts(&lines);
    let mut ids: Vec<TaskId> = Vec::with_capacity(lines.len());
    let mut batch =
        BatchQuery { name: args.name.clone(), label: joined(&args.label), ..BatchQuery::default() };
    if parts.len() > 1 {
        batch.batch = Some(Uuid::now_v7().to_string());
    }
    let mut accepted_as = None;
    for (index, part) in parts.iter().enumerate() {
        batch.more = (index + 1 < parts.len()).then_some(true);
        let key = if parts.len() == 1 { key.to_owned() } else { format!("{key}-{}", index + 1) };
        let body = part.join("\n").into_bytes();
        let accepted = again(async || client.submit_part(&batch, body.clone(), Some(&key)).await).await;
        let accepted = accepted.map_err(|error| broke_off(error, ids.len(), &key, index))?;
        ids.extend(accepted.ids);
        accepted_as = accepted.batch;
        if let Some(id) = accepted.batch.filter(|_| parts.len() > 1) {
            // In a repetition the batch of the first time, which the other parts belong to.
            batch.batch = Some(id.to_string());
        }
    }
    if !args.wait {
        return print_ids(BatchAccepted { batch: accepted_as, ids }, args.format.json);
    }
    wait_for_all(args, client, accepted_as, &ids).await
}

fn joined(labels: &[(String, String)]) -> Option<String> {
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    (!labels.is_empty()).then(|| labels.join(","))
}

/// Without line breaks: JSON may hold them between its parts, NDJSON must not.
fn line(args: &Args, input: Json) -> String {
    let text = serde_json::to_string(&wanted(args, input)).expect("plain data always serialises");
    text.replace(['\n', '\r'], " ")
}

fn parts(lines: &[String]) -> Vec<&[String]> {
    let (mut parts, mut from, mut bytes) = (Vec::new(), 0, 0);
    for (at, line) in lines.iter().enumerate() {
        if at > from && (at - from == BATCH_TASKS || bytes + line.len() > BATCH_BYTES) {
            parts.push(&lines[from..at]);
            (from, bytes) = (at, 0);
        }
        bytes += line.len() + 1;
    }
    parts.push(&lines[from..]);
    parts
}

fn broke_off(error: ClientError, submitted: usize, key: &str, index: usize) -> Fault {
    let fault = Fault::from(error);
    if submitted == 0 {
        return fault;
    }
    let key = key.strip_suffix(&format!("-{}", index + 1)).unwrap_or(key);
    fault
        .details([format!("{submitted} tasks were submitted before")])
        .hint(format!("submit the same file again with --idempotency-key {key}: nothing is doubled"))
}

fn print_ids(accepted: BatchAccepted, json: bool) -> Outcome {
    match json {
        true => output::json(&accepted)?,
        false => {
            if let Some(batch) = accepted.batch {
                output::note(&format!("batch {batch}: `longshore batches watch {batch}` follows it"));
            }
            for id in &accepted.ids {
                output::line(&id.to_string())?;
            }
        }
    }
    Ok(Exit::Done)
}

/// Prints results in the order of the lines, one per line.
async fn wait_for_all(args: &Args, client: &Client, batch: Option<BatchId>, ids: &[TaskId]) -> Outcome {
    let end = args.timeout.map(|limit| tokio::time::Instant::now() + limit);
    if let Some(batch) = batch {
        let show = if io::stderr().is_terminal() { watch::Show::Lines } else { watch::Show::Nothing };
        watch::for_end(client, batch, args.timeout, show).await?;
    }
    let mut failed = 0;
    for id in ids {
        let left = end.map(|end| end.saturating_duration_since(tokio::time::Instant::now()));
        let task = wait::for_end(client, *id, left, Show::Nothing).await?;
        failed += usize::from(!print_one(&task, args.format.json)?);
    }
    match failed {
        0 => Ok(Exit::Done),
        _ => {
            Err(Fault::new(format!("{failed} of {} tasks did not succeed", ids.len())).exit(Exit::TaskFailed))
        }
    }
}

/// Returns whether it succeeded. A failed task's line is `null`, so that lines of input and output go together.
fn print_one(task: &Task, json: bool) -> Outcome<bool> {
    let succeeded = task.state == longshore_core::task::State::Succeeded;
    if json {
        output::json_line(task)?;
    } else {
        output::line(task.result.as_ref().filter(|_| succeeded).map_or("null", Json::text))?;
    }
    if !succeeded && !json {
        output::note(wait::not_succeeded(task).text().trim_end());
    }
    Ok(succeeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_need_a_name() {
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(label("ab").is_err() && label("=x").is_err());
    }

    #[test]
    fn a_large_file_is_sent_in_parts_and_no_line_is_lost() {
        let lines: Vec<String> = (0..25_000).map(|n| n.to_string()).collect();
        let parts = parts(&lines);
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [10_000, 10_000, 5_000]);
        assert_eq!(parts.concat(), lines);
        let large = vec!["x".repeat(20 << 20); 3];
        assert_eq!(super::parts(&large).len(), 3);
    }
}
