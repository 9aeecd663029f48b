//! `longshore doctor`: what is wrong with this installation, and what to do. Changes nothing.

use std::time::Duration;

use longshore_api::client::Client;
use longshore_core::settings::Settings;
use serde::Serialize;
use tokio::time::timeout;

use crate::cli::{Ca, ConfigFile, Format, Remote, ca};
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output::{self, clean, paint, paint_of};
use crate::remote::DEFAULT_SERVER;

mod fleets;
mod machine;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFile,

    /// Address of the control plane [default: what the configuration says]
    #[arg(long, value_name = "URL", env = "LONGSHORE_SERVER", hide_env_values = true)]
    server: Option<String>,

    /// Token for the control plane
    #[arg(long, value_name = "TOKEN", env = "LONGSHORE_TOKEN", hide_env_values = true)]
    token: Option<String>,

    /// Authority of the control plane's certificate [default: what the configuration says]
    #[arg(long, value_name = "CA", env = "LONGSHORE_CA", hide_env_values = true, value_parser = ca)]
    ca: Option<Ca>,

    #[command(flatten)]
    format: Format,
}

/// How one thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// Works, but worse than it could, or not yet.
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Check {
    pub level: Level,
    /// `config`, `command`, `port`, `store`, `control plane`, `fleet`, `worker`.
    pub what: &'static str,
    pub found: String,
    /// What to do about it; empty when nothing is to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub todo: String,
}

impl Check {
    pub fn ok(what: &'static str, found: impl Into<String>) -> Check {
        Check { level: Level::Ok, what, found: found.into(), todo: String::new() }
    }

    pub fn warn(what: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Check {
        Check { level: Level::Warn, what, found: found.into(), todo: todo.into() }
    }

    pub fn fail(what: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Check {
        Check { level: Level::Fail, what, found: found.into(), todo: todo.into() }
    }
}

/// How long a control plane may take to answer one question.
const PATIENCE: Duration = Duration::from_secs(10);

pub async fn run(args: Args) -> Outcome {
    let mut checks = Vec::new();
    let settings = configuration(&args.config, &mut checks);
    if let Some(settings) = &settings {
        checks.extend(machine::commands(settings));
        checks.extend(machine::ports(settings).await);
        checks.extend(machine::store(settings));
    }
    control_plane(&args, settings.as_ref(), &mut checks).await?;
    report(&checks, args.format.json)?;
    let failed = checks.iter().any(|check| check.level == Level::Fail);
    Ok(if failed { Exit::Error } else { Exit::Done })
}

fn configuration(file: &ConfigFile, checks: &mut Vec<Check>) -> Option<Settings> {
    match file.read() {
        Ok(found) => {
            checks.push(Check::ok("config", format!("{} is valid", found.path.display())));
            let warned = found.warnings.iter();
            checks.extend(warned.map(|warning| Check::warn("config", warning.to_string(), "")));
            Some(found.settings)
        }
        Err(fault) => {
            checks.push(Check::fail("config", fault.summary(), fault.advice().unwrap_or("correct the file")));
            None
        }
    }
}

async fn control_plane(args: &Args, settings: Option<&Settings>, checks: &mut Vec<Check>) -> Outcome<()> {
    let given = args.server.clone().filter(|server| !server.trim().is_empty());
    let named = given.is_some();
    let (own, own_ca) = settings.map_or((DEFAULT_SERVER.into(), None), machine::own);
    // The file of another control plane says nothing about this one.
    let ca = args.ca.clone().or(own_ca.filter(|_| !named).map(|trust| Ca(Some(trust))));
    let client = Remote { server: given.unwrap_or(own), token: args.token.clone(), ca }.client()?;
    match about(&client).await {
        Ok(found) => {
            checks.extend(found);
            checks.extend(fleets::check(&client).await);
        }
        Err(fault) if fault.status() == Exit::Unreachable && !named => checks.push(Check::warn(
            "control plane",
            format!("nothing answers at {}", client.base()),
            "start it with `longshore up`, or name another with --server",
        )),
        Err(fault) => checks.push(Check::fail(
            "control plane",
            fault.summary(),
            fault.advice().unwrap_or("see the log of the control plane"),
        )),
    }
    Ok(())
}

async fn about(client: &Client) -> Outcome<Vec<Check>> {
    let asked = timeout(PATIENCE, client.about()).await;
    let about = asked.map_err(|_| {
        Fault::new(format!("{} did not answer within {} s", client.base(), PATIENCE.as_secs()))
            .exit(Exit::Unreachable)
    })??;
    let up = output::length(about.uptime_s.saturating_mul(1000));
    let mut checks = vec![Check::ok(
        "control plane",
        format!("{} runs longshore {}, up for {up}", client.base(), about.version),
    )];
    let ours = env!("CARGO_PKG_VERSION");
    if about.version != ours {
        let found = format!("this command is longshore {ours}, the control plane {}", about.version);
        checks.push(Check::warn("control plane", found, "use the same version for both"));
    }
    let troubled = about.checks.iter().filter(|(_, trouble)| !trouble.is_empty());
    checks.extend(troubled.map(|(name, trouble)| {
        Check::fail("control plane", format!("{name}: {trouble}"), "see the log of the control plane")
    }));
    Ok(checks)
}

fn report(checks: &[Check], json: bool) -> Outcome<()> {
    if json {
        return output::json(&serde_json::json!({ "checks": checks }));
    }
    for check in checks {
        let level = match check.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        let level =
            paint_of(level).map_or_else(|| level.to_owned(), |colour| paint(&format!("{level:<4}"), colour));
        let found = output::clean_lines(&check.found).replace('\n', "\n        ");
        output::line(&format!("{level:<4}  {}: {found}", check.what))?;
        if !check.todo.is_empty() {
            output::line(&format!("      -> {}", clean(&check.todo)))?;
        }
    }
    Ok(())
}
