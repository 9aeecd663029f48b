//! The Redis layer of the shared store: what is fast to have, and may be lost at any time.
//!
//! Owns the connection, and what is kept over it: wake-ups between replicas ([`bus`]), the agents' cache ([`cache`]),
//! serving copies of conversations ([`history`]) and the limiter that gateways share ([`permits`]). Never holds the only
//! copy of anything that was acknowledged.
//!
//! Redis being away is a normal state: connecting goes on in the background, and commands fail at once for as long as it
//! is known to be away.

pub(crate) mod bus;
pub(crate) mod cache;
pub(crate) mod error;
pub(crate) mod history;
mod keeper;
mod link;
pub(crate) mod options;
pub(crate) mod permits;
mod script;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use ::redis::{Cmd, FromRedisValue};

use self::error::RedisError;
use self::keeper::{Keeper, State};
use self::options::Options;
use self::script::Lua;

/// Every command that longshore sends, by what needs it: the least that an ACL user must be allowed.
///
/// Commands that scripts call are checked like those sent by clients, so they are here too. `CLUSTER SLOTS` is only sent
/// to a cluster, `ROLE` only to a master that Sentinel named, `SELECT` only if the database is not 0. `CLIENT SETINFO` is
/// sent to clusters by the driver, which does not mind being refused. Sentinels themselves are only asked
/// `SENTINEL GET-MASTER-ADDR-BY-NAME`.
pub(crate) const COMMANDS: &[&str] = &[
    "auth",
    "cluster|slots",
    "del",
    "eval",
    "evalsha",
    "get",
    "hdel",
    "hgetall",
    "hincrby",
    "hmget",
    "hset",
    "hstrlen",
    "info",
    "pexpire",
    "ping",
    "publish",
    "role",
    "select",
    "set",
    "subscribe",
    "time",
    "zadd",
    "zrange",
    "zrem",
];

/// A connection to one Redis (server, cluster, or master behind sentinels). Cheap to clone.
#[derive(Clone)]
pub(crate) struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    options: Arc<Options>,
    keeper: Keeper,
}

/// Whether Redis can be reached, as seen from here.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    pub(crate) up: bool,
    /// When `up` became what it is.
    pub(crate) since: Instant,
    /// Why it is not up; the newest reason.
    pub(crate) error: Option<String>,
}

impl Redis {
    /// Begins to connect, in the background of the runtime that this is called in, and never gives up.
    pub(crate) fn connect(options: Options) -> Redis {
        link::install_tls();
        let options = Arc::new(options);
        let keeper = Keeper::start(Arc::clone(&options));
        Redis { inner: Arc::new(Inner { options, keeper }) }
    }

    pub(crate) fn health(&self) -> Health {
        self.inner.keeper.state().borrow().health()
    }

    /// Returns once Redis is up (or not); for tests and for whoever waits with a time-out of its own.
    pub(crate) async fn wait_until(&self, up: bool) {
        let mut state = self.inner.keeper.state();
        // The sender lives as long as `self`.
        let _ = state.wait_for(|state| matches!(state, State::Up { .. }) == up).await;
    }

    pub(crate) fn options(&self) -> &Options {
        &self.inner.options
    }

    /// A key, or a channel, of this deployment.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.inner.options.prefix)
    }

    /// Sends one command and reads its answer.
    ///
    /// Errors: [`RedisError::Down`] at once while Redis is away; see there for which of them leave it open whether the
    /// command was carried out.
    pub(crate) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let (mut link, generation) = match &*self.inner.keeper.state().borrow() {
            State::Up { link, generation, .. } => (link.clone(), *generation),
            State::Down { error, .. } => return Err(RedisError::Down { why: error.clone() }),
        };
        let answer = match tokio::time::timeout(self.options().timeout, link.query(command)).await {
            Ok(answer) => answer.map_err(RedisError::from_driver),
            Err(_) => Err(RedisError::TimedOut),
        };
        let value = answer.inspect_err(|error| self.inner.keeper.report(generation, error))?;
        T::from_redis_value(value).map_err(|error| RedisError::Unexpected { detail: error.to_string() })
    }

    /// Runs a script; sends its text only if Redis does not know it yet.
    pub(crate) async fn run<T: FromRedisValue>(
        &self,
        script: &Lua,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> Result<T, RedisError> {
        match self.query(&script.by_hash(keys, arguments)).await {
            Err(RedisError::UnknownScript) => self.query(&script.by_text(keys, arguments)).await,
            answer => answer,
        }
    }

    /// Adds a subscription's own connection; not part of the breaker.
    pub(crate) async fn subscription(&self) -> Result<::redis::aio::PubSub, RedisError> {
        link::subscription(&self.inner.options).await
    }
}
