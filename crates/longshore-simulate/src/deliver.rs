//! Sends an answer: each piece when it is due, and not further than a fault or a hold lets it.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio::time::{Instant, sleep_until};

use crate::bill::Ticket;
use crate::pace::Timeline;
use crate::serve::State;
use crate::wire::Played;

/// The connection is closed in the middle, on purpose.
#[derive(Debug, thiserror::Error)]
#[error("the simulated provider breaks the connection")]
pub(crate) struct Broken;

pub(crate) type Body = UnsyncBoxBody<Bytes, Broken>;

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    let never = |infallible: Infallible| match infallible {};
    Full::new(bytes.into()).map_err(never).boxed_unsync()
}

/// What happens instead of the frames from `after` on.
pub(crate) struct Cut {
    pub(crate) after: usize,
    pub(crate) then: Then,
}

pub(crate) enum Then {
    Break,
    Stall,
    /// Something else, then a proper end.
    Last(Bytes),
    /// So many bytes more, then a break.
    Pad(usize),
}

static PADDING: [u8; 64 << 10] = [b'x'; 64 << 10];

pub(crate) struct Delivery {
    pub(crate) state: Arc<State>,
    pub(crate) played: Played,
    pub(crate) timeline: Timeline,
    pub(crate) ticket: Ticket,
    pub(crate) cut: Option<Cut>,
    /// Holds concern streams only.
    pub(crate) stream: bool,
    pub(crate) next: usize,
}

impl Delivery {
    pub(crate) fn body(self) -> Body {
        let pieces = stream::unfold(self, Delivery::step);
        StreamBody::new(pieces).boxed_unsync()
    }

    async fn step(mut self) -> Option<(Result<Frame<Bytes>, Broken>, Delivery)> {
        if self.cut.as_ref().is_some_and(|cut| self.next >= cut.after) {
            let piece = self.instead().await?;
            return Some((piece.map(Frame::data), self));
        }
        let first = self.played.frames.get(self.next)?;
        if self.stream {
            self.state.gate.after(self.next).await;
        }
        let due = self.timeline.due(first.tokens);
        if due > Instant::now() {
            sleep_until(due).await;
        }
        let to = self.ready();
        let piece = self.played.slice(self.next, to);
        self.next = to;
        self.ticket.sent(self.played.frames[to - 1].tokens);
        if to == self.played.frames.len() {
            self.ticket.answered();
        }
        Some((Ok(Frame::data(piece)), self))
    }

    /// The end of what may be sent now: everything that is due goes out together.
    fn ready(&self) -> usize {
        let now = Instant::now();
        let cut = self.cut.as_ref().map(|cut| cut.after);
        let held = self.state.gate.stop_at().filter(|_| self.stream);
        let stop = [cut, held].into_iter().flatten().min().unwrap_or(usize::MAX);
        let further = self.played.frames[self.next + 1..].iter().zip(self.next + 1..);
        let due = further.take_while(|(frame, at)| *at < stop && self.timeline.due(frame.tokens) <= now);
        self.next + 1 + due.count()
    }

    async fn instead(&mut self) -> Option<Result<Bytes, Broken>> {
        let cut = self.cut.as_mut()?;
        match &mut cut.then {
            Then::Break | Then::Pad(0) => {
                // What was sent before is written out while this waits; an error throws it away.
                tokio::task::yield_now().await;
                Some(Err(Broken))
            }
            Then::Stall => std::future::pending().await,
            Then::Last(bytes) if bytes.is_empty() => None,
            Then::Last(bytes) => Some(Ok(std::mem::take(bytes))),
            Then::Pad(left) => {
                let now = (*left).min(PADDING.len());
                *left -= now;
                Some(Ok(Bytes::from_static(&PADDING[..now])))
            }
        }
    }
}
