//! What the relay hears of a call: frames, from the first keep-alive to the end.
//!
//! Makes no call itself. A relay that goes away leaves the call under way, and its ask undelivered.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{self, Stream};
use longshore_api::llm::{Breaker, Broken, Frame, Head, KEEP_ALIVE_SECONDS, data_prefix};
use longshore_core::provider::Kind;
use longshore_store::{Begun, BegunCall, CallError, CallKey, StoredAnswer, Wake};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{error, warn};

use crate::drive::{self, Job};
use crate::fault::{self, Fault};
use crate::gateway::Gateway;
use crate::incoming::Prepared;
use crate::live::{End, Follower, Live, News};
use crate::metrics::OfModel;

/// An answer's frames as bytes. Dropping them is how a relay goes away.
pub type Frames = Pin<Box<dyn Stream<Item = Result<Bytes, Infallible>> + Send>>;

/// How long one who joined a call sleeps at most before it looks by itself.
const LOOK: Duration = Duration::from_secs(2);

/// An answer of the gateway's own, in the provider's form.
pub fn refusal(kind: Kind, fault: &Fault) -> Frames {
    let bytes: Vec<Bytes> = refused(kind, fault).into();
    Box::pin(stream::iter(bytes.into_iter().map(Ok)))
}

fn refused(kind: Kind, fault: &Fault) -> VecDeque<Bytes> {
    let body = fault::body(kind, fault);
    VecDeque::from([
        Frame::Head(own_head(fault.status)).encoded(),
        Frame::Data(body.into()).encoded(),
        Frame::End.encoded(),
    ])
}

