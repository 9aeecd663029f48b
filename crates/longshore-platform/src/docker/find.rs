//! Finds containers again, and removes what is left of dead ones.

use bollard::container::LogOutput;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{InspectContainerOptions, LogsOptionsBuilder, RemoveContainerOptionsBuilder};
use futures_util::StreamExt;
use tracing::info;

use super::running::{ContainerIdentity, Running};
use super::{DockerError, DockerPlatform, label, state};
use crate::End;

/// Whether a worker is still there.
#[derive(Debug)]
pub enum Found {
    Running(Running),
    /// How it ended, as far as can be told.
    Ended(End),
    /// There is no container.
    Gone,
}

impl DockerPlatform {
    /// Finds a worker's container and watches it: by what was saved of it, or else by its name.
    ///
    /// Errors: it could not be told whether it lives; never take that for gone.
    pub async fn find_again(
        &self,
        worker_id: &str,
        identity: Option<&ContainerIdentity>,
    ) -> Result<Found, DockerError> {
        let name = identity.map_or(worker_id, |identity| &identity.container);
        let Some(found) = self.inspect(name).await?.filter(|found| self.is_of(found, worker_id)) else {
            return Ok(Found::Gone);
        };
        match state::end(found.state.as_ref()) {
            None => Ok(Found::Running(self.watch(worker_id, found))),
            Some(end) => Ok(Found::Ended(end)),
        }
    }

    /// Kills and removes a worker's container; nothing that runs in it outlives that. One that is gone is no error.
    pub async fn remove(
        &self,
        worker_id: &str,
        identity: Option<&ContainerIdentity>,
    ) -> Result<(), DockerError> {
        let name = identity.map_or(worker_id, |identity| &identity.container);
        let Some(found) = self.inspect(name).await?.filter(|found| self.is_of(found, worker_id)) else {
            return Ok(());
        };
        let id = found.id.unwrap_or_else(|| name.to_owned());
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let removed = self.0.docker.remove_container(&id, Some(options)).await;
        match removed.map_err(self.0.failed(format!("remove the container of worker `{worker_id}`"))) {
            Ok(()) => {
                info!(worker = worker_id, "container removed");
                Ok(())
            }
            Err(error) if error.is_missing() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The end of what a worker's container printed.
    pub async fn last_output(&self, worker_id: &str) -> Option<String> {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail("20").build();
        let lines = self.0.docker.logs(worker_id, Some(options)).filter_map(|line| async {
            match line.ok()? {
                LogOutput::StdOut { message }
                | LogOutput::StdErr { message }
                | LogOutput::Console { message } => Some(String::from_utf8_lossy(&message).into_owned()),
                LogOutput::StdIn { .. } => None,
            }
        });
        let lines: Vec<String> = lines.collect().await;
        Some(lines.concat()).filter(|text| !text.trim().is_empty())
    }

    /// `None`: there is no container of this name or id.
    pub(super) async fn inspect(&self, name: &str) -> Result<Option<ContainerInspectResponse>, DockerError> {
        let found = self.0.docker.inspect_container(name, None::<InspectContainerOptions>).await;
        match found.map_err(self.0.failed(format!("look at the container `{name}`"))) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a container is this worker's and this installation's: somebody else's may have its name.
    pub(super) fn is_of(&self, found: &ContainerInspectResponse, worker_id: &str) -> bool {
        let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
        let is = |name: &str, value: &str| {
            labels.and_then(|labels| labels.get(name)).is_some_and(|it| it == value)
        };
        is(label::INSTALLATION, &self.0.installation) && is(label::WORKER, worker_id)
    }

    pub(super) fn watch(&self, worker_id: &str, found: ContainerInspectResponse) -> Running {
        let container = found.id.unwrap_or_default();
        let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        let mut addresses = networks.into_values().filter_map(|endpoint| endpoint.ip_address);
        let address = addresses.find(|address| !address.is_empty());
        let end = self.0.watched.watch(&container);
        Running::new(self.clone(), worker_id.to_owned(), container, address, end)
    }
}
