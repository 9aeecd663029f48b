//! Hands an answer on as it comes, and continues it after its connection was lost.
//!
//! No half of one answer is ever continued with another: only an answer that comes from the journal again, and begins with
//! the very bytes that the agent has, is gone on with.

use bytes::Bytes;
use longshore_api::llm::{Breaker, Broken, Frame};
use sha2::{Digest, Sha256};
use tracing::info;

use super::body::CutOff;
use super::call::{Call, Fate, Frames, Opened, Unanswered};

pub struct Flow {
    call: Call,
    /// `None` once the answer has ended.
    frames: Option<Frames>,
    status: u16,
    /// What the agent was promised.
    length: Option<u64>,
    sent: Sent,
    /// The last bytes of an answer of known length: kept until it is whole, since with them the agent has all of it.
    last: Option<Bytes>,
}

/// What the agent has.
#[derive(Default)]
struct Sent {
    count: u64,
    hash: Sha256,
}

impl Sent {
    fn add(&mut self, bytes: &[u8]) {
        self.count += bytes.len() as u64;
        self.hash.update(bytes);
    }
}

/// An answer cannot be continued.
enum Stop {
    Broken(Broken),
    /// The connection is lost; asking again may help.
    Lost(String),
}

fn by_longshore(why: impl Into<String>) -> Broken {
    Broken { by: Breaker::Longshore, why: why.into() }
}

impl Flow {
    /// `length`: what the agent was promised, if it was.
    pub fn new(call: Call, opened: Opened, length: Option<u64>) -> Flow {
        let (status, frames) = (opened.head.status, Some(opened.frames));
        Flow { call, frames, status, length, sent: Sent::default(), last: None }
    }

    pub fn settle(&mut self, fate: Fate) {
        self.call.settle(fate);
    }

    /// The next bytes for the agent; `None`: the answer is whole. Waits out a lost connection.
    ///
    /// Errors: the agent's connection has to be broken; the reason is taken down.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CutOff> {
        let entry = std::sync::Arc::clone(&self.call.entry);
        let next = tokio::select! {
            biased;
            next = self.step() => next,
            () = entry.closed() => return Err(CutOff),
        };
        next.map_err(|broken| {
            self.call.break_off(&broken);
            CutOff
        })
    }

    async fn step(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            match self.read().await {
                Ok(bytes) => return Ok(bytes),
                Err(Stop::Broken(broken)) => return Err(broken),
                Err(Stop::Lost(why)) => self.resume(why).await?,
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Stop> {
        loop {
            let Some(frames) = &mut self.frames else { return Ok(None) };
            match frames.next().await.map_err(Stop::Lost)? {
                Frame::KeepAlive => {}
                Frame::Data(bytes) if bytes.is_empty() => {}
                Frame::Data(bytes) => {
                    if self.is_last(bytes.len()).map_err(Stop::Broken)? {
                        self.last = Some(bytes);
                        continue;
                    }
                    self.sent.add(&bytes);
                    return Ok(Some(bytes));
                }
                Frame::End => return self.end().map_err(Stop::Broken),
                Frame::Broken(broken) => return Err(Stop::Broken(broken)),
                Frame::Head(_) => return Err(Stop::Lost("a second head".to_owned())),
            }
        }
    }

    /// Whether so many bytes more are all that was promised.
    fn is_last(&self, more: usize) -> Result<bool, Broken> {
        let held = self.last.as_ref().map_or(0, Bytes::len);
        let reaches = self.sent.count + (held + more) as u64;
        match self.length {
            Some(length) if reaches > length => {
                Err(by_longshore("the answer is longer than it was said to be"))
            }
            Some(length) => Ok(reaches == length),
            None => Ok(false),
        }
    }

    fn end(&mut self) -> Result<Option<Bytes>, Broken> {
        let last = self.last.take();
        last.iter().for_each(|bytes| self.sent.add(bytes));
        if self.length.is_some_and(|length| length != self.sent.count) {
            return Err(by_longshore("the answer is shorter than it was said to be"));
        }
        self.frames.take().into_iter().for_each(Frames::finish);
        self.call.settle(Fate::Answered);
        Ok(last)
    }

    /// Gets the same answer again and goes to the point that the agent has reached.
    async fn resume(&mut self, mut why: String) -> Result<(), Broken> {
        self.last = None;
        self.frames = None;
        loop {
            info!(why, bytes = self.sent.count, "llm answer was cut; asking for the rest");
            let Opened { head, mut frames } =
                self.call.open().await.map_err(|unanswered| match unanswered {
                    Unanswered::Broken(broken) => broken,
                    Unanswered::Refused(problem) => by_longshore(problem.detail),
                })?;
            if head.status != self.status || (!head.stored && self.sent.count > 0) {
                return Err(by_longshore("the rest of the answer is not to be had: it was not stored"));
            }
            match self.skip(&mut frames).await {
                Ok(rest) => {
                    self.frames = Some(frames.after(rest));
                    return Ok(());
                }
                Err(Stop::Broken(broken)) => return Err(broken),
                Err(Stop::Lost(again)) => why = again,
            }
        }
    }

    /// Reads as many bytes as the agent has and compares them; returns those that came along with the last of them.
    async fn skip(&self, frames: &mut Frames) -> Result<Bytes, Stop> {
        let mut again = Sent::default();
        let mut rest = Bytes::new();
        while again.count < self.sent.count {
            match frames.next().await.map_err(Stop::Lost)? {
                Frame::KeepAlive => {}
                Frame::Data(mut bytes) => {
                    let missing = usize::try_from(self.sent.count - again.count).unwrap_or(usize::MAX);
                    let known = bytes.split_to(bytes.len().min(missing));
                    again.add(&known);
                    rest = bytes;
                }
                Frame::End => {
                    return Err(Stop::Broken(by_longshore(
                        "the stored answer is shorter than its beginning",
                    )));
                }
                Frame::Broken(broken) => return Err(Stop::Broken(broken)),
                Frame::Head(_) => return Err(Stop::Lost("a second head".to_owned())),
            }
        }
        if again.hash.finalize() == self.sent.hash.clone().finalize() {
            Ok(rest)
        } else {
            Err(Stop::Broken(by_longshore(
                "the stored answer is not the one that the agent has the beginning of",
            )))
        }
    }

    /// The whole of a small answer. Errors: as [`Flow::next`]; what goes beyond `limit` is left out.
    pub async fn whole(&mut self, limit: usize) -> Result<Vec<u8>, CutOff> {
        let mut whole = Vec::new();
        while let Some(bytes) = self.next().await? {
            let room = limit.saturating_sub(whole.len());
            whole.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        Ok(whole)
    }
}
