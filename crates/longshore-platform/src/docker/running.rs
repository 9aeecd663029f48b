//! A worker's container that was seen running.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bollard::query_parameters::KillContainerOptionsBuilder;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::warn;

use super::{DockerPlatform, PROBES};
use crate::{End, Signal};

/// What the control plane saves to find a worker again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContainerIdentity {
    /// The engine's own id of the container.
    pub container: String,
}

/// Clones are handles to the same container; dropping them does nothing to it.
#[derive(Clone)]
pub struct Running(Arc<Handle>);

struct Handle {
    platform: DockerPlatform,
    worker_id: String,
    identity: ContainerIdentity,
    address: Option<String>,
    end: watch::Receiver<Option<End>>,
    /// A SIGKILL waits for no other signal: what is asked of an engine may take long.
    signalling: AtomicBool,
    killing: AtomicBool,
}

impl Handle {
    fn on_its_way(&self, signal: Signal) -> &AtomicBool {
        if signal == Signal::SIGKILL { &self.killing } else { &self.signalling }
    }
}

impl Running {
    pub(super) fn new(
        platform: DockerPlatform,
        worker_id: String,
        container: String,
        address: Option<String>,
        end: watch::Receiver<Option<End>>,
    ) -> Running {
        let (identity, no) = (ContainerIdentity { container }, || AtomicBool::new(false));
        let (signalling, killing) = (no(), no());
        Running(Arc::new(Handle { platform, worker_id, identity, address, end, signalling, killing }))
    }

    pub fn worker_id(&self) -> &str {
        &self.0.worker_id
    }

    /// Where it runs.
    pub fn platform(&self) -> &DockerPlatform {
        &self.0.platform
    }

    pub fn identity(&self) -> &ContainerIdentity {
        &self.0.identity
    }

    /// Where its probes are reached from the host, and from whoever is in its network.
    pub fn probe_addr(&self) -> Option<String> {
        Some(format!("{}:{PROBES}", self.0.address.as_ref()?))
    }

    /// Sees to it that the container's first process is signalled; while one signal is on its way, none is sent but SIGKILL.
    ///
    /// Must be called within a runtime.
    pub fn signal(&self, signal: Signal) {
        if self.0.on_its_way(signal).swap(true, Ordering::AcqRel) {
            return;
        }
        let handle = Arc::clone(&self.0);
        tokio::spawn(async move {
            let inner = &handle.platform.0;
            let options = KillContainerOptionsBuilder::new().signal(signal.as_str()).build();
            let sent = inner.docker.kill_container(&handle.identity.container, Some(options)).await;
            let sent = sent.map_err(inner.failed(format!("send {signal}")));
            // Not there, or not running: it has ended, as the watch will say.
            if let Err(error) = sent
                && !matches!(error.status(), Some(404 | 409))
            {
                warn!(worker = handle.worker_id, %error, "container could not be signalled");
            }
            handle.on_its_way(signal).store(false, Ordering::Release);
        });
    }

    /// Waits for the container's end. Any number of callers may wait, before or after it; all get the same answer.
    ///
    /// While no engine answers, no end is seen.
    pub async fn ended(&self) -> End {
        let mut end = self.0.end.clone();
        match end.wait_for(Option::is_some).await.map(|end| *end) {
            Ok(Some(end)) => end,
            _ => std::future::pending().await,
        }
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("worker_id", &self.0.worker_id)
            .field("identity", &self.0.identity)
            .finish()
    }
}
