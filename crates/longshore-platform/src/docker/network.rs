//! Each fleet's own network.

use std::net::IpAddr;

use bollard::models::{EndpointSettings, NetworkConnectRequest, NetworkCreateRequest};
use bollard::query_parameters::{InspectContainerOptions, InspectNetworkOptions, ListNetworksOptionsBuilder};
use tracing::info;

use super::{DockerError, DockerPlatform, label};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSpec {
    pub fleet: String,
    /// Nothing in it is reached from outside, nor reaches anything but the host.
    pub closed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    pub name: String,
    /// The host's address in it.
    pub gateway: Option<IpAddr>,
}

impl DockerPlatform {
    /// The name follows from the fleet, so that a restart finds it; a fleet that closes its network gets another one.
    pub fn network_name(&self, spec: &NetworkSpec) -> String {
        let closed = if spec.closed { "-closed" } else { "" };
        format!("longshore-{}-{}{closed}", self.0.installation, spec.fleet)
    }

    /// The fleet's network, made if it is not there.
    pub async fn network(&self, spec: &NetworkSpec) -> Result<Network, DockerError> {
        let name = self.network_name(spec);
        if let Some(found) = self.find_network(&name).await? {
            return Ok(found);
        }
        let labels = [(label::INSTALLATION, self.0.installation.clone()), (label::FLEET, spec.fleet.clone())];
        let request = NetworkCreateRequest {
            name: name.clone(),
            driver: Some("bridge".into()),
            internal: Some(spec.closed),
            labels: Some(labels.map(|(name, value)| (name.to_owned(), value)).into()),
            ..Default::default()
        };
        let made = self.0.docker.create_network(request).await;
        match made.map_err(self.0.failed(format!("make the network `{name}`"))) {
            Ok(_) => info!(network = name, closed = spec.closed, "network made"),
            // Somebody else was faster.
            Err(error) if error.status() == Some(409) => {}
            Err(error) => return Err(error),
        }
        let missing = || DockerError::Refused {
            what: format!("use the network `{name}`"),
            status: 404,
            message: "it is gone again".into(),
        };
        self.find_network(&name).await?.ok_or_else(missing)
    }

    /// `None`: there is none of this name.
    pub async fn find_network(&self, name: &str) -> Result<Option<Network>, DockerError> {
        let found = self.0.docker.inspect_network(name, None::<InspectNetworkOptions>).await;
        let found = match found.map_err(self.0.failed(format!("look at the network `{name}`"))) {
            Ok(found) => found,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error),
        };
        let configs = found.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
        let gateways = configs.into_iter().filter_map(|config| config.gateway);
        // Some engines add the width of the network.
        let mut parsed = gateways.filter_map(|text| text.split('/').next()?.parse().ok());
        Ok(Some(Network { name: name.to_owned(), gateway: parsed.next() }))
    }

    /// Removes the networks of fleets that are not among these; those that are still in use stay.
    pub async fn tidy_networks(&self, keep: &[String]) -> Result<(), DockerError> {
        let filters = self.0.of_installation();
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let listed = self.0.docker.list_networks(Some(options)).await;
        let listed = listed.map_err(self.0.failed("list networks"))?;
        let names = listed.into_iter().filter_map(|network| network.name);
        for name in names.filter(|name| !keep.contains(name)) {
            if self.0.docker.remove_network(&name).await.is_ok() {
                info!(network = name, "network of a fleet that is no more removed");
            }
        }
        Ok(())
    }

    /// The name of the container that this process runs in, if it is one of this engine's.
    ///
    /// `hostname` is this process's, which in a container is the start of its id unless somebody chose it.
    pub async fn container_of(&self, hostname: &str) -> Result<Option<String>, DockerError> {
        let found = self.0.docker.inspect_container(hostname, None::<InspectContainerOptions>).await;
        match found.map_err(self.0.failed("look for its own container")) {
            Ok(found) => Ok(found.name.map(|name| name.trim_start_matches('/').to_owned())),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a container into a network, where it is reached by its name.
    pub async fn join(&self, network: &str, container: &str) -> Result<(), DockerError> {
        let request = NetworkConnectRequest {
            container: container.to_owned(),
            endpoint_config: Some(EndpointSettings {
                aliases: Some(vec![container.to_owned()]),
                ..Default::default()
            }),
        };
        let joined = self.0.docker.connect_network(network, request).await;
        match joined.map_err(self.0.failed(format!("join the network `{network}`"))) {
            Ok(()) => Ok(()),
            // It is in it already.
            Err(DockerError::Refused { status: 403, .. }) => Ok(()),
            Err(DockerError::Refused { message, .. }) if message.contains("already exists") => Ok(()),
            Err(error) => Err(error),
        }
    }
}
