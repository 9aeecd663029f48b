//! Permits that hold over several gateways.
//!
//! Redis counts for all who reach it, in one script, by its own clock. Whoever does not reach it waits until nothing that
//! was admitted for all can still count, then counts its own part by itself ([`longshore_core::limit::split`]).
//!
//! A state that was lost counts as used up for a whole window, unless every gateway has told what it used: each remembers
//! that of itself, and tells it when it joins a new state. What a state without the newest admissions (a replica that took
//! over, a snapshot) knows is not believed either: another server process is another state.

mod memory;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use longshore_core::limit::split::{SEAT_S, STALE_S, WINDOW_S};
use longshore_core::limit::{self, Need};
use longshore_core::provider::Limit;
use tokio::task::JoinHandle;
use tracing::debug;

use self::memory::Memory;
use super::Redis;
use super::error::RedisError;
use super::script::Lua;

/// One gateway's part in it. Its seat is kept until dropped.
pub struct Permits {
    inner: Arc<Inner>,
    beats: JoinHandle<()>,
}

struct Inner {
    redis: Redis,
    script: Lua,
    seat: String,
    gateways: AtomicU32,
    clock: Clock,
    memory: Mutex<Memory>,
}

/// This process's own monotonic time.
enum Clock {
    Real(Instant),
    /// Of all clocks in a test, and how far this one is ahead.
    #[cfg(test)]
    Set(Arc<std::sync::atomic::AtomicU64>, u64),
}

/// May the call be sent?
#[derive(Debug)]
pub enum Answer {
    Admitted(Permit),
    /// Ask again after so many seconds; at least 1.
    Wait {
        seconds: u64,
    },
    /// Never: it needs more than a minute allows.
    TooLarge {
        limit: u64,
    },
}

/// The right to send one call now. It is settled or withdrawn, once.
#[derive(Debug)]
#[must_use = "a permit that is neither settled nor withdrawn counts as it was reserved"]
pub struct Permit {
    line: String,
    tokens: u64,
    own: limit::Permit,
    place: Place,
}

/// Where it is counted.
#[derive(Debug)]
enum Place {
    Shared { epoch: String, second: i64 },
    Alone(limit::Permit),
}

/// Word, Redis' clock in ms, epoch, number.
type Reply = (String, u64, String, i64);

/// So that a gateway is missed only after several lost beats.
const BEAT: Duration = Duration::from_millis(1_000);

/// More tokens than any minute has, and few enough for the script's numbers.
const MOST: u64 = 1 << 43;

/// Learning the clock, joining and asking are three; the fourth is for a state that was lost in between.
const TRIES: usize = 6;

impl Permits {
    /// Takes a seat among `gateways`, in the background, and keeps it.
    ///
    /// Shape: `seat` is this process's own and never used again. `quiet`: the caller knows, from the journal, that no gateway
    /// has called a provider for the last minute, so there is nothing to wait for at a first start.
    pub(crate) fn start(redis: Redis, seat: &str, gateways: u32, quiet: bool) -> Permits {
        Permits::with(redis, seat, gateways, quiet, Clock::Real(Instant::now()))
    }

    fn with(redis: Redis, seat: &str, gateways: u32, quiet: bool, clock: Clock) -> Permits {
        let script = Lua::new(clock.script());
        let memory = Mutex::new(Memory::new(clock.now_ms(), quiet));
        let seat = seat.to_owned();
        let inner =
            Arc::new(Inner { redis, script, seat, gateways: AtomicU32::new(gateways), clock, memory });
        let beats = tokio::spawn(beat(Arc::clone(&inner)));
        Permits { inner, beats }
    }

    /// There are more gateways now, or fewer.
    pub fn set_gateways(&self, gateways: u32) {
        self.inner.gateways.store(gateways, Ordering::Relaxed);
    }

