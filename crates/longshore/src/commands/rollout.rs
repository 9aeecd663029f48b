//! `longshore deploy` and `longshore rollout`: another release, how it comes in, and the way back.

use std::time::Duration;

use longshore_api::client::{Client, ClientError};
use longshore_api::problem::Problem;
use longshore_api::rollout::{Deploy, Deployed, ReleaseList, Rollout, RolloutList, Undo};
use longshore_core::container::Image;
use longshore_platform::registry::Registries;
use tokio::time::sleep;

use super::wait::{Patience, Stumble, over, passes};
use crate::cli::{Format, Remote};
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output::{self, Table, ago, clean, shorten};
use crate::signals;

/// What a control plane answers that does not see the image: its registry may hide from one login what another may see.
const UNSEEN: [&str; 2] = ["digest_unknown", "image_missing"];

/// How often a rollout is asked for while it is waited for.
const ASK: Duration = Duration::from_millis(300);

#[derive(Debug, clap::Args)]
pub struct DeployArgs {
    /// Fleet
    #[arg(value_name = "FLEET")]
    fleet: String,

    /// Image, such as registry.internal/research:1.4.2
    #[arg(value_name = "IMAGE")]
    image: String,

    /// What the image was built from
    #[arg(long, value_name = "COMMIT")]
    commit: Option<String>,

    /// On Kubernetes: name it by its tag alone, for images that nodes have without any registry
    #[arg(long)]
    by_tag: bool,

    /// Do not wait until it is through
    #[arg(long)]
    detach: bool,

    /// Take the place of a rollout that is under way
    #[arg(long)]
    supersede: bool,

    /// Wait for so long at most; the rollout goes on
    #[arg(long, value_name = "TIME", value_parser = super::submit::duration)]
    timeout: Option<Duration>,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Where the newest rollout of a fleet stands
    Status(One),
    /// Let it stand still
    Pause(One),
    /// Let it go on
    Resume(One),
    /// Go back: the rollout under way, or to the release before
    Undo(UndoArgs),
    /// Wait for the end of the newest rollout; exit status 3 when it was rolled back
    Wait(WaitArgs),
    /// Rollouts of a fleet, or of all
    History(HistoryArgs),
    /// Releases of a fleet, with what attempts on each have come to
    Releases(One),
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

#[derive(Debug, clap::Args)]
struct UndoArgs {
    #[command(flatten)]
    one: One,

    /// A release of the fleet; without it the one that it ran before
    #[arg(long, value_name = "RELEASE")]
    to: Option<u64>,

    /// Do not wait until it is through
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, clap::Args)]
struct WaitArgs {
    #[command(flatten)]
    one: One,

    /// Wait for so long at most; the rollout goes on
    #[arg(long, value_name = "TIME", value_parser = super::submit::duration)]
    timeout: Option<Duration>,
}

