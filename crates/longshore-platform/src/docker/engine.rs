//! What is known about the engine and its host.

use bollard::query_parameters::ListContainersOptionsBuilder;

use super::{ContainerIdentity, DockerError, DockerPlatform, label};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// Stays the same over restarts of the engine.
    pub id: String,
    /// As the kernel names it, such as `x86_64`.
    pub architecture: String,
    /// In thousandths of a core.
    pub cpu: u64,
    /// In bytes.
    pub memory: u64,
}

/// A container that is there, and what it was promised: thousandths of a core, bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promised {
    pub worker: String,
    pub identity: ContainerIdentity,
    pub installation: String,
    pub cpu: u64,
    pub memory: u64,
    pub runs: bool,
}

impl DockerPlatform {
    /// Errors: nobody answers.
    pub async fn engine(&self) -> Result<Engine, DockerError> {
        let info = self.0.docker.info().await.map_err(self.0.failed("ask about the host"))?;
        let whole = |amount: Option<i64>| amount.and_then(|amount| u64::try_from(amount).ok()).unwrap_or(0);
        Ok(Engine {
            id: info.id.unwrap_or_default(),
            architecture: info.architecture.unwrap_or_default(),
            cpu: whole(info.ncpu) * 1000,
            memory: whole(info.mem_total),
        })
    }

    /// All containers on the host that are workers of any installation of longshore.
    pub async fn workers(&self) -> Result<Vec<Promised>, DockerError> {
        let filters = [("label".to_owned(), vec![label::WORKER.to_owned()])].into();
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed = self.0.docker.list_containers(Some(options)).await;
        let listed = listed.map_err(self.0.failed("list containers"))?;
        let promised = listed.into_iter().map(|container| {
            let labels = container.labels.unwrap_or_default();
            let text = |name: &str| labels.get(name).cloned().unwrap_or_default();
            let number = |name: &str| labels.get(name).and_then(|text| text.parse().ok()).unwrap_or(0);
            let state = container.state.map(|state| state.to_string()).unwrap_or_default();
            Promised {
                worker: text(label::WORKER),
                identity: ContainerIdentity { container: container.id.unwrap_or_default() },
                installation: text(label::INSTALLATION),
                cpu: number(label::CPU),
                memory: number(label::MEMORY),
                runs: matches!(state.as_str(), "created" | "running" | "paused" | "restarting"),
            }
        });
        Ok(promised.collect())
    }

    /// The workers of this installation that have containers, running or not.
    pub async fn own_workers(&self) -> Result<Vec<Promised>, DockerError> {
        let all = self.workers().await?.into_iter();
        Ok(all.filter(|it| it.installation == self.0.installation).collect())
    }

    /// Where the engine is, for people.
    pub fn host(&self) -> &str {
        &self.0.host
    }
}
