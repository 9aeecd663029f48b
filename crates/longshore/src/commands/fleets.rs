//! `longshore fleets`: what is declared and how it stands; pausing a fleet and letting it go on.

use longshore_api::fleet::{Depth, FleetStatus, TenantList};

use crate::cli::{Format, Remote};
use crate::error::Outcome;
use crate::exit::Exit;
use crate::output::{self, Paint, Table, clean, length, paint, shorten};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,

    /// Only this fleet, with its declaration
    #[arg(value_name = "FLEET")]
    fleet: Option<String>,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Start none of its tasks; what runs goes on, and tasks are accepted
    Pause(One),
    /// Start its tasks again
    Resume(One),
    /// Its tenants with their tasks, those with the most to do first
    Tenants(One),
}

#[derive(Debug, clap::Args)]
struct One {
    /// Fleet
    #[arg(value_name = "FLEET")]
    fleet: String,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

pub async fn run(args: Args) -> Outcome {
    match &args.what {
        Some(What::Pause(one)) => return set_paused(one, true).await,
        Some(What::Resume(one)) => return set_paused(one, false).await,
        Some(What::Tenants(one)) => return tenants(one).await,
        None => {}
    }
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

async fn set_paused(one: &One, paused: bool) -> Outcome {
    let fleet = one.remote.client()?.set_paused(&one.fleet, paused).await?;
    let said = match paused {
        true => format!("fleet {} is paused: {} tasks go on", fleet.name, fleet.tasks.running),
        false => format!("fleet {} starts tasks", fleet.name),
    };
    if one.format.json {
        output::json(&fleet)?
    } else {
        output::line(&said)?
    }
    Ok(Exit::Done)
}

async fn tenants(one: &One) -> Outcome {
    let tenants = one.remote.client()?.tenants(&one.fleet).await?;
    if one.format.json {
        output::json(&tenants)?
    } else {
        tenants_table(&tenants)?
    }
    Ok(Exit::Done)
}

fn tenants_table(tenants: &TenantList) -> Outcome<()> {
    if tenants.items.is_empty() {
        output::note("no tenant ever had a task there");
        return Ok(());
    }
    let head = ["TENANT", "WEIGHT", "READY", "QUEUED", "RUNNING", "AT MOST", "SUCCEEDED", "FAILED"];
    let mut table = Table::new(&head);
    for tenant in &tenants.items {
        table.row(vec![
            tenant.tenant.to_string(),
            tenant.weight.to_string(),
            tenant.ready.to_string(),
            tenant.tasks.queued.to_string(),
            tenant.tasks.running.to_string(),
            tenant.max_running.map_or_else(|| "-".into(), |most| most.to_string()),
            tenant.tasks.succeeded.to_string(),
            tenant.tasks.failed.to_string(),
        ]);
    }
    table.print()
}

fn table(fleets: &[FleetStatus]) -> Outcome<()> {
    if fleets.is_empty() {
        output::note("no fleets are declared");
        return Ok(());
    }
    let head = [
        "FLEET",
        "WORKERS",
        "READY",
        "QUEUED",
        "RUNNABLE",
        "RUNNING",
        "SUCCEEDED",
        "FAILED",
        "OLDEST WAIT",
        "NOTE",
    ];
    let mut table = Table::new(&head);
    for fleet in fleets {
        table.row(vec![
            fleet.name.to_string(),
            present(fleet).to_string(),
            fleet.workers.ready.to_string(),
            fleet.tasks.queued.to_string(),
            fleet.runnable.to_string(),
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
        _ if fleet.paused => "paused".into(),
        (None, true, Some(replicas)) => format!("held at {replicas} by hand"),
        _ if draining > 0 => format!("{draining} draining"),
        _ if fleet.depth.held_by_provider > 0 => {
            format!("{} held: a provider cannot be reached", fleet.depth.held_by_provider)
        }
        _ if fleet.depth.held_by_cap > 0 => format!("{} held by a cap", fleet.depth.held_by_cap),
        _ => String::new(),
    }
}

fn details(fleet: &FleetStatus) -> Outcome<()> {
    let declared = &fleet.declaration;
    let (tasks, workers) = (&fleet.tasks, &fleet.workers);
    if let Some(trouble) = &fleet.trouble {
        output::line(&paint(&format!("trouble       {}", clean(trouble)), Paint::Bad))?;
    }
    for note in &fleet.notes {
        output::line(&format!("note          {}", clean(note)))?;
    }
    let facts = [
        ("fleet", format!("{} (release {})", fleet.name, fleet.release)),
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
        ("held", held(&fleet.depth)),
        ("caps", caps(fleet)),
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

/// What queued tasks wait for that no worker can give.
fn held(depth: &Depth) -> String {
    let reasons = [
        (depth.scheduled, "by time"),
        (depth.held_by_conversation, "by conversations"),
        (depth.held_by_cap, "by caps"),
        (depth.held_by_provider, "by providers"),
        (depth.held_by_pause, "by the pause"),
    ];
    let reasons = reasons.iter().filter(|(count, _)| *count > 0).map(|(count, by)| format!("{count} {by}"));
    let reasons: Vec<_> = reasons.collect();
    if reasons.is_empty() { "none".into() } else { reasons.join(", ") }
}

fn caps(fleet: &FleetStatus) -> String {
    let declared = &fleet.declaration;
    let caps = [
        fleet.paused.then(|| "paused".to_owned()),
        declared.max_running.map(|most| format!("{most} running")),
        declared.tenants.max_running.map(|most| format!("{most} running of each tenant")),
        declared.rate.map(|rate| format!("{} starts per {}", rate.tasks, length(rate.per_ms))),
    ];
    let caps: Vec<_> = caps.into_iter().flatten().collect();
    if caps.is_empty() { "none".into() } else { caps.join(", ") }
}

fn runnable(fleet: &FleetStatus) -> String {
    match fleet.oldest_wait_ms {
        Some(ms) => format!("{} now, the oldest for {}", fleet.runnable, length(ms)),
        None => format!("{} now", fleet.runnable),
    }
}
