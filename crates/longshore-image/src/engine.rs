//! A thin client of the Docker Engine: just what a check asks of it, and errors that say what to do.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use bollard::exec::StartExecResults;
use bollard::models::{ContainerCreateBody, ExecConfig, NetworkCreateRequest};
use bollard::query_parameters as query;
use bollard::{API_DEFAULT_VERSION, Docker};
use bytes::Bytes;
use futures_util::StreamExt;
use longshore_core::time::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("`{0}` is no address of a Docker engine")]
    Address(String),
    #[error("could not reach the Docker engine at {address}")]
    Unreachable { address: String, source: bollard::errors::Error },
    #[error("the engine has no image `{0}`")]
    NoImage(String),
    #[error("the engine could not {what}")]
    Refused { what: String, source: bollard::errors::Error },
    #[error("the engine's answer to `{0}` is not what it should be")]
    Answer(String),
}

#[derive(Clone)]
pub struct Engine {
    docker: Docker,
    address: String,
}

/// How a container stands, as far as a check asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub running: bool,
    pub exit_code: i64,
    pub oom_killed: bool,
    pub pid: i64,
    /// `starting`, `healthy`, `unhealthy`; empty without HEALTHCHECK.
    pub health: String,
    /// In the network that the container was started in.
    pub address: Option<String>,
}

/// What a container wrote.
#[derive(Clone, Debug, Default)]
pub struct Output {
    pub out: String,
    pub err: String,
}

/// More of a container's output is not read.
const OUTPUT: usize = 4 << 20;

pub const DEFAULT_ADDRESS: &str = "unix:///var/run/docker.sock";

