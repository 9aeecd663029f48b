//! `longshore tenants`: erase.

use longshore_api::client::Client;
use longshore_api::tenant::{EraseQuery, TenantErased};

use super::ask;
use crate::cli::{Format, Remote};
use crate::error::Outcome;
use crate::exit::Exit;
use crate::output::{self, clean};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Erase all that belongs to a tenant, for good; what runs is cancelled first
    Erase(Erase),
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Copies are not touched: backups of the store, and the copies that an upgrade leaves beside it \
    (longshore.db.v*.bak)."
)]
struct Erase {
    /// Tenant
    #[arg(value_name = "ID")]
    tenant: String,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,

    /// Do not rewrite the store's file: quicker, but what was erased can still be found in its free space
    #[arg(long)]
    no_compact: bool,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

pub async fn run(args: Args) -> Outcome {
    match args.what {
        What::Erase(args) => erase(&args).await,
    }
}

async fn erase(args: &Erase) -> Outcome {
    let client = args.remote.client()?;
    let tenant = clean(&args.tenant);
    let question =
        format!("erase all tasks, results, conversations and batches of tenant `{tenant}` for good?");
    if !args.yes && !ask::confirmed(&question, "erase a tenant", "say --yes")? {
        output::note("nothing was erased");
        return Ok(Exit::Error);
    }
    let sum = until_complete(&client, args).await?;
    if args.format.json {
        output::json(&sum)?;
        return Ok(Exit::Done);
    }
    let TenantErased { cancelled, tasks, conversations, batches, .. } = sum;
    output::line(&format!(
        "erased: {tasks} tasks ({cancelled} were cancelled first), {conversations} conversations, {batches} batches"
    ))?;
    if !sum.compacted {
        output::note(
            "the store's file was not rewritten: run it again without --no-compact to leave no byte",
        );
    }
    Ok(Exit::Done)
}

/// Asks again until nothing is left; each answer comes within a minute.
async fn until_complete(client: &Client, args: &Erase) -> Outcome<TenantErased> {
    let how = EraseQuery { compact: args.no_compact.then_some(false) };
    let mut sum = TenantErased::default();
    loop {
        let step = client.erase_tenant(&args.tenant, &how).await?;
        sum = TenantErased {
            cancelled: sum.cancelled + step.cancelled,
            tasks: sum.tasks + step.tasks,
            conversations: sum.conversations + step.conversations,
            batches: sum.batches + step.batches,
            ..step
        };
        if sum.complete {
            return Ok(sum);
        }
        output::note(&format!("{} tasks are erased; {} still run", sum.tasks, sum.running));
    }
}
