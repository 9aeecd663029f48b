//! What a further replica is created with: a sibling's own configuration, from values alone.

use std::collections::BTreeSet;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, EndpointSettings, HostConfig, NetworkingConfig,
};

use super::{NUMBER, REPLACE, Replica, Service, VERSION, hostname_of, label};

/// The variable by which a worker is told its id.
const WORKER_ID: &str = "LONGSHORE_WORKER_ID";

/// A replica to add.
#[derive(Clone, Debug)]
pub struct Copy {
    pub service: Service,
    pub worker_id: String,
    pub fleet: String,
}

/// Why a service's containers cannot be copied, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotCopied {
    #[error("{service} has no container that could be copied: start one with `docker-compose up -d {}`", service.name)]
    Nothing { service: Service },
    #[error(
        "the containers of {service} have names of their own: remove `container_name`, of which there can be only one"
    )]
    Name { service: Service },
    #[error(
        "the containers of {service} do not have host names of their own, by which workers are told apart: remove `hostname` and `network_mode`"
    )]
    HostName { service: Service },
    #[error("{service} publishes the fixed port {port}, which only one container can have: publish none")]
    Port { service: Service, port: String },
    #[error("{service} sets {WORKER_ID}, so that all its workers would be the same one: remove it")]
    WorkerId { service: Service },
}

/// The request to the engine.
pub(super) struct Request {
    pub name: String,
    pub body: ContainerCreateBody,
    /// Those that it joins besides the first, before it is started.
    pub networks: Vec<(String, EndpointSettings)>,
}

/// The lowest number that no replica has, as docker-compose counts.
pub fn lowest_free(replicas: &[Replica]) -> u32 {
    let taken: BTreeSet<u32> = replicas.iter().map(|replica| replica.number).collect();
    (1..).find(|number| !taken.contains(number)).expect("numbers do not end")
}

/// The name that docker-compose gives a replica.
pub fn container_name(service: &Service, separator: char, number: u32) -> String {
    format!("{}{separator}{}{separator}{number}", service.project, service.name)
}

/// `_` in docker-compose 1.x, `-` in 2.x: as a sibling's own name has it, or else as its version says. `None`: its name is
/// not of docker-compose's making.
fn separator(service: &Service, name: &str, number: u32, version: Option<&str>) -> Option<char> {
    let by_version = if version.is_some_and(|version| version.starts_with("1.")) { '_' } else { '-' };
    let other = if by_version == '_' { '-' } else { '_' };
    [by_version, other].into_iter().find(|separator| {
        let usual = container_name(service, *separator, number);
        // One that is about to be replaced is `1a2b3c4d5e6f_` and its usual name.
        name == usual || name.strip_suffix(&usual).is_some_and(is_prefix)
    })
}

fn is_prefix(prefix: &str) -> bool {
    let id = prefix.strip_suffix('_').unwrap_or_default();
    id.len() == 12 && id.chars().all(|c| c.is_ascii_hexdigit())
}

/// The sibling to copy: one that runs if there is any, and of those the newest, which has the newest configuration.
pub(super) fn choose<'a>(service: &Service, replicas: &'a [Replica]) -> Result<&'a Replica, NotCopied> {
    let best = replicas.iter().max_by_key(|replica| (replica.runs && !replica.restarts, replica.created));
    best.ok_or_else(|| NotCopied::Nothing { service: service.clone() })
}

