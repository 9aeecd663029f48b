//! What `longshore.toml` and the environment say, checked and with defaults filled in.
//!
//! Reads no file, no environment and no secret: the caller brings the texts along, and a secret stays the name of its
//! source. All mistakes are found at once, each with its place and what was expected.

mod docker;
mod environment;
mod fleet;
mod kubernetes;
mod named;
mod print;
mod provider;
mod schedule;
mod section;
mod server;
mod store;
mod tenant;
#[cfg(test)]
mod tests;
mod tree;
mod webhook;

use std::fmt;
use std::net::SocketAddr;

use crate::container::Image;
use crate::fleet::{Fleet, SecretSource};
use crate::provider::Provider;
use crate::schedule::Schedule;
use crate::tenant::Tenant;
use crate::webhook::Webhook;
use section::{Notes, Section};

/// The effective configuration. Its `Display` is TOML that parses to the same settings, but for the queries of webhooks'
/// addresses; secrets show as their source.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub store: StoreSettings,
    pub server: ServerSettings,
    pub docker: DockerSettings,
    pub kubernetes: KubernetesSettings,
    /// In order of name.
    pub providers: Vec<Provider>,
    /// In order of name; tenants that are not among them have the defaults.
    pub tenants: Vec<Tenant>,
    /// In order of name.
    pub fleets: Vec<Fleet>,
    /// In order of name.
    pub schedules: Vec<Schedule>,
    /// In order of name.
    pub webhooks: Vec<Webhook>,
}

/// Where state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// The folder that holds the embedded store, logs and worker tokens; absolute when `base_dir` is.
    pub dir: String,
    /// Postgres and Redis; none: all state is in the embedded store.
    pub shared: Option<SharedStore>,
}

/// State for any number of control planes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedStore {
    pub database: Address,
    pub database_password: Option<SecretSource>,
    pub schema: String,
    /// The most connections of one control plane.
    pub connections: u32,
    pub pooler: Pooler,
    /// Bring the schema to the newest version at the start; else refuse to start with an older one.
    pub migrate: bool,
    pub redis: Option<RedisSettings>,
}

/// An address without a secret in it, or where it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Given(String),
    Secret(SecretSource),
}

/// What stands between us and the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Pooler {
    #[default]
    None,
    /// Gives each transaction another connection, as PgBouncer does in transaction mode.
    Transaction,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisSettings {
    /// At least one.
    pub addresses: Vec<Address>,
    pub topology: RedisTopology,
    pub user: Option<String>,
    pub password: Option<SecretSource>,
    /// What each key begins with.
    pub prefix: String,
    /// A file with certificates, beside the machine's own.
    pub ca: Option<String>,
    /// Another Redis for the shared cache; none: the same.
    pub cache: Vec<Address>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisTopology {
    Single,
    Cluster,
    Sentinel { master: String },
}

/// The control plane's listeners and who may call them. Port 0: any free port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// API and dashboard.
    pub api: SocketAddr,
    /// Worker link; never public.
    pub link: SocketAddr,
    /// Where workers of other machines reach this replica's link; `None`: worked out from `link`.
    pub link_url: Option<String>,
    /// Probes and metrics.
    pub probes: SocketAddr,
    pub fleets: FleetsFrom,
    /// A token that is as good as an API key with the verb `admin`.
    pub token: Option<SecretSource>,
    /// The operator accepts an API that asks nobody for a key beyond loopback.
    pub allow_insecure: bool,
    /// Of API and worker link; probes and metrics stay plain.
    pub tls: Tls,
    /// The most bytes that one task's input may hold.
    pub input_limit: u64,
    /// How long a conversation is kept after its last use, in milliseconds; `None`: for ever.
    pub conversations_ms: Option<u64>,
}

/// The cluster that pods run in, and what `longshore render kubernetes` writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesSettings {
    /// Of control plane and fleets; none: the one that the control plane runs in, or `longshore`.
    pub namespace: Option<String>,
    /// The longshore image, of the control plane and of what `supervisor = "inject"` puts into others.
    pub image: Option<Image>,
    /// Names of Secrets with which images are pulled.
    pub image_pull_secrets: Vec<String>,
    /// Registries that are asked over plain HTTP what a tag stands for, as `host` or `host:port`.
    pub insecure_registries: Vec<String>,
    /// The Secret whose keys are named as the environment variables that the settings take secrets from.
    pub secret: String,
    /// The Secret that has `DATABASE_URL` and `REDIS_URL`; none: `secret` has them.
    pub store_secret: Option<String>,
    /// Control planes.
    pub replicas: u32,
    /// A file that is merged into the control plane's manifests; absolute when `base_dir` is.
    pub overlay: Option<String>,
    /// Where the control plane answers autoscalers, through the API server: only in a cluster, and only with a fleet that one
    /// scales.
    pub metrics: SocketAddr,
}

