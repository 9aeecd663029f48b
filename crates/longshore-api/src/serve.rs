//! How control planes and workers hold the connections that others open to them.
//!
//! Anybody may connect, and whoever says nothing costs a file all the same. So a listener has a number of seats; a
//! connection with a request keeps its seat for as long as the answer takes, unless it does not take the answer; and one that
//! waits for a request gives it up: when it dawdles, when it was silent for long, or when somebody new needs it. What a
//! request means is not known here.

mod place;
mod room;
#[cfg(test)]
mod tests;

use std::error::Error as StdError;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, warn};

use place::{Place, Tracked, Watched};
pub use room::{Patience, Room, Shares};

/// How long a handshake may take, and the head of a request from its first byte on.
pub const HEAD: Duration = Duration::from_secs(10);

/// How long a connection may wait for its next request: longer than clients keep one that they do not use, and load
/// balancers, some of which keep one for 600 s.
pub const IDLE: Duration = Duration::from_secs(620);

/// How long the other side may take nothing of an answer, and the system wait for word that what it sent has come.
pub const TAKE: Duration = Duration::from_secs(90);

/// How large the head of a request may be: load balancers let through as much at most. A larger one is answered with 431.
const HEAD_SIZE: usize = 64 << 10;

/// How much of what is to be sent the system takes over before the other side takes any. With less it would not be seen
/// that somebody slow takes an answer, with more only after a while.
const UNSENT: u32 = 128 << 10;

/// After this long without a packet the system asks whether the other side is there.
const SILENT: Duration = Duration::from_secs(60);

/// How long it waits for each answer, and how often it asks: then the connection ends.
const ASK_EVERY: Duration = Duration::from_secs(10);
const ASK: u32 = 3;

/// How long to wait after the system refused to give a connection.
const PAUSE: Duration = Duration::from_millis(50);

pub type Error = Box<dyn StdError + Send + Sync>;

/// Serves HTTP/1 until `stopped`, then waits until what is being answered is answered; connections without a request are
/// closed at once.
///
/// `greet` makes of a new connection what it is read by and what answers on it, for example after a TLS handshake.
pub async fn serve<G, F, Io, S, B>(
    listener: TcpListener,
    room: Arc<Room>,
    greet: G,
    stopped: impl Future<Output = ()>,
) where
    G: Fn(TcpStream) -> F,
    F: Future<Output = io::Result<(Io, S)>> + Send + 'static,
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Error>,
    B: Body + Unpin + Send + 'static,
    B::Data: Send,
    B::Error: Into<Error>,
{
    let stop = watch::Sender::new(false);
    let mut stopped = pin!(stopped);
    loop {
        let (stream, from, seat) = tokio::select! {
            taken = take(&listener, &room) => taken,
            () = &mut stopped => break,
        };
        // Answers are small and somebody waits for each: do not hold them back to fill packets.
        let _ = stream.set_nodelay(true);
        // A machine that lost power says no goodbye, and a request that is held for long says nothing either.
        let asks = TcpKeepalive::new().with_time(SILENT).with_interval(ASK_EVERY).with_retries(ASK);
        let socket = SockRef::from(&stream);
        let _ = socket.set_tcp_keepalive(&asks);
        // Nothing is asked while what was sent is on its way.
        let _ = socket.set_tcp_user_timeout(Some(room.patience().take));
        let _ = socket.set_tcp_notsent_lowat(UNSENT);
        let place = Place::new(Arc::clone(&room));
        tokio::spawn(attend(greet(stream), from, place, seat, stop.subscribe()));
    }
    drop(listener);
    stop.send_replace(true);
    stop.closed().await;
}

/// For [`serve`] without an end.
pub fn never() -> impl Future<Output = ()> {
    std::future::pending()
}

/// Takes the next connection that there is a seat for.
async fn take(listener: &TcpListener, room: &Room) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => match room.seat().await {
                Some(seat) => return (stream, from, seat),
                None => debug!(listener = room.name(), %from, "connection refused"),
            },
            Err(error) if is_its_own(&error) => {}
            Err(error) => {
                // Out of files, most likely, whoever has them all.
                room.make_room();
                if room.may_complain() {
                    warn!(listener = room.name(), %error, "connections cannot be taken");
                }
                sleep(PAUSE).await;
            }
        }
    }
}

/// Whether only this connection is concerned: it ended before it was taken.
fn is_its_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn attend<F, Io, S, B>(
    greeted: F,
    from: SocketAddr,
    place: Arc<Place>,
    seat: OwnedSemaphorePermit,
    mut stop: watch::Receiver<bool>,
) where
    F: Future<Output = io::Result<(Io, S)>>,
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Error>,
    B: Body + Unpin + Send + 'static,
    B::Data: Send,
    B::Error: Into<Error>,
{
    // Given back when the connection is closed; the second is what the stop waits for.
    let (_seat, _connected) = (seat, stop.clone());
    let _left = place::Left(Arc::clone(&place));
    let greeted = tokio::select! {
        greeted = timeout(place.patience().head, greeted) => greeted,
        () = place.told_to_go() => return,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    let (io, service) = match greeted {
        Ok(Ok(ready)) => ready,
        Ok(Err(error)) => return debug!(listener = place.listener(), %from, %error, "handshake fails"),
        Err(_) => return debug!(listener = place.listener(), %from, "handshake stalls"),
    };
    let io = TokioIo::new(Watched::new(io, Arc::clone(&place)));
    let service = Tracked::new(service, Arc::clone(&place));
    // Its own limit counts from the answer before, so that a connection could not be kept for a while.
    let mut http = http1::Builder::new();
    let connection = http.header_read_timeout(None).max_buf_size(HEAD_SIZE).serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut go = pin!(place.told_to_go());
    let mut stopped = pin!(async move { stop.wait_for(|stop| *stop).await.is_ok() });
    let (mut stopping, mut armed) = (false, Instant::now() + place.patience().idle);
    let mut alarm = pin!(sleep_until(armed));
    let why = poll_fn(|cx| {
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(ended.err().map(|error| error.to_string()));
        }
        if !stopping && stopped.as_mut().poll(cx).is_ready() {
            stopping = true;
            connection.as_mut().graceful_shutdown();
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended.err().map(|error| error.to_string()));
            }
        }
        // It sends all that it has before it comes here, or was told that no more can be sent now.
        place.settle();
        if stopping && place.waits() {
            return Poll::Ready(Some("the listener stops, and its request had only begun".into()));
        }
        if go.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some("somebody else needs its seat".into()));
        }
        let Some((due, why)) = place.due() else { return Poll::Pending };
        if due != armed {
            armed = due;
            alarm.as_mut().reset(due);
        }
        alarm.as_mut().poll(cx).map(|()| Some(why.into()))
    })
    .await;
    if let Some(why) = why {
        debug!(listener = place.listener(), %from, why, "connection ends early");
    }
}

/// For [`serve`]: plain connections, all answered by this.
pub fn plain<S: Clone>(service: S) -> impl Fn(TcpStream) -> std::future::Ready<io::Result<(TcpStream, S)>> {
    move |stream| std::future::ready(Ok((stream, service.clone())))
}
