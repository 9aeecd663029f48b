//! `longshore webhooks`: list, deliveries, retry, test, enable.

use longshore_api::webhook::{Delivery, RetryDeliveries, Webhook};

use crate::cli::{Format, Remote};
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output::{self, Table, ago, length, shorten};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List webhooks and what they are owed
    List(All),
    /// List messages of a webhook, newest first
    Deliveries(Deliveries),
    /// Send a message again, or all that were given up
    Retry(Retry),
    /// Send a message of type `webhook.test` once, and say what came of it
    Test(One),
    /// Send to a webhook again that was switched off since its receiver answered 410
    Enable(One),
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
    /// Webhook
    #[arg(value_name = "NAME")]
    name: String,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
struct Deliveries {
    #[command(flatten)]
    webhook: One,

    /// Only in this state
    #[arg(long, value_name = "STATE", value_parser = ["pending", "delivered", "failed"])]
    state: Option<String>,

    /// How many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,

    /// Go on where an earlier list ended
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,
}

#[derive(Debug, clap::Args)]
struct Retry {
    #[command(flatten)]
    webhook: One,

    /// The message, even if it was delivered
    #[arg(value_name = "ID", required_unless_present = "failed", conflicts_with = "failed")]
    id: Option<String>,

    /// All that were given up
    #[arg(long)]
    failed: bool,
}

pub async fn run(args: Args) -> Outcome {
    match args.what {
        What::List(args) => list(&args).await,
        What::Deliveries(args) => deliveries(&args).await,
        What::Retry(args) => retry(&args).await,
        What::Test(args) => test(&args).await,
        What::Enable(args) => enable(&args).await,
    }
}

async fn list(args: &All) -> Outcome {
    let webhooks = args.remote.client()?.webhooks().await?;
    if args.format.json {
        output::json(&webhooks)?;
        return Ok(Exit::Done);
    }
    if webhooks.items.is_empty() {
        output::note("no webhooks are declared");
        return Ok(Exit::Done);
    }
    let mut table =
        Table::new(&["WEBHOOK", "URL", "FLEETS", "STATES", "PENDING", "OLDEST", "FAILED", "NOTE"]);
    for webhook in &webhooks.items {
        let fleets: Vec<&str> = webhook.fleets.iter().map(|fleet| fleet.as_str()).collect();
        let states: Vec<&str> = webhook.states.iter().map(|state| state.as_str()).collect();
        table.row(vec![
            webhook.name.to_string(),
            shorten(&webhook.url, 60),
            if fleets.is_empty() { "all".into() } else { fleets.join(",") },
            if states.len() == 3 { "all".into() } else { states.join(",") },
            webhook.pending.to_string(),
            webhook.oldest_pending_ms.map_or_else(|| "-".into(), length),
            webhook.failed.to_string(),
            shorten(&note(webhook), 60),
        ]);
    }
    table.print()?;
    Ok(Exit::Done)
}

fn note(webhook: &Webhook) -> String {
    match (&webhook.disabled, webhook.active) {
        (_, false) => "no longer declared".into(),
        (Some(why), true) => format!("off: {why}"),
        (None, true) => String::new(),
    }
}

async fn deliveries(args: &Deliveries) -> Outcome {
    let One { name, format, remote } = &args.webhook;
    let page = remote.client()?.deliveries(name, args.state.as_deref(), args.before, args.limit).await?;
    if format.json {
        output::json(&page)?;
        return Ok(Exit::Done);
    }
    if page.items.is_empty() {
        output::note("no messages");
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["ID", "TYPE", "STATE", "TRIES", "STATUS", "AGE", "NOTE"]);
    for delivery in &page.items {
        table.row(vec![
            delivery.id.clone(),
            delivery.kind.clone(),
            delivery.state.clone(),
            delivery.tries.to_string(),
            delivery.status.map_or_else(|| "-".into(), |status| status.to_string()),
            ago(delivery.at),
            shorten(&remark(delivery), 80),
        ]);
    }
    table.print()?;
    if let Some(before) = page.next_before {
        output::note(&format!("there are more: --before {before}"));
    }
    Ok(Exit::Done)
}

fn remark(delivery: &Delivery) -> String {
    let error = delivery.error.clone().unwrap_or_default();
    match delivery.next_at.filter(|_| delivery.tries > 0) {
        Some(at) => format!("again at {at}: {error}"),
        None => error,
    }
}

async fn retry(args: &Retry) -> Outcome {
    let One { name, format, remote } = &args.webhook;
    let which = RetryDeliveries { id: args.id.clone() };
    let retried = remote.client()?.retry_deliveries(name, &which).await?;
    match format.json {
        true => output::json(&retried)?,
        false => output::line(&format!("messages that are sent again: {}", retried.count))?,
    }
    Ok(Exit::Done)
}

async fn test(args: &One) -> Outcome {
    let test = args.remote.client()?.test_webhook(&args.name).await?;
    let took = length(test.ms);
    match (args.format.json, test.delivered) {
        (true, _) => output::json(&test)?,
        (false, true) => output::line(&format!("{} took the message within {took}", args.name))?,
        (false, false) => {
            let why = test.error.unwrap_or_else(|| "no answer".into());
            return Err(Fault::new(format!("{} did not take the message: {why}", args.name)));
        }
    }
    Ok(if test.delivered { Exit::Done } else { Exit::Error })
}

async fn enable(args: &One) -> Outcome {
    let webhook = args.remote.client()?.enable_webhook(&args.name).await?;
    match args.format.json {
        true => output::json(&webhook)?,
        false => output::line(&format!("{} is on; {} messages are owed", args.name, webhook.pending))?,
    }
    Ok(Exit::Done)
}
