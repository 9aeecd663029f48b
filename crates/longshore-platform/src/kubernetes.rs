//! The Kubernetes API: a connected client, and what is asked of it.

pub mod aggregation;

use kube::{Client, Config};

/// A cluster that can be asked, and the namespace that the fleets are in.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the kubeconfig that KUBECONFIG names cannot be used")]
    Kubeconfig(#[source] Box<kube::config::KubeconfigError>),
    #[error("the service account of this pod cannot be used")]
    InCluster(#[source] Box<kube::config::InClusterError>),
    #[error("a client of the Kubernetes API could not be set up")]
    Client(#[source] Box<kube::Error>),
}

impl Cluster {
    /// The cluster of KUBECONFIG, or the one that this process runs in; `None`: neither is there. Nothing is asked of it yet.
    pub async fn find(namespace: Option<&str>) -> Result<Option<Cluster>, ConnectError> {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let config = if set("KUBECONFIG") {
            let config = Config::from_kubeconfig(&Default::default()).await;
            config.map_err(|error| ConnectError::Kubeconfig(error.into()))?
        } else if set("KUBERNETES_SERVICE_HOST") {
            Config::incluster_env().map_err(|error| ConnectError::InCluster(error.into()))?
        } else {
            return Ok(None);
        };
        let namespace = namespace.map_or_else(|| config.default_namespace.clone(), str::to_owned);
        let client = Client::try_from(config).map_err(|error| ConnectError::Client(error.into()))?;
        Ok(Some(Cluster { client, namespace }))
    }

    /// One whose API server listens there without TLS and asks for nothing.
    pub fn at(url: http::Uri, namespace: &str) -> Result<Cluster, ConnectError> {
        let client =
            Client::try_from(Config::new(url)).map_err(|error| ConnectError::Client(error.into()))?;
        Ok(Cluster { client, namespace: namespace.to_owned() })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}
