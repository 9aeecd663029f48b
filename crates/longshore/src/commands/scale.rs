//! `longshore scale`: how many workers a fleet has, why, and setting it by hand.

use longshore_api::fleet::{Decision, ScaleStatus};

use crate::cli::{Format, Remote};
use crate::error::Outcome;
use crate::exit::Exit;
use crate::output::{self, Table, ago, clean, shorten};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Fleet
    #[arg(value_name = "FLEET")]
    fleet: String,

    /// Hold it at this many workers; the scaler stays off until --auto
    #[arg(long, value_name = "N", group = "what", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    replicas: Option<u32>,

    /// Give it back to the scaler
    #[arg(long, group = "what")]
    auto: bool,

    /// Tell the last decision in a sentence, with its numbers
    #[arg(long, group = "what")]
    explain: bool,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

pub async fn run(args: Args) -> Outcome {
    let client = args.remote.client()?;
    let set = args.auto || args.replicas.is_some();
    let status = match set {
        true => client.set_scale(&args.fleet, args.replicas).await?,
        false => client.scale(&args.fleet).await?,
    };
    match () {
        () if args.format.json => output::json(&status)?,
        () if set => output::line(&how(&status))?,
        () if args.explain => explain(&status)?,
        () => history(&status)?,
    }
    Ok(Exit::Done)
}

fn how(status: &ScaleStatus) -> String {
    match status.replicas {
        Some(replicas) => {
            format!("fleet {} was asked by hand for {replicas} workers, within its max", status.fleet)
        }
        None => format!("fleet {} is scaled by its queue", status.fleet),
    }
}

fn explain(status: &ScaleStatus) -> Outcome<()> {
    output::line(&how(status))?;
    let Some(newest) = status.decisions.first() else {
        return output::line(
            "the scaler has not decided anything: it began just now, or the fleet is `external` and you start its workers",
        );
    };
    output::line(&format!("{} ago: {}", ago(newest.at), clean(&newest.reason)))?;
    numbers(newest)
}

/// The numbers that it was decided from, nested ones as `load.runnable`.
fn numbers(decision: &Decision) -> Outcome<()> {
    let mut rows = Vec::new();
    let inputs: serde_json::Value = decision.inputs.read().unwrap_or_default();
    flatten("", &inputs, &mut rows);
    for (name, value) in rows.into_iter().filter(|(_, value)| value != "null" && value != "[]") {
        output::line(&format!("  {name:<28} {value}"))?;
    }
    Ok(())
}

fn flatten(prefix: &str, value: &serde_json::Value, rows: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&name, value, rows);
            }
        }
        other => rows.push((clean(prefix), clean(&other.to_string()))),
    }
}

fn history(status: &ScaleStatus) -> Outcome<()> {
    output::line(&how(status))?;
    if status.decisions.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["AGO", "DECISION", "FROM", "TO", "WHY"]);
    for decision in status.decisions.iter().take(10) {
        table.row(vec![
            ago(decision.at),
            decision.kind.clone(),
            decision.from.to_string(),
            decision.to.to_string(),
            shorten(&decision.reason, 100),
        ]);
    }
    table.print()
}
