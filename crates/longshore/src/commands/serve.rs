//! `longshore serve`: the control plane alone. Workers that it started outlive it and are found again.

use std::net::IpAddr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use longshore_core::kubernetes;
use longshore_core::role::Role;

use crate::cli::ConfigFile;
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::logging;
use crate::signals::Stop;

use super::up;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFile,

    /// What this process serves; with the shared store each part may run in processes of its own
    #[arg(
        long,
        value_name = "ROLES",
        env = "LONGSHORE_ROLES",
        hide_env_values = true,
        value_delimiter = ',',
        value_parser = role(),
        default_value = "api,link,gateway,controllers"
    )]
    roles: Vec<Role>,
}

fn role() -> impl TypedValueParser<Value = Role> {
    PossibleValuesParser::new(Role::ALL.map(Role::as_str)).try_map(|name| name.parse::<Role>())
}

pub async fn run(args: Args) -> Outcome {
    logging::json_to_stdout()?;
    let mut found = args.config.load()?;
    if let Some(pod) = pod_address()? {
        kubernetes::in_pod(&mut found.settings, pod);
    }
    let mut stop = Stop::listen()?;
    let roles = args.roles.into_iter().collect();
    let mut server = up::start(found.settings, roles, up::admin_token_file(), true).await?;
    let failed = tokio::select! {
        () = stop.asked() => None,
        part = server.failed() => Some(part),
    };
    up::stop(&mut server, &mut stop, "cutting LLM calls off").await;
    match failed {
        None => Ok(Exit::Done),
        Some(part) => Err(died(part)),
    }
}

/// Of the pod that this is, where the rendered manifests told it.
pub fn pod_address() -> Outcome<Option<IpAddr>> {
    let Some(told) = std::env::var_os(kubernetes::POD_IP).filter(|told| !told.is_empty()) else {
        return Ok(None);
    };
    let parsed = told.to_str().and_then(|text| text.parse().ok());
    let wrong = || Fault::usage(format!("{} is no address: {:?}", kubernetes::POD_IP, told));
    parsed.ok_or_else(wrong).map(Some)
}

/// A part of the control plane ended by itself; its log says why.
pub fn died(part: &str) -> Fault {
    Fault::new(format!("a part of the control plane ended: {part}"))
        .hint("the log lines before this say why; tasks are safe in the store")
}
