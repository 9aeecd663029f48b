//! What a worker's container is created with: the request to the engine, from values alone.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, MountVolumeOptions,
    RestartPolicy, RestartPolicyNameEnum,
};

use super::label;

/// Where an injected longshore is in its container.
pub const INJECTED: &str = "/opt/longshore/longshore";

/// Its folder; images may have a longshore of their own, mostly as `/longshore`.
pub const INJECTED_DIR: &str = "/opt/longshore";

/// Where every worker's probes listen; a container has its ports to itself.
pub const PROBES: u16 = 7119;

/// A worker to start as a container.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// Also the container's name, so that nothing starts it twice.
    pub worker_id: String,
    pub fleet: String,
    /// Of the fleet's declaration.
    pub release: u64,
    /// By its name.
    pub image: String,
    /// What the name has to stand for, as the engine names it; none: whatever it stands for.
    pub image_id: Option<String>,
    pub supervisor: Supervisor,
    /// The agent; empty: the image's own.
    pub command: Vec<String>,
    /// Empty: the image's own.
    pub working_dir: String,
    /// With what it gets of longshore; secrets in it are never printed.
    pub env: Vec<(String, Hidden)>,
    pub network: String,
    pub limits: Limits,
    /// How long `docker stop` waits before it kills.
    pub stop_grace_s: u32,
}

/// Where the longshore in the container comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Supervisor {
    Image,
    /// This volume holds it.
    Volume(String),
}

/// What it is promised, and the most that it gets: CPU in thousandths of a core, memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub cpu: u32,
    pub cpu_limit: u32,
    pub memory: u64,
    pub memory_limit: u64,
    pub pids: u32,
}

/// Text that does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What the engine says about an image, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFacts {
    pub id: String,
    pub os: String,
    pub architecture: String,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    /// Of its source: `org.opencontainers.image.revision`.
    pub revision: Option<String>,
}

/// An image that no worker can be made of, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error(
        "image `{image}` does not start longshore (its entrypoint is {entrypoint:?}): end its Dockerfile with ENTRYPOINT \
         [\"/longshore\", \"worker\", \"--\"], or declare `supervisor = \"inject\"`"
    )]
    NoSupervisor { image: String, entrypoint: Vec<String> },
    #[error("image `{image}` says not what to run, nor does the fleet: declare `command`")]
    NoCommand { image: String },
    #[error(
        "image `{image}` is for {found}, the Docker host is {host}: build it for that with `docker build --platform linux/{host}`"
    )]
    Architecture { image: String, found: String, host: String },
}

/// Whether containers of this image can be workers on a host of this architecture; `command` is what the fleet declares.
pub fn check(
    image: &str,
    facts: &ImageFacts,
    injected: bool,
    command: &[String],
    host: &str,
) -> Result<(), Unfit> {
    let image = image.to_owned();
    if !facts.architecture.is_empty() && !same_machine(&facts.architecture, host) {
        let found = format!("{}/{}", facts.os, facts.architecture);
        return Err(Unfit::Architecture { image, found, host: machine(host).to_owned() });
    }
    match injected {
        false if !starts_longshore(&facts.entrypoint) => {
            Err(Unfit::NoSupervisor { image, entrypoint: facts.entrypoint.clone() })
        }
        true if agent(command, facts).is_empty() => Err(Unfit::NoCommand { image }),
        _ => Ok(()),
    }
}