impl Engine {
    /// `unix:///var/run/docker.sock`, `http://127.0.0.1:2375` or `tcp://…`. Asks the engine for its version.
    pub async fn connect(address: &str) -> Result<Engine, EngineError> {
        const TIMEOUT_S: u64 = 120;
        let made = match address.split_once("://") {
            Some(("unix", _)) => Docker::connect_with_unix(address, TIMEOUT_S, API_DEFAULT_VERSION),
            Some(("tcp" | "http", _)) => Docker::connect_with_http(address, TIMEOUT_S, API_DEFAULT_VERSION),
            _ => return Err(EngineError::Address(address.to_owned())),
        };
        let unreachable = |source| EngineError::Unreachable { address: address.to_owned(), source };
        let docker = made.map_err(unreachable)?.negotiate_version().await.map_err(unreachable)?;
        Ok(Engine { docker, address: address.to_owned() })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// `linux/amd64`
    pub async fn platform(&self) -> Result<String, EngineError> {
        let version = self.docker.version().await.map_err(refused("tell its version"))?;
        Ok(format!("{}/{}", version.os.unwrap_or_default(), version.arch.unwrap_or_default()))
    }

    pub async fn has_image(&self, image: &str) -> Result<bool, EngineError> {
        match self.docker.inspect_image(image).await {
            Ok(_) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(refused(format!("look at `{image}`"))(error)),
        }
    }

    /// The image as an archive, for [`crate::read`] on a thread of its own. Ends early when the reader is dropped.
    pub async fn save(&self, image: &str) -> Result<Saved, EngineError> {
        if !self.has_image(image).await? {
            return Err(EngineError::NoImage(image.to_owned()));
        }
        let (parts, saved) = mpsc::channel(16);
        let (docker, image) = (self.docker.clone(), image.to_owned());
        tokio::spawn(async move {
            let mut stream = std::pin::pin!(docker.export_image(&image));
            while let Some(part) = stream.next().await {
                if parts.send(part.map_err(io::Error::other)).await.is_err() {
                    break;
                }
            }
        });
        Ok(Saved { parts: saved, part: Bytes::new() })
    }

    /// One that is not there is fine.
    pub async fn remove(&self, made: &Made) -> Result<(), EngineError> {
        match made.kind {
            Kind::Container => self.remove_container(&made.name).await,
            Kind::Network => self.remove_network(&made.name).await,
        }
    }

    /// A network of its own, without a way out.
    pub async fn create_network(&self, name: &str) -> Result<(), EngineError> {
        let body = json!({"Name": name, "Driver": "bridge", "Internal": true, "Labels": {(LABEL): name}});
        let body: NetworkCreateRequest = typed(body, "create a network")?;
        self.docker.create_network(body).await.map_err(refused("create a network"))?;
        Ok(())
    }

    /// The address of the engine's machine in a network.
    pub async fn gateway(&self, name: &str) -> Result<String, EngineError> {
        let seen = self.docker.inspect_network(name, None::<query::InspectNetworkOptions>).await;
        let seen = plain(&seen.map_err(refused("look at its network"))?);
        let gateway = seen["IPAM"]["Config"][0]["Gateway"].as_str().map(str::to_owned);
        gateway.ok_or_else(|| EngineError::Answer("network inspect".into()))
    }

    async fn remove_network(&self, name: &str) -> Result<(), EngineError> {
        gone(self.docker.remove_network(name).await).map_err(refused("remove its network"))
    }

    /// Creates and starts; the body is the Engine API's.
    pub async fn run(&self, name: &str, body: Value) -> Result<(), EngineError> {
        let body: ContainerCreateBody = typed(body, "create a container")?;
        let options = query::CreateContainerOptionsBuilder::default().name(name).build();
        self.docker.create_container(Some(options), body).await.map_err(refused("create a container"))?;
        let started = self.docker.start_container(name, None::<query::StartContainerOptions>).await;
        started.map_err(refused("start the container"))
    }

    pub async fn state(&self, name: &str) -> Result<State, EngineError> {
        let seen = self.docker.inspect_container(name, None::<query::InspectContainerOptions>).await;
        let seen = plain(&seen.map_err(refused("look at the container"))?);
        let state = &seen["State"];
        let networks = seen["NetworkSettings"]["Networks"].as_object();
        let address = networks.and_then(|all| all.values().find_map(|network| network["IPAddress"].as_str()));
        Ok(State {
            running: state["Running"].as_bool().unwrap_or_default(),
            exit_code: state["ExitCode"].as_i64().unwrap_or_default(),
            oom_killed: state["OOMKilled"].as_bool().unwrap_or_default(),
            pid: state["Pid"].as_i64().unwrap_or_default(),
            health: state["Health"]["Status"].as_str().unwrap_or_default().to_owned(),
            address: address.filter(|address| !address.is_empty()).map(str::to_owned),
        })
    }

    pub async fn signal(&self, name: &str, signal: &str) -> Result<(), EngineError> {
        let options = query::KillContainerOptionsBuilder::default().signal(signal).build();
        self.docker.kill_container(name, Some(options)).await.map_err(refused(format!("send {signal}")))
    }

    /// Kills it if it runs, and removes it with its volumes.
    async fn remove_container(&self, name: &str) -> Result<(), EngineError> {
        let options = query::RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        let removed = self.docker.remove_container(name, Some(options)).await;
        gone(removed).map_err(refused("remove the container"))
    }

    /// What carries the label of a check, and since when it is there: containers first, since networks wait for them.
    pub async fn made(&self) -> Result<Vec<(Made, Timestamp)>, EngineError> {
        let labelled = HashMap::from([("label", vec![LABEL])]);
        let all = query::ListContainersOptionsBuilder::default().all(true).filters(&labelled).build();
        let containers = self.docker.list_containers(Some(all)).await.map_err(refused("list containers"))?;
        let all = query::ListNetworksOptionsBuilder::default().filters(&labelled).build();
        let networks = self.docker.list_networks(Some(all)).await.map_err(refused("list networks"))?;
        let containers = containers.iter().filter_map(|it| container(&plain(it)));
        Ok(containers.chain(networks.iter().filter_map(|it| network(&plain(it)))).collect())
    }

    pub async fn output(&self, name: &str) -> Result<Output, EngineError> {
        let options = query::LogsOptionsBuilder::default().stdout(true).stderr(true).build();
        let mut stream = std::pin::pin!(self.docker.logs(name, Some(options)));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        while let Some(part) = stream.next().await {
            use bollard::container::LogOutput;
            match part.map_err(refused("read its output"))? {
                LogOutput::StdErr { message } => err.extend_from_slice(&message),
                LogOutput::StdOut { message } | LogOutput::Console { message } => {
                    out.extend_from_slice(&message)
                }
                LogOutput::StdIn { .. } => {}
            }
            if out.len() + err.len() > OUTPUT {
                break;
            }
        }
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Output { out: text(out), err: text(err) })
    }

    /// The container's processes: user number, state as `ps` shows it, name. Empty where the engine has no `ps`.
    pub async fn processes(&self, name: &str) -> Result<Vec<[String; 3]>, EngineError> {
        let options = query::TopOptionsBuilder::default().ps_args("-eo pid,uid,stat,comm").build();
        let top =
            self.docker.top_processes(name, Some(options)).await.map_err(refused("list its processes"))?;
        let rows = top.processes.unwrap_or_default().into_iter();
        Ok(rows
            .filter_map(|row| Some([row.get(1)?.clone(), row.get(2)?.clone(), row.get(3)?.clone()]))
            .collect())
    }