#[derive(Debug, clap::Args)]
struct HistoryArgs {
    /// Fleet; all without it
    #[arg(value_name = "FLEET")]
    fleet: Option<String>,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

pub async fn deploy(args: DeployArgs) -> Outcome {
    let client = args.remote.client()?;
    let wish = Deploy {
        fleet: args.fleet.clone(),
        image: args.image,
        commit: args.commit,
        by_tag: args.by_tag,
        supersede: args.supersede,
    };
    let deployed = match client.deploy(&wish).await {
        Err(ClientError::Problem(problem)) if UNSEEN.contains(&&*problem.code) => {
            client.deploy(&pinned_here(wish, *problem).await?).await?
        }
        deployed => deployed?,
    };
    let rollout = match (args.detach, &deployed.rollout) {
        (false, Some(rollout)) => rollout.number,
        _ => return told(&args.fleet, &deployed, args.format),
    };
    let ended = for_end(&client, &args.fleet, Some(rollout), args.timeout, !args.format.json).await?;
    ending(&ended, Goal::Through, args.format)
}

/// The same by digest, asked from here: who builds and pushes images has a login that a control plane may lack.
///
/// Errors: what the control plane said, and why it is not known here either.
async fn pinned_here(mut wish: Deploy, problem: Problem) -> Outcome<Deploy> {
    let refused = || Fault::from(ClientError::Problem(Box::new(problem)));
    let Ok(image) = Image::parse(&wish.image) else { return Err(refused()) };
    match Registries::default().find(&image).await {
        Ok(found) => {
            let pinned = image.by_digest(&found.digest).to_string();
            output::note(&format!(
                "the control plane does not see the image at registry `{}`; here it is `{pinned}`",
                image.registry()
            ));
            wish.commit = wish.commit.or(found.revision);
            wish.image = pinned;
            Ok(wish)
        }
        Err(why) => Err(refused().details([format!("nor is it from here: {why}")])),
    }
}

pub async fn run(args: Args) -> Outcome {
    match args.action {
        Action::Status(one) => show(&one, &one.remote.client()?.rollout(&one.fleet, None).await?),
        Action::Pause(one) => show(&one, &one.remote.client()?.pause_rollout(&one.fleet).await?),
        Action::Resume(one) => show(&one, &one.remote.client()?.resume_rollout(&one.fleet).await?),
        Action::Undo(args) => undo(args).await,
        Action::Wait(args) => {
            let client = args.one.remote.client()?;
            let ended = for_end(&client, &args.one.fleet, None, args.timeout, !args.one.format.json).await?;
            ending(&ended, Goal::Through, args.one.format)
        }
        Action::History(args) => {
            let list = args.remote.client()?.rollouts(args.fleet.as_deref()).await?;
            if args.format.json {
                output::json(&list)?
            } else {
                history(&list)?
            }
            Ok(Exit::Done)
        }
        Action::Releases(one) => {
            let list = one.remote.client()?.releases(&one.fleet).await?;
            if one.format.json {
                output::json(&list)?
            } else {
                releases(&list)?
            }
            Ok(Exit::Done)
        }
    }
}

async fn undo(args: UndoArgs) -> Outcome {
    let client = args.one.remote.client()?;
    let undone = client.undo_rollout(&args.one.fleet, &Undo { to: args.to }).await?;
    let Some(rollout) = undone.rollout.as_ref().filter(|_| !args.detach) else {
        return told(&args.one.fleet, &undone, args.one.format);
    };
    // The one that was under way goes back; else another one comes.
    let goal = if rollout.phase == "rolling_back" { Goal::Back } else { Goal::Through };
    let number = Some(rollout.number);
    let ended = for_end(&client, &args.one.fleet, number, None, !args.one.format.json).await?;
    ending(&ended, goal, args.one.format)
}

fn told(fleet: &str, deployed: &Deployed, format: Format) -> Outcome {
    if format.json {
        output::json(deployed)?;
    } else {
        output::line(&match (&deployed.rollout, deployed.outcome.as_str()) {
            (Some(rollout), _) => {
                format!("rollout {} of fleet {fleet}: {}", rollout.number, clean(&rollout.says))
            }
            (None, _) => format!("fleet {fleet} runs that already, as release {}", deployed.release),
        })?;
    }
    Ok(Exit::Done)
}

/// What a rollout that is waited for should come to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goal {
    Through,
    Back,
}

fn ending(rollout: &Rollout, goal: Goal, format: Format) -> Outcome {
    if format.json {
        output::json(rollout)?;
    } else {
        output::line(&format!(
            "rollout {} of fleet {}: {}",
            rollout.number,
            rollout.fleet,
            clean(&rollout.says)
        ))?;
    }
    let reached = match goal {
        Goal::Through => rollout.phase == "done",
        Goal::Back => rollout.phase == "rolled_back",
    };
    Ok(if reached { Exit::Done } else { Exit::TaskFailed })
}

/// Waits for a rollout's end, through restarts of the control plane; says what it does meanwhile.
async fn for_end(
    client: &Client,
    fleet: &str,
    number: Option<u64>,
    limit: Option<Duration>,
    tell: bool,
) -> Outcome<Rollout> {
    let first = client.rollout(fleet, number).await?;
    tokio::select! {
        biased;
        ended = follow(client, first, tell) => ended,
        () = over(limit) => {
            let limit = output::length(limit.unwrap_or_default().as_millis() as u64);
            Err(Fault::new(format!("the rollout of fleet {fleet} has not ended within {limit}; it goes on"))
                .exit(Exit::TimedOut)
                .hint(format!("`longshore rollout wait {fleet}` waits on, `longshore rollout undo {fleet}` goes back")))
        }
        () = signals::interrupted() => {
            output::note(&format!("interrupted; the rollout goes on: `longshore rollout status {fleet}` shows it"));
            Err(Fault::quiet(Exit::Interrupted))
        }
    }
}

