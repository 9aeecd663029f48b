//! `longshore worker`: one worker of a fleet. Reads what it was told; `longshore_worker` does the work.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use longshore_core::id::{FleetName, WorkerId};
use longshore_core::kubernetes;
use longshore_worker::{DEFAULT_CUT_OFF, DEFAULT_STAY, Options, RelayTimes, Secret, WorkerError};

use crate::cli::{Ca, ca};
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::logging;
use crate::output;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  LONGSHORE_WORKER_TOKEN_FILE=/run/secrets/worker longshore worker \\\n    \
    --link http://longshore:7118 --fleet research -- python agent.py"
)]
pub struct Args {
    /// Its id, unique among all workers [default: its container's id, or the host's name and a random suffix]
    #[arg(long, value_name = "ID", env = "LONGSHORE_WORKER_ID", hide_env_values = true)]
    id: Option<WorkerId>,

    /// Address of the control plane's worker link; several are tried in turn
    #[arg(
        long,
        value_name = "URL",
        env = "LONGSHORE_LINK",
        value_delimiter = ',',
        hide_env_values = true,
        default_value = "http://127.0.0.1:7118"
    )]
    link: Vec<String>,

    /// Authority of the control plane's certificate: a PEM file, or `sha256:` and its fingerprint
    #[arg(long, value_name = "CA", env = "LONGSHORE_LINK_CA", hide_env_values = true, value_parser = ca)]
    link_ca: Option<Ca>,

    /// Fleet that it works for
    #[arg(long, value_name = "FLEET", env = "LONGSHORE_FLEET", hide_env_values = true)]
    fleet: FleetName,

    /// File with the fleet's worker token; LONGSHORE_WORKER_TOKEN may hold the token itself
    #[arg(long, value_name = "FILE", env = "LONGSHORE_WORKER_TOKEN_FILE", hide_env_values = true)]
    token_file: Option<PathBuf>,

    /// Tasks in flight, instead of what the fleet declares
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    concurrency: Option<u32>,

    /// Where probes and metrics listen; port 0 is a free one
    #[arg(
        long,
        value_name = "ADDR",
        env = "LONGSHORE_PROBE_ADDR",
        default_value = "127.0.0.1:7119",
        hide_env_values = true
    )]
    probe_addr: SocketAddr,

    /// Port that an http agent is told to listen on; 0 is a free one [default: 8080 in a container, else 0]
    #[arg(long, value_name = "PORT", env = "LONGSHORE_AGENT_PORT", hide_env_values = true)]
    agent_port: Option<u16>,

    /// What it does once it was told to drain by the control plane, and has
    #[arg(
        long,
        value_name = "WHAT",
        env = kubernetes::AFTER_DRAIN,
        default_value = "exit",
        hide_env_values = true
    )]
    after_drain: AfterDrain,

    /// The agent, instead of what the fleet declares
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum AfterDrain {
    Exit,
    /// Not ready, until a signal ends it, half an hour at most: for pods, which are started again when they exit
    Stay,
}

/// The port of an http agent whose container holds nothing else.
const CONTAINER_PORT: u16 = 8080;

pub async fn run(args: Args) -> Outcome {
    logging::json_to_stdout()?;
    let told = |fault: Fault| match std::io::stderr().is_terminal() {
        true => fault,
        // Whoever collects this output, the control plane included, looks at the last line for the reason.
        false => {
            output::note(&format!("error: {}", fault.one_line()));
            Fault::quiet(fault.status())
        }
    };
    work(args).await.map_err(told)
}

async fn work(args: Args) -> Outcome {
    let pod = super::serve::pod_address()?;
    let probe_addr = pod.map_or(args.probe_addr, |pod| kubernetes::listen_on(args.probe_addr, pod));
    let options = Options {
        token: token(args.token_file.as_deref(), std::env::var_os("LONGSHORE_WORKER_TOKEN"))?,
        links: args
            .link
            .into_iter()
            .map(|link| link.trim().to_owned())
            .filter(|link| !link.is_empty())
            .collect(),
        ca: args.link_ca.and_then(|ca| ca.0),
        worker: args.id,
        fleet: args.fleet,
        command: args.command,
        concurrency: args.concurrency,
        probe_addr: Some(probe_addr),
        agent_port: Some(args.agent_port.unwrap_or(if first_process() { CONTAINER_PORT } else { 0 })),
        run_dir: std::env::temp_dir(),
        cut_off: DEFAULT_CUT_OFF,
        stays: (args.after_drain == AfterDrain::Stay).then_some(DEFAULT_STAY),
        relay: RelayTimes::default(),
    };
    let exit = longshore_worker::run(options).await.map_err(fault)?;
    Ok(if exit.code == 0 { Exit::Done } else { Exit::Error })
}

/// The first process of a container, where ports are its own.
fn first_process() -> bool {
    std::process::id() == 1
}

/// The file counts more: the platform that starts workers sets it, while a token may be left over in the environment.
fn token(file: Option<&Path>, given: Option<OsString>) -> Outcome<Secret> {
    let text = match (file.filter(|file| !file.as_os_str().is_empty()), given) {
        (Some(file), _) => std::fs::read_to_string(file).map_err(|error| {
            Fault::new(format!("could not read the worker token from `{}`", file.display())).cause(&error)
        })?,
        (None, Some(token)) => {
            token.into_string().map_err(|_| Fault::usage("LONGSHORE_WORKER_TOKEN is not text"))?
        }
        (None, None) => String::new(),
    };
    match text.trim() {
        "" => Err(Fault::usage("there is no worker token").hint(
            "set LONGSHORE_WORKER_TOKEN_FILE or LONGSHORE_WORKER_TOKEN; a control plane keeps each fleet's token in tokens/ of its store's folder",
        )),
        token => Ok(Secret::new(token)),
    }
}

fn fault(error: WorkerError) -> Fault {
    let exit = if error.exit_code() == Exit::Unreachable.status() { Exit::Unreachable } else { Exit::Error };
    let fault = Fault::of(&error).exit(exit);
    let Some(problem) = error.problem() else { return fault };
    let fault = fault.code(problem.code.clone());
    match &problem.hint {
        Some(hint) => fault.hint(hint),
        None => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_counts_more_than_a_token() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, "from-file\n").expect("written");
        let read = |file, given: Option<&str>| token(file, given.map(OsString::from)).expect("a token");
        assert_eq!(read(Some(file.as_path()), Some("given")).reveal(), "from-file");
        assert_eq!(read(None, Some(" given ")).reveal(), "given");
    }

    #[test]
    fn a_missing_token_is_said_before_anything_is_asked() {
        let fault = token(None, Some(OsString::from(" "))).expect_err("empty");
        assert_eq!(fault.status(), Exit::Usage);
    }
}
