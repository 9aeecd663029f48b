//! Puts a control plane together, and takes it apart again.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use axum::Router;
use axum::serve::ListenerExt;
use longshore_core::id::FleetName;
use longshore_core::provider::Provider;
use longshore_core::settings::{FleetsFrom, Settings};
use longshore_gateway::Gateway;
use longshore_store::{OpenError, OpenOptions, Store, StoreError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::app::{App, Inner, Limits, now};
use crate::controller::{self, Crew};
use crate::metrics::Metrics;
use crate::token::Signer;
use crate::{link, probes, routes};

/// What a control plane is started with.
#[derive(Debug)]
pub struct Options {
    pub settings: Settings,
    /// The longshore binary that workers are started with.
    pub program: PathBuf,
    /// True: workers outlive this process (`serve`). False: they are drained before it ends (`up`).
    pub keep_workers: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the store failed at the start")]
    Store(#[from] StoreError),
    #[error("could not listen on {addr} for {what}")]
    Listen { what: &'static str, addr: SocketAddr, source: io::Error },
    #[error("`{what}` would listen on {addr}, which others can reach, without a token")]
    Exposed { what: &'static str, addr: SocketAddr },
    #[error("could not read the token from {from}")]
    Token { from: String, source: io::Error },
    #[error("could not write `{path}`")]
    Write { path: PathBuf, source: io::Error },
    #[error("this machine cannot run workers as processes")]
    Platform(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("could not read the key of provider `{provider}` from {from}")]
    ProviderKey { provider: String, from: String, source: io::Error },
    #[error("webhook `{webhook}` cannot sign: {why}")]
    WebhookSecret { webhook: String, why: String },
    #[error("the client for webhooks could not be set up")]
    Webhooks(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the gateway could not be set up")]
    Gateway(#[from] longshore_gateway::StartError),
    #[error("could not make this process undumpable, so agents could read its memory")]
    Undumpable(#[source] io::Error),
}

impl StartError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            StartError::Listen { addr, source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                Some(format!(
                    "port {} is taken: stop what listens there, or give another one in `[server]` of longshore.toml",
                    addr.port()
                ))
            }
            StartError::Exposed { .. } => Some(
                "set `[server] token = { env = \"LONGSHORE_API_TOKEN\" }`, or listen on 127.0.0.1".into(),
            ),
            StartError::ProviderKey { provider, .. } => Some(format!(
                "set it, or name another source: `[provider.{provider}] api_key = {{ env = \"NAME\" }}` or `{{ file = \"PATH\" }}`"
            )),
            StartError::WebhookSecret { webhook, .. } => Some(format!(
                "`[webhook.{webhook}] secret` names where it comes from; a new one is `whsec_` and what `openssl rand -base64 32` prints"
            )),
            _ => None,
        }
    }
}

/// Where a control plane listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub api: SocketAddr,
    pub link: SocketAddr,
    pub probes: SocketAddr,
}

/// A running control plane.
pub struct Server {
    app: App,
    addresses: Addresses,
    crew: Crew,
    stop: watch::Sender<bool>,
    tasks: JoinSet<&'static str>,
    keep_workers: bool,
}

/// How long calls at LLM APIs may take to finish after the word to stop: as long as a drain.
const FINISH_CALLS: Duration = Duration::from_secs(120);

/// How long connections may take to finish after the word to stop.
const LINGER: Duration = Duration::from_secs(5);

/// Opens the store, finds the workers again that an earlier control plane started, and listens.
pub async fn start(options: Options) -> Result<Server, StartError> {
    // Before anything secret is in memory: an agent of the same user must not be able to read it.
    nix::sys::prctl::set_dumpable(false).map_err(|errno| StartError::Undumpable(errno.into()))?;
    let settings = &options.settings;
    let api_token = read_token(settings)?;
    refuse_exposure(settings, api_token.is_some())?;
    let dir = PathBuf::from(&settings.store.dir);
    let store = Store::open(&OpenOptions::new(&dir))?;
    let listeners = Listeners::bind(settings, &store).await?;
    let addresses = listeners.addresses;
    if settings.server.fleets == FleetsFrom::File {
        store.put_fleets(settings.fleets.clone(), now()).await?;
    }
    declare_hooks(settings, &store).await?;
    let metrics = Metrics::default();
    let gateway = longshore_gateway::Options {
        store: store.clone(),
        providers: with_keys(&settings.providers)?,
        // The embedded store has one control plane.
        replica: "embedded".into(),
        metrics: metrics.gateway.clone(),
    };
    let gateway = Gateway::start(gateway).await?;
    let (stop, stopping) = watch::channel(false);
    let app = App::new(Inner {
        signer: Signer::new(secret(&store).await?),
        store,
        limits: Limits { input: settings.server.input_limit as usize, ..Limits::default() },
        check_host: api_token.is_none() && !settings.server.allow_insecure,
        api_token,
        slow_lists: tokio::sync::Semaphore::new(1),
        fleet_source: settings.server.fleets,
        metrics,
        gateway,
        fleet_providers: Default::default(),
        llm: Default::default(),
        started: Instant::now(),
        link_url: format!("http://{}", reachable(addresses.link)),
        state_dir: dir,
        stopping,
        look_again: tokio::sync::Notify::new(),
        schedules_changed: tokio::sync::Notify::new(),
        post: crate::webhook::Post::new().map_err(|error| StartError::Webhooks(error.into()))?,
        trouble: Default::default(),
        polls: Default::default(),
        worker_fleets: Default::default(),
    });
    write_tokens(&app).await?;
    write_addresses(&app, &addresses)?;
    let crew = Crew::new(app.clone(), options.program).map_err(StartError::Platform)?;
    crew.adopt().await?;
    let mut tasks = JoinSet::new();
    listeners.serve(&app, &mut tasks);
    tasks.spawn(controller::clock(app.clone()));
    tasks.spawn(controller::housekeeping(app.clone()));
    tasks.spawn(controller::providers(app.clone()));
    tasks.spawn(controller::schedules(app.clone()));
    tasks.spawn(controller::webhooks(app.clone()));
    tasks.spawn(controller::fleets(app.clone(), crew.clone()));
    info!(api = %addresses.api, link = %addresses.link, probes = %addresses.probes, "control plane is up");
    Ok(Server { app, addresses, crew, stop, tasks, keep_workers: options.keep_workers })
}

impl Server {
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Resolves with its name when a part of the control plane ends that should not.
    pub async fn failed(&mut self) -> &'static str {
        match self.tasks.join_next().await {
            Some(Ok(name)) => name,
            Some(Err(_)) => "a task panicked",
            None => "nothing runs",
        }
    }

    /// Hands over what draining workers still hold, and cuts LLM calls off, instead of waiting for either.
    pub fn hurry(&self) {
        self.cut_calls();
        self.crew.hurry();
    }

    /// Does not wait for LLM calls that are under way.
    pub fn cut_calls(&self) {
        self.app.gateway.hurry();
    }

    /// Stops: drains the workers if they are not to outlive this process, finishes what is being answered, closes the
    /// store.
    pub async fn stop(&mut self) {
        if !self.keep_workers {
            self.crew.drain_all().await;
        }
        // Everything else goes on meanwhile: the workers keep their leases, and the answers are paid for.
        let left = self.app.gateway.finish(FINISH_CALLS).await;
        if left > 0 {
            warn!(calls = left, "LLM calls were cut off at the stop; they may be billed, and are made again");
        }
        let _ = self.stop.send(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(LINGER, ended).await.is_err() {
            warn!("connections were cut off at the stop");
            self.tasks.shutdown().await;
        }
        if let Err(error) = self.app.store.close().await {
            warn!(%error, "store could not be closed in order");
        }
        info!("control plane stopped");
    }
}

/// The three listeners, bound before anything is started, so that a taken port harms nothing.
struct Listeners {
    api: TcpListener,
    link: TcpListener,
    probes: TcpListener,
    addresses: Addresses,
}

impl Listeners {
    async fn bind(settings: &Settings, store: &Store) -> Result<Listeners, StartError> {
        let server = &settings.server;
        let api = bind("api", server.api, store).await?;
        let link = bind("link", server.link, store).await?;
        let probes = bind("probes", server.probes, store).await?;
        let at = |listener: &TcpListener, what, addr| {
            listener.local_addr().map_err(|source| StartError::Listen { what, addr, source })
        };
        let addresses = Addresses {
            api: at(&api, "api", server.api)?,
            link: at(&link, "link", server.link)?,
            probes: at(&probes, "probes", server.probes)?,
        };
        Ok(Listeners { api, link, probes, addresses })
    }

    fn serve(self, app: &App, tasks: &mut JoinSet<&'static str>) {
        tasks.spawn(listen("api", self.api, routes::router(app.clone()), app.clone()));
        tasks.spawn(listen("worker link", self.link, link::router(app.clone()), app.clone()));
        tasks.spawn(listen("probes", self.probes, probes::router(app.clone()), app.clone()));
    }
}

/// Binds one listener. Port 0 is a free port, and the same one again after a restart if it is still free: workers
/// that outlived us look for us there.
async fn bind(what: &'static str, addr: SocketAddr, store: &Store) -> Result<TcpListener, StartError> {
    let key = format!("port:{what}");
    if addr.port() == 0
        && let Some(port) = store.meta_get(key.clone()).await?.and_then(|text| text.parse().ok())
        && let Ok(listener) = TcpListener::bind(SocketAddr::new(addr.ip(), port)).await
    {
        return Ok(listener);
    }
    let listener =
        TcpListener::bind(addr).await.map_err(|source| StartError::Listen { what, addr, source })?;
    if addr.port() == 0 {
        let bound = listener.local_addr().map_err(|source| StartError::Listen { what, addr, source })?;
        store.meta_put(key, bound.port().to_string()).await?;
    }
    Ok(listener)
}

async fn listen(name: &'static str, listener: TcpListener, router: Router, app: App) -> &'static str {
    let listener = listener.tap_io(|stream| {
        // Answers are small and somebody waits for each: do not hold them back to fill packets.
        let _ = stream.set_nodelay(true);
    });
    let stopped = async move { app.stopped().await };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
        tracing::error!(%error, listener = name, "listener fails");
    }
    name
}

/// An address that a process of this machine can connect to.
fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr.ip().is_unspecified() {
        true if addr.is_ipv4() => SocketAddr::new([127, 0, 0, 1].into(), addr.port()),
        true => SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), addr.port()),
        false => addr,
    }
}

