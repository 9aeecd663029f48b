//! Carries wake-ups from replica to replica: one channel, one subscription per process.
//!
//! Best effort. What is lost was only a hint: waiters poll behind it, faster while [`Bus::up`] says no, and all of them look
//! again once the subscription is back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::redis::aio::{PubSubSink, PubSubStream};
use ::redis::cmd;
use futures_util::StreamExt;
use longshore_core::retry::Backoff;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tracing::debug;

use super::Redis;
use super::error::RedisError;
use crate::signals::{Signals, Wakes};

/// Stops when dropped.
pub(crate) struct Bus {
    outbox: Arc<Outbox>,
    up: watch::Receiver<bool>,
    tasks: [JoinHandle<()>; 2],
}

/// What is to be published next; equal topics are one, and tasks of one fleet a number.
#[derive(Default)]
struct Outbox {
    wakes: Mutex<Wakes>,
    filled: Notify,
}

/// Between two messages of one replica: under load they carry more topics, not more messages come.
const PAUSE: Duration = Duration::from_millis(4);

/// Of one message; more go into the next.
const MOST_TOPICS: usize = 1_000;

/// Between looks at a silent subscription; half of them broken would be noticed by nothing else.
const LOOK: Duration = Duration::from_secs(2);

const PATIENCE: Duration = Duration::from_secs(3);

const RESUBSCRIBE: Backoff = Backoff { base_ms: 100, cap_ms: 2_000 };

impl Bus {
    /// Begins to listen for `signals`' waiters, in the background.
    pub(crate) fn listen(redis: Redis, signals: Signals) -> Bus {
        let outbox = Arc::new(Outbox::default());
        let (say_up, up) = watch::channel(false);
        // Tells own messages from others'; a restarted replica is another one.
        let origin = format!("{:016x}", rand::random::<u64>());
        let publisher = publish_all(redis.clone(), Arc::clone(&outbox), origin.clone());
        let listener = listen_on(redis, signals, origin, say_up);
        Bus { outbox, up, tasks: [tokio::spawn(publisher), tokio::spawn(listener)] }
    }

    /// Tells the other replicas; never waits.
    pub(crate) fn publish(&self, wakes: impl Into<Wakes>) {
        let mut pending = self.outbox.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        pending.extend(wakes.into());
        if !pending.is_empty() {
            self.outbox.filled.notify_one();
        }
    }

