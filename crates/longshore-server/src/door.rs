//! Further listeners of the worker link: one in each network of containers that workers run in.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use longshore_api::serve::Room;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tracing::{error, info};

use crate::app::App;
use crate::link;
use crate::start::{listen, scheme};

/// Opens the worker link where containers can reach it. They listen where the link does by port, so that workers find a
/// restarted control plane at the address that they know.
pub struct Door {
    /// Where the link listens; `None`: this replica does not serve it.
    link: Option<SocketAddr>,
    tls: Option<Arc<ServerConfig>>,
    room: Arc<Room>,
    open: Mutex<HashSet<IpAddr>>,
}

impl Door {
    pub fn new(link: Option<SocketAddr>, tls: Option<Arc<ServerConfig>>, room: Arc<Room>) -> Door {
        Door { link, tls, room, open: Mutex::default() }
    }

    /// Returns the link's address on the host's side of a network.
    ///
    /// Errors: it could not be opened there, in words.
    pub async fn at(&self, app: &App, gateway: IpAddr) -> Result<Option<String>, String> {
        let Some(link) = self.link else { return Ok(None) };
        let here = SocketAddr::new(gateway, link.port());
        let url = Some(format!("{}://{here}", scheme(self.tls.is_some())));
        if link.ip().is_unspecified() || link.ip() == gateway {
            return Ok(url);
        }
        let mut open = self.open.lock().await;
        if open.contains(&gateway) {
            return Ok(url);
        }
        let listener = TcpListener::bind(here).await.map_err(|error| {
            format!("the worker link could not listen on {here}, where containers would reach it: {error}")
        })?;
        info!(%here, "worker link listens in a network of containers");
        let (room, router) = (Arc::clone(&self.room), link::router(app.clone()));
        let served = listen(listener, room, self.tls.clone(), router, app.clone());
        let app = app.clone();
        tokio::spawn(async move {
            served.await;
            if !app.is_stopping() {
                error!(%here, "worker link is no longer served in a network of containers");
            }
        });
        open.insert(gateway);
        Ok(url)
    }

    /// The link's address for whoever shares a network with the container that this process runs in.
    ///
    /// Errors: it listens where nobody else can reach it.
    pub fn by_name(&self, container: &str) -> Result<Option<String>, String> {
        let Some(link) = self.link else { return Ok(None) };
        if link.ip().is_loopback() {
            let why = "the worker link listens on loopback inside this container, where workers cannot reach it: set `[server] link = \"0.0.0.0:7118\"`";
            return Err(why.into());
        }
        Ok(Some(format!("{}://{container}:{}", scheme(self.tls.is_some()), link.port())))
    }
}