/// Providers with the keys that calls are made with.
fn with_keys(providers: &[Provider]) -> Result<Vec<(Provider, Option<String>)>, StartError> {
    let with_key = |provider: &Provider| {
        let read = |source| {
            controller::read_secret(source).map(|key| key.trim().to_owned()).map_err(|error| {
                StartError::ProviderKey {
                    provider: provider.name.to_string(),
                    from: controller::name_secret(source),
                    source: error,
                }
            })
        };
        Ok((provider.clone(), provider.api_key.as_ref().map(read).transpose()?))
    };
    providers.iter().map(with_key).collect()
}

/// Schedules and webhooks are declared by the control plane's own file, whoever declares its fleets.
async fn declare_hooks(settings: &Settings, store: &Store) -> Result<(), StartError> {
    for webhook in &settings.webhooks {
        controller::webhook_secrets(webhook)
            .map_err(|why| StartError::WebhookSecret { webhook: webhook.name.to_string(), why })?;
    }
    store.put_schedules(settings.schedules.clone(), now()).await?;
    store.put_webhooks(settings.webhooks.clone(), now()).await?;
    Ok(())
}

fn read_token(settings: &Settings) -> Result<Option<String>, StartError> {
    let Some(source) = &settings.server.token else { return Ok(None) };
    controller::read_secret(source)
        .map(|token| Some(token.trim().to_owned()))
        .map_err(|error| StartError::Token { from: controller::name_secret(source), source: error })
}

