//! Keeps what the cluster says of its front proxy: read every minute, and when somebody is not believed.

use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use http::HeaderMap;
use longshore_core::errors::chain;
use longshore_platform::kubernetes::aggregation::{self, ApiServer, User};
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::Served;
use super::caller::{FrontProxy, Stranger};
use super::peer::Peer;
use super::status::Status;
use crate::app::now;
use crate::controller::sleep_or_stop;

const EVERY: Duration = Duration::from_secs(60);

/// While nothing is known. Strangers cause no more questions than this either.
const AGAIN: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 5000 });

pub struct FrontProxies {
    server: ApiServer,
    known: RwLock<Option<Arc<FrontProxy>>>,
    /// When it was asked for last, and why that failed.
    asked: Mutex<Option<(Instant, Option<String>)>>,
}

impl FrontProxies {
    pub fn new(server: ApiServer) -> FrontProxies {
        FrontProxies { server, known: RwLock::default(), asked: Mutex::default() }
    }

    pub fn known(&self) -> Option<Arc<FrontProxy>> {
        self.known.read().expect("no holder panics").clone()
    }

    /// The caller that the API server names. What is known of the API server may have changed, so before somebody is
    /// turned away it is asked for again.
    pub async fn admit(&self, peer: &Peer, headers: &HeaderMap) -> Result<User, Status> {
        if let Some(front) = self.known() {
            match front.caller(peer, headers, now()) {
                Ok(user) => return Ok(user),
                Err(known @ (Stranger::NoCertificate | Stranger::NoUser(_))) => return Err(refused(known)),
                Err(_) => {}
            }
        }
        let failed = self.read(AGAIN).await;
        match self.known() {
            Some(front) => front.caller(peer, headers, now()).map_err(refused),
            None => Err(Status::unavailable(format!(
                "it is not known yet how the API server shows itself: {}",
                failed.unwrap_or_default()
            ))),
        }
    }

    /// Asks unless somebody has within this time. Returns why that failed.
    async fn read(&self, unless: Duration) -> Option<String> {
        let mut asked = self.asked.lock().await;
        if let Some((at, failed)) = asked.as_ref()
            && at.elapsed() < unless
        {
            return failed.clone();
        }
        let failed = self.ask().await.err();
        let before = asked.replace((Instant::now(), failed.clone()));
        if let Some(why) =
            failed.as_ref().filter(|why| before.and_then(|(_, before)| before).as_ref() != Some(*why))
        {
            warn!(
                why,
                "how the API server shows itself could not be read: autoscalers are not answered before it is, or as it was known"
            );
        }
        failed
    }

    async fn ask(&self) -> Result<(), String> {
        let told =
            aggregation::read_request_header(self.server.client()).await.map_err(|error| chain(&error))?;
        if self.known().is_some_and(|known| known.is_of(&told)) {
            return Ok(());
        }
        info!(names = ?told.names, "it is known how the API server shows itself");
        let front = FrontProxy::new(told)?;
        *self.known.write().expect("no holder panics") = Some(Arc::new(front));
        Ok(())
    }
}

fn refused(stranger: Stranger) -> Status {
    Status::unauthorized(stranger.to_string())
}

/// Runs for as long as the process.
pub async fn keep(served: Served) -> &'static str {
    let mut wait = Duration::ZERO;
    while !sleep_or_stop(&served.app, wait).await {
        let failed = served.front.read(AGAIN).await;
        wait = if failed.is_none() { EVERY } else { AGAIN };
    }
    "front proxy of the API server"
}
