//! One call of an agent: asks the gateway until it has an answer, and keeps account of what became of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use longshore_api::link_client::{Carried, Door, LinkError, Reply, Round};
use longshore_api::llm::{self, Breaker, Broken, Decoder, Frame, Head};
use longshore_api::problem::Problem;
use longshore_core::errors::chain;
use tracing::{debug, warn};
use uuid::Uuid;

use super::Relay;
use super::patience::{self, Patience};
use super::register::Entry;

/// The request's body may take as long as a slow line needs for it, besides.
const BYTES_PER_SECOND: u64 = 1 << 20;

/// How long the end of a connection's answer may take to arrive; then the connection is not used again.
const LAST_BYTES: Duration = Duration::from_secs(1);

const TASK_TOKEN: HeaderName = HeaderName::from_static(llm::TASK_TOKEN);
const CALL: HeaderName = HeaderName::from_static(llm::CALL);
const UNDELIVERED: HeaderName = HeaderName::from_static(llm::UNDELIVERED);

/// What an agent is told where something else than a gateway answers.
const NOT_A_GATEWAY: &str = "not_a_gateway";

pub struct Call {
    pub entry: Arc<Entry>,
    relay: Arc<Relay>,
    carried: Carried,
    id: Uuid,
    asked: bool,
    patience: Patience,
    round: Round,
    /// Who began the answer that the agent is getting.
    answering: Option<Arc<str>>,
    fate: Fate,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The agent went away, or its attempt ended.
    Abandoned,
    /// The agent got the whole answer.
    Answered,
    /// The agent got longshore's own error.
    Refused,
    /// The agent's connection was broken.
    Broken,
}

/// An answer that has begun.
pub struct Opened {
    pub head: Head,
    pub frames: Frames,
}

/// Why there is no answer, and will be none.
#[derive(Debug)]
pub enum Unanswered {
    Refused(Box<Problem>),
    Broken(Broken),
}

/// Why one ask brought no answer.
enum Miss {
    Away(String),
    Unauthorised(Box<Problem>),
    Final(Unanswered),
}

impl Miss {
    /// Somebody answers there who is no gateway.
    fn is_of_a_stranger(&self) -> bool {
        matches!(self, Miss::Final(Unanswered::Refused(problem)) if problem.code == NOT_A_GATEWAY)
    }
}

