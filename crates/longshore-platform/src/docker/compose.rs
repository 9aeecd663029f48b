//! Replicas of a compose service: found by the labels that docker-compose gives them, added as copies of a sibling, removed.
//!
//! A container belongs to a service only if it carries the labels by which docker-compose itself lists it; one-off containers
//! (`docker-compose run`) do not. Nothing else is ever touched.

mod copy;
mod file;
#[cfg(test)]
mod tests;

pub use copy::{Copy, NotCopied, container_name, lowest_free};
pub use file::{Counts, OverrideFile, override_text};

use std::collections::HashMap;

use bollard::models::{
    ContainerInspectResponse, ContainerSummary, ContainerUpdateBody, NetworkConnectRequest, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, StartContainerOptions,
};
use tracing::{info, warn};

use super::running::{ContainerIdentity, Running};
use super::{DockerError, DockerPlatform, Found, label, state};

const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";
const NUMBER: &str = "com.docker.compose.container-number";
const ONE_OFF: &str = "com.docker.compose.oneoff";
const CONFIG_HASH: &str = "com.docker.compose.config-hash";
const VERSION: &str = "com.docker.compose.version";
const WORKING_DIR: &str = "com.docker.compose.project.working_dir";
/// On containers that compose v2 is about to replace others by.
const REPLACE: &str = "com.docker.compose.replace";

/// How often another number is tried when somebody else was faster.
const TRIES: u32 = 3;

/// A service of a compose project.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    pub project: String,
    pub name: String,
}

/// One container of a service, running or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    pub id: String,
    pub name: String,
    pub number: u32,
    /// The worker that we added it for; none: docker-compose made it.
    pub worker: Option<String>,
    pub runs: bool,
    /// It ended by itself and the engine is about to start it again.
    pub restarts: bool,
    /// When it was made, in seconds.
    pub created: i64,
    /// Which configuration it was made with.
    pub config: String,
    /// Where its project is on the host.
    pub folder: Option<String>,
}

impl Replica {
    /// The name of the host inside, unless the compose file chooses one.
    pub fn hostname(&self) -> &str {
        hostname_of(&self.id)
    }
}

fn hostname_of(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "service `{}` of project `{}`", self.name, self.project)
    }
}

impl Service {
    fn filters(&self) -> HashMap<String, Vec<String>> {
        let labels = vec![
            format!("{PROJECT}={}", self.project),
            format!("{SERVICE}={}", self.name),
            format!("{ONE_OFF}=False"),
            CONFIG_HASH.to_owned(),
        ];
        [("label".to_owned(), labels)].into()
    }

    /// Whether docker-compose would count a container with these labels as one of the service.
    fn owns(&self, labels: &HashMap<String, String>) -> bool {
        let is = |name: &str, value: &str| labels.get(name).is_some_and(|it| it == value);
        is(PROJECT, &self.project)
            && is(SERVICE, &self.name)
            && is(ONE_OFF, "False")
            && labels.contains_key(CONFIG_HASH)
    }

    fn owns_container(&self, found: &ContainerInspectResponse) -> bool {
        let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
        labels.is_some_and(|labels| self.owns(labels))
    }

    fn replica(&self, listed: ContainerSummary) -> Option<Replica> {
        let labels = listed.labels.unwrap_or_default();
        if !self.owns(&labels) {
            return None;
        }
        let name = listed.names.unwrap_or_default().into_iter().next().unwrap_or_default();
        let state = listed.state.map(|state| state.to_string()).unwrap_or_default();
        Some(Replica {
            id: listed.id.filter(|id| !id.is_empty())?,
            name: name.trim_start_matches('/').to_owned(),
            number: labels.get(NUMBER).and_then(|text| text.parse().ok()).unwrap_or(0),
            worker: labels.get(label::REPLICA).cloned(),
            runs: matches!(state.as_str(), "running" | "paused" | "restarting"),
            restarts: state == "restarting",
            created: listed.created.unwrap_or(0),
            config: labels.get(CONFIG_HASH).cloned().unwrap_or_default(),
            folder: labels.get(WORKING_DIR).cloned(),
        })
    }
}

