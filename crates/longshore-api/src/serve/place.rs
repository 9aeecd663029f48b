//! One connection: whether it has a request, and since when not.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::Service;
use hyper::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Error, Patience, Room};

pub struct Place {
    room: Arc<Room>,
    go: Notify,
    state: Mutex<State>,
}

struct State {
    at: At,
    /// The stream takes no more since then: nothing that it was given, nor what it has.
    stuck: Option<Instant>,
    /// Something of a request came before the answer to the last was all sent.
    ahead: bool,
}

enum At {
    /// Without a request; `spoken`: when the next one's first byte came.
    Waiting {
        number: u64,
        since: Instant,
        spoken: Option<Instant>,
    },
    /// From a request's head until its answer is all sent. `ended`: all of it is at hand. `number`: in the line of those who may
    /// have to go.
    Answered {
        ended: bool,
        number: Option<u64>,
    },
    Gone,
}

impl Place {
    pub fn new(room: Arc<Room>) -> Arc<Place> {
        let state = State { at: At::Answered { ended: true, number: None }, stuck: None, ahead: false };
        let place = Arc::new(Place { room, go: Notify::new(), state: state.into() });
        place.settle();
        place
    }

    pub fn listener(&self) -> &'static str {
        self.room.name()
    }

    pub fn patience(&self) -> Patience {
        self.room.patience()
    }

    pub fn go(&self) {
        self.go.notify_one();
    }

    pub async fn told_to_go(&self) {
        self.go.notified().await;
    }

    /// When to give it up, as things stand, and why.
    pub fn due(&self) -> Option<(Instant, &'static str)> {
        let (state, patience) = (self.state(), self.patience());
        match state.at {
            At::Waiting { spoken: Some(spoken), .. } => {
                Some((spoken + patience.head, "no request came in time"))
            }
            At::Waiting { since, .. } => Some((since + patience.idle, "no request came in time")),
            At::Answered { .. } => {
                state.stuck.map(|since| (since + patience.take, "nothing of an answer was taken in time"))
            }
            At::Gone => None,
        }
    }

    pub fn waits(&self) -> bool {
        matches!(self.state().at, At::Waiting { .. })
    }

    /// To be called when the connection has done what it can for now: if no more of an answer is to be sent, it waits.
    ///
    /// An answer's body is dropped as soon as its last part is taken over. That may be long before it is sent, and until then
    /// nobody else may have the seat, unless what is sent is not taken.
    pub fn settle(self: &Arc<Self>) {
        let mut state = self.state();
        if let (At::Answered { ended: true, number }, None) = (&state.at, state.stuck) {
            state.at = match number.is_none_or(|number| self.room.leave(number)) {
                true => {
                    let number = self.room.wait(Arc::clone(self));
                    let spoken = std::mem::take(&mut state.ahead).then(Instant::now);
                    if spoken.is_some() {
                        self.room.speaks(number);
                    }
                    At::Waiting { number, since: Instant::now(), spoken }
                }
                // It was told to go.
                false => At::Gone,
            };
        }
    }

    /// False: it was told to go, and what it asks is not to be done any more.
    pub(super) fn busy(self: &Arc<Self>) -> bool {
        let mut state = self.state();
        match &mut state.at {
            At::Waiting { number, .. } if self.room.leave(*number) => {
                let number = self.room.has_short_answers().then(|| self.room.owe(Arc::clone(self)));
                state.at = At::Answered { ended: false, number };
                true
            }
            At::Waiting { .. } | At::Gone => false,
            // Its next request came before it had taken the answer to the last.
            At::Answered { ended, .. } => {
                *ended = false;
                state.ahead = false;
                true
            }
        }
    }

    fn ends(&self) {
        if let At::Answered { ended, .. } = &mut self.state().at {
            *ended = true;
        }
    }

    pub(super) fn heard(&self) {
        let state = &mut *self.state();
        match &mut state.at {
            At::Waiting { number, spoken: spoken @ None, .. } => {
                *spoken = Some(Instant::now());
                self.room.speaks(*number);
            }
            // Before that it may be of the last one's body.
            At::Answered { ended: true, .. } => state.ahead = true,
            _ => {}
        }
    }

    /// Whether the stream took something, or could send on what it has. Somebody slow takes an answer bit by bit.
    fn tried(self: &Arc<Self>, done: bool) {
        let state = &mut *self.state();
        match (done, state.stuck) {
            (false, None) => state.stuck = Some(Instant::now()),
            (true, Some(_)) => state.stuck = None,
            _ => return,
        }
        let At::Answered { number, .. } = &mut state.at else { return };
        if self.room.has_short_answers() {
            return;
        }
        // If it was told to go in between, then so it is.
        match (done, *number) {
            (false, None) => *number = Some(self.room.owe(Arc::clone(self))),
            (true, Some(its)) if self.room.leave(its) => *number = None,
            _ => {}
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // It is whole at every point where the lock can be poisoned.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dropped with the connection.
pub struct Left(pub Arc<Place>);

impl Drop for Left {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if let At::Waiting { number, .. } | At::Answered { number: Some(number), .. } = state.at {
            self.0.room.leave(number);
        }
        state.at = At::Gone;
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

    fn tried<T>(&self, done: Poll<T>) -> Poll<T> {
        self.place.tried(done.is_ready());
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
        self.tried(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.tried(written)
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
            let mut response = answer.await.map_err(Into::into)?;
            if done.0.room.ends_connections() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
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
