//! The external metrics API of a cluster (`external.metrics.k8s.io/v1beta1`), which HorizontalPodAutoscalers ask.
//!
//! The API server passes their requests on and says whose they are; nobody else is answered. Every replica serves it, from
//! what the leader wrote down. Where that is too old the answer is an error, never a number: an autoscaler that gets none
//! leaves the fleet as it is.

mod accept;
mod access;
mod api_service;
mod caller;
mod certificate;
mod chain;
mod front;
mod peer;
mod router;
mod selector;
mod status;
#[cfg(test)]
mod tests;
mod values;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use hyper_util::service::TowerToHyperService;
use longshore_api::serve::{Room, serve};
use longshore_core::errors::chain as words;
use longshore_core::fleet::{Fleet, Platform, ScaledBy};
use longshore_core::role::{Role, Roles};
use longshore_core::settings::{FleetsFrom, Settings};
use longshore_platform::kubernetes::aggregation::ApiServer;
use longshore_store::{Store, StoreError};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use self::access::Access;
use self::certificate::Serving;
use self::front::FrontProxies;
use self::peer::Peer;
use crate::app::{App, now};
use crate::controller::sleep_or_stop;
use crate::tls::{self, Authority, TlsError, handshake};

/// Whether an autoscaler scales it by what is served here.
pub fn is_asked_for(fleet: &Fleet) -> bool {
    fleet.platform == Platform::Kubernetes && fleet.scaling.by == ScaledBy::Hpa
}

/// Whether this is a pod: the kubelet says so in each of them.
pub fn in_cluster() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// The API server whose autoscalers a replica answers.
pub enum Asker {
    /// This replica has no reason to answer.
    Nobody,
    Known(ApiServer),
    /// It has to be looked for again.
    Unknown,
}

impl Asker {
    pub fn is_known(&self) -> bool {
        matches!(self, Asker::Known(_))
    }
}

pub async fn asker(settings: &Settings, roles: Roles, store: &Store) -> Result<Asker, StoreError> {
    if !roles.has(Role::Api) && !roles.has(Role::Controllers) {
        return Ok(Asker::Nobody);
    }
    let wanted = match settings.server.fleets {
        FleetsFrom::File => settings.fleets.iter().any(is_asked_for),
        // In a cluster one that comes to be scaled so later must find it there.
        FleetsFrom::Api => {
            in_cluster() || store.fleets().await?.iter().any(|record| is_asked_for(&record.declaration))
        }
    };
    if !wanted {
        return Ok(Asker::Nobody);
    }
    Ok(match ApiServer::find(settings.kubernetes.namespace.as_deref()).await {
        Ok(server) => Asker::Known(server),
        Err(error) => {
            warn!(error = %words(&error), "external metrics are not served to autoscalers; it is tried again");
            Asker::Unknown
        }
    })
}

/// How soon an API server that is not known is looked for again.
const AGAIN: Duration = Duration::from_secs(10);

/// Serves as soon as there is an API server to serve, at this address.
pub async fn start_later(
    app: App,
    namespace: Option<String>,
    addr: SocketAddr,
    room: Arc<Room>,
) -> &'static str {
    let mut said = None;
    while !sleep_or_stop(&app, AGAIN).await {
        let Ok(server) = ApiServer::find(namespace.as_deref()).await else { continue };
        let mut tasks = JoinSet::new();
        let started = async {
            let listener = TcpListener::bind(addr).await.map_err(|error| format!("{addr}: {error}"))?;
            start(&app, server, listener, Arc::clone(&room), &mut tasks).await.map_err(|error| words(&error))
        };
        match started.await {
            Ok(()) => {
                info!(%addr, "external metrics are served to autoscalers");
                let first = tasks.join_next().await;
                while app.is_stopping() && tasks.join_next().await.is_some() {}
                return first.and_then(Result::ok).unwrap_or("external metrics");
            }
            Err(why) if said.as_ref() != Some(&why) => {
                error!(why, "external metrics cannot be served to autoscalers; it is tried again");
                said = Some(why);
            }
            Err(_) => {}
        }
    }
    "external metrics"
}

/// What all requests need.
#[derive(Clone)]
struct Served(Arc<Inner>);

struct Inner {
    app: App,
    namespace: String,
    front: FrontProxies,
    access: Access,
}

impl std::ops::Deref for Served {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// Serves, keeps the certificate fresh, and as the leader keeps the APIService trusting it.
pub async fn start(
    app: &App,
    server: ApiServer,
    listener: TcpListener,
    room: Arc<Room>,
    tasks: &mut JoinSet<&'static str>,
) -> Result<(), TlsError> {
    let authority = Authority::of(&app.store, now()).await?;
    let pem = authority.certificate().to_owned();
    let serving = Serving::new(authority, server.namespace(), now())?;
    let config = serving.config();
    let served = Served(Arc::new(Inner {
        app: app.clone(),
        namespace: server.namespace().to_owned(),
        front: FrontProxies::new(server.clone()),
        access: Access::new(server.clone()),
    }));
    tasks.spawn(listen(served.clone(), listener, room, config));
    tasks.spawn(front::keep(served));
    tasks.spawn(keep_certificate(app.clone(), serving));
    if app.roles.has(Role::Controllers) {
        tasks.spawn(api_service::keep(app.clone(), server, pem));
    }
    Ok(())
}

async fn listen(
    served: Served,
    listener: TcpListener,
    room: Arc<Room>,
    config: Arc<ServerConfig>,
) -> &'static str {
    let (app, name) = (served.app.clone(), room.name());
    let router = router::router(served);
    let greet = move |stream| {
        let (shaken, router) = (handshake(&config, stream), router.clone());
        async move {
            let stream = shaken.await?;
            // Each of a connection's requests carries what its client showed at the beginning.
            let router = router.layer(Extension(Peer::of(&stream)));
            Ok((stream, TowerToHyperService::new(router)))
        }
    };
    serve(listener, room, greet, async move { app.stopped().await }).await;
    name
}

async fn keep_certificate(app: App, mut serving: Serving) -> &'static str {
    while !sleep_or_stop(&app, tls::LOOK).await {
        if let Err(error) = serving.look(now()) {
            error!(error = %words(&error), "the certificate for external metrics could not be renewed; the old one stays");
        }
    }
    "certificate for external metrics"
}