    /// False while wake-ups of others do not arrive, so that pollers poll faster.
    pub(crate) fn up(&self) -> watch::Receiver<bool> {
        self.up.clone()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn channel(redis: &Redis) -> String {
    redis.key("wake")
}

/// At once after a silence, then one message per pause.
async fn publish_all(redis: Redis, outbox: Arc<Outbox>, origin: String) {
    loop {
        let batch = outbox.take();
        if batch.is_empty() {
            outbox.filled.notified().await;
            continue;
        }
        let message = encode(&origin, &batch);
        let mut publish = cmd("PUBLISH");
        publish.arg(channel(&redis)).arg(message);
        if let Err(error) = redis.query::<i64>(&publish).await {
            debug!(%error, topics = batch.len(), "wake-ups are not passed on");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Outbox {
    fn take(&self) -> Wakes {
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner).take(MOST_TOPICS)
    }
}

async fn listen_on(redis: Redis, signals: Signals, origin: String, up: watch::Sender<bool>) {
    let mut failures = 0;
    loop {
        match subscribe(&redis).await {
            Ok((sink, stream)) => {
                failures = 0;
                up.send_replace(true);
                // Messages may have gone by before the subscription was there.
                signals.fire_all();
                pass_on(sink, stream, &signals, &origin).await;
                up.send_replace(false);
            }
            Err(error) => debug!(%error, "the wake-up channel is not there"),
        }
        tokio::time::sleep(RESUBSCRIBE.wait(failures, rand::random())).await;
        failures += 1;
    }
}

async fn subscribe(redis: &Redis) -> Result<(PubSubSink, PubSubStream), RedisError> {
    let mut subscription = redis.subscription().await?;
    match tokio::time::timeout(PATIENCE, subscription.subscribe(channel(redis))).await {
        Ok(Ok(())) => Ok(subscription.split()),
        Ok(Err(error)) => Err(RedisError::from_driver(error)),
        Err(_) => Err(RedisError::TimedOut),
    }
}

/// Returns when the subscription is lost.
async fn pass_on(mut sink: PubSubSink, mut stream: PubSubStream, signals: &Signals, origin: &str) {
    loop {
        match tokio::time::timeout(LOOK, stream.next()).await {
            Ok(Some(message)) => signals.fire(decode(message.get_payload_bytes(), origin)),
            Ok(None) => return,
            Err(_) => match tokio::time::timeout(PATIENCE, sink.ping::<::redis::Value>()).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => return,
            },
        }
    }
}

/// The sender, then a topic per line.
fn encode(origin: &str, wakes: &Wakes) -> String {
    let mut text = origin.to_owned();
    for line in wakes.encode() {
        text.push('\n');
        text.push_str(&line);
    }
    text
}

fn decode(message: &[u8], origin: &str) -> Wakes {
    let text = std::str::from_utf8(message).unwrap_or_default();
    match text.split_once('\n') {
        Some((sender, lines)) if sender != origin => Wakes::decode(lines.lines()),
        Some(_) | None => Wakes::default(),
    }
}

#[cfg(test)]
mod tests {
    use longshore_core::id::FleetName;

    use super::*;
    use crate::redis::testing::{Proxy, Server, redis};
    use crate::signals::{Topic, Turn, Woken};

    /// Waits for a call that came by the bus: a waiter also looks uncalled.
    async fn called(turn: &mut Turn) {
        while turn.wait().await != Woken::Called {}
    }

    fn runnable(name: &str) -> Topic {
        Topic::Runnable(FleetName::new(name).expect("valid"))
    }

    async fn joined(redis: &Redis) -> (Bus, Signals) {
        let signals = Signals::default();
        let bus = Bus::listen(redis.clone(), signals.clone());
        until(&bus, true).await;
        (bus, signals)
    }

    async fn until(bus: &Bus, up: bool) {
        bus.up().wait_for(|now| *now == up).await.expect("the listener lives");
    }

    #[test]
    fn a_replica_ignores_its_own_messages_and_what_it_does_not_know() {
        let message = encode("me", &[runnable("a"), runnable("b")].into());
        assert_eq!(decode(message.as_bytes(), "you"), [runnable("a"), runnable("b")].into());
        assert_eq!(decode(message.as_bytes(), "me"), Wakes::default());
        assert_eq!(decode(b"x\nra\nz9\n", "me"), [runnable("a")].into());
        assert_eq!(decode(b"\xff\xfe", "me"), Wakes::default());
    }

    #[test]
    fn a_burst_leaves_in_messages_of_bounded_size() {
        let outbox = Outbox::default();
        outbox.wakes.lock().unwrap().extend((0..2_500).map(|n| runnable(&format!("f{n}"))).into());
        let sizes: Vec<usize> = (0..4).map(|_| outbox.take().len()).collect();
        assert_eq!(sizes, [1_000, 1_000, 500, 0]);
    }

    #[tokio::test]
    async fn a_wake_up_reaches_the_waiters_of_other_replicas_only() {
        let server = Server::start().await;
        let redis = redis(&server).await;
        let ((one, own), (_two, others)) = (joined(&redis).await, joined(&redis).await);
        let (mut here, mut there) = (own.runnable(&fleet("a")), others.runnable(&fleet("a")));
        let mut elsewhere = others.runnable(&fleet("b"));
        one.publish([runnable("a")]);
        called(&mut there).await;
        // What comes after it on the same channel is later: had the first one come back, it would have been seen.
        one.publish([runnable("b")]);
        called(&mut elsewhere).await;
        assert!(futures_util::FutureExt::now_or_never(here.wait()).is_none(), "its own message came back");
    }

    #[tokio::test]
    async fn many_wake_ups_become_few_messages() {
        let server = Server::start().await;
        let redis = redis(&server).await;
        let ((one, _), (_two, others)) = (joined(&redis).await, joined(&redis).await);
        let mut last = others.runnable(&fleet("last"));
        let published = server.calls("publish").await;
        for n in 0..10_000 {
            one.publish([runnable(&format!("f{}", n % 500))]);
        }
        one.publish([runnable("last")]);
        called(&mut last).await;
        let messages = server.calls("publish").await - published;
        assert!(messages <= 50, "{messages} messages for 10,000 wake-ups");
    }

    #[tokio::test]
    async fn after_a_break_everyone_looks_again_and_the_break_can_be_seen() {
        let server = Server::start().await;
        let proxy = Proxy::to(server.port).await;
        let redis = Redis::connect(proxy.options());
        let (bus, signals) = joined(&redis).await;
        let mut wake = signals.runnable(&fleet("a"));
        proxy.cut();
        until(&bus, false).await;
        proxy.mend();
        called(&mut wake).await;
        until(&bus, true).await;
    }

    fn fleet(name: &str) -> FleetName {
        FleetName::new(name).expect("valid")
    }
}
