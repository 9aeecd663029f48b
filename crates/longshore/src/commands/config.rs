//! `longshore config`: what longshore.toml and the environment amount to. Secrets show as where they come from.

use longshore_core::settings::{Address, FleetsFrom, Settings, StoreSettings, Tls};
use longshore_core::webhook::Webhook;
use serde_json::json;

use crate::cli::{ConfigFile, Format};
use crate::error::Outcome;
use crate::exit::Exit;
use crate::output;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only check it: print nothing but mistakes and warnings
    #[arg(long)]
    check: bool,

    #[command(flatten)]
    config: ConfigFile,

    #[command(flatten)]
    format: Format,
}

pub fn run(args: &Args) -> Outcome {
    let found = args.config.load()?;
    match (args.check, args.format.json) {
        (true, true) => output::json(&json!({ "file": found.path, "valid": true }))?,
        (true, false) => output::note(&format!("{} is fine", found.path.display())),
        (false, true) => output::json(&value(&found.settings))?,
        (false, false) => {
            output::line(&format!("# from {} and the environment", found.path.display()))?;
            output::line(found.settings.to_toml_redacted().trim_end())?;
        }
    }
    Ok(Exit::Done)
}

/// Addresses are shown as they are: the file holds none with a password in it.
fn store(store: &StoreSettings) -> serde_json::Value {
    let address = |address: &Address| match address {
        Address::Given(url) => json!(url),
        Address::Secret(source) => json!(source),
    };
    let mut shown = json!({ "dir": store.dir });
    if let Some(shared) = &store.shared {
        shown["database"] = address(&shared.database);
        shown["schema"] = json!(shared.schema);
        shown["connections"] = json!(shared.connections);
        if let Some(redis) = &shared.redis {
            shown["redis"] = redis.addresses.iter().map(address).collect();
            shown["redis_prefix"] = json!(redis.prefix);
        }
    }
    shown
}

/// The query of its address may hold a token.
fn shown(webhook: &Webhook) -> Webhook {
    Webhook { url: webhook.shown_url(), ..webhook.clone() }
}

fn value(settings: &Settings) -> serde_json::Value {
    let server = &settings.server;
    json!({
        "store": store(&settings.store),
        "server": {
            "api": server.api,
            "link": server.link,
            "link_url": server.link_url,
            "probes": server.probes,
            "fleets": if server.fleets == FleetsFrom::Api { "api" } else { "file" },
            "token": server.token,
            "allow_insecure": server.allow_insecure,
            "tls": tls(&server.tls),
            "input_limit": server.input_limit,
        },
        "providers": settings.providers,
        "fleets": settings.fleets,
        "schedules": settings.schedules,
        "webhooks": settings.webhooks.iter().map(shown).collect::<Vec<_>>(),
    })
}

fn tls(tls: &Tls) -> serde_json::Value {
    match tls {
        Tls::Off => json!("off"),
        Tls::Auto => json!("auto"),
        Tls::Files { cert, key } => json!({ "cert": cert, "key": key }),
    }
}
