//! `longshore schedules`: list, show, pause, resume, run.

use longshore_api::schedule::{Schedule, ScheduleEvent};

use crate::cli::{Format, Remote};
use crate::error::Outcome;
use crate::exit::Exit;
use crate::output::{self, Table, ago, clean, shorten};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List schedules, each with its next tick
    List(All),
    /// Show one schedule with its next ticks and what happened lately
    Show(One),
    /// Make no tasks of its ticks, nor make up for them later
    Pause(One),
    /// Let it go on, from now
    Resume(One),
    /// Submit its task now; its ticks stay as they are
    Run(One),
}

#[derive(Debug, clap::Args)]
struct All {
    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
struct One {
    /// Schedule
    #[arg(value_name = "NAME")]
    name: String,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

pub async fn run(args: Args) -> Outcome {
    match args.what {
        What::List(args) => list(&args).await,
        What::Show(args) => show(&args).await,
        What::Pause(args) => pause(&args, true).await,
        What::Resume(args) => pause(&args, false).await,
        What::Run(args) => run_now(&args).await,
    }
}

async fn list(args: &All) -> Outcome {
    let schedules = args.remote.client()?.schedules().await?;
    if args.format.json {
        output::json(&schedules)?;
        return Ok(Exit::Done);
    }
    if schedules.items.is_empty() {
        output::note("no schedules are declared");
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["SCHEDULE", "FLEET", "CRON", "ZONE", "NEXT", "FIRED", "LOST", "NOTE"]);
    for schedule in &schedules.items {
        let ticks = &schedule.ticks;
        table.row(vec![
            schedule.name.to_string(),
            schedule.fleet.to_string(),
            schedule.cron.clone(),
            schedule.timezone.clone(),
            schedule.next.first().map_or_else(|| "-".into(), |tick| without_zone(&tick.local)),
            ticks.fired.to_string(),
            (ticks.missed + ticks.overlapped + ticks.refused).to_string(),
            note(schedule).into(),
        ]);
    }
    table.print()?;
    Ok(Exit::Done)
}

/// The zone has a column of its own.
fn without_zone(local: &str) -> String {
    local.split('[').next().unwrap_or(local).to_owned()
}

fn note(schedule: &Schedule) -> &'static str {
    match (schedule.active, schedule.paused) {
        (false, _) => "no longer declared",
        (true, true) => "paused",
        (true, false) => "",
    }
}

async fn show(args: &One) -> Outcome {
    let schedule = args.remote.client()?.schedule(&args.name).await?;
    if args.format.json {
        output::json(&schedule)?
    } else {
        print(&schedule)?
    }
    Ok(Exit::Done)
}

fn print(schedule: &Schedule) -> Outcome<()> {
    let ticks = &schedule.ticks;
    let mut facts = vec![
        ("schedule", schedule.name.to_string()),
        ("fleet", schedule.fleet.to_string()),
        ("cron", format!("{} ({})", schedule.cron, schedule.timezone)),
        ("missed", format!("{:?}", schedule.missed).to_lowercase()),
        ("overlap", format!("{:?}", schedule.overlap).to_lowercase()),
        (
            "ticks",
            format!(
                "{} fired, {} missed, {} overlapped, {} refused",
                ticks.fired, ticks.missed, ticks.overlapped, ticks.refused
            ),
        ),
    ];
    facts.extend(Some(note(schedule)).filter(|note| !note.is_empty()).map(|note| ("note", note.into())));
    facts.extend(schedule.last_task.map(|task| ("last task", task.to_string())));
    facts.extend(schedule.next.iter().map(|tick| ("next", tick.local.clone())));
    for (name, value) in facts {
        output::line(&format!("{name:<13} {}", clean(&value)))?;
    }
    events(&schedule.events)?;
    if let Some(input) = &schedule.input {
        output::line("\ninput")?;
        output::text(input.text())?;
    }
    Ok(())
}

fn events(events: &[ScheduleEvent]) -> Outcome<()> {
    if events.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["AGO", "WHAT", "DETAIL"]);
    for event in events {
        table.row(vec![ago(event.at), event.kind.clone(), shorten(event.data.text(), 100)]);
    }
    output::line("")?;
    table.print()
}

async fn pause(args: &One, paused: bool) -> Outcome {
    let schedule = args.remote.client()?.pause_schedule(&args.name, paused).await?;
    match (args.format.json, paused) {
        (true, _) => output::json(&schedule)?,
        (false, true) => output::line(&format!("{} is paused", args.name))?,
        (false, false) => {
            let next = schedule.next.first().map_or("never", |tick| &tick.local);
            output::line(&format!("{} goes on; next: {next}", args.name))?;
        }
    }
    Ok(Exit::Done)
}

async fn run_now(args: &One) -> Outcome {
    // Repeated by nobody: a second run is a second wish.
    let task = args.remote.client()?.run_schedule(&args.name, None).await?;
    if args.format.json {
        output::json(&task)?
    } else {
        output::line(&task.id.to_string())?
    }
    Ok(Exit::Done)
}
