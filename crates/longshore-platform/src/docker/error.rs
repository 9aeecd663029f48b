//! What the engine refuses, in words that say what to do.

use bollard::errors::Error;

use super::compose::NotCopied;
use super::spec::Unfit;

#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    #[error("`{host}` is no address of a Docker engine")]
    Address { host: String, source: Error },
    #[error(
        "no Docker engine answers at {host} ({why}): start it, let this user use its socket (group `docker`), or set `[docker] host`"
    )]
    Unreachable { host: String, why: String },
    #[error("image `{image}` is being pulled")]
    Pulling { image: String },
    #[error(
        "image `{image}` is not on the Docker host and could not be pulled ({why}): build or pull it there, or correct `image`"
    )]
    NoImage { image: String, why: String },
    #[error(
        "image `{image}` was {id} when this release began; that one is not on the Docker host any more, and the name stands \
         for another image: `longshore deploy` makes that a release of its own"
    )]
    Moved { image: String, id: String },
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error(transparent)]
    NotCopied(#[from] NotCopied),
    #[error(
        "the Docker host is out of disk space ({what}: {message}): free some, for instance with `docker system prune`"
    )]
    NoSpace { what: String, message: String },
    #[error(
        "the Docker host has no free network ({message}): remove unused ones with `docker network prune`"
    )]
    NoNetwork { message: String },
    #[error(
        "a container named `{name}` is there that is not this worker: rename or remove it with `docker rm`"
    )]
    NameTaken { name: String },
    #[error("`{path}` cannot be put into containers: {why}")]
    Binary { path: String, why: String },
    #[error("could not {what}: the Docker engine says: {message}")]
    Refused { what: String, status: u16, message: String },
    #[error("could not {what} with the Docker engine at {host}")]
    Failed { what: String, host: String, source: Error },
}

/// What an answer of the engine means.
pub(super) fn explain(host: &str, what: String, error: Error) -> DockerError {
    match error {
        Error::DockerResponseServerError { status_code, message } => {
            let lower = message.to_lowercase();
            if lower.contains("no space left on device") {
                DockerError::NoSpace { what, message }
            } else if lower.contains("address pool") {
                DockerError::NoNetwork { message }
            } else {
                DockerError::Refused { what, status: status_code, message }
            }
        }
        error => match unreachable(&error) {
            Some(why) => DockerError::Unreachable { host: host.to_owned(), why },
            None => DockerError::Failed { what, host: host.to_owned(), source: error },
        },
    }
}

/// Why nobody answered, if nobody did.
fn unreachable(error: &Error) -> Option<String> {
    match error {
        Error::RequestTimeoutError => return Some("it does not answer in time".into()),
        Error::SocketNotFoundError(path) => return Some(format!("there is no socket `{path}`")),
        _ => {}
    }
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut deepest = None;
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            deepest = Some(io.to_string());
        }
        next = cause.source();
    }
    // A connection that breaks on the way is an engine that goes away.
    let broken = matches!(error, Error::HyperResponseError { .. } | Error::HyperLegacyError { .. });
    deepest.or_else(|| broken.then(|| "the connection broke".into()))
}

impl DockerError {
    /// The status that the engine answered with.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            DockerError::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    pub(super) fn is_missing(&self) -> bool {
        self.status() == Some(404)
    }
}