impl Call {
    /// `headers`: the agent's, without those that stay here.
    pub fn new(
        relay: &Arc<Relay>,
        entry: &Arc<Entry>,
        method: Method,
        path: String,
        within: String,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Call {
        let id = Uuid::new_v4();
        headers.insert(CALL, text(&id.to_string()));
        headers.insert(TASK_TOKEN, secret(&entry.token));
        let upload = Duration::from_secs(body.len() as u64 / BYTES_PER_SECOND);
        let patience = relay.times.silence + upload;
        let carried = Carried { to: Door::Gateway, method, path, within, headers, body, patience };
        let again = Patience::new(relay.times.unauthorised);
        let (relay, entry) = (Arc::clone(relay), Arc::clone(entry));
        let (round, answering) = (Round::default(), None);
        Call {
            entry,
            relay,
            carried,
            id,
            asked: false,
            patience: again,
            round,
            answering,
            fate: Fate::Abandoned,
        }
    }

    pub fn settle(&mut self, fate: Fate) {
        self.fate = fate;
    }

    /// Takes down that the agent's connection is about to be broken. Before it is: the agent may fail at once.
    pub fn break_off(&mut self, broken: &Broken) {
        if broken.by == Breaker::Longshore {
            self.entry.note_break();
        }
        let by = match broken.by {
            Breaker::Longshore => "longshore",
            Breaker::Provider => "provider",
        };
        self.relay.metrics.llm_break(by);
        warn!(task = %self.entry.held.task, call = %self.id, by, why = broken.why, "llm answer broken off");
        self.fate = Fate::Broken;
    }

    /// Asks until the answer begins; again, if one that had begun was cut. Rides out a control plane that is away, for as long
    /// as somebody waits.
    ///
    /// Asks more than once, and different replicas: the call's id makes them one call, which is made once, joined by whoever
    /// asks for it meanwhile, and given again from the journal.
    pub async fn open(&mut self) -> Result<Opened, Unanswered> {
        if let Some(cut) = self.answering.take() {
            self.relay.client.broke_off(Door::Gateway, &cut, &mut self.round);
        }
        loop {
            if self.asked {
                if !self.round.moves_on() {
                    self.patience.wait().await;
                }
                self.relay.metrics.llm_retries.inc();
            }
            match self.ask().await {
                Ok(opened) => {
                    self.patience.authorised();
                    self.round = Round::default();
                    return Ok(opened);
                }
                Err(Miss::Final(why)) => return Err(why),
                Err(Miss::Unauthorised(problem)) => {
                    if !self.patience.with_unauthorised() {
                        return Err(Unanswered::Refused(Box::new(Problem { status: 502, ..*problem })));
                    }
                    debug!(call = %self.id, "worker token is not accepted; asking again");
                }
                Err(Miss::Away(why)) => debug!(call = %self.id, why, "gateway does not answer; asking again"),
            }
        }
    }

    async fn ask(&mut self) -> Result<Opened, Miss> {
        let undelivered = self.entry.undelivered();
        if undelivered.is_empty() {
            self.carried.headers.remove(UNDELIVERED);
        } else {
            let ids: Vec<String> = undelivered.iter().map(Uuid::to_string).collect();
            self.carried.headers.insert(UNDELIVERED, text(&ids.join(",")));
        }
        self.asked = true;
        let reply = self.relay.client.carry(&self.carried, &mut self.round).await.map_err(miss)?;
        let silence = self.relay.times.silence;
        let at = Arc::clone(reply.address());
        if reply.status() != 200 || !is_frames(&reply) {
            let miss = refused(reply, silence).await;
            if miss.is_of_a_stranger() {
                self.relay.client.broke_off(Door::Gateway, &at, &mut self.round);
            }
            return Err(miss);
        }
        self.entry.told(&undelivered);
        let mut frames = Frames { first: None, reply, decoder: Decoder::default(), silence };
        match head(&mut frames).await {
            Ok(head) => {
                self.answering = Some(at);
                Ok(Opened { head, frames })
            }
            Err(miss) => {
                if let Miss::Away(_) = miss {
                    self.relay.client.broke_off(Door::Gateway, &at, &mut self.round);
                }
                Err(miss)
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let (outcome, delivered) = match self.fate {
            Fate::Answered => ("answered", true),
            Fate::Refused => ("refused", true),
            Fate::Broken => ("broken", false),
            Fate::Abandoned => ("abandoned", false),
        };
        self.relay.metrics.llm_call(outcome);
        if self.asked && !delivered {
            self.entry.note_undelivered(self.id);
        }
    }
}

async fn head(frames: &mut Frames) -> Result<Head, Miss> {
    loop {
        match frames.next().await.map_err(Miss::Away)? {
            Frame::KeepAlive => {}
            Frame::Head(head) => return Ok(head),
            Frame::Broken(broken) => return Err(Miss::Final(Unanswered::Broken(broken))),
            Frame::Data(_) | Frame::End => return Err(Miss::Away("the answer has no head".to_owned())),
        }
    }
}

fn miss(error: LinkError) -> Miss {
    match error {
        LinkError::Problem(problem) => Miss::Final(Unanswered::Refused(problem)),
        other => Miss::Away(chain(&other)),
    }
}

fn is_frames(reply: &Reply) -> bool {
    reply.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == llm::CONTENT_TYPE.as_bytes())
}

/// What an answer without frames means.
async fn refused(reply: Reply, silence: Duration) -> Miss {
    let status = reply.status();
    if longshore_api::link_client::is_away(status) {
        return Miss::Away(format!("status {status}"));
    }
    let body = match tokio::time::timeout(silence, reply.bytes()).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => return Miss::Away(chain(&error)),
        Err(_) => return Miss::Away("an error's text did not come".to_owned()),
    };
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) if patience::is_unauthorised(status, &problem.code) => Miss::Unauthorised(problem.into()),
        Ok(problem) => Miss::Final(Unanswered::Refused(Box::new(Problem { status, ..problem }))),
        Err(_) => {
            let detail =
                format!("the answer with status {status} is not a gateway's: a proxy may have sent it");
            // To an agent a 2xx would be an answer.
            let status = if status < 400 { 502 } else { status };
            Miss::Final(Unanswered::Refused(Box::new(Problem::new(status, NOT_A_GATEWAY, detail))))
        }
    }
}

fn text(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("ids and commas")
}

/// A token that no header can carry opens nothing at the gateway, so nothing is sent in its place.
pub fn secret(token: &str) -> HeaderValue {
    let mut value = HeaderValue::from_str(token).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// The frames of an answer as they come.
pub struct Frames {
    first: Option<Bytes>,
    reply: Reply,
    decoder: Decoder,
    silence: Duration,
}

impl Frames {
    /// Errors, in words: the connection is lost or says what no gateway says.
    pub async fn next(&mut self) -> Result<Frame, String> {
        if let Some(data) = self.first.take() {
            return Ok(Frame::Data(data));
        }
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(|error| chain(&error))? {
                return Ok(frame);
            }
            match tokio::time::timeout(self.silence, self.reply.chunk()).await {
                Ok(Ok(Some(bytes))) => self.decoder.push(bytes),
                Ok(Ok(None)) => return Err("the connection ended before the answer did".to_owned()),
                Ok(Err(error)) => return Err(chain(&error)),
                Err(_) => return Err(format!("nothing came for {} s", self.silence.as_secs_f64())),
            }
        }
    }

    /// The same, but these bytes of data come first.
    pub fn after(mut self, data: Bytes) -> Frames {
        self.first = Some(data).filter(|data| !data.is_empty());
        self
    }

    /// Reads what is left after the last frame, so that the connection can be used again; the agent does not wait for it.
    pub fn finish(mut self) {
        tokio::spawn(async move { _ = tokio::time::timeout(LAST_BYTES, self.reply.chunk()).await });
    }
}
