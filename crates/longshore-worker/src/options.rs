//! What a worker is told when it starts.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use longshore_api::tls::Trust;
use longshore_core::id::{FleetName, WorkerId};

/// How long a worker that cannot reach the control plane goes on.
pub const DEFAULT_CUT_OFF: Duration = Duration::from_secs(600);

/// How long a worker that has drained stays. Who told it to go removes it within seconds; where nobody does, it is of more use as
/// a new worker, and sooner than the control plane forgets it, which is after an hour.
pub const DEFAULT_STAY: Duration = Duration::from_secs(1800);

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Agents run in the working folder of this process.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses of the worker link, `http://127.0.0.1:7118`, one for each replica of the control plane.
    pub links: Vec<String>,
    pub token: Secret,
    /// What control planes' certificates are held against; `None`: what this machine trusts.
    pub ca: Option<Trust>,
    /// `None`: its container's id, or the host's name and a random suffix.
    pub worker: Option<WorkerId>,
    pub fleet: FleetName,
    /// The agent's command; empty: as the fleet declares.
    pub command: Vec<String>,
    /// Tasks in flight; `None`: as the fleet declares.
    pub concurrency: Option<u32>,
    /// Where probes and metrics are served; `None`: nowhere. Port 0: a free one.
    pub probe_addr: Option<SocketAddr>,
    /// Where an http agent is told to listen; `None` or 0: a free port.
    pub agent_port: Option<u16>,
    /// Agents get their temporary folders in it.
    pub run_dir: PathBuf,
    /// Without an answer of the control plane for this long, agents are stopped and the worker ends.
    pub cut_off: Duration,
    /// Having drained by order, it stays, not ready, until a signal ends it or this is over: where what exits is started again.
    pub stays: Option<Duration>,
    pub relay: RelayTimes,
}

/// How long the relay waits for what; the default is right outside of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayTimes {
    /// An agent without an answer gets no sign of life for so long: the first one commits a 200. Clients give up after
    /// 300 s (Node's fetch) or 600 s (SDKs).
    pub keep_alive_after: Duration,
    pub keep_alive_every: Duration,
    /// A gateway that says nothing for so long is gone.
    pub silence: Duration,
    /// How long the worker's token is shown again after it was not accepted.
    pub unauthorised: Duration,
}

impl Default for RelayTimes {
    fn default() -> RelayTimes {
        RelayTimes {
            keep_alive_after: Duration::from_secs(240),
            keep_alive_every: Duration::from_secs(15),
            silence: Duration::from_secs(3 * longshore_api::llm::KEEP_ALIVE_SECONDS),
            unauthorised: Duration::from_secs(10),
        }
    }
}

/// How a worker ended that did what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit status for the process: 0 after a drain.
    pub code: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "[redacted]");
    }
}
