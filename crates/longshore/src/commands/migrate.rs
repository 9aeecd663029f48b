//! `longshore migrate`: the schema of the shared store, brought to this version's by hand.

use longshore_server::{StartError, migrate, migration_script};
use serde_json::json;

use crate::cli::{ConfigFile, Format};
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output;

/// The schema of a file without one.
const SCHEMA: &str = "longshore";

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Not needed with `[store] migrate = \"auto\"`, the default. With \"check\" a control plane refuses \
    to start with an older schema; replicas of the version before go on working with a newer one."
)]
pub struct Args {
    /// Print the statements and change nothing
    #[arg(long)]
    sql: bool,

    /// With --sql: the version that the schema is at; 0 for one that is not there
    #[arg(long, value_name = "VERSION", default_value_t = 0, requires = "sql")]
    from: usize,

    #[command(flatten)]
    config: ConfigFile,

    #[command(flatten)]
    format: Format,
}

pub async fn run(args: Args) -> Outcome {
    let found = args.config.load()?;
    let store = &found.settings.store;
    if args.sql {
        let schema = store.shared.as_ref().map_or(SCHEMA, |shared| &shared.schema);
        let script = migration_script(schema, args.from).ok_or_else(|| {
            Fault::new(format!("this longshore knows no version {} of the schema", args.from))
        })?;
        output::line(script.trim_end())?;
        return Ok(Exit::Done);
    }
    let Some((from, to)) = migrate(store).await.map_err(could_not)? else {
        return Err(Fault::new(format!("{} names no shared store", found.path.display()))
            .hint("the embedded store is migrated when it is opened; `--sql` prints the statements of the shared one"));
    };
    match (args.format.json, from == to) {
        (true, _) => output::json(&json!({ "from": from, "to": to }))?,
        (false, true) => output::note(&format!("the schema is at version {to} already")),
        (false, false) => output::note(&format!("the schema went from version {from} to {to}")),
    }
    Ok(Exit::Done)
}

fn could_not(error: StartError) -> Fault {
    let fault = Fault::of(&error);
    match error.hint() {
        Some(hint) => fault.hint(hint),
        None => fault,
    }
}
