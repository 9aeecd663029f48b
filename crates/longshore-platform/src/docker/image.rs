//! Images: what is known of them, which one a name stands for, and pulling those that are not on the host.

use std::time::{Duration, Instant};

use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use longshore_core::container::Image;
use tracing::{info, warn};

use super::spec::ImageFacts;
use super::{DockerError, DockerPlatform, credentials, label};
use crate::registry;

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
        match self.find_image(name).await? {
            Some(found) => {
                self.pulls().remove(name);
                Ok(found)
            }
            None => Err(self.pull(name)),
        }
    }

    /// The image that a name stood for when it was pinned, and how to call it now: by its name, if that still stands for it.
    ///
    /// Errors: the name stands for another one, and this one is gone; else as above.
    pub async fn pinned(&self, name: &str, id: Option<&str>) -> Result<(String, ImageFacts), DockerError> {
        let Some(id) = id else { return Ok((name.to_owned(), self.image(name).await?)) };
        if let Some(facts) = self.find_image(id).await? {
            let named = self.find_image(name).await?;
            let same = named.is_some_and(|named| named.id == facts.id);
            return Ok((if same { name } else { id }.to_owned(), facts));
        }
        let facts = self.image(name).await?;
        match facts.id == id {
            true => Ok((name.to_owned(), facts)),
            false => Err(DockerError::Moved { image: name.to_owned(), id: id.to_owned() }),
        }
    }

    /// What is known of an image by its name or id; `None`: it is not on the host.
    pub async fn find_image(&self, name: &str) -> Result<Option<ImageFacts>, DockerError> {
        let found = self.0.docker.inspect_image(name).await;
        let found = match found.map_err(self.0.failed(format!("look at the image `{name}`"))) {
            Ok(found) => found,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error),
        };
        let config = found.config.unwrap_or_default();
        let labels = config.labels.unwrap_or_default();
        Ok(Some(ImageFacts {
            id: found.id.unwrap_or_default(),
            os: found.os.unwrap_or_default(),
            architecture: found.architecture.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            command: config.cmd.unwrap_or_default(),
            revision: labels.get(label::REVISION).filter(|text| !text.is_empty()).cloned(),
        }))
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
        let image = Image::parse(&name)?;
        let login = credentials::of(&image).await?;
        let known = login.is_some();
        let mut steps = std::pin::pin!(self.0.docker.create_image(Some(options), None, login));
        while let Some(step) = steps.next().await {
            step.map_err(|error| match error {
                bollard::errors::Error::DockerResponseServerError { message, .. }
                | bollard::errors::Error::DockerStreamError { error: message } => {
                    registry::why(&image, &message, known)
                }
                error => error.to_string(),
            })?;
        }
        Ok(())
    }

    fn pulls(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<String, Pull>> {
        self.0.pulls.lock().expect("no holder panics")
    }
}
