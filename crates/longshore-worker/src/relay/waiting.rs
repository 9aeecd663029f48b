//! An answer on its way to the agent: nothing yet, then keep-alives, then the answer itself.
//!
//! A keep-alive commits a 200, so none is sent before a client would give up. What comes after it can no longer be an error
//! status: a stream then ends with an error event, anything else is broken off.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use serde::Deserialize;
use tokio::time::Instant;

use super::body::CutOff;
use super::call::{Call, Fate, Opened, Unanswered};
use super::dialect::Dialect;
use super::flow::Flow;
use super::register::Entry;

/// The most of an error answer that an event repeats.
const ERROR_BODY: usize = 64 << 10;

/// A call that is being opened; owned, so that it goes on when the agent's response has begun.
pub type Opening = Pin<Box<dyn Future<Output = (Call, Result<Opened, Unanswered>)> + Send>>;

pub fn opening(mut call: Call) -> Opening {
    Box::pin(async move {
        let opened = call.open().await;
        (call, opened)
    })
}

/// What the agent is kept with while there is no head.
pub struct Waiting {
    pub opening: Opening,
    pub entry: Arc<Entry>,
    pub dialect: Dialect,
    /// The agent asked for a stream.
    pub streamed: bool,
    pub every: Duration,
    pub next: Instant,
}

pub enum Phase {
    Waiting(Waiting),
    Flowing(Box<Flow>),
    /// The last words; then nothing.
    Last(Option<Bytes>),
}

impl Phase {
    /// The bytes for the agent. An error breaks its connection and is the last item.
    pub fn stream(self) -> impl Stream<Item = Result<Bytes, CutOff>> + Send {
        futures_util::stream::unfold(self, |phase| async move {
            match phase.step().await {
                Ok((Some(bytes), phase)) => Some((Ok(bytes), phase)),
                Ok((None, _)) => None,
                Err(cut) => {
                    // What came before is written out meanwhile; an error throws it away.
                    tokio::task::yield_now().await;
                    Some((Err(cut), Phase::Last(None)))
                }
            }
        })
    }

    async fn step(mut self) -> Result<(Option<Bytes>, Phase), CutOff> {
        loop {
            match self {
                Phase::Last(bytes) => return Ok((bytes, Phase::Last(None))),
                Phase::Flowing(mut flow) => {
                    let bytes = flow.next().await?;
                    return Ok((bytes, Phase::Flowing(flow)));
                }
                Phase::Waiting(mut waiting) => match waiting.opened().await? {
                    Some((call, opened)) => self = waiting.begin(call, opened).await?,
                    None => return Ok((Some(waiting.keep_alive()), Phase::Waiting(waiting))),
                },
            }
        }
    }
}

impl Waiting {
    /// `None`: it is time for a keep-alive.
    async fn opened(&mut self) -> Result<Option<(Call, Result<Opened, Unanswered>)>, CutOff> {
        tokio::select! {
            biased;
            opened = &mut self.opening => Ok(Some(opened)),
            () = self.entry.closed() => Err(CutOff),
            () = tokio::time::sleep_until(self.next) => {
                self.next += self.every;
                Ok(None)
            }
        }
    }

    fn keep_alive(&self) -> Bytes {
        // A comment; white space before JSON.
        Bytes::from_static(if self.streamed { b": keep-alive\n\n" } else { b" " })
    }

    async fn begin(self, mut call: Call, opened: Result<Opened, Unanswered>) -> Result<Phase, CutOff> {
        let opened = match opened {
            Ok(opened) => opened,
            Err(Unanswered::Broken(broken)) => {
                call.break_off(&broken);
                return Err(CutOff);
            }
            Err(Unanswered::Refused(problem)) => {
                call.settle(if self.streamed { Fate::Refused } else { Fate::Broken });
                return self.last(|| self.dialect.event(&problem));
            }
        };
        let status = opened.head.status;
        let mut flow = Flow::new(call, opened, None);
        if (200..300).contains(&status) {
            return Ok(Phase::Flowing(flow.into()));
        }
        let body = flow.whole(ERROR_BODY).await?;
        if !self.streamed {
            flow.settle(Fate::Broken);
        }
        self.last(|| self.dialect.event_from(status, &body))
    }

    fn last(&self, event: impl FnOnce() -> Bytes) -> Result<Phase, CutOff> {
        if self.streamed { Ok(Phase::Last(Some(event()))) } else { Err(CutOff) }
    }
}

/// Whether a request asks for its answer as a stream.
pub fn asks_for_a_stream(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Asked {
        #[serde(default)]
        stream: bool,
    }
    serde_json::from_slice::<Asked>(body).is_ok_and(|asked| asked.stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_flag_at_the_top_asks_for_a_stream() {
        for (body, expected) in [
            (r#"{"model":"m","stream":true}"#, true),
            (r#"{"stream":false}"#, false),
            (r#"{"stream":null}"#, false),
            (r#"{"metadata":{"stream":true}}"#, false),
            ("", false),
            ("stream", false),
        ] {
            assert_eq!(asks_for_a_stream(body.as_bytes()), expected, "{body}");
        }
    }
}
