//! Puts a control plane together, and takes it apart again.

mod state_dir;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use hyper_util::service::TowerToHyperService;
use longshore_api::files;
use longshore_api::serve::{self, Room, serve};
use longshore_api::tls::Trust;
use longshore_core::access::{Standing, Verb, standing};
use longshore_core::kubernetes;
use longshore_core::provider::{Kind, Provider};
use longshore_core::role::{Role, Roles};
use longshore_core::settings::{FleetsFrom, Settings};
use longshore_gateway::Gateway;
use longshore_platform::registry::Registries;
use longshore_store::{ConnectError, KeyRecord, OpenError, Replica, Store, StoreError};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::field::display;
use tracing::{info, warn};

use crate::admin::{self, TokenError};
use crate::app::{App, Inner, Limits, now};
use crate::controller::{self, Crew};
use crate::door::Door;
use crate::external_metrics::Asker;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::moved;
use crate::rooms::{Calls, Rooms};
use crate::tls::{self, Tls, TlsError, handshake};
use crate::token::Signer;
use crate::{external_metrics, link, open_store, probes, reach, routes};

use self::state_dir::{last_addresses, write_addresses, write_authority};
pub use self::state_dir::{write_token, write_tokens};

/// What a control plane is started with.
#[derive(Debug)]
pub struct Options {
    pub settings: Settings,
    /// What it serves: all, with the embedded store.
    pub roles: Roles,
    /// The longshore binary that workers are started with.
    pub program: PathBuf,
    /// A file whose content is as good as an API key with the verb `admin`; made at the start if it is not there.
    pub admin_token_file: Option<PathBuf>,
    /// True: workers outlive this process (`serve`). False: they are drained before it ends (`up`).
    pub keep_workers: bool,
    /// How long it goes on answering after the word to stop, unready; `None`: as long as others may need to hear of it where
    /// it runs.
    pub stay: Option<Duration>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("with the embedded store one process has all roles, not only `{roles}`")]
    Apart { roles: Roles },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the shared store could not be opened")]
    Connect(#[from] ConnectError),
    #[error("could not read {what} from {from}")]
    StoreSecret { what: &'static str, from: String, source: io::Error },
    #[error("the store failed at the start")]
    Store(#[from] StoreError),
    #[error("could not listen on {addr} for {what}")]
    Listen { what: &'static str, addr: SocketAddr, source: io::Error },
    #[error("`{what}` would listen on {addr}, which others can reach, and there is no key to ask them for")]
    Exposed { what: &'static str, addr: SocketAddr },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("TLS could not be set up")]
    Tls(#[from] TlsError),
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
    #[error("could not raise the limit of open files")]
    Files(#[source] io::Error),
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
            StartError::Apart { .. } => Some(
                "leave `--roles` and LONGSHORE_ROLES out, or give the processes a store that they share: `[store] database`".into(),
            ),
            StartError::Exposed { .. } => Some(
                "set LONGSHORE_ADMIN_TOKEN_FILE to a file for the first key (it is made if it is not there), or `[server] token`; or listen on 127.0.0.1".into(),
            ),
            StartError::Connect(error) => hint_for(error),
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

fn hint_for(error: &ConnectError) -> Option<String> {
    let hint = match error {
        ConnectError::Address(_) => {
            "give it as `[store] database = \"postgres://USER@HOST/DATABASE\"`, or in DATABASE_URL"
        }
        ConnectError::Unsafe { .. } => "turn it on again; nothing else makes an acknowledged task safe",
        ConnectError::Behind { .. } => {
            "run `longshore migrate`, or set `[store] migrate = \"auto\"`; replicas of the version before go on working"
        }
        ConnectError::Newer { .. } => "use that version of longshore, or a newer one",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Where a control plane listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// With the role `api`.
    pub api: Option<SocketAddr>,
    /// With the role `link` or `gateway`.
    pub link: Option<SocketAddr>,
    pub probes: SocketAddr,
    /// In a cluster with autoscalers to answer.
    pub metrics: Option<SocketAddr>,
}

/// A running control plane.
pub struct Server {
    app: App,
    addresses: Addresses,
    /// With the role `controllers`.
    crew: Option<Crew>,
    rooms: Rooms,
    stay: Duration,
    /// Nothing is waited for any more.
    hurried: AtomicBool,
    leave: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<&'static str>,
    trust: Option<Trust>,
    keep_workers: bool,
}

/// How long calls at LLM APIs may take to finish after the word to stop: as long as a drain.
const FINISH_CALLS: Duration = Duration::from_secs(120);

/// How long a cluster may take until it sends no more requests to a pod that it stops: each node hears of it by itself, at
/// the same time as the pod.
const STAY: Duration = Duration::from_secs(10);

/// How long connections may take to finish after the word to stop.
const LINGER: Duration = Duration::from_secs(5);

/// Opens the store, finds the workers again that an earlier control plane started, and listens.
pub async fn start(options: Options) -> Result<Server, StartError> {
    // Before anything secret is in memory: an agent of the same user must not be able to read it.
    nix::sys::prctl::set_dumpable(false).map_err(|errno| StartError::Undumpable(errno.into()))?;
    // Each connection is one, and what a service manager or a container begins with is few.
    let files = files::raise().map_err(StartError::Files)?;
    let (settings, roles) = (&options.settings, options.roles);
    let rooms = Rooms::new(files, roles);
    if settings.store.shared.is_none() && roles != Roles::ALL {
        return Err(StartError::Apart { roles });
    }
    // What only one part needs to know, no process knows without that part.
    let admins = match roles.has(Role::Api) {
        true => admin::tokens(settings, options.admin_token_file.as_deref())?,
        false => Vec::new(),
    };
    let dir = PathBuf::from(&settings.store.dir);
    let store = open_store::open(&settings.store).await?;
    let open =
        admins.is_empty() && (settings.server.allow_insecure || settings.server.api.ip().is_loopback());
    if roles.has(Role::Api) && admins.is_empty() && !open {
        refuse_exposure(settings, &store).await?;
    }
    let asker = external_metrics::asker(settings, roles, &store).await?;
    let (listeners, metrics_listener) = Listeners::bind(settings, roles, &dir, asker.is_known()).await?;
    let addresses = listeners.addresses;
    let named: Vec<SocketAddr> = [addresses.api, addresses.link].into_iter().flatten().collect();
    let tls = match named.is_empty() {
        true => None,
        false => Tls::start(&settings.server.tls, &store, &named, names(settings)).await?,
    };
    let trust = tls.as_ref().map(|tls| tls.trust().clone());
    if settings.server.fleets == FleetsFrom::File && roles.has(Role::Controllers) {
        // Not refused: what the store knows may be of before a power cut, and only who has started can find out.
        if let Some(moved) = moved::find(&store, &settings.fleets).await? {
            warn!(hint = moved.hint(), "{moved}");
        }
        store.put_fleets(settings.fleets.clone(), now()).await?;
    }
    // Whoever declares the fleets: the file of those that keep them says it.
    if roles.has(Role::Controllers) {
        store.put_tenants(settings.tenants.clone()).await?;
        declare_hooks(settings, &store).await?;
    }
    let metrics = Metrics::default();
    let name = replica_name(settings, &addresses);
    let as_url = |link: SocketAddr| format!("{}://{link}", scheme(trust.is_some()));
    let link_url = addresses.link.map(|link| as_url(reach::here(link)));
    let shown_link = addresses
        .link
        .map(|link| settings.server.link_url.clone().unwrap_or_else(|| as_url(reach::elsewhere(link))));
    let gateway = match roles.has(Role::Gateway) {
        true => Some(start_gateway(settings, &store, &name, &metrics).await?),
        false => None,
    };
    let (leave, leaving) = watch::channel(false);
    let (stop, stopping) = watch::channel(false);
    let (leading, leads) = watch::channel(None);
    let me = Replica {
        id: uuid::Uuid::new_v4(),
        name,
        roles: roles.names(),
        link: shown_link,
        version: env!("CARGO_PKG_VERSION").into(),
        seen_ago_ms: 0,
    };
    let app = App::new(Inner {
        roles,
        signer: Signer::new(secret(&store).await?),
        store: store.clone(),
        limits: Limits { input: settings.server.input_limit as usize, ..Limits::default() },
        check_host: open && !settings.server.allow_insecure,
        keys: Keys::new(store.clone(), &admins, open),
        slow_lists: tokio::sync::Semaphore::new(1),
        fleet_source: settings.server.fleets,
        metrics,
        gateway,
        calls: Calls::new(&rooms.link, options.roles),
        provider_kinds: kinds(&settings.providers),
        providers: settings.providers.clone(),
        fleets: Default::default(),
        database: Default::default(),
        llm: Default::default(),
        started: Instant::now(),
        link_url,
        link_trust: trust.clone(),
        link_authority: tls.as_ref().and_then(Tls::authority).map(str::to_owned),
        own_platform: own_platform(settings),
        leading: leads,
        replicas: Mutex::default(),
        state_dir: dir,
        leaving,
        stopping,
        look_again: tokio::sync::Notify::new(),
        registries: Registries { insecure: settings.kubernetes.insecure_registries.clone() },
        post: crate::webhook::Post::new().map_err(|error| StartError::Webhooks(error.into()))?,
        trouble: Default::default(),
        scaling_trouble: Default::default(),
        notes: Default::default(),
        polls: Default::default(),
        worker_fleets: Default::default(),
        keep_conversations: settings.server.conversations_ms.map(Duration::from_millis),
    });
    write_tokens(&app).await?;
    write_addresses(&app, &addresses, trust.is_some())?;
    write_authority(&app, tls.as_ref())?;
    if let Some(link) = addresses.link.filter(|link| tls.is_none() && !link.ip().is_loopback()) {
        warn!(%link, "worker link is plain beyond loopback: set `[server] tls`");
    }
    let crew = match roles.has(Role::Controllers) {
        true => {
            let door = Door::new(addresses.link, tls.as_ref().map(Tls::config), Arc::clone(&rooms.link));
            let crew = Crew::new(app.clone(), options.program, door, settings.docker.clone());
            Some(crew.map_err(StartError::Platform)?)
        }
        false => None,
    };
    let mut tasks = JoinSet::new();
    let metrics = Arc::clone(&rooms.metrics);
    match (asker, metrics_listener) {
        (Asker::Known(server), Some(listener)) => {
            external_metrics::start(&app, server, listener, metrics, &mut tasks).await?;
        }
        (Asker::Unknown, _) => {
            let (namespace, addr) = (settings.kubernetes.namespace.clone(), settings.kubernetes.metrics);
            drop(tasks.spawn(external_metrics::start_later(app.clone(), namespace, addr, metrics)));
        }
        _ => {}
    }
    listeners.serve(&app, tls.as_ref(), &rooms, &mut tasks);
    if let Some(tls) = tls {
        tasks.spawn(keep_certificate(app.clone(), tls));
    }
    tasks.spawn(controller::lead(app.clone(), me, leading));
    // What it keeps in memory of workers is tidied wherever they are served.
    tasks.spawn(controller::housekeeping(app.clone()));
    if let Some(gateway) = &app.gateway {
        tasks.spawn(controller::providers(app.clone(), gateway.clone()));
    }
    if let Some(crew) = &crew {
        tasks.spawn(controller::clock(app.clone()));
        tasks.spawn(controller::retention(app.clone()));
        tasks.spawn(controller::schedules(app.clone()));
        tasks.spawn(controller::webhooks(app.clone()));
        let pods = controller::Pods::new(settings.kubernetes.namespace.clone());
        tasks.spawn(controller::fleets(app.clone(), crew.clone(), pods.clone()));
        tasks.spawn(controller::cluster(app.clone(), pods));
        tasks.spawn(controller::processes(app.clone(), crew.clone()));
        tasks.spawn(controller::containers(app.clone(), crew.clone()));
        tasks.spawn(controller::compose_services(app.clone(), crew.clone()));
    }
    let (api, link) = (addresses.api.map(display), addresses.link.map(display));
    let ca = trust.as_ref().map(Trust::to_string);
    let metrics = addresses.metrics.map(display);
    info!(%roles, api, link, probes = %addresses.probes, metrics, ca, "control plane is up");
    let stay = options.stay.unwrap_or_else(|| match std::env::var_os("KUBERNETES_SERVICE_HOST") {
        Some(_) => STAY,
        None => Duration::ZERO,
    });
    let (keep_workers, hurried) = (options.keep_workers, AtomicBool::new(false));
    Ok(Server { app, addresses, crew, rooms, stay, hurried, leave, stop, tasks, trust, keep_workers })
}

async fn start_gateway(
    settings: &Settings,
    store: &Store,
    name: &str,
    metrics: &Metrics,
) -> Result<Gateway, StartError> {
    let options = longshore_gateway::Options {
        store: store.clone(),
        providers: with_keys(&settings.providers)?,
        replica: name.to_owned(),
        metrics: metrics.gateway.clone(),
    };
    Ok(Gateway::start(options).await?)
}

fn kinds(providers: &[Provider]) -> HashMap<String, Kind> {
    providers.iter().map(|provider| (provider.name.to_string(), provider.kind)).collect()
}

impl Server {
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    #[cfg(test)]
    pub(crate) fn app(&self) -> &App {
        &self.app
    }

    #[cfg(test)]
    pub(crate) fn crew(&self) -> &Crew {
        self.crew.as_ref().expect("it has the role `controllers`")
    }

    /// What clients on this machine hold the certificate against; `None`: API and link are plain.
    pub fn trust(&self) -> Option<&Trust> {
        self.trust.as_ref()
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
        if let Some(crew) = &self.crew {
            crew.hurry();
        }
    }

    /// Does not wait for LLM calls that are under way, nor for those to hear of the stop who send requests.
    pub fn cut_calls(&self) {
        self.hurried.store(true, Ordering::Relaxed);
        if let Some(gateway) = &self.app.gateway {
            gateway.hurry();
        }
    }

    /// Stops: drains the workers if they are not to outlive this process, stays for those who do not know yet that it leaves,
    /// finishes what is being answered, closes the store.
    pub async fn stop(&mut self) {
        if let Some(crew) = self.crew.as_ref().filter(|_| !self.keep_workers) {
            crew.drain_all().await;
        }
        self.leave.send_replace(true);
        self.rooms.end_connections();
        let stay = match self.hurried.load(Ordering::Relaxed) {
            true => Duration::ZERO,
            false => self.stay,
        };
        // Everything else goes on meanwhile: the workers keep their leases, and the answers are paid for.
        let finish = async {
            match &self.app.gateway {
                Some(gateway) => gateway.finish(FINISH_CALLS).await,
                None => 0,
            }
        };
        let (left, ()) = tokio::join!(finish, tokio::time::sleep(stay));
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

/// The listeners, bound before anything is started, so that a taken port harms nothing.
struct Listeners {
    api: Option<TcpListener>,
    link: Option<TcpListener>,
    probes: TcpListener,
    addresses: Addresses,
}

impl Listeners {
    /// And the one for external metrics, which has a router of its own.
    async fn bind(
        settings: &Settings,
        roles: Roles,
        dir: &Path,
        metrics: bool,
    ) -> Result<(Listeners, Option<TcpListener>), StartError> {
        let server = &settings.server;
        let last = last_addresses(dir);
        let (mut api, mut link) = (None, None);
        if roles.has(Role::Api) {
            api = Some(bind("api", server.api, &last).await?);
        }
        if roles.take_workers() {
            link = Some(bind("link", server.link, &last).await?);
        }
        let probes = bind("probes", server.probes, &last).await?;
        let metrics = match metrics {
            true => Some(bind("metrics", settings.kubernetes.metrics, &last).await?),
            false => None,
        };
        let at = |listener: &TcpListener, what, addr| {
            listener.local_addr().map_err(|source| StartError::Listen { what, addr, source })
        };
        let addresses = Addresses {
            api: api.as_ref().map(|it| at(it, "api", server.api)).transpose()?,
            link: link.as_ref().map(|it| at(it, "link", server.link)).transpose()?,
            probes: at(&probes, "probes", server.probes)?,
            metrics: metrics.as_ref().map(|it| at(it, "metrics", settings.kubernetes.metrics)).transpose()?,
        };
        Ok((Listeners { api, link, probes, addresses }, metrics))
    }

    /// Probes stay plain: who asks them has no certificates at hand, and they tell nothing secret.
    fn serve(self, app: &App, tls: Option<&Tls>, rooms: &Rooms, tasks: &mut JoinSet<&'static str>) {
        let mut spawn = |listener, room: &Arc<Room>, tls: Option<&Tls>, router| {
            tasks.spawn(listen(listener, Arc::clone(room), tls.map(Tls::config), router, app.clone()));
        };
        if let Some(api) = self.api {
            spawn(api, &rooms.api, tls, routes::router(app.clone()));
        }
        if let Some(link) = self.link {
            spawn(link, &rooms.link, tls, link::router(app.clone()));
        }
        spawn(self.probes, &rooms.probes, None, probes::router(app.clone()));
    }
}

/// Binds one listener. Port 0 is a free port, and the same one again after a restart if it is still free: workers
/// that outlived us look for us there.
async fn bind(
    what: &'static str,
    addr: SocketAddr,
    last: &HashMap<String, SocketAddr>,
) -> Result<TcpListener, StartError> {
    if addr.port() == 0
        && let Some(last) = last.get(what)
        && let Ok(listener) = TcpListener::bind(SocketAddr::new(addr.ip(), last.port())).await
    {
        return Ok(listener);
    }
    TcpListener::bind(addr).await.map_err(|source| StartError::Listen { what, addr, source })
}

/// Names a replica, the same over its restarts: its machine, and where it listens there.
fn replica_name(settings: &Settings, addresses: &Addresses) -> String {
    let known_by = addresses.link.or(addresses.api).unwrap_or(addresses.probes);
    match settings.store.shared {
        // The embedded store has one control plane.
        None => "embedded".into(),
        Some(_) => format!("{}:{}", machine(), known_by.port()),
    }
}

/// Processes are found again on their own machine only, so with a shared store it is part of the platform's name.
fn own_platform(settings: &Settings) -> String {
    match settings.store.shared {
        None => "process".into(),
        Some(_) => format!("process@{}", machine()),
    }
}

fn machine() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".into())
}

/// Serves until this process stops.
pub async fn listen(
    listener: TcpListener,
    room: Arc<Room>,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    app: App,
) -> &'static str {
    let (name, service) = (room.name(), TowerToHyperService::new(router));
    let stopped = async move { app.stopped().await };
    match tls {
        Some(config) => {
            let greet = move |stream| {
                let (shaken, service) = (handshake(&config, stream), service.clone());
                async move { Ok((shaken.await?, service)) }
            };
            serve(listener, room, greet, stopped).await;
        }
        None => serve(listener, room, serve::plain(service), stopped).await,
    }
    name
}

async fn keep_certificate(app: App, mut tls: Tls) -> &'static str {
    while !controller::sleep_or_stop(&app, tls::LOOK).await {
        tls.look(now()).await;
    }
    "TLS certificate"
}

pub fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
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
    Ok(store.put_webhooks(settings.webhooks.clone(), now()).await?)
}

/// An API for others starts only when they can be asked for a key that exists.
async fn refuse_exposure(settings: &Settings, store: &Store) -> Result<(), StartError> {
    let good = |key: &KeyRecord| standing(key.expires_at, key.revoked_at, now()) == Standing::Good;
    // Workers' keys open nothing of the API.
    let opens = |key: &KeyRecord| good(key) && !key.scope.verbs.contains(&Verb::Join);
    match store.keys().await?.iter().any(opens) {
        true => Ok(()),
        false => Err(StartError::Exposed { what: "api", addr: settings.server.api }),
    }
}

/// Where the store keeps what tokens are signed with.
pub const TOKEN_SECRET: &str = "token_secret";

async fn secret(store: &Store) -> Result<Vec<u8>, StoreError> {
    let bytes: [u8; 32] = rand::random();
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // All replicas sign with the one that was there first.
    Ok(store.meta_first(TOKEN_SECRET.into(), text).await?.into_bytes())
}

/// By which others call this process, beside its addresses.
fn names(settings: &Settings) -> Vec<String> {
    let namespace = settings.kubernetes.namespace.as_deref().filter(|_| external_metrics::in_cluster());
    namespace.map(kubernetes::service_names).unwrap_or_default()
}
