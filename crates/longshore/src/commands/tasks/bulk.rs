//! Cancels or retries all tasks that a filter finds: counts first, asks, then goes on page by page.

use longshore_api::bulk::{Bulk, BulkDone};
use longshore_api::client::{Client, ClientError};
use longshore_api::search::Filter;
use uuid::Uuid;

use super::super::ask;
use super::super::submit::again;
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output;

#[derive(Debug, clap::Args)]
pub struct Carefully {
    /// Every task that is in a fitting state
    #[arg(long)]
    all: bool,

    /// Only count
    #[arg(long)]
    dry_run: bool,

    /// Do not ask
    #[arg(short, long, conflicts_with = "dry_run")]
    yes: bool,
}

impl Carefully {
    /// Whether one of these was said, which make sense with a filter only.
    pub fn said(&self) -> bool {
        self.all || self.dry_run || self.yes
    }
}

/// What is done to them.
#[derive(Clone, Debug)]
pub enum Action {
    Cancel { reason: Option<String> },
    Retry { key: Option<String> },
}

impl Action {
    fn verb(&self) -> &'static str {
        match self {
            Action::Cancel { .. } => "cancel",
            Action::Retry { .. } => "retry",
        }
    }

    fn done(&self) -> &'static str {
        match self {
            Action::Cancel { .. } => "are cancelled or told to stop",
            Action::Retry { .. } => "run again as new tasks",
        }
    }
}

pub async fn run(client: &Client, action: Action, filter: Filter, how: &Carefully, json: bool) -> Outcome {
    let asked = Bulk { filter, all: how.all, ..Bulk::default() };
    let counted = all_pages(client, &action, Bulk { dry_run: true, ..asked.clone() }).await?;
    if how.dry_run || counted.matched == 0 {
        return tell(&counted, &format!("{} tasks match; nothing was changed", counted.matched), json);
    }
    let verb = action.verb();
    let question = format!("{verb} {} tasks?", counted.matched);
    let hint = "say --yes, or --dry-run to count only";
    if !how.yes && !ask::confirmed(&question, &format!("{verb} {} tasks", counted.matched), hint)? {
        output::note("nothing was changed");
        return Ok(Exit::Error);
    }
    // More may match by now; what was not seen is not touched. With --yes nothing was shown.
    let at_most = (!how.yes).then_some(counted.matched);
    let done = all_pages(client, &action, Bulk { at_most, ..with_reason(asked, &action) }).await?;
    let skipped = match done.skipped {
        0 => String::new(),
        skipped => format!("; {skipped} were left alone, since they changed meanwhile or were done before"),
    };
    tell(&done, &format!("{} tasks {}{skipped}", done.changed, action.done()), json)
}

fn with_reason(asked: Bulk, action: &Action) -> Bulk {
    match action {
        Action::Cancel { reason } => Bulk { reason: reason.clone(), ..asked },
        Action::Retry { .. } => asked,
    }
}

fn tell(done: &BulkDone, text: &str, json: bool) -> Outcome {
    match json {
        true => output::json(done)?,
        false => output::line(text)?,
    }
    Ok(Exit::Done)
}

/// Follows the cursor to the end and adds up. A request whose answer was lost is sent again: it does nothing twice.
async fn all_pages(client: &Client, action: &Action, mut asked: Bulk) -> Outcome<BulkDone> {
    let key = match action {
        Action::Retry { key: Some(key) } => key.clone(),
        _ => Uuid::now_v7().to_string(),
    };
    let mut sum = BulkDone { dry_run: asked.dry_run, ..BulkDone::default() };
    loop {
        let page = again(async || page(client, action, &asked, &key).await).await;
        let page = page.map_err(|error| broke_off(error, action, &sum, &key))?;
        sum.matched += page.matched;
        sum.changed += page.changed;
        sum.skipped += page.skipped;
        sum.created.extend(page.created);
        match page.next_cursor {
            Some(cursor) => asked.cursor = Some(cursor),
            None => return Ok(sum),
        }
    }
}

async fn page(client: &Client, action: &Action, asked: &Bulk, key: &str) -> Result<BulkDone, ClientError> {
    match action {
        Action::Cancel { .. } => client.cancel_many(asked).await,
        Action::Retry { .. } => client.retry_many(asked, Some(key)).await,
    }
}

fn broke_off(error: ClientError, action: &Action, sum: &BulkDone, key: &str) -> Fault {
    let fault = Fault::from(error);
    match action {
        Action::Retry { .. } if !sum.dry_run => fault
            .details([format!("{} tasks were retried before", sum.changed)])
            .hint(format!("run it again with --idempotency-key {key}: none is retried twice")),
        _ => fault,
    }
}
