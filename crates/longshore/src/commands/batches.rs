//! `longshore batches`: list, show, watch, cancel.

pub mod watch;

use longshore_api::batch::{Batch, BatchCounts};
use longshore_core::batch::BatchId;

use crate::cli::{Format, Remote};
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output::{self, Paint, Table, ago, clean, length, paint, shorten};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List batches, newest first
    List(List),
    /// Show how far one batch is
    Show(One),
    /// Follow a batch until its last task has ended
    Watch(One),
    /// Cancel a batch: all of its tasks that have not ended
    Cancel(Cancel),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only batches that have not ended
    #[arg(long)]
    unfinished: bool,

    /// How many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
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
    /// Batch
    #[arg(value_name = "ID")]
    id: BatchId,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
struct Cancel {
    #[command(flatten)]
    batch: One,

    /// Why; kept with each task
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub async fn run(args: Args) -> Outcome {
    match args.what {
        What::List(args) => list(&args).await,
        What::Show(args) => show(&args).await,
        What::Watch(args) => watch(&args).await,
        What::Cancel(args) => cancel(args).await,
    }
}

async fn list(args: &List) -> Outcome {
    let client = args.remote.client()?;
    let page = client.batches(args.unfinished, Some(args.limit), args.cursor.as_deref()).await?;
    if args.format.json {
        output::json(&page)?;
        return Ok(Exit::Done);
    }
    if page.items.is_empty() {
        output::note("no batches");
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["ID", "NAME", "TASKS", "ENDED", "FAILED", "STATE", "AGE"]);
    for batch in &page.items {
        table.row(vec![
            batch.id.to_string(),
            shorten(&batch.name, 40),
            batch.counts.total.to_string(),
            ended(&batch.counts).to_string(),
            batch.counts.failed.to_string(),
            state(batch).to_owned(),
            ago(batch.created_at),
        ]);
    }
    table.print()?;
    if let Some(cursor) = page.next_cursor {
        output::note(&format!("there are more: --cursor {cursor}"));
    }
    Ok(Exit::Done)
}

fn ended(counts: &BatchCounts) -> u64 {
    counts.succeeded + counts.failed + counts.cancelled
}

fn state(batch: &Batch) -> &'static str {
    match batch {
        Batch { finished_at: Some(_), .. } => "ended",
        Batch { cancel_requested: true, .. } => "is being cancelled",
        Batch { open: true, .. } => "open",
        _ => "goes on",
    }
}

async fn show(args: &One) -> Outcome {
    let batch = args.remote.client()?.batch(args.id).await?;
    match args.format.json {
        true => output::json(&batch)?,
        false => print(&batch)?,
    }
    Ok(Exit::Done)
}

fn print(batch: &Batch) -> Outcome<()> {
    let mut facts = vec![("batch", batch.id.to_string()), ("state", state(batch).to_owned())];
    let mut add = |name, value: String| {
        if !value.is_empty() {
            facts.push((name, clean(&value)));
        }
    };
    add("name", batch.name.clone());
    let labels: Vec<_> = batch.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    add("labels", labels.join(" "));
    add("tasks", in_words(&batch.counts));
    add("created", format!("{} ({} ago)", batch.created_at, ago(batch.created_at)));
    if let Some(at) = batch.finished_at {
        let took = length(at.since(batch.created_at).as_millis() as u64);
        add("finished", format!("{at} (took {took})"));
    }
    for (name, value) in facts {
        output::line(&format!("{name:<13} {value}"))?;
    }
    Ok(())
}

/// `120 of 400 ended: 117 succeeded, 3 failed; 8 running, 272 queued`.
pub fn in_words(counts: &BatchCounts) -> String {
    let listed = |parts: &[(u64, &str)]| {
        let there = parts.iter().filter(|(count, _)| *count > 0);
        there.map(|(count, word)| format!("{count} {word}")).collect::<Vec<_>>().join(", ")
    };
    let over = [(counts.succeeded, "succeeded"), (counts.failed, "failed"), (counts.cancelled, "cancelled")];
    let left = [(counts.running, "running"), (counts.waiting, "waiting"), (counts.queued, "queued")];
    let mut text = format!("{} of {} ended", ended(counts), counts.total);
    for (mark, part) in [(": ", listed(&over)), ("; ", listed(&left))] {
        if !part.is_empty() {
            text.push_str(mark);
            text.push_str(&part);
        }
    }
    text
}

async fn watch(args: &One) -> Outcome {
    let client = args.remote.client()?;
    let show = if args.format.json { watch::Show::Json } else { watch::Show::Lines };
    let batch = watch::for_end(&client, args.id, None, show).await?;
    if !args.format.json {
        output::line(&in_words(&batch.counts))?;
    }
    verdict(&batch.counts)
}

/// Status 3 when not all have succeeded, as for a task.
pub fn verdict(counts: &BatchCounts) -> Outcome {
    match counts.total - counts.succeeded {
        0 => Ok(Exit::Done),
        bad => {
            Err(Fault::new(format!("{bad} of {} tasks did not succeed", counts.total)).exit(Exit::TaskFailed))
        }
    }
}

async fn cancel(args: Cancel) -> Outcome {
    let One { id, format, remote } = &args.batch;
    let done = remote.client()?.cancel_batch(*id, args.reason).await?;
    if format.json {
        output::json(&done)?;
        return Ok(Exit::Done);
    }
    output::line(&format!("{} tasks are cancelled", done.cancelled))?;
    if done.requested > 0 {
        let told = format!("{} run: their agents are told to stop", done.requested);
        output::line(&paint(&told, Paint::Warn))?;
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_names_what_there_is_and_nothing_else() {
        let counts = BatchCounts {
            total: 10,
            succeeded: 3,
            failed: 1,
            running: 2,
            queued: 4,
            ..BatchCounts::default()
        };
        assert_eq!(in_words(&counts), "4 of 10 ended: 3 succeeded, 1 failed; 2 running, 4 queued");
        assert_eq!(in_words(&BatchCounts::default()), "0 of 0 ended");
    }

    #[test]
    fn a_batch_with_a_task_that_did_not_succeed_is_status_three() {
        let all = BatchCounts { total: 2, succeeded: 2, ..BatchCounts::default() };
        assert_eq!(verdict(&all).expect("all is well"), Exit::Done);
        let bad = verdict(&BatchCounts { total: 2, succeeded: 1, cancelled: 1, ..BatchCounts::default() });
        assert_eq!(bad.expect_err("one did not").status(), Exit::TaskFailed);
    }
}
