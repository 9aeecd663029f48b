//! `longshore keys`: who may call the control plane. A new key is printed once and kept nowhere.

use std::time::Duration;

use longshore_api::key::{CreateKey, Key, usual_verbs};
use longshore_core::access::Verb;
use longshore_core::id::{FleetName, KeyId, TenantName};
use longshore_core::units;

use crate::cli::{Format, Remote};
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output::{self, Table, ago};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make a key; it is printed once
    Create(Create),
    /// Show keys, without what is secret about them
    List(List),
    /// Make a key worthless
    Revoke(Revoke),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Verbs: read (see), submit (submit, cancel, retry and answer tasks), operate (scale, drain), admin (everything).

Examples:\n  longshore keys create webshop --fleet research --expires 90d\n  \
longshore keys create dashboard --verbs read\n  longshore keys create gpu-box --join research")]
struct Create {
    /// What people call it
    #[arg(value_name = "NAME")]
    name: String,

    /// What it may do [default: read,submit]
    #[arg(long, value_name = "VERB", value_delimiter = ',', value_parser = verb, conflicts_with = "join")]
    verbs: Vec<Verb>,

    /// Only for these fleets
    #[arg(long = "fleet", value_name = "FLEET", value_delimiter = ',', conflicts_with = "join")]
    fleets: Vec<FleetName>,

    /// Only for this tenant's tasks
    #[arg(long, value_name = "TENANT", conflicts_with = "join")]
    tenant: Option<TenantName>,

    /// A key with which workers of this fleet join, and nothing else
    #[arg(long, value_name = "FLEET")]
    join: Option<FleetName>,

    /// How long it is good for [default: until it is revoked]
    #[arg(long, value_name = "90d", value_parser = length)]
    expires: Option<Duration>,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Revoked and expired ones as well
    #[arg(short, long)]
    all: bool,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
struct Revoke {
    /// Key, by its id in `longshore keys list`
    #[arg(value_name = "ID")]
    id: String,

    #[command(flatten)]
    format: Format,

    #[command(flatten)]
    remote: Remote,
}

fn verb(text: &str) -> Result<Verb, String> {
    let known = Verb::ALL.iter().filter(|verb| **verb != Verb::Join).map(|verb| verb.as_str());
    let wrong = || format!("expected {}", known.collect::<Vec<_>>().join(", "));
    Verb::parse(text.trim()).filter(|verb| *verb != Verb::Join).ok_or_else(wrong)
}

fn length(text: &str) -> Result<Duration, String> {
    match units::parse_duration(text) {
        Ok(0) => Err("expected more than nothing".into()),
        Ok(ms) => Ok(Duration::from_millis(ms)),
        Err(error) => Err(error.to_string()),
    }
}

pub async fn run(args: Args) -> Outcome {
    match args.what {
        What::Create(args) => create(args).await,
        What::List(args) => list(args).await,
        What::Revoke(args) => revoke(args).await,
    }
}

async fn create(args: Create) -> Outcome {
    let (verbs, fleets) = match args.join {
        Some(fleet) => (vec![Verb::Join], vec![fleet]),
        None if args.verbs.is_empty() => (usual_verbs(), args.fleets),
        None => (args.verbs, args.fleets),
    };
    let expires_at = args.expires.map(|length| output::now().after(length));
    let wanted = CreateKey { name: args.name, verbs, fleets, tenant: args.tenant, expires_at };
    let created = args.remote.client()?.create_key(&wanted).await?;
    if args.format.json {
        output::json(&created)?;
        return Ok(Exit::Done);
    }
    output::note(&format!(
        "key `{}` ({}); it is not shown again:",
        output::clean(&created.about.name),
        created.about.id
    ));
    // Alone on standard output, so that a script can take it.
    output::line(&created.key)?;
    Ok(Exit::Done)
}

async fn list(args: List) -> Outcome {
    let mut keys = args.remote.client()?.keys().await?;
    if !args.all {
        keys.items.retain(|key| key.standing == "good");
    }
    if args.format.json {
        output::json(&keys)?;
    } else if keys.items.is_empty() {
        output::note("no keys");
    } else {
        table(&keys.items)?;
    }
    Ok(Exit::Done)
}

fn table(keys: &[Key]) -> Outcome<()> {
    let mut table =
        Table::new(&["ID", "NAME", "KEY", "VERBS", "FLEETS", "TENANT", "STANDING", "EXPIRES", "USED"]);
    for key in keys {
        let fleets: Vec<&str> = key.fleets.iter().map(FleetName::as_str).collect();
        let verbs: Vec<&str> = key.verbs.iter().map(|verb| verb.as_str()).collect();
        table.row(vec![
            key.id.to_string(),
            key.name.clone(),
            key.hint.clone(),
            verbs.join(","),
            if fleets.is_empty() { "all".into() } else { fleets.join(",") },
            key.tenant.as_ref().map_or_else(|| "all".into(), ToString::to_string),
            key.standing.clone(),
            key.expires_at.map_or_else(|| "never".into(), |at| at.to_string()),
            key.used_at.map_or_else(|| "never".into(), |at| format!("{} ago", ago(at))),
        ]);
    }
    table.print()
}

async fn revoke(args: Revoke) -> Outcome {
    // Not by the parser of arguments: it would repeat what was given, which may be the key itself.
    let id: KeyId = args.id.parse().map_err(|error: longshore_core::id::IdError| {
        Fault::usage(error.to_string()).hint("`longshore keys list` shows the ids of keys")
    })?;
    let key = args.remote.client()?.revoke_key(id).await?;
    if args.format.json {
        output::json(&key)?;
    } else {
        output::line(&format!("key {} ({}) is revoked", key.id, output::clean(&key.name)))?;
    }
    Ok(Exit::Done)
}