fn refuse_exposure(settings: &Settings, has_token: bool) -> Result<(), StartError> {
    let addr = settings.server.api;
    if has_token || settings.server.allow_insecure || addr.ip().is_loopback() {
        return Ok(());
    }
    Err(StartError::Exposed { what: "api", addr })
}

/// Where the store keeps what tokens are signed with.
pub const TOKEN_SECRET: &str = "token_secret";

async fn secret(store: &Store) -> Result<Vec<u8>, StoreError> {
    if let Some(text) = store.meta_get(TOKEN_SECRET.into()).await? {
        return Ok(text.into_bytes());
    }
    let bytes: [u8; 32] = rand::random();
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    store.meta_put(TOKEN_SECRET.into(), text.clone()).await?;
    Ok(text.into_bytes())
}

/// The file that holds a fleet's worker token.
pub fn token_file(dir: &Path, fleet: &FleetName) -> PathBuf {
    dir.join("tokens").join(fleet.as_str())
}

/// Writes each fleet's worker token where only this user can read it.
pub async fn write_tokens(app: &App) -> Result<(), StartError> {
    let dir = app.state_dir.join("tokens");
    fs::create_dir_all(&dir).map_err(|source| StartError::Write { path: dir.clone(), source })?;
    for record in app.store.fleets().await? {
        let path = token_file(&app.state_dir, &record.name);
        let token = app.signer.worker_token(&record.name);
        write_private(&path, &token).map_err(|source| StartError::Write { path, source })?;
    }
    Ok(())
}

/// Says where this control plane listens, for tools on the same machine.
fn write_addresses(app: &App, addresses: &Addresses) -> Result<(), StartError> {
    let path = app.state_dir.join("addresses.json");
    let text = serde_json::json!({
        "api": addresses.api.to_string(),
        "link": addresses.link.to_string(),
        "probes": addresses.probes.to_string(),
    });
    write_private(&path, &text.to_string()).map_err(|source| StartError::Write { path, source })
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}
