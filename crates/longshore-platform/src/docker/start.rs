//! Starts a worker's container, and has its image at hand before.

use std::time::{Duration, Instant};

use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, StartContainerOptions,
};
use futures_util::StreamExt;
use tracing::{info, warn};

use super::running::Running;
use super::spec::{self, ContainerSpec, ImageFacts};
use super::{DockerError, DockerPlatform, label, login, state};

/// How long a failed pull is not tried again.
const PULL_AGAIN: Duration = Duration::from_secs(60);

/// An image that was not there.
pub(super) enum Pull {
    UnderWay,
    Failed { at: Instant, why: String },
}

impl DockerPlatform {
    /// What is known of an image. One that is not there is pulled, in the background, since that may take long.
    ///
    /// Errors: it is being pulled, or that failed; nobody answers.
    pub async fn image(&self, name: &str) -> Result<ImageFacts, DockerError> {
        let found = self.0.docker.inspect_image(name).await;
        let found = match found.map_err(self.0.failed(format!("look at the image `{name}`"))) {
            Ok(found) => found,
            Err(error) if error.is_missing() => return Err(self.pull(name)),
            Err(error) => return Err(error),
        };
        self.pulls().remove(name);
        let config = found.config.unwrap_or_default();
        let labels = config.labels.unwrap_or_default();
        Ok(ImageFacts {
            id: found.id.unwrap_or_default(),
            os: found.os.unwrap_or_default(),
            architecture: found.architecture.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            command: config.cmd.unwrap_or_default(),
            revision: labels.get(label::REVISION).filter(|text| !text.is_empty()).cloned(),
        })
    }

    fn pull(&self, name: &str) -> DockerError {
        let image = name.to_owned();
        let mut pulls = self.pulls();
        match pulls.get(name) {
            Some(Pull::UnderWay) => return DockerError::Pulling { image },
            Some(Pull::Failed { at, why }) if at.elapsed() < PULL_AGAIN => {
                return DockerError::NoImage { image, why: why.clone() };
            }
            _ => {}
        }
        pulls.insert(image.clone(), Pull::UnderWay);
        info!(image, "image is not on the Docker host: it is pulled");
        let (this, name) = (self.clone(), image.clone());
        tokio::spawn(async move {
            let pulled = this.pull_now(&name).await;
            let mut pulls = this.pulls();
            match pulled {
                Ok(()) => drop(pulls.remove(&name)),
                Err(why) => {
                    warn!(image = name, why, "image could not be pulled");
                    pulls.insert(name, Pull::Failed { at: Instant::now(), why });
                }
            }
        });
        DockerError::Pulling { image }
    }

    async fn pull_now(&self, name: &str) -> Result<(), String> {
        // Without a tag the engine would pull all there are.
        let tagged = name.contains('@') || name.rsplit('/').next().is_some_and(|last| last.contains(':'));
        let name = if tagged { name.to_owned() } else { format!("{name}:latest") };
        let options = CreateImageOptionsBuilder::new().from_image(&name).build();
        let login = login::of(&name).await?;
        let known = login.is_some();
        let mut steps = std::pin::pin!(self.0.docker.create_image(Some(options), None, login));
        while let Some(step) = steps.next().await {
            step.map_err(|error| match error {
                bollard::errors::Error::DockerResponseServerError { message, .. }
                | bollard::errors::Error::DockerStreamError { error: message } => {
                    login::why(&name, &message, known)
                }
                error => error.to_string(),
            })?;
        }
        Ok(())
    }

    fn pulls(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<String, Pull>> {
        self.0.pulls.lock().expect("no holder panics")
    }

    /// Creates the container and starts it; on an error none is left, as far as the engine answers.
    ///
    /// The name follows from the worker's id: a second start of the same worker finds the first one's container.
    pub async fn start(&self, spec: &ContainerSpec) -> Result<Running, DockerError> {
        let facts = self.image(&spec.image).await?;
        let name = spec.worker_id.as_str();
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let body = spec::request(spec, &facts, &self.0.installation);
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