async fn follow(client: &Client, mut rollout: Rollout, tell: bool) -> Outcome<Rollout> {
    let (fleet, number) = (rollout.fleet.to_string(), rollout.number);
    let mut said = String::new();
    let mut patience = Patience::default();
    loop {
        if rollout.ended_at.is_some() {
            return Ok(rollout);
        }
        let says = steady(&rollout.says);
        if tell && says != said {
            output::note(&clean(&rollout.says));
            said = says;
        }
        sleep(ASK).await;
        match client.rollout(&fleet, Some(number)).await {
            Ok(newer) => {
                rollout = newer;
                patience.reset();
            }
            Err(error) => match Stumble::from(error) {
                stumble if passes(&stumble) => patience.pause(stumble).await?,
                stumble => return Err(stumble.into()),
            },
        }
    }
}

/// A sentence without its numbers of seconds, which change at each look.
fn steady(says: &str) -> String {
    says.split(", and watched for").next().unwrap_or(says).to_owned()
}

fn show(one: &One, rollout: &Rollout) -> Outcome {
    if one.format.json {
        output::json(rollout)?;
        return Ok(Exit::Done);
    }
    output::line(&format!(
        "rollout {} of fleet {}: {}",
        rollout.number,
        rollout.fleet,
        clean(&rollout.says)
    ))?;
    let used = output::length(rollout.spent_ms);
    if rollout.ended_at.is_none() {
        let began = ago(rollout.started_at);
        output::line(&match rollout.deadline_ms.map(output::length) {
            Some(all) => format!("began {began} ago; {used} of its {all} used"),
            None => format!("began {began} ago; it has no deadline here"),
        })?;
    }
    let mut table = Table::new(&["RELEASE", "STARTING", "READY", "NOT READY", "DRAINING"]);
    for (release, workers) in &rollout.workers {
        table.row(vec![
            release.to_string(),
            workers.starting.to_string(),
            workers.ready.to_string(),
            workers.not_ready.to_string(),
            workers.draining.to_string(),
        ]);
    }
    table.print()?;
    Ok(Exit::Done)
}

fn history(list: &RolloutList) -> Outcome<()> {
    let mut table = Table::new(&["FLEET", "ROLLOUT", "FROM", "TO", "BEGAN", "TOOK", "PHASE", "WHY"]);
    for it in &list.items {
        let took = it.ended_at.map(|at| output::length(at.since(it.started_at).as_millis() as u64));
        table.row(vec![
            it.fleet.to_string(),
            it.number.to_string(),
            it.from.to_string(),
            it.to.to_string(),
            format!("{} ago", ago(it.started_at)),
            took.unwrap_or_default(),
            it.phase.clone(),
            shorten(it.reason.as_deref().unwrap_or(""), 100),
        ]);
    }
    table.print()
}

fn releases(list: &ReleaseList) -> Outcome<()> {
    let mut table = Table::new(&[
        "RELEASE",
        "SERVING",
        "MADE",
        "IMAGE OR COMMAND",
        "COMMIT",
        "SUCCEEDED",
        "FAILED",
        "MEAN",
        "COST",
    ]);
    for it in &list.items {
        table.row(vec![
            it.number.to_string(),
            if it.serving { "yes".into() } else { String::new() },
            format!("{} ago", ago(it.created_at)),
            shorten(&it.image.clone().unwrap_or_else(|| it.command.join(" ")), 60),
            it.commit.clone().unwrap_or_default(),
            it.succeeded.to_string(),
            it.failed.to_string(),
            it.latency_ms.map(output::length).unwrap_or_default(),
            it.cost.clone(),
        ]);
    }
    table.print()
}
