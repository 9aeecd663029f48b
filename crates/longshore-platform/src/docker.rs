//! Platform `docker`: a worker is a container of one Docker engine.
//!
//! Owns creating containers, finding them again by label and name, watching for their end, signalling and removing them;
//! the network of each fleet; and the volume that holds longshore for images without it. Keeps nothing that matters in
//! memory. Touches nothing that does not carry its installation's label. Never drains, and never decides how many.

pub mod compose;
mod credentials;
mod engine;
mod error;
mod find;
mod image;
mod inject;
pub mod label;
mod network;
mod running;
mod spec;
mod start;
mod state;
#[cfg(test)]
mod tests;
mod watch;

pub use engine::{Engine, Promised};
pub use error::DockerError;
pub use find::Found;
pub use inject::SupervisorBinary;
pub use network::{Network, NetworkSpec, PlaneContainer};
pub use running::{ContainerIdentity, Running};
pub use spec::{
    ContainerSpec, Hidden, INJECTED, ImageFacts, Limits, PROBES, Supervisor, Unfit, check, request,
};

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bollard::Docker;
use bollard::errors::Error;

use self::image::Pull;
use self::watch::Watched;

/// The engine of this machine, if nothing else is said.
const SOCKET: &str = "unix:///var/run/docker.sock";

/// Seconds until a request counts as unanswered; streams are not cut off by it.
const TIMEOUT_S: u64 = 30;

/// Workers as containers. Cheap to clone.
#[derive(Clone)]
pub struct DockerPlatform(Arc<Inner>);

struct Inner {
    docker: Docker,
    host: String,
    installation: String,
    watched: Watched,
    pulls: Mutex<HashMap<String, Pull>>,
    /// Volumes that were filled since this process began, and which ones of their names they are.
    filled: tokio::sync::Mutex<HashMap<String, String>>,
}

impl DockerPlatform {
    /// Speaks to no engine yet, so it may be down. Watches as soon as one answers; must be called within a runtime.
    ///
    /// Shape: `host` is `unix:///…` or `tcp://…`; none: what DOCKER_HOST says is the caller's to look up, else the usual socket.
    pub fn new(host: Option<&str>, installation: &str) -> Result<DockerPlatform, DockerError> {
        let host = host.unwrap_or(SOCKET);
        let address = |error| match error {
            Error::SocketNotFoundError(_) => error::explain(host, "connect".into(), error),
            source => DockerError::Address { host: host.to_owned(), source },
        };
        let docker = match host.strip_prefix("unix://") {
            Some(path) => Docker::connect_with_unix(path, TIMEOUT_S, bollard::API_DEFAULT_VERSION),
            None => Docker::connect_with_http(host, TIMEOUT_S, bollard::API_DEFAULT_VERSION),
        };
        let inner = Arc::new(Inner {
            docker: docker.map_err(address)?,
            host: host.to_owned(),
            installation: installation.to_owned(),
            watched: Watched::default(),
            pulls: Mutex::default(),
            filled: tokio::sync::Mutex::default(),
        });
        tokio::spawn(watch::run(Arc::downgrade(&inner)));
        Ok(DockerPlatform(inner))
    }
}

impl Inner {
    fn failed(&self, what: impl Into<String>) -> impl FnOnce(Error) -> DockerError {
        let (host, what) = (self.host.clone(), what.into());
        move |error| error::explain(&host, what, error)
    }

    fn of_installation(&self) -> HashMap<String, Vec<String>> {
        [("label".to_owned(), vec![format!("{}={}", label::INSTALLATION, self.installation)])].into()
    }
}