    /// Admits a call and reserves what it needs, or says when to ask again. One round trip.
    ///
    /// Shape: `line` names the limit, over all gateways; those who wait for it decide among themselves who is first.
    pub async fn ask(&self, line: &str, limit: Limit, need: Need) -> Answer {
        if let Some(limit) = never_fits(limit, need) {
            return Answer::TooLarge { limit };
        }
        match self.inner.ask_redis(line, limit, need).await {
            Ok(answer) => answer,
            Err(error) => {
                debug!(%error, "permits come from this gateway's own part");
                let gateways = self.inner.gateways();
                self.inner.memory().ask_alone(line, limit, need, gateways, self.inner.clock.now_ms())
            }
        }
    }

    /// Puts what the call used in the place of what it reserved. If Redis does not hear of it, the reservation stays.
    pub async fn settle(&self, permit: Permit, tokens: u64) {
        self.inner.memory().settle(&permit, tokens);
        if let Place::Shared { epoch, second } = &permit.place {
            let (second, reserved, used) = (second.to_string(), permit.tokens.to_string(), tokens.min(MOST));
            let arguments = [&permit.line, &second, &reserved, &used.to_string()];
            self.inner.tell("settle", epoch, &arguments.map(String::as_str)).await;
        }
    }

    /// Gives back all of a call that was never sent.
    pub async fn withdraw(&self, permit: Permit) {
        let line = permit.line.clone();
        if let Place::Shared { epoch, second } = &permit.place {
            let (second, reserved) = (second.to_string(), permit.tokens.to_string());
            self.inner.tell("withdraw", epoch, &[&line, &second, &reserved]).await;
        }
        self.inner.memory().withdraw(permit);
    }

    /// The provider asks to be left alone: nothing is admitted for so long, by any gateway that hears of it.
    pub async fn block(&self, line: &str, seconds: u64) {
        self.inner.memory().block(line, seconds, self.inner.clock.now_ms());
        let told = self.inner.call("block", &[line, &seconds.min(MOST).to_string()]).await;
        if let Err(error) = told {
            debug!(%error, line, "other gateways do not hear of a provider's pause");
        }
    }

    #[cfg(test)]
    async fn beat(&self) -> Result<i64, RedisError> {
        self.inner.call("beat", &[]).await.map(|(_, _, _, present)| present)
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        self.beats.abort();
    }
}

/// Also joins a state that was lost, so that it opens without waiting for this gateway's next call.
async fn beat(inner: Arc<Inner>) {
    loop {
        if let Err(error) = inner.call("beat", &[]).await {
            debug!(%error, "this gateway's seat is not kept");
        }
        tokio::time::sleep(BEAT).await;
    }
}

impl Inner {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gateways(&self) -> u32 {
        self.gateways.load(Ordering::Relaxed).max(1)
    }

    async fn ask_redis(&self, line: &str, limit: Limit, need: Need) -> Result<Answer, RedisError> {
        let show =
            |limit: Option<u64>| limit.map_or_else(|| "-1".to_owned(), |limit| limit.min(MOST).to_string());
        let tokens = need.tokens.min(MOST);
        let (requests, all, own) =
            (show(limit.requests_per_minute), show(limit.tokens_per_minute), tokens.to_string());
        for _ in 0..TRIES {
            let (word, _, epoch, number) = self.call("ask", &[line, &requests, &all, &own]).await?;
            if word == "wait" {
                return Ok(Answer::Wait { seconds: u64::try_from(number).unwrap_or(1).max(1) });
            }
            let noted = self.memory().note(line, tokens, &epoch, self.clock.now_ms());
            if let Some(own) = noted {
                let place = Place::Shared { epoch, second: number };
                return Ok(Answer::Admitted(Permit { line: line.to_owned(), tokens, own, place }));
            }
            // Admitted by a state that was lost since: nobody would count it.
        }
        Err(unsettled())
    }

