//! `longshore apply`: hands the fleets of longshore.toml to a control plane, after showing what that changes.

use longshore_api::client::ClientError;
use longshore_api::fleet::{Applied, Apply, Change};

use super::ask;
use crate::cli::{ConfigFile, Format, Remote};
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output::{self, Paint, clean, paint};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,

    /// Do not ask
    #[arg(short, long, conflicts_with = "dry_run")]
    yes: bool,

    #[command(flatten)]
    config: ConfigFile,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

pub async fn run(args: Args) -> Outcome {
    let found = args.config.load()?;
    let client = args.remote.client()?;
    let mut wanted = Apply { fleets: found.settings.fleets, dry_run: true };
    let plan = client.apply(&wanted).await?;
    let nothing = plan.changes.iter().all(|change| change.kind == "unchanged");
    if args.dry_run || (nothing && args.format.json) {
        return shown(&args, &plan);
    }
    if !args.format.json {
        show(&plan)?;
    }
    if nothing {
        return Ok(Exit::Done);
    }
    if !args.yes && !ask::confirmed("apply?", "apply this", "say --yes, or --dry-run")? {
        output::note("nothing was changed");
        return Ok(Exit::Error);
    }
    wanted.dry_run = false;
    let applied = client.apply(&wanted).await.map_err(explained)?;
    match args.format.json {
        true => output::json(&applied)?,
        false => output::line("applied")?,
    }
    Ok(Exit::Done)
}

fn shown(args: &Args, plan: &Applied) -> Outcome {
    match args.format.json {
        true => output::json(plan)?,
        false => show(plan)?,
    }
    Ok(Exit::Done)
}

fn show(plan: &Applied) -> Outcome<()> {
    if plan.changes.iter().all(|change| change.kind == "unchanged") {
        return output::line("no changes");
    }
    for change in plan.changes.iter().filter(|change| change.kind != "unchanged") {
        show_change(change)?;
    }
    Ok(())
}

fn show_change(change: &Change) -> Outcome<()> {
    let (sign, colour) = match change.kind.as_str() {
        "added" => ("+", Paint::Good),
        "removed" => ("-", Paint::Bad),
        _ => ("~", Paint::Warn),
    };
    let effect = match (change.kind.as_str(), change.restarts) {
        ("removed", _) => ": its workers are drained; its tasks stay",
        ("changed", true) => ": its workers are replaced",
        _ => "",
    };
    output::line(&paint(&format!("{sign} fleet {}{effect}", clean(&change.fleet)), colour))?;
    for difference in &change.differences {
        output::line(&format!("    {}", clean(difference)))?;
    }
    Ok(())
}

fn explained(error: ClientError) -> Fault {
    let by_file = error.problem().is_some_and(|problem| problem.code == "managed_by_file");
    let fault = Fault::from(error);
    match by_file {
        true => fault.details([
            "a control plane takes its fleets either from its own longshore.toml (the default) or from `apply`".into(),
        ]),
        false => fault,
    }
}
