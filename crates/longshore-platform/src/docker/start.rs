//! Starts a worker's container.

use bollard::query_parameters::{CreateContainerOptionsBuilder, StartContainerOptions};
use tracing::{info, warn};

use super::running::Running;
use super::spec::{self, ContainerSpec};
use super::{DockerError, DockerPlatform, state};

impl DockerPlatform {
    /// Creates the container and starts it; on an error none is left, as far as the engine answers.
    ///
    /// The name follows from the worker's id: a second start of the same worker finds the first one's container.
    pub async fn start(&self, spec: &ContainerSpec) -> Result<Running, DockerError> {
        let (called, facts) = self.pinned(&spec.image, spec.image_id.as_deref()).await?;
        let name = spec.worker_id.as_str();
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let mut body = spec::request(spec, &facts, &self.0.installation);
        body.image = Some(called);
        let created = self.0.docker.create_container(Some(options), body).await;
        match created.map_err(self.0.failed(format!("create a container of image `{}`", spec.image))) {
            Ok(created) => {
                for warning in created.warnings {
                    warn!(worker = name, warning, "the Docker engine warns");
                }
            }
            // The answer to an earlier request was lost, or somebody else's container has our name.
            Err(error) if error.status() == Some(409) => self.check_name(name, error).await?,
            Err(error) => return Err(error),
        }
        match self.start_created(spec).await {
            Ok(running) => Ok(running),
            Err(error) => {
                if let Err(left) = self.remove(name, None).await {
                    warn!(worker = name, error = %left, "container that did not start could not be removed");
                }
                Err(error)
            }
        }
    }

    async fn check_name(&self, name: &str, refused: DockerError) -> Result<(), DockerError> {
        match self.inspect(name).await? {
            Some(found) if self.is_of(&found, name) => Ok(()),
            Some(_) => Err(DockerError::NameTaken { name: name.to_owned() }),
            None => Err(refused),
        }
    }

    async fn start_created(&self, spec: &ContainerSpec) -> Result<Running, DockerError> {
        let name = spec.worker_id.as_str();
        let started = self.0.docker.start_container(name, None::<StartContainerOptions>).await;
        match started.map_err(self.0.failed(format!("start a container of image `{}`", spec.image))) {
            Ok(()) => {}
            // It runs already.
            Err(error) if error.status() == Some(304) => {}
            Err(error) => return Err(error),
        }
        let gone = || DockerError::Refused {
            what: format!("start a container of image `{}`", spec.image),
            status: 404,
            message: "it was removed at once".into(),
        };
        let found = self.inspect(name).await?.ok_or_else(gone)?;
        if let (Some(pinned), Some(id)) = (&spec.image_id, &found.image)
            && pinned != id
        {
            // The name was given to another image in this very moment.
            return Err(DockerError::Moved { image: spec.image.clone(), id: pinned.clone() });
        }
        let ended = state::end(found.state.as_ref()).is_some();
        let id = found.id.clone().unwrap_or_default();
        info!(worker = name, container = id, "container started");
        let running = self.watch(name, found);
        if ended {
            // Its event came before anybody waited for it.
            super::watch::settle(&self.0, &id).await;
        }
        Ok(running)
    }
}
