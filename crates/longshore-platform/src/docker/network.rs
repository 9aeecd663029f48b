//! Each fleet's own network.

use std::net::IpAddr;

use bollard::models::{
    EndpointSettings, NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest,
};
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

/// A container that a control plane runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaneContainer {
    pub name: String,
    /// Those that it is in.
    pub networks: Vec<String>,
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

    /// Removes the networks of fleets that are not among these, and takes control planes out of them before. Returns those
    /// that stay, each with why: something else is still in it.
    pub async fn tidy_networks(
        &self,
        keep: &[String],
        planes: &[PlaneContainer],
    ) -> Result<Vec<(String, DockerError)>, DockerError> {
        let filters = self.0.of_installation();
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let listed = self.0.docker.list_networks(Some(options)).await;
        let listed = listed.map_err(self.0.failed("list networks"))?;
        let names = listed.into_iter().filter_map(|network| network.name);
        let mut stay = Vec::new();
        for name in names.filter(|name| !keep.contains(name)) {
            for plane in planes.iter().filter(|plane| plane.networks.contains(&name)) {
                let request = NetworkDisconnectRequest { container: plane.name.clone(), force: Some(true) };
                // What is in the way is still there when it is looked again.
                let _ = self.0.docker.disconnect_network(&name, request).await;
            }
            let removed = self.0.docker.remove_network(&name).await;
            match removed.map_err(self.0.failed(format!("remove the network `{name}`"))) {
                Ok(()) => info!(network = name, "network of a fleet that is no more removed"),
                Err(error) if error.is_missing() => {}
                Err(error) => stay.push((name, error)),
            }
        }
        Ok(stay)
    }

    /// The container that a control plane runs in, if it is one of this engine's.
    ///
    /// `hostname` is that process's, which in a container is the start of its id unless somebody chose it; then it has to be
    /// the container's name as well.
    pub async fn plane_container(&self, hostname: &str) -> Result<Option<PlaneContainer>, DockerError> {
        let found = self.0.docker.inspect_container(hostname, None::<InspectContainerOptions>).await;
        let found = match found.map_err(self.0.failed(format!("look for the container `{hostname}`"))) {
            Ok(found) => found,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error),
        };
        // A machine may be called like a container that has nothing to do with it.
        if found.config.and_then(|config| config.hostname).as_deref() != Some(hostname) {
            return Ok(None);
        }
        let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        Ok(found.name.map(|name| PlaneContainer {
            name: name.trim_start_matches('/').to_owned(),
            networks: networks.into_keys().collect(),
        }))
    }

    /// Puts a control plane's container into a network, where it is reached by its name and by this one.
    pub async fn join(
        &self,
        network: &str,
        plane: &PlaneContainer,
        also: Option<&str>,
    ) -> Result<(), DockerError> {
        if plane.networks.iter().any(|name| name == network) {
            return Ok(());
        }
        let names = std::iter::once(plane.name.as_str()).chain(also);
        let request = NetworkConnectRequest {
            container: plane.name.clone(),
            endpoint_config: Some(EndpointSettings {
                aliases: Some(names.map(str::to_owned).collect()),
                ..Default::default()
            }),
        };
        let joined = self.0.docker.connect_network(network, request).await;
        match joined.map_err(self.0.failed(format!("join the network `{network}`"))) {
            Ok(()) => {
                info!(network, container = plane.name, "control plane joins the network of a fleet");
                Ok(())
            }
            // It is in it already.
            Err(DockerError::Refused { status: 403, .. }) => Ok(()),
            Err(DockerError::Refused { message, .. }) if message.contains("already exists") => Ok(()),
            Err(error) => Err(error),
        }
    }
}
