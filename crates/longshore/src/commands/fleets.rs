//! `longshore fleets`: what is declared and how it stands.

use longshore_api::fleet::FleetStatus;

use crate::cli::{Format, Remote};
use crate::error::Outcome;
use crate::exit::Exit;
use crate::output::{self, Paint, Table, clean, length, paint, shorten};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this fleet, with its declaration
    #[arg(value_name = "FLEET")]
    fleet: Option<String>,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

pub async fn run(args: Args) -> Outcome {
    let client = args.remote.client()?;
    match &args.fleet {
        Some(name) => {
            let fleet = client.fleet(name).await?;
            if args.format.json { output::json(&fleet)? } else { details(&fleet)? }
        }
        None => {
            let fleets = client.fleets().await?;
            if args.format.json { output::json(&fleets)? } else { table(&fleets.items)? }
        }
    }
    Ok(Exit::Done)
}

fn table(fleets: &[FleetStatus]) -> Outcome<()> {
    if fleets.is_empty() {
        output::note("no fleets are declared");
        return Ok(());
    }
    let head =
        ["FLEET", "WORKERS", "READY", "QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "OLDEST WAIT", "NOTE"];
    let mut table = Table::new(&head);
    for fleet in fleets {
        table.row(vec![
            fleet.name.to_string(),
            present(fleet).to_string(),
            fleet.workers.ready.to_string(),
            fleet.tasks.queued.to_string(),
            fleet.tasks.running.to_string(),
            fleet.tasks.succeeded.to_string(),
            fleet.tasks.failed.to_string(),
            fleet.oldest_wait_ms.map_or_else(|| "-".into(), length),
            shorten(&note(fleet), 60),
        ]);
    }
    table.print()
}

/// Workers that work or will: draining ones are on their way out.
fn present(fleet: &FleetStatus) -> u32 {
    fleet.workers.ready + fleet.workers.starting + fleet.workers.not_ready
}

fn note(fleet: &FleetStatus) -> String {
    let draining = fleet.workers.draining;
    match (&fleet.trouble, fleet.active, fleet.replicas) {
        (Some(trouble), _, _) => trouble.clone(),
        (None, false, _) => "no longer declared".into(),
        (None, true, Some(replicas)) => format!("held at {replicas} by hand"),
        _ if draining > 0 => format!("{draining} draining"),
        _ => String::new(),
    }
}

fn details(fleet: &FleetStatus) -> Outcome<()> {
    let declared = &fleet.declaration;
    let (tasks, workers) = (&fleet.tasks, &fleet.workers);
    if let Some(trouble) = &fleet.trouble {
        output::line(&paint(&format!("trouble       {}", clean(trouble)), Paint::Bad))?;
    }
    let facts = [
        ("fleet", format!("{} (generation {})", fleet.name, fleet.generation)),
        ("command", clean(&declared.command.join(" "))),
        ("folder", clean(&declared.working_dir)),
        ("concurrency", format!("{} per worker", declared.concurrency)),
        (
            "workers",
            format!(
                "{} ready, {} starting, {} not ready, {} draining",
                workers.ready, workers.starting, workers.not_ready, workers.draining
            ),
        ),
        ("scaling", scaling(fleet)),
        (
            "tasks",
            format!(
                "{} queued, {} running, {} succeeded, {} failed, {} cancelled",
                tasks.queued, tasks.running, tasks.succeeded, tasks.failed, tasks.cancelled
            ),
        ),
        ("runnable", runnable(fleet)),
        (
            "task limits",
            format!(
                "{} per attempt, {} attempts",
                length(declared.task.timeout_ms),
                declared.task.max_attempts
            ),
        ),
        (
            "drain",
            format!("{:?} within {}", declared.drain.mode, length(declared.drain.timeout_ms)).to_lowercase(),
        ),
    ];
    for (name, value) in facts {
        output::line(&format!("{name:<13} {value}"))?;
    }
    fleet.usage.iter().try_for_each(|usage| {
        let of = format!("{} {}", usage.provider, usage.model);
        output::line(&format!(
            "{:<13} {}: {}",
            "llm calls",
            clean(&of),
            super::tasks::calls_in_words(&usage.calls)
        ))
    })
}

fn scaling(fleet: &FleetStatus) -> String {
    let scaling = &fleet.declaration.scaling;
    let bounds = format!("{} to {}", scaling.min, scaling.max);
    match fleet.replicas {
        Some(replicas) => format!("held at {replicas} by hand (declared: {bounds})"),
        None => format!(
            "{bounds}, up above {} and down below {} pending per worker",
            scaling.scale_up_above, scaling.scale_down_below
        ),
    }
}

fn runnable(fleet: &FleetStatus) -> String {
    match fleet.oldest_wait_ms {
        Some(ms) => format!("{} now, the oldest for {}", fleet.runnable, length(ms)),
        None => format!("{} now", fleet.runnable),
    }
}
