//! One connection: whether it has a request, and since when not.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::Service;
use hyper::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Error, Room};

pub struct Place {
    room: Arc<Room>,
    go: Notify,
    at: Mutex<At>,
    /// The stream took no more when it was last given something, or could not send on what it has.
    stuck: AtomicBool,
}

enum At {
    /// Without a request; `spoken`: when the next one's first byte came.
    Waiting {
        number: u64,
        since: Instant,
        spoken: Option<Instant>,
    },
    /// From a request's head until the end of its answer is at hand.
    Busy,
    /// What is left of an answer is not all sent; some of it last went then.
    Ending {
        since: Instant,
    },
    Gone,
}

impl Place {
    pub fn new(room: Arc<Room>) -> Arc<Place> {
        let at = Mutex::new(At::Ending { since: Instant::now() });
        let place = Arc::new(Place { room, go: Notify::new(), at, stuck: AtomicBool::new(false) });
        place.settle();
        place
    }

    pub fn listener(&self) -> &'static str {
        self.room.name()
    }

    /// For a request's head, and for the wait for it.
    pub fn patience(&self) -> (Duration, Duration) {
        self.room.patience()
    }

    pub fn go(&self) {
        self.go.notify_one();
    }

    pub async fn told_to_go(&self) {
        self.go.notified().await;
    }

    /// When to give it up, as things stand.
    pub fn due(&self) -> Option<Instant> {
        let (head, idle) = self.patience();
        match *self.at() {
            At::Waiting { since, spoken, .. } => Some(spoken.map_or(since + idle, |spoken| spoken + head)),
            // Who does not take the end of an answer is waited for as long.
            At::Ending { since } => Some(since + idle),
            At::Busy | At::Gone => None,
        }
    }

    /// To be called when the connection has done what it can for now: if no more of an answer is to be sent, it waits.
    ///
    /// An answer's body is dropped as soon as its last part is taken over. That may be long before it is sent, and until then
    /// nobody else may have the seat.
    pub fn settle(self: &Arc<Self>) {
        let mut at = self.at();
        if matches!(*at, At::Ending { .. }) && !self.stuck.load(Ordering::Relaxed) {
            let number = self.room.wait(Arc::clone(self));
            *at = At::Waiting { number, since: Instant::now(), spoken: None };
        }
    }

    /// False: it was told to go, and what it asks is not to be done any more.
    fn busy(&self) -> bool {
        let mut at = self.at();
        match *at {
            At::Waiting { number, .. } if self.room.leave(number) => {
                *at = At::Busy;
                true
            }
            At::Waiting { .. } | At::Gone => false,
            At::Busy | At::Ending { .. } => {
                *at = At::Busy;
                true
            }
        }
    }

    fn ends(&self) {
        let mut at = self.at();
        if matches!(*at, At::Busy) {
            *at = At::Ending { since: Instant::now() };
        }
    }

    fn heard(&self) {
        if let At::Waiting { spoken, .. } = &mut *self.at() {
            spoken.get_or_insert_with(Instant::now);
        }
    }

    /// Somebody slow takes what is left of an answer bit by bit.
    fn said(&self) {
        if let At::Waiting { since, .. } | At::Ending { since } = &mut *self.at() {
            *since = Instant::now();
        }
    }

    fn at(&self) -> MutexGuard<'_, At> {
        // It is whole at every point where the lock can be poisoned.
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dropped with the connection.
pub struct Left(pub Arc<Place>);

impl Drop for Left {
    fn drop(&mut self) {
        let mut at = self.0.at();
        if let At::Waiting { number, .. } = *at {
            self.0.room.leave(number);
        }
        *at = At::Gone;
    }
}

/// The stream of a connection, which tells when something comes or goes.
pub struct Watched<Io> {
    io: Io,
    place: Arc<Place>,
}

impl<Io> Watched<Io> {
    pub fn new(io: Io, place: Arc<Place>) -> Watched<Io> {
        Watched { io, place }
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.place.said();
        }
        self.tried(written)
    }

    fn tried<T>(&self, done: Poll<T>) -> Poll<T> {
        self.place.stuck.store(done.is_pending(), Ordering::Relaxed);
        done
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Watched<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.place.heard();
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Watched<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.tried(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// What answers, with a connection that is busy meanwhile.
pub struct Tracked<S> {
    service: S,
    place: Arc<Place>,
}

impl<S> Tracked<S> {
    pub fn new(service: S, place: Arc<Place>) -> Tracked<S> {
        Tracked { service, place }
    }
}

impl<S, B> Service<Request<Incoming>> for Tracked<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<Error>,
    B: Send + 'static,
{
    type Response = Response<Answer<B>>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if !self.place.busy() {
            return Box::pin(std::future::ready(Err("it was told to go".into())));
        }
        let done = Done(Arc::clone(&self.place));
        let answer = self.service.call(request);
        Box::pin(async move {
            let response = answer.await.map_err(Into::into)?;
            Ok(response.map(|body| Answer { body, _done: done }))
        })
    }
}

/// Dropped when the answer's end is at hand, whichever it is.
struct Done(Arc<Place>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.ends();
    }
}

pub struct Answer<B> {
    body: B,
    _done: Done,
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