/// The Docker engine that containers are started with.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DockerSettings {
    /// Such as `unix:///var/run/docker.sock`; none: what DOCKER_HOST says, or else that.
    pub host: Option<String>,
    /// The longshore that `supervisor = "inject"` puts into containers; none: the one that runs here.
    pub inject: Option<String>,
    /// How much of the host may be promised to workers, in thousandths of a core; none: all.
    pub cpu: Option<u32>,
    /// In bytes; none: nine tenths.
    pub memory: Option<u64>,
    /// The compose project that fleets of platform `compose` are in; none: the one whose container we run in.
    pub project: Option<String>,
    /// Where the counts of its services are written for the next `docker-compose up`; none: beside the project's file.
    pub override_file: Option<String>,
}

/// How connections are encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Tls {
    #[default]
    Off,
    /// By certificates of an authority that is made at the first start and kept in the store.
    Auto,
    /// By these files, read again when they change: the certificate with those between it and its authority, and its key,
    /// in PEM.
    Files { cert: String, key: String },
}

/// Who declares fleets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FleetsFrom {
    /// The file; `apply` is refused.
    #[default]
    File,
    /// `longshore apply`, through the API.
    Api,
}

/// Where a setting was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Line and column count from 1; columns are characters.
    File { name: String, line: usize, column: usize },
    /// The name of an environment variable.
    Variable(String),
}

/// A setting that cannot be used: where it is, which one it is, what is wrong and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SettingsError {
    pub place: Place,
    /// The path of the key, such as `fleet.research.concurrency`; empty when the text is no TOML.
    pub key: String,
    pub problem: String,
}

/// A setting that is accepted, but that its owner should know something about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    pub place: Place,
    pub key: String,
    pub problem: String,
}

/// Reads settings from a file's text and environment variables.
///
/// Shape: `file_name` is only shown; relative paths in the settings begin at `base_dir`, the file's folder; of `env`
/// only `LONGSHORE__…` overrides count (`LONGSHORE__FLEET__RESEARCH__CONCURRENCY=16`: sections split by `__`, `-` in
/// names written `_`, in any case; the value is TOML, or else a string).
/// Errors: all of them, in order of place.
pub fn parse(
    text: &str,
    file_name: &str,
    env: &[(String, String)],
    base_dir: &str,
) -> Result<(Settings, Vec<Warning>), Vec<SettingsError>> {
    let mut root = tree::parse(text, file_name)?;
    let mut notes = Notes::default();
    environment::apply(&mut root, env, &mut notes);
    let settings = read(Section::root(root, file_name, &mut notes), base_dir);
    let Notes { mut errors, mut warnings } = notes;
    errors.sort();
    warnings.sort();
    if errors.is_empty() { Ok((settings, warnings)) } else { Err(errors) }
}

/// Reads all sections; where a value is wrong, its error is noted and its default goes on.
fn read(mut root: Section<'_>, base_dir: &str) -> Settings {
    let store = store::read_store(&mut root, base_dir);
    let server = server::read_server(&mut root, base_dir);
    let docker = docker::read_docker(&mut root, base_dir);
    let kubernetes = kubernetes::read_kubernetes(&mut root, base_dir);
    let providers = provider::read_providers(&mut root, base_dir);
    let tenants = tenant::read_tenants(&mut root);
    let fleets = fleet::read_fleets(&mut root, &providers, base_dir);
    if fleets.is_empty() && server.fleets == FleetsFrom::File {
        root.warn("fleet", "no fleet is declared: there is nothing to run");
    }
    // Fleets that are declared through the API are not known here.
    let declared = (server.fleets == FleetsFrom::File).then_some(&fleets[..]);
    let schedules = schedule::read_schedules(&mut root, declared);
    let webhooks = webhook::read_webhooks(&mut root, declared, base_dir);
    root.finish();
    Settings { store, server, docker, kubernetes, providers, tenants, fleets, schedules, webhooks }
}

/// The path that `path` means when it is written in a file of folder `base`.
fn resolve(base: &str, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    match (base.trim_end_matches('/'), parts.join("/")) {
        (base, rest) if rest.is_empty() => if base.is_empty() { "/" } else { base }.to_owned(),
        (base, rest) => format!("{base}/{rest}"),
    }
}

impl Settings {
    /// The effective configuration as TOML, for people: secrets show as their source, never as a value.
    pub fn to_toml_redacted(&self) -> String {
        print::settings(self)
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_toml_redacted())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { name, line, column } => write!(f, "{name}:{line}:{column}"),
            Place::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_note(f, &self.place, &self.key, &self.problem)
    }
}

impl std::error::Error for SettingsError {}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_note(f, &self.place, &self.key, &self.problem)
    }
}

fn write_note(f: &mut fmt::Formatter<'_>, place: &Place, key: &str, problem: &str) -> fmt::Result {
    match key {
        "" => write!(f, "{place}: {problem}"),
        key => write!(f, "{place}: {key}: {problem}"),
    }
}