    /// Of a permit; a state that did not give it does not hear of it.
    async fn tell(&self, task: &str, epoch: &str, arguments: &[&str]) {
        let told = self.once(task, epoch, arguments).await;
        if let Err(error) = told {
            debug!(%error, task, "a permit counts as it was reserved");
        }
    }

    /// Asks until the clock is known and the state joined.
    async fn call(&self, task: &str, arguments: &[&str]) -> Result<Reply, RedisError> {
        for _ in 0..TRIES {
            let epoch = self.memory().joined();
            let reply = match epoch {
                Some(epoch) => self.once(task, &epoch, arguments).await?,
                None => self.join().await?,
            };
            match reply.0.as_str() {
                // Joining only says that the question can be asked now.
                "stale" | "joined" => {}
                "join" => self.memory().leave(),
                _ => return Ok(reply),
            }
        }
        Err(unsettled())
    }

    async fn join(&self) -> Result<Reply, RedisError> {
        let (nonce, vouches, used) = self.memory().join(self.clock.now_ms());
        let mut arguments = vec![nonce, if vouches { "1" } else { "0" }.to_owned()];
        for (line, requests, tokens) in used {
            arguments.extend([line, requests.min(MOST).to_string(), tokens.min(MOST).to_string()]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (word, ms, epoch, number) = self.once("join", "", &arguments).await?;
        if word != "ok" {
            return Ok((word, ms, epoch, number));
        }
        self.memory().has_joined(epoch.clone(), arguments[0]);
        Ok(("joined".to_owned(), ms, epoch, number))
    }

    /// One message. Whatever becomes of it, this gateway may be counted as present from now on.
    async fn once(&self, task: &str, epoch: &str, arguments: &[&str]) -> Result<Reply, RedisError> {
        if !self.redis.health().up {
            return Err(RedisError::Down { why: "as is known".into() });
        }
        let sent = self.memory().send(self.clock.now_ms());
        let (gateways, at) = (self.gateways().to_string(), sent.at_redis_ms.to_string());
        let forced = self.clock.forced();
        let mut all = vec![task, &self.seat, &gateways, &at, epoch, &forced];
        all.extend(arguments);
        let all: Vec<&[u8]> = all.into_iter().map(str::as_bytes).collect();
        let key = self.redis.key("permits");
        let reply: Result<Reply, RedisError> = self.redis.run(&self.script, &[&key], &all).await;
        match &reply {
            Ok((word, ms, ..)) => self.memory().heard(&sent, word == "stale", *ms, self.clock.now_ms()),
            Err(error) => self.memory().unheard(&sent, error.surely_undone()),
        }
        reply
    }
}

fn unsettled() -> RedisError {
    RedisError::Unexpected { detail: "the limiter's state is lost again and again".into() }
}

fn never_fits(limit: Limit, need: Need) -> Option<u64> {
    let over = |limit: Option<u64>, need: u64| limit.filter(|limit| need > *limit);
    over(limit.requests_per_minute, 1).or(over(limit.tokens_per_minute, need.tokens))
}

impl Clock {
    fn now_ms(&self) -> u64 {
        match self {
            Clock::Real(started) => u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            #[cfg(test)]
            Clock::Set(ms, ahead) => ms.load(Ordering::SeqCst) + ahead,
        }
    }

    fn forced(&self) -> String {
        match self {
            Clock::Real(_) => String::new(),
            #[cfg(test)]
            Clock::Set(ms, _) => ms.load(Ordering::SeqCst).to_string(),
        }
    }

    fn script(&self) -> String {
        let text = include_str!("permits.lua")
            .replace("{WINDOW}", &WINDOW_S.to_string())
            .replace("{SEAT}", &SEAT_S.to_string())
            .replace("{STALE}", &STALE_S.to_string());
        match self {
            Clock::Real(_) => text,
            #[cfg(test)]
            Clock::Set(..) => text.replace("--{CLOCK}", "ms = tonumber(ARGV[6])"),
        }
    }
}

#[cfg(test)]
mod tests;
