//! `longshore up`: everything in longshore.toml on this machine, until Ctrl-C.

use std::path::PathBuf;
use std::time::Duration;

use longshore_core::role::Roles;
use longshore_core::settings::Settings;
use longshore_server::{Options, Server, StartError};

use super::serve;
use crate::cli::ConfigFile;
use crate::config_file::Found;
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::logging;
use crate::output::{self, Paint, paint};
use crate::signals::Stop;

/// Names the file of the first key, which may do everything.
const ADMIN_TOKEN_FILE: &str = "LONGSHORE_ADMIN_TOKEN_FILE";

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ctrl-C drains the workers and ends; a second Ctrl-C hands their tasks over at once. \
    Tasks stay in the store."
)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFile,
}

pub async fn run(args: Args) -> Outcome {
    logging::beside()?;
    let found = args.config.load()?;
    let mut stop = Stop::listen()?;
    // For one machine: what it did yesterday must not depend on a variable that another program needs today.
    let mut settings = found.settings.clone();
    if settings.store.shared.take().is_some() {
        output::note("`up` keeps its state in the embedded store; `longshore serve` uses the database");
    }
    let mut server = start(settings, Roles::ALL, admin_token_file(), false).await?;
    greet(&server, &found)?;
    let failed = tokio::select! {
        () = stop.asked() => None,
        part = server.failed() => Some(part),
    };
    output::note("draining workers; Ctrl-C again hands their tasks over at once");
    self::stop(&mut server, &mut stop, "handing over at once").await;
    match failed {
        None => Ok(Exit::Done),
        Some(part) => Err(serve::died(part)),
    }
}

/// The file of the first key. A variable that is set to nothing is as good as none.
pub fn admin_token_file() -> Option<PathBuf> {
    std::env::var_os(ADMIN_TOKEN_FILE).filter(|file| !file.is_empty()).map(PathBuf::from)
}

/// Starts the control plane of these settings; this very binary is what its workers run.
pub async fn start(
    settings: Settings,
    roles: Roles,
    admin_token_file: Option<PathBuf>,
    keep_workers: bool,
) -> Outcome<Server> {
    let program = std::env::current_exe()
        .map_err(|error| Fault::new("could not find the longshore binary").cause(&error))?;
    // Only `serve` may have something before it that does not know yet.
    let stay = (!keep_workers).then_some(Duration::ZERO);
    let options = Options { settings, roles, program, admin_token_file, keep_workers, stay };
    longshore_server::start(options).await.map_err(could_not_start)
}

fn could_not_start(error: StartError) -> Fault {
    let fault = Fault::of(&error);
    match error.hint() {
        Some(hint) => fault.hint(hint),
        None => fault,
    }
}

fn greet(server: &Server, found: &Found) -> Outcome<()> {
    let addresses = server.addresses();
    output::line(&format!("{} is up, from {}", paint("longshore", Paint::Bold), found.path.display()))?;
    let scheme = if server.trust().is_some() { "https" } else { "http" };
    let named = [("api", addresses.api), ("link", addresses.link)];
    for (name, addr) in named.into_iter().filter_map(|(name, addr)| Some((name, addr?))) {
        output::line(&format!("  {name:<8} {scheme}://{addr}"))?;
    }
    output::line(&format!("  probes   http://{}/readyz", addresses.probes))?;
    for fleet in &found.settings.fleets {
        let (min, max) = (fleet.scaling.min, fleet.scaling.max);
        output::line(&format!(
            "  fleet    {} ({min} to {max} workers): {}",
            fleet.name,
            output::clean(&fleet.command.join(" "))
        ))?;
    }
    let server = match (server.trust(), addresses.api) {
        (Some(trust), Some(api)) => format!(" --server https://{api} --ca {trust}"),
        (None, Some(api)) if api.port() != 7117 => format!(" --server http://{api}"),
        _ => String::new(),
    };
    match found.settings.fleets.first() {
        Some(fleet) => output::line(&format!(
            "\ntry: longshore submit {} --input '\"world\"' --wait{server}",
            fleet.name
        )),
        None => output::line(&format!(
            "\nno fleet is declared; declare one in the file, or see `longshore apply --help`{server}"
        )),
    }
}

/// Stops in order; a signal in between cuts it short, which is said in these words.
pub async fn stop(server: &mut Server, signals: &mut Stop, hurried: &str) {
    tokio::select! {
        () = server.stop() => return,
        () = signals.asked() => {}
    }
    output::note(hurried);
    server.cut_calls();
    // Stopping anew is the workers' second signal.
    server.stop().await;
}
