//! The listener, and the handle by which a test holds a simulated provider.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::bill::{Bill, Ledger};
use crate::cache::PromptCache;
use crate::fault::{Armed, Fault};
use crate::front;
use crate::hold::{Gate, Hold};
use crate::limit::Windows;
use crate::options::Options;

/// What all calls share.
pub(crate) struct State {
    pub(crate) options: Options,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) faults: Armed,
    pub(crate) windows: Windows,
    pub(crate) cache: PromptCache,
    pub(crate) gate: Gate,
    requests: AtomicU64,
}

impl State {
    pub(crate) fn request_id(&self) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        format!("req_{:08x}{number:016x}", self.options.seed as u32)
    }
}

/// A simulated provider that serves until it is dropped or stopped.
pub struct Sim {
    addr: SocketAddr,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

/// Starts to serve.
///
/// Errors: the address cannot be bound.
pub async fn start(options: Options) -> Result<Sim, io::Error> {
    let listener = TcpListener::bind(options.addr).await?;
    let addr = listener.local_addr()?;
    let faults = Armed::default();
    faults.set(options.faults.clone());
    let state = Arc::new(State {
        ledger: Ledger::new(options.prices.clone(), options.bill_broken),
        options,
        faults,
        windows: Windows::default(),
        cache: PromptCache::default(),
        gate: Gate::open(),
        requests: AtomicU64::new(1),
    });
    let serving = tokio::spawn(accept(listener, Arc::clone(&state)));
    Ok(Sim { addr, state, serving })
}

/// Dropping this future ends every connection.
async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&state)));
                }
                // Out of descriptors, most likely: one of those in use has to end first.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    // Without it small pieces of a stream would wait for each other; failing only makes it slower.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| front::handle(Arc::clone(&state), request));
    // An error is a client that left, or a fault that was asked for.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl Sim {
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What OpenAI's SDKs take: `http://…/v1`.
    pub fn openai_base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// What Anthropic's SDKs take: `http://…`.
    pub fn anthropic_base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn bill(&self) -> Bill {
        self.state.ledger.bill()
    }

    pub fn reset_bill(&self) {
        self.state.ledger.reset();
    }

    /// Replaces all faults; calls are counted anew from here.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.state.faults.set(faults);
    }

    /// While held, calls are received and counted, and their answers wait before the first byte.
    pub fn hold(&self, held: bool) {
        self.state.gate.set(Hold { held, after_chunks: None });
    }

    /// Holds streams after so many events, and other answers before their first byte; `hold(false)` ends it.
    pub fn hold_streams_after(&self, chunks: usize) {
        self.state.gate.set(Hold { held: true, after_chunks: Some(chunks) });
    }

    /// How many calls are held now.
    pub fn waiting(&self) -> usize {
        self.state.gate.waiting()
    }

    /// Waits until so many calls are held.
    pub async fn until_waiting(&self, calls: usize) {
        self.state.gate.until_waiting(calls).await;
    }

    /// Ends every connection and frees the address.
    pub async fn stop(mut self) {
        self.serving.abort();
        // Always the cancellation that was just asked for.
        let _ = (&mut self.serving).await;
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