/// The kernel and Docker call the same machines by different names.
fn machine(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn same_machine(one: &str, other: &str) -> bool {
    machine(one) == machine(other)
}

pub(super) fn starts_longshore(entrypoint: &[String]) -> bool {
    let at = entrypoint.iter().position(|word| word.rsplit('/').next() == Some("longshore"));
    at.is_some_and(|at| entrypoint.get(at + 1).is_some_and(|word| word == "worker"))
}

/// What an injected supervisor runs: what is declared, else all that the image would have run by itself.
fn agent(command: &[String], facts: &ImageFacts) -> Vec<String> {
    match command.is_empty() {
        false => command.to_vec(),
        true => facts.entrypoint.iter().chain(&facts.command).cloned().collect(),
    }
}

/// The request to the engine.
///
/// The root file system is read-only and `/tmp` is memory, half of the container's at most; no capability, no way to gain
/// one; no swap beyond its memory; the engine never starts it again by itself, since its tasks would be elsewhere by then.
pub fn request(spec: &ContainerSpec, facts: &ImageFacts, installation: &str) -> ContainerCreateBody {
    let (entrypoint, cmd) = match &spec.supervisor {
        Supervisor::Volume(_) => {
            let entrypoint = [INJECTED, "worker", "--"].map(str::to_owned).to_vec();
            (Some(entrypoint), Some(agent(&spec.command, facts)))
        }
        // An entrypoint that is not open at its end holds the command itself.
        Supervisor::Image => {
            let open = facts.entrypoint.last().is_some_and(|word| word == "--");
            (None, (open && !spec.command.is_empty()).then(|| spec.command.clone()))
        }
    };
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        entrypoint,
        cmd,
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={}", value.0)).collect()),
        working_dir: (!spec.working_dir.is_empty()).then(|| spec.working_dir.clone()),
        labels: Some(labels(spec, facts, installation)),
        stop_signal: Some("SIGTERM".into()),
        stop_timeout: Some(spec.stop_grace_s.into()),
        host_config: Some(host(spec)),
        ..Default::default()
    }
}

fn host(spec: &ContainerSpec) -> HostConfig {
    let Limits { cpu, cpu_limit, memory, memory_limit, pids } = spec.limits;
    let bytes = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
    let mounts = match &spec.supervisor {
        Supervisor::Image => None,
        Supervisor::Volume(volume) => Some(vec![Mount {
            typ: Some(MountType::VOLUME),
            source: Some(volume.clone()),
            target: Some(INJECTED_DIR.into()),
            read_only: Some(true),
            volume_options: Some(MountVolumeOptions { no_copy: Some(true), ..Default::default() }),
            ..Default::default()
        }]),
    };
    HostConfig {
        network_mode: Some(spec.network.clone()),
        mounts,
        // The kernel's default share is 1024 for a whole core; 2 is the least it takes.
        cpu_shares: Some((i64::from(cpu) * 1024 / 1000).max(2)),
        cpu_period: Some(100_000),
        cpu_quota: Some((i64::from(cpu_limit) * 100).max(1000)),
        memory: Some(bytes(memory_limit)),
        memory_swap: Some(bytes(memory_limit)),
        // Zero is none; the engine refuses less than 6 MiB.
        memory_reservation: Some(if memory < 6 << 20 { 0 } else { bytes(memory) }),
        pids_limit: Some(pids.into()),
        readonly_rootfs: Some(true),
        // Programs may be run from it: agents unpack and compile there.
        tmpfs: Some(
            [("/tmp".to_owned(), format!("rw,exec,nosuid,nodev,mode=1777,size={}", memory_limit / 2))].into(),
        ),
        security_opt: Some(vec!["no-new-privileges".into()]),
        cap_drop: Some(vec!["ALL".into()]),
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), ..Default::default() }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(
                [("max-size", "10m"), ("max-file", "3")]
                    .map(|(key, value)| (key.into(), value.into()))
                    .into(),
            ),
        }),
        ..Default::default()
    }
}

fn labels(spec: &ContainerSpec, facts: &ImageFacts, installation: &str) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = [
        (label::INSTALLATION, installation.to_owned()),
        (label::FLEET, spec.fleet.clone()),
        (label::WORKER, spec.worker_id.clone()),
        (label::RELEASE, spec.release.to_string()),
        (label::IMAGE, spec.image.clone()),
        (label::CPU, spec.limits.cpu.to_string()),
        (label::MEMORY, spec.limits.memory.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if let Some(revision) = &facts.revision {
        labels.insert(label::COMMIT.into(), revision.clone());
    }
    labels
}
