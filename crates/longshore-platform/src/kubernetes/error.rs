//! Why a cluster did not do what it was asked.

/// In words that say what to do where a person can do something.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("no Kubernetes cluster is known here: run in one with a service account, or set KUBECONFIG")]
    NotConfigured(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("may not {what}: apply the Role that `longshore render kubernetes` writes")]
    Forbidden {
        what: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// Whoever asks is not known: its token has expired, or was taken back.
    #[error(
        "could not {what}: the API server does not know who asks; the token of this service account or kubeconfig has expired or was taken back"
    )]
    Unknown {
        what: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("{what}: there is none; apply what `longshore render kubernetes` writes")]
    NotFound { what: String },
    /// Somebody else changed it meanwhile: it is looked at again.
    #[error("could not {what}: somebody else changed it")]
    Conflict { what: String },
    #[error("could not {what}: the API server does not answer in time")]
    Silent { what: String },
    #[error("could not {what}")]
    Failed {
        what: String,
        #[source]
        source: Box<kube::Error>,
    },
}

impl ClusterError {
    /// `what`: what was tried, as in "could not …".
    pub(super) fn of(what: impl Into<String>, error: kube::Error) -> ClusterError {
        let what = what.into();
        match &error {
            kube::Error::Api(status) if status.code == 409 => ClusterError::Conflict { what },
            kube::Error::Api(status) if status.code == 404 => ClusterError::NotFound { what },
            kube::Error::Api(status) if status.code == 401 => {
                ClusterError::Unknown { what, source: Box::new(error) }
            }
            kube::Error::Api(status) if status.code == 403 => {
                ClusterError::Forbidden { what, source: Box::new(error) }
            }
            _ => ClusterError::Failed { what, source: Box::new(error) },
        }
    }

    /// What was asked for was not done, and will not be. Anything else may have been done, or be done yet.
    pub fn is_refusal(&self) -> bool {
        match self {
            ClusterError::NotConfigured(_)
            | ClusterError::Forbidden { .. }
            | ClusterError::Unknown { .. }
            | ClusterError::NotFound { .. } => true,
            // Whatever changed it may have been this very request, made before.
            ClusterError::Conflict { .. } | ClusterError::Silent { .. } => false,
            ClusterError::Failed { source, .. } => {
                matches!(&**source, kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 408)
            }
        }
    }

    /// The API server does not know any more what has changed since a version that is this old.
    pub(super) fn is_expired(&self) -> bool {
        matches!(self, ClusterError::Failed { source, .. } if matches!(&**source, kube::Error::Api(status) if status.code == 410))
    }
}
