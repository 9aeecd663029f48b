//! One face for all platforms: an enum and `match`, since nobody outside adds one.

use serde::{Deserialize, Serialize};

use crate::End;
use crate::docker::{self, ContainerIdentity, ContainerSpec, DockerError, DockerPlatform, compose};
use crate::process::{self, ProcError, ProcessIdentity, ProcessPlatform, Signal, SweepError, WorkerSpec};

/// Where workers run. Cheap to clone.
#[derive(Clone)]
pub enum Platform {
    Process(ProcessPlatform),
    Docker(DockerPlatform),
    /// The containers are docker-compose's: they are added and watched, and what becomes of ended ones is not decided here.
    Compose(DockerPlatform),
}

/// What to start, in the platform's own terms.
#[derive(Clone, Debug)]
pub enum Spec {
    Process(WorkerSpec),
    Docker(Box<ContainerSpec>),
    Compose(compose::Copy),
}

/// A worker that was seen running. Clones are handles to the same worker; dropping them does nothing to it.
#[derive(Clone, Debug)]
pub enum Running {
    Process(process::Running),
    Docker(docker::Running),
    Compose(docker::Running),
}

/// What is saved to find a worker again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Identity {
    Process(ProcessIdentity),
    Docker(ContainerIdentity),
}

/// Whether a worker is still there.
#[derive(Debug)]
pub enum Found {
    Running(Running),
    /// How it ended, as far as can be told, and why it counts as ended.
    Ended(End, String),
}

/// Why a platform did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Start(#[from] process::StartError),
    #[error(transparent)]
    Look(#[from] ProcError),
    #[error(transparent)]
    Sweep(#[from] SweepError),
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// A caller's mistake.
    #[error("a worker of another platform")]
    OtherPlatform,
}

impl Platform {
    /// Starts a worker and watches it; on an error none is left.
    pub async fn start(&self, spec: Spec) -> Result<Running, Error> {
        match (self, spec) {
            (Platform::Process(platform), Spec::Process(spec)) => {
                Ok(Running::Process(platform.start(spec).await?))
            }
            (Platform::Docker(platform), Spec::Docker(spec)) => {
                Ok(Running::Docker(platform.start(&spec).await?))
            }
            (Platform::Compose(platform), Spec::Compose(copy)) => {
                Ok(Running::Compose(platform.add_replica(&copy).await?))
            }
            _ => Err(Error::OtherPlatform),
        }
    }

    /// Finds a worker that an earlier control plane (or this one) started, and watches it.
    ///
    /// Errors: it could not be told whether the worker lives; never take that for ended.
    pub async fn find_again(&self, worker_id: &str, identity: Option<&Identity>) -> Result<Found, Error> {
        match self {
            Platform::Process(platform) => {
                Ok(match platform.find_again(worker_id, Identity::process(identity)?).await? {
                    process::Found::Running(running) => Found::Running(Running::Process(running)),
                    process::Found::Gone(why) => Found::Ended(End::Gone, format!("{why:?}")),
                })
            }
            Platform::Docker(platform) => {
                Ok(match platform.find_again(worker_id, Identity::docker(identity)?).await? {
                    docker::Found::Running(running) => Found::Running(Running::Docker(running)),
                    docker::Found::Ended(end) => Found::Ended(end, end.to_string()),
                    docker::Found::Gone => Found::Ended(End::Gone, "there is no container".into()),
                })
            }
            Platform::Compose(platform) => {
                Ok(match platform.find_replica(worker_id, Identity::docker(identity)?).await? {
                    docker::Found::Running(running) => Found::Running(Running::Compose(running)),
                    docker::Found::Ended(end) => Found::Ended(end, end.to_string()),
                    docker::Found::Gone => Found::Ended(End::Gone, "there is no container".into()),
                })
            }
        }
    }

    /// Ends everything that a dead worker left running. Returns what lives on in spite of that.
    pub async fn sweep(&self, worker_id: &str, identity: Option<&Identity>) -> Result<Vec<String>, Error> {
        match self {
            Platform::Process(platform) => {
                let swept = platform.sweep(worker_id, Identity::process(identity)?).await?;
                Ok(swept.survivors.iter().map(|pid| format!("process {pid}")).collect())
            }
            Platform::Docker(platform) => {
                platform.remove(worker_id, Identity::docker(identity)?).await?;
                Ok(Vec::new())
            }
            // Nothing in a container outlives its first process.
            Platform::Compose(_) => Ok(Vec::new()),
        }
    }
}

impl Identity {
    fn process(of: Option<&Identity>) -> Result<Option<&ProcessIdentity>, Error> {
        match of {
            None => Ok(None),
            Some(Identity::Process(identity)) => Ok(Some(identity)),
            Some(_) => Err(Error::OtherPlatform),
        }
    }

    fn docker(of: Option<&Identity>) -> Result<Option<&ContainerIdentity>, Error> {
        match of {
            None => Ok(None),
            Some(Identity::Docker(identity)) => Ok(Some(identity)),
            Some(_) => Err(Error::OtherPlatform),
        }
    }
}

impl Running {
    pub fn identity(&self) -> Identity {
        match self {
            Running::Process(running) => Identity::Process(running.identity().clone()),
            Running::Docker(running) | Running::Compose(running) => {
                Identity::Docker(running.identity().clone())
            }
        }
    }

    /// Signals the worker, or sees to it that it is signalled. One that has ended is none the worse for it.
    pub fn signal(&self, signal: Signal) {
        match self {
            Running::Process(running) => drop(running.signal(signal)),
            Running::Docker(running) | Running::Compose(running) => running.signal(signal),
        }
    }

    /// Waits for the worker's end. Any number of callers may wait, before or after it; all get the same answer.
    pub async fn ended(&self) -> End {
        match self {
            Running::Process(running) => running.ended().await.into(),
            Running::Docker(running) | Running::Compose(running) => running.ended().await,
        }
    }

    /// Where its probes are, if the platform knows that better than the worker.
    pub fn probe_addr(&self) -> Option<String> {
        match self {
            Running::Process(_) => None,
            Running::Docker(running) | Running::Compose(running) => running.probe_addr(),
        }
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Identity::Process(identity) => write!(f, "process {}", identity.pid),
            Identity::Docker(identity) => write!(f, "container {:.12}", identity.container),
        }
    }
}