/// A copy of `source` with this number: the same labels, environment, mounts and limits; its own name, host name and
/// addresses; and the id of the worker that it is added for.
pub(super) fn request(
    copy: &Copy,
    source: &ContainerInspectResponse,
    image: &str,
    number: u32,
    installation: &str,
) -> Result<Request, NotCopied> {
    let separator = separator_of(&copy.service, source)?;
    let config = source.config.clone().unwrap_or_default();
    let host = source.host_config.clone().unwrap_or_default();
    let mut labels = config.labels.unwrap_or_default();
    let mut env = config.env.unwrap_or_default();
    env.retain(|pair| !is_worker_id(pair));
    env.push(format!("{WORKER_ID}={}", copy.worker_id));
    labels.remove(REPLACE);
    for (name, value) in [
        (NUMBER, number.to_string()),
        (label::INSTALLATION, installation.to_owned()),
        (label::FLEET, copy.fleet.clone()),
        (label::REPLICA, copy.worker_id.clone()),
    ] {
        labels.insert(name.to_owned(), value);
    }
    let name = container_name(&copy.service, separator, number);
    let (first, networks) = endpoints(source, &host, name_of(source), &name);
    let body = ContainerCreateBody {
        domainname: config.domainname,
        user: config.user,
        exposed_ports: config.exposed_ports,
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        env: Some(env),
        cmd: config.cmd,
        healthcheck: config.healthcheck,
        args_escaped: config.args_escaped,
        image: Some(image.to_owned()),
        volumes: config.volumes,
        working_dir: config.working_dir,
        entrypoint: config.entrypoint,
        network_disabled: config.network_disabled,
        labels: Some(labels),
        stop_signal: config.stop_signal,
        stop_timeout: config.stop_timeout,
        shell: config.shell,
        host_config: Some(HostConfig { container_id_file: None, ..host }),
        networking_config: first.map(|first| NetworkingConfig { endpoints_config: Some([first].into()) }),
        ..Default::default()
    };
    Ok(Request { name, body, networks })
}

/// Whether copies of this container can be replicas of the service.
pub(super) fn check(service: &Service, source: &ContainerInspectResponse) -> Result<(), NotCopied> {
    separator_of(service, source).map(drop)
}

fn separator_of(service: &Service, source: &ContainerInspectResponse) -> Result<char, NotCopied> {
    let whose = || service.clone();
    let config = source.config.as_ref();
    let label = |name: &str| config?.labels.as_ref()?.get(name).map(String::as_str);
    let number = label(NUMBER).and_then(|text| text.parse().ok()).unwrap_or(0);
    let separator = separator(service, name_of(source), number, label(VERSION));
    let hostname = config.and_then(|config| config.hostname.as_deref());
    if hostname != source.id.as_deref().map(hostname_of) {
        return Err(NotCopied::HostName { service: whose() });
    }
    if let Some(port) = source.host_config.as_ref().and_then(fixed_port) {
        return Err(NotCopied::Port { service: whose(), port });
    }
    let env = config.and_then(|config| config.env.as_ref());
    if env.is_some_and(|env| env.iter().any(|pair| is_worker_id(pair)))
        && label(super::label::REPLICA).is_none()
    {
        return Err(NotCopied::WorkerId { service: whose() });
    }
    separator.ok_or_else(|| NotCopied::Name { service: whose() })
}

fn name_of(source: &ContainerInspectResponse) -> &str {
    source.name.as_deref().unwrap_or_default().trim_start_matches('/')
}

fn is_worker_id(pair: &str) -> bool {
    pair.split('=').next() == Some(WORKER_ID)
}

fn fixed_port(host: &HostConfig) -> Option<String> {
    let bindings = host.port_bindings.iter().flatten().flat_map(|(_, bindings)| bindings.iter().flatten());
    bindings.filter_map(|binding| binding.host_port.clone()).find(|port| !matches!(port.as_str(), "" | "0"))
}

type Endpoint = (String, EndpointSettings);

/// How the copy is in its sibling's networks: in the one that containers are created with, and in all others. What a
/// sibling is called alone, and where it is, stays its own.
fn endpoints(
    source: &ContainerInspectResponse,
    host: &HostConfig,
    source_name: &str,
    name: &str,
) -> (Option<Endpoint>, Vec<Endpoint>) {
    let id = source.id.as_deref().unwrap_or_default();
    let own = [hostname_of(id), id, source_name];
    let networks = source.network_settings.as_ref().and_then(|settings| settings.networks.clone());
    let mut all: Vec<Endpoint> = networks
        .unwrap_or_default()
        .into_iter()
        .map(|(network, endpoint)| {
            let mut aliases = endpoint.aliases.unwrap_or_default();
            aliases.retain(|alias| !own.contains(&alias.as_str()) && alias != name);
            aliases.push(name.to_owned());
            let aliases = Some(aliases);
            let EndpointSettings { links, driver_opts, .. } = endpoint;
            (network, EndpointSettings { aliases, links, driver_opts, ..Default::default() })
        })
        .collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    let mode = host.network_mode.as_deref().unwrap_or_default();
    let at = all.iter().position(|(network, _)| network == mode);
    let first = at.map(|at| all.remove(at));
    (first, all)
}