impl DockerPlatform {
    /// The compose project that this process's own container is in.
    pub async fn project_of(&self, container: &str) -> Result<Option<String>, DockerError> {
        let found = self.inspect(container).await?;
        let labels = found.and_then(|found| found.config).and_then(|config| config.labels);
        Ok(labels.and_then(|labels| labels.get(PROJECT).cloned()))
    }

    /// The service's containers, by number.
    pub async fn replicas(&self, service: &Service) -> Result<Vec<Replica>, DockerError> {
        let filters = service.filters();
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed = self.0.docker.list_containers(Some(options)).await;
        let listed = listed.map_err(self.0.failed(format!("list the containers of {service}")))?;
        let mut replicas: Vec<Replica> = listed.into_iter().filter_map(|it| service.replica(it)).collect();
        replicas.sort_by_key(|replica| replica.number);
        Ok(replicas)
    }

    /// Watches a replica as this worker; `None`: it does not run.
    pub async fn watch_replica(
        &self,
        service: &Service,
        worker: &str,
        container: &str,
    ) -> Result<Option<Running>, DockerError> {
        let found = self.inspect(container).await?.filter(|found| service.owns_container(found));
        let runs = found.filter(|found| state::end(found.state.as_ref()).is_none());
        Ok(runs.map(|found| self.watch(worker, found)))
    }

    /// Finds the container again that was added for a worker, or that was seen to be one's.
    ///
    /// Errors: it could not be told whether it lives; never take that for gone.
    pub async fn find_replica(
        &self,
        worker: &str,
        identity: Option<&ContainerIdentity>,
    ) -> Result<Found, DockerError> {
        let container = match identity {
            Some(identity) => Some(identity.container.clone()),
            None => self.added_for(worker).await?,
        };
        let Some(container) = container else { return Ok(Found::Gone) };
        let Some(found) = self.inspect(&container).await? else { return Ok(Found::Gone) };
        Ok(match state::end(found.state.as_ref()) {
            None => Found::Running(self.watch(worker, found)),
            Some(end) => Found::Ended(end),
        })
    }

    /// The container that was added for a worker, if its id was not saved any more.
    async fn added_for(&self, worker: &str) -> Result<Option<String>, DockerError> {
        let mut filters = self.0.of_installation();
        filters.entry("label".into()).or_default().push(format!("{}={worker}", label::REPLICA));
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed = self.0.docker.list_containers(Some(options)).await;
        let listed = listed.map_err(self.0.failed(format!("look for the container of worker `{worker}`")))?;
        Ok(listed.into_iter().find_map(|container| container.id))
    }

    /// Whether a replica can be added now.
    pub async fn can_copy(&self, service: &Service) -> Result<(), DockerError> {
        let replicas = self.replicas(service).await?;
        let source = copy::choose(service, &replicas)?;
        match self.inspect(&source.id).await? {
            Some(source) => Ok(copy::check(service, &source)?),
            None => Err(NotCopied::Nothing { service: service.clone() }.into()),
        }
    }

    /// Adds a replica: a copy of a sibling, with the lowest number that is free. On an error none is left, as far as the
    /// engine answers.
    pub async fn add_replica(&self, copy: &Copy) -> Result<Running, DockerError> {
        for left in (0..TRIES).rev() {
            match self.try_add(copy).await {
                // Somebody else took the number meanwhile.
                Err(error) if error.status() == Some(409) && left > 0 => {}
                done => return done,
            }
        }
        unreachable!("the last try returns")
    }

