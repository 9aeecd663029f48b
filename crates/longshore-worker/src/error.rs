//! Why a worker could not start, or had to end.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use longshore_api::link_client::LinkSetupError;
use longshore_api::problem::Problem;
use longshore_core::id::FleetName;

#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("fleet `{fleet}` declares no command and none was given: longshore worker -- COMMAND")]
    NoCommand { fleet: FleetName },
    #[error("could not find the agent's command `{program}`: {why}")]
    Command { program: String, why: &'static str },
    #[error("could not listen for probes on {addr}: another program listens there; choose another address")]
    PortInUse { addr: SocketAddr, source: io::Error },
    #[error("could not listen for probes on {addr}")]
    Listen { addr: SocketAddr, source: io::Error },
    #[error("could not listen on 127.0.0.1 for the agent's calls")]
    Relay(#[source] io::Error),
    #[error("could not use the folder `{path}` for agents' temporary files")]
    RunDir { path: PathBuf, source: io::Error },
    #[error("could not prepare this process to run agents")]
    Process(#[source] io::Error),
    #[error("could not set up the link to the control plane")]
    Link(#[source] LinkSetupError),
    #[error("the control plane does not accept this worker's token for fleet `{fleet}`")]
    BadToken { fleet: FleetName, source: Box<Problem> },
    #[error("the control plane knows no fleet `{fleet}`")]
    UnknownFleet { fleet: FleetName, source: Box<Problem> },
    #[error("this worker and the control plane are of versions that do not go together")]
    LinkVersion { source: Box<Problem> },
    #[error("the control plane refuses to register this worker")]
    Refused { source: Box<Problem> },
    #[error("another process was started as this worker, so this one stopped its agents")]
    Superseded { source: Box<Problem> },
    #[error("no answer from the control plane for {}, so the agents were stopped", seconds(.after))]
    CutOff { after: Duration },
    #[error("{count} endings could not be delivered before the drain's end; their tasks run again")]
    Undelivered { count: usize },
}

fn seconds(time: &Duration) -> String {
    format!("{} s", time.as_secs())
}

impl WorkerError {
    /// Exit status for the process: 5 where nobody will let this worker in, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            WorkerError::BadToken { .. } => 5,
            _ => 1,
        }
    }

    /// A stable code, where the control plane gave one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            WorkerError::BadToken { source, .. }
            | WorkerError::UnknownFleet { source, .. }
            | WorkerError::LinkVersion { source }
            | WorkerError::Refused { source }
            | WorkerError::Superseded { source } => Some(source),
            _ => None,
        }
    }
}