/// The head of an error that SDKs must not multiply by retries of their own.
pub fn own_head(status: u16) -> Head {
    let headers = [("content-type", "application/json"), ("x-should-retry", "false")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Head { status, headers, stored: false }
}

pub fn frames(gateway: Gateway, prepared: Arc<Prepared>) -> Frames {
    let responder = Responder {
        phase: Phase::Asking(ask(&gateway, &prepared, None)),
        gateway,
        prepared,
        ready: VecDeque::new(),
        told: None,
        quiet_until: Instant::now() + Duration::from_secs(KEEP_ALIVE_SECONDS),
    };
    Box::pin(stream::unfold(responder, |mut responder| async move {
        responder.next().await.map(|bytes| (Ok(bytes), responder))
    }))
}

struct Responder {
    gateway: Gateway,
    prepared: Arc<Prepared>,
    phase: Phase,
    ready: VecDeque<Bytes>,
    told: Option<Told>,
    quiet_until: Instant,
}

enum Phase {
    Asking(JoinHandle<Result<Asked, CallError>>),
    Following(Follower),
    Joining(Wake),
    Done,
}

struct Asked {
    told: Option<Told>,
    way: Way,
}

enum Way {
    Replay(Box<StoredAnswer>),
    Follow(Follower),
    Join(Wake),
}

/// Notes an ask as undelivered unless its agent had the whole answer.
struct Told {
    gateway: Gateway,
    prepared: Arc<Prepared>,
    key: CallKey,
    whole: bool,
}

impl Drop for Told {
    fn drop(&mut self) {
        if !self.whole {
            let call = &self.prepared.call;
            drop(self.gateway.store.call_ended(self.key, call.held, call.call, false));
        }
    }
}

/// Asks the journal and starts the call if it is to be made. A task of its own: an intent without anybody at it would
/// keep others waiting for ever.
///
/// `waited_for`: a call of somebody that was joined for a while without a word.
fn ask(
    gateway: &Gateway,
    prepared: &Arc<Prepared>,
    waited_for: Option<CallKey>,
) -> JoinHandle<Result<Asked, CallError>> {
    let (gateway, prepared) = (gateway.clone(), Arc::clone(prepared));
    tokio::spawn(async move {
        let call = &prepared.call;
        if let Some(key) = waited_for {
            gateway.take_back_if_orphaned(key).await;
        }
        if !prepared.shape.is_journaled() {
            let deadline = gateway.store.pass_call(call.held, call.fleet.clone()).await?;
            let follower = start(&gateway, &prepared, Job { key: None, deadline });
            return Ok(Asked { told: None, way: Way::Follow(follower) });
        }
        // Before it is asked: an answer in between then wakes us.
        let wake = gateway.store.signals().journal(&call.held.task);
        let Begun { key, what, deadline } = gateway.store.begin_call((**call).clone(), drive::now()).await?;
        let way = match what {
            BegunCall::Replay(answer) => Way::Replay(answer),
            BegunCall::Join => Way::Join(wake),
            BegunCall::Live => Way::Follow(start(&gateway, &prepared, Job { key: Some(key), deadline })),
        };
        let told = Told { gateway: gateway.clone(), prepared: Arc::clone(&prepared), key, whole: false };
        Ok(Asked { told: Some(told), way })
    })
}

fn start(gateway: &Gateway, prepared: &Arc<Prepared>, job: Job) -> Follower {
    let live = Arc::new(Live::new());
    let follower = Follower::new(&live);
    drive::start(gateway.clone(), Arc::clone(prepared), live, job);
    follower
}

impl Responder {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                self.quiet_until = Instant::now() + Duration::from_secs(KEEP_ALIVE_SECONDS);
                return Some(bytes);
            }
            if let Phase::Done = self.phase {
                return None;
            }
            tokio::select! {
                biased;
                event = wait(&mut self.phase) => self.hear(event),
                () = sleep_until(self.quiet_until) => self.ready.push_back(Frame::KeepAlive.encoded()),
            }
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Asked(Ok(Ok(asked))) => self.go(asked),
            Event::Asked(Ok(Err(refused))) => self.refuse(&refused),
            Event::Asked(Err(panicked)) => {
                error!(error = %panicked, "asking the journal panicked");
                self.finish(Frame::Broken(broken("longshore failed inside")));
            }
            Event::News(news) => self.pass_on(news),
            Event::LookAgain => self.phase = Phase::Asking(ask(&self.gateway, &self.prepared, None)),
            Event::Nothing => {
                let orphan = self.told.as_ref().map(|told| told.key);
                self.phase = Phase::Asking(ask(&self.gateway, &self.prepared, orphan));
            }
        }
    }

    fn go(&mut self, asked: Asked) {
        // Only now: what an earlier look was told is no longer the way.
        if let Some(mut old) = std::mem::replace(&mut self.told, asked.told) {
            old.whole = true;
        }
        match asked.way {
            Way::Replay(answer) => self.replay(*answer),
            Way::Follow(follower) => self.phase = Phase::Following(follower),
            Way::Join(wake) => self.phase = Phase::Joining(wake),
        }
    }

    fn replay(&mut self, answer: StoredAnswer) {
        let status = answer.status;
        let headers: Vec<(String, String)> = answer.headers.read().unwrap_or_default();
        let mut head = Head { status, headers, stored: true };
        head.headers.push(("longshore-replayed".into(), "true".into()));
        match answer.body.unpack() {
            Ok(body) => {
                self.count("replayed");
                self.ready.push_back(Frame::Head(head).encoded());
                self.ready.push_back(Frame::Data(body.into()).encoded());
                self.delivered(true);
                self.finish(Frame::End);
            }
            Err(error) => {
                error!(task = %self.prepared.call.held.task, %error, "a stored answer cannot be unpacked");
                self.finish(Frame::Broken(broken("a stored answer is damaged")));
            }
        }
    }

    fn pass_on(&mut self, news: News) {
        self.ready.extend(news.head.map(|head| Frame::Head(head).encoded()));
        if !news.data.is_empty() {
            self.ready.push_back(one_frame(&news.data));
        }
        match news.end {
            None => {}
            Some(End::Whole { delivered }) => {
                self.delivered(delivered);
                self.finish(Frame::End);
            }
            Some(End::Broken(broken)) => self.finish(Frame::Broken(broken)),
            Some(End::AskAgain) => self.hear(Event::LookAgain),
        }
    }

    /// Queued before the end is sent: what the agent does with the answer comes after it.
    fn delivered(&mut self, noted: bool) {
        if let Some(told) = &mut self.told {
            told.whole = true;
            if !noted {
                let call = &told.prepared.call;
                drop(self.gateway.store.call_ended(told.key, call.held, call.call, true));
            }
        }
    }

    fn finish(&mut self, last: Frame) {
        self.ready.push_back(last.encoded());
        self.phase = Phase::Done;
    }

    fn refuse(&mut self, refused_for: &CallError) {
        let (status, code) = match refused_for {
            CallError::StaleFence => (401, "task_token_revoked"),
            CallError::OtherFleet => (401, "wrong_task_token"),
            CallError::CallReused => (400, "call_reused"),
            CallError::Store(_) => (503, "store_failed"),
        };
        if status == 503 {
            // The relay asks again, and the agent notices nothing if it passes.
            warn!(error = %longshore_core::errors::chain(refused_for), "journal cannot be asked");
            return self.finish(Frame::Broken(broken("the journal cannot be asked")));
        }
        let message = format!("longshore refuses this call: {refused_for}");
        self.count("failed");
        self.ready = refused(self.prepared.upstream.declared.kind, &Fault { status, code, message });
        self.phase = Phase::Done;
    }

    fn count(&self, outcome: &'static str) {
        self.gateway.metrics.ended(&of_model(&self.prepared), outcome);
    }
}

pub fn of_model(prepared: &Prepared) -> OfModel {
    OfModel {
        fleet: prepared.call.fleet.to_string(),
        provider: prepared.call.provider.clone(),
        model: prepared.model.clone(),
    }
}

enum Event {
    Asked(Result<Result<Asked, CallError>, tokio::task::JoinError>),
    News(News),
    LookAgain,
    /// For a while nobody woke us.
    Nothing,
}

async fn wait(phase: &mut Phase) -> Event {
    match phase {
        Phase::Asking(asked) => Event::Asked(asked.await),
        Phase::Following(follower) => Event::News(follower.news().await),
        Phase::Joining(wake) => match tokio::time::timeout(LOOK, wake.wait()).await {
            Ok(()) => Event::LookAgain,
            Err(_) => Event::Nothing,
        },
        Phase::Done => std::future::pending().await,
    }
}

fn one_frame(pieces: &[Bytes]) -> Bytes {
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let mut frame = BytesMut::with_capacity(length + 5);
    frame.put_slice(&data_prefix(u32::try_from(length).expect("answers are limited far below 4 GiB")));
    pieces.iter().for_each(|piece| frame.put_slice(piece));
    frame.freeze()
}

pub fn broken(why: &str) -> Broken {
    Broken { by: Breaker::Longshore, why: why.into() }
}
