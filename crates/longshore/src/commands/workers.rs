//! `longshore workers`: who is there, and sending one home.

use longshore_api::fleet::{DrainWorker, Worker};
use longshore_core::fleet::DrainMode;

use crate::cli::{Format, Remote};
use crate::error::Outcome;
use crate::exit::Exit;
use crate::output::{self, Table, ago, shorten, size};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,

    #[command(flatten)]
    list: List,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Let a worker finish or hand over its tasks, and end; its fleet replaces it if needed
    Drain(Drain),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only of this fleet
    #[arg(long, value_name = "FLEET")]
    fleet: Option<String>,

    /// Those that ended lately as well
    #[arg(short, long)]
    all: bool,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
struct Drain {
    /// Worker
    #[arg(value_name = "ID")]
    id: String,

    /// Hand its tasks over at once instead of waiting for them
    #[arg(long)]
    handover: bool,

    /// How long it may take, instead of the fleet's time
    #[arg(long, value_name = "120s", conflicts_with = "handover")]
    timeout: Option<String>,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

pub async fn run(args: Args) -> Outcome {
    match args.what {
        Some(What::Drain(args)) => drain(args).await,
        None => list(args.list).await,
    }
}

async fn list(args: List) -> Outcome {
    let workers = args.remote.client()?.workers(args.fleet.as_deref(), args.all).await?;
    if args.format.json {
        output::json(&workers)?;
    } else if workers.items.is_empty() {
        output::note("no workers");
    } else {
        table(&workers.items)?;
    }
    Ok(Exit::Done)
}

fn table(workers: &[Worker]) -> Outcome<()> {
    let mut table = Table::new(&["ID", "FLEET", "STATE", "TASKS", "MEMORY", "PID", "SEEN", "NOTE"]);
    for worker in workers {
        table.row(vec![
            worker.id.clone(),
            worker.fleet.to_string(),
            state(worker),
            format!("{}/{}", worker.in_flight, worker.concurrency),
            size(worker.memory),
            worker.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
            worker.last_seen.map_or_else(|| "never".into(), |at| format!("{} ago", ago(at))),
            shorten(&worker.reason, 60),
        ]);
    }
    table.print()
}

/// The state as it is written in JSON, so that people and programs use one word.
fn state(worker: &Worker) -> String {
    let value = serde_json::to_value(worker.state).unwrap_or_default();
    value.as_str().unwrap_or("unknown").to_owned()
}

async fn drain(args: Drain) -> Outcome {
    let how = DrainWorker { mode: args.handover.then_some(DrainMode::Handover), timeout: args.timeout };
    let worker = args.remote.client()?.drain_worker(&args.id, &how).await?;
    if args.format.json {
        output::json(&worker)?;
    } else {
        output::line(&format!("worker {} is draining; {} tasks in flight", worker.id, worker.in_flight))?;
    }
    Ok(Exit::Done)
}
