//! A listener whose connections are handed on once their handshake is done.
//!
//! Handshakes run beside each other and beside accepting: one that stalls holds up nobody, and is given up after a while.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::debug;

/// How long a handshake may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Handshakes under way above which new connections wait in the system's queue.
const MOST: usize = 1024;

pub struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
    patience: Duration,
}

impl TlsListener {
    pub fn new(listener: TcpListener, config: Arc<ServerConfig>) -> TlsListener {
        TlsListener { listener, acceptor: config.into(), handshakes: JoinSet::new(), patience: PATIENCE }
    }

    /// For tests.
    #[cfg(test)]
    pub fn patience(mut self, patience: Duration) -> TlsListener {
        self.patience = patience;
        self
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let room = self.handshakes.len() < MOST;
            tokio::select! {
                (stream, from) = Listener::accept(&mut self.listener), if room => {
                    let handshake = shake(self.acceptor.clone(), stream, from, self.patience);
                    self.handshakes.spawn(handshake);
                }
                Some(ended) = self.handshakes.join_next() => {
                    if let Ok(Some(ready)) = ended {
                        return ready;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

async fn shake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    from: SocketAddr,
    patience: Duration,
) -> Option<(TlsStream<TcpStream>, SocketAddr)> {
    // Answers are small and somebody waits for each: do not hold them back to fill packets.
    let _ = stream.set_nodelay(true);
    match tokio::time::timeout(patience, acceptor.accept(stream)).await {
        Ok(Ok(ready)) => Some((ready, from)),
        Ok(Err(error)) => {
            debug!(%from, %error, "TLS handshake fails");
            None
        }
        Err(_) => {
            debug!(%from, "TLS handshake stalls");
            None
        }
    }
}