    async fn try_add(&self, copy: &Copy) -> Result<Running, DockerError> {
        let replicas = self.replicas(&copy.service).await?;
        let source = copy::choose(&copy.service, &replicas)?;
        let gone = || NotCopied::Nothing { service: copy.service.clone() };
        let source = self.inspect(&source.id).await?.ok_or_else(gone)?;
        let image = self.image_name(&source).await?;
        let number = lowest_free(&replicas);
        let request = copy::request(copy, &source, &image, number, &self.0.installation)?;
        let options = CreateContainerOptionsBuilder::new().name(&request.name).build();
        let created = self.0.docker.create_container(Some(options), request.body).await;
        let created = created.map_err(self.0.failed(format!("create the container `{}`", request.name)))?;
        match self.start_added(&created.id, &copy.worker_id, request.networks).await {
            Ok(running) => {
                info!(worker = copy.worker_id, container = request.name, "replica added");
                Ok(running)
            }
            Err(error) => {
                if let Err(left) = self.discard(&created.id, true).await {
                    warn!(container = request.name, error = %left, "replica that did not start could not be removed");
                }
                Err(error)
            }
        }
    }

    async fn start_added(
        &self,
        container: &str,
        worker: &str,
        networks: Vec<(String, bollard::models::EndpointSettings)>,
    ) -> Result<Running, DockerError> {
        for (network, endpoint) in networks {
            let request =
                NetworkConnectRequest { container: container.to_owned(), endpoint_config: Some(endpoint) };
            let joined = self.0.docker.connect_network(&network, request).await;
            joined.map_err(self.0.failed(format!("join the network `{network}`")))?;
        }
        let started = self.0.docker.start_container(container, None::<StartContainerOptions>).await;
        started.map_err(self.0.failed("start a replica"))?;
        let found = self.0.docker.inspect_container(container, None::<InspectContainerOptions>).await;
        let found = found.map_err(self.0.failed("look at a replica"))?;
        let ended = state::end(found.state.as_ref()).is_some();
        let running = self.watch(worker, found);
        if ended {
            // Its event came before anybody waited for it.
            super::watch::settle(&self.0, container).await;
        }
        Ok(running)
    }

    /// The name of a container's image, or its id where the name means another one by now: a copy runs what its sibling runs.
    async fn image_name(&self, source: &ContainerInspectResponse) -> Result<String, DockerError> {
        let id = source.image.clone().unwrap_or_default();
        let name = source.config.as_ref().and_then(|config| config.image.clone()).unwrap_or_default();
        let found = self.0.docker.inspect_image(&name).await;
        match found.map_err(self.0.failed(format!("look at the image `{name}`"))) {
            Ok(found) if found.id.as_deref() == Some(&id) => Ok(name),
            Ok(_) => Ok(id),
            Err(error) if error.is_missing() => Ok(id),
            Err(error) => Err(error),
        }
    }

    /// The engine does not start the container again by itself once it has ended, whatever the compose file says.
    pub async fn forbid_restart(&self, container: &str) -> Result<(), DockerError> {
        let policy = RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: Some(0) };
        let body = ContainerUpdateBody { restart_policy: Some(policy), ..Default::default() };
        let updated = self.0.docker.update_container(container, body).await;
        match updated.map_err(self.0.failed("end the restarts of a replica")) {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes a replica of this service that has ended. One that runs, is another's or is gone already stays as it is.
    pub async fn remove_replica(&self, service: &Service, container: &str) -> Result<(), DockerError> {
        let found = self.inspect(container).await?.filter(|found| service.owns_container(found));
        match found.filter(|found| state::end(found.state.as_ref()).is_some()) {
            Some(_) => self.discard(container, false).await,
            None => Ok(()),
        }
    }

    async fn discard(&self, container: &str, force: bool) -> Result<(), DockerError> {
        // Not forced, so one that was started again just now stays.
        let options = RemoveContainerOptionsBuilder::new().force(force).v(true).build();
        let removed = self.0.docker.remove_container(container, Some(options)).await;
        match removed.map_err(self.0.failed("remove a replica")) {
            Ok(()) => {
                info!(container, "replica removed");
                Ok(())
            }
            Err(error) if error.is_missing() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