    /// Paths that differ from the image.
    pub async fn changes(&self, name: &str) -> Result<Vec<String>, EngineError> {
        let changes =
            self.docker.container_changes(name).await.map_err(refused("compare it with its image"))?;
        Ok(changes.unwrap_or_default().into_iter().map(|change| change.path).collect())
    }

    /// Runs a command in a container, and tells what it printed; `None` if it could not be started, or failed.
    pub async fn exec(&self, name: &str, command: &[&str]) -> Result<Option<String>, EngineError> {
        let body = json!({"AttachStdout": true, "AttachStderr": true, "Cmd": command});
        let body: ExecConfig = typed(body, "exec")?;
        let exec = self.docker.create_exec(name, body).await.map_err(refused("run a command in it"))?;
        let Ok(started) = self.docker.start_exec(&exec.id, None).await else { return Ok(None) };
        let mut said = Vec::new();
        if let StartExecResults::Attached { mut output, .. } = started {
            let all = async {
                while let Some(Ok(part)) = output.next().await {
                    if let bollard::container::LogOutput::StdOut { message } = part
                        && said.len() < OUTPUT
                    {
                        said.extend_from_slice(&message);
                    }
                }
            };
            let _ = tokio::time::timeout(Duration::from_secs(10), all).await;
        }
        let seen = self.docker.inspect_exec(&exec.id).await.map_err(refused("run a command in it"))?;
        Ok((seen.exit_code == Some(0)).then(|| String::from_utf8_lossy(&said).into_owned()))
    }
}

/// Something that a check made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    pub kind: Kind,
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Container,
    Network,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Container => "container",
            Kind::Network => "network",
        };
        write!(f, "{kind} `{}`", self.name)
    }
}

/// As the engine lists it: its time is in seconds.
fn container(listed: &Value) -> Option<(Made, Timestamp)> {
    let name = listed["Names"][0].as_str()?.trim_start_matches('/').to_owned();
    let at = Timestamp(listed["Created"].as_i64()?.checked_mul(1000)?);
    Some((Made { kind: Kind::Container, name }, at))
}

/// As the engine lists it: its time is a text.
fn network(listed: &Value) -> Option<(Made, Timestamp)> {
    let (name, at) = (listed["Name"].as_str()?.to_owned(), listed["Created"].as_str()?.parse().ok()?);
    Some((Made { kind: Kind::Network, name }, at))
}

/// Marks what a check made, so that what is left over is found.
pub const LABEL: &str = "longshore.check";

fn refused(what: impl Into<String>) -> impl FnOnce(bollard::errors::Error) -> EngineError {
    let what = what.into();
    move |source| EngineError::Refused { what, source }
}

fn is_missing(error: &bollard::errors::Error) -> bool {
    matches!(error, bollard::errors::Error::DockerResponseServerError { status_code: 404, .. })
}

fn gone(removed: Result<(), bollard::errors::Error>) -> Result<(), bollard::errors::Error> {
    match removed {
        Err(error) if !is_missing(&error) => Err(error),
        _ => Ok(()),
    }
}

fn typed<T: for<'a> serde::Deserialize<'a>>(body: Value, what: &str) -> Result<T, EngineError> {
    serde_json::from_value(body).map_err(|_| EngineError::Answer(what.to_owned()))
}

fn plain(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// An archive that the engine is sending; a blocking reader.
pub struct Saved {
    parts: mpsc::Receiver<io::Result<Bytes>>,
    part: Bytes,
}

impl Read for Saved {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.parts.blocking_recv() {
                Some(part) => self.part = part?,
                None => return Ok(0),
            }
        }
        let most = into.len().min(self.part.len());
        into[..most].copy_from_slice(&self.part.split_to(most));
        Ok(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_check_made_is_read_with_its_age() {
        let listed = json!({"Names": ["/longshore-check-1-strict"], "Created": 1_795_000_000_i64});
        let (made, at) = container(&listed).expect("it is one");
        assert_eq!(made.to_string(), "container `longshore-check-1-strict`");
        let listed = json!({"Name": "longshore-check-1", "Created": "2026-11-18T11:06:40.123456789+00:00"});
        let (network, later) = network(&listed).expect("it is one");
        assert_eq!(network.to_string(), "network `longshore-check-1`");
        assert_eq!(later.since(at), Duration::from_millis(123));
    }
}
