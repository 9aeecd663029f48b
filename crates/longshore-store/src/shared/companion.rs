//! What the shared store keeps in Redis, when there is one: wake-ups between replicas, serving copies of conversations.
//!
//! All of it may be lost at any time: then replicas poll, and histories come from the database.

use std::path::PathBuf;
use std::time::Duration;

use longshore_core::id::ConversationId;
use tokio::sync::watch;

use crate::model::Message;
use crate::redis::Redis;
use crate::redis::bus::Bus;
use crate::redis::cache::{Cache, Limits};
use crate::redis::error::RedisError;
use crate::redis::history::Histories;
use crate::redis::options::{Login, Options, OptionsError, Password, Topology};
use crate::redis::permits::Permits;
use crate::signals::{Signals, Wakes};

/// How long the copy of a conversation stays that nobody uses.
const COPIES: Duration = Duration::from_secs(24 * 3600);

/// What is checked before it comes here, and room for what is kept beside a value.
const CACHE: Limits = Limits {
    max_bytes: longshore_core::cache::VALUE_LIMIT + super::cache::KIND_LIMIT + 2,
    max_total: longshore_core::cache::TOTAL_LIMIT,
    max_ttl: Duration::from_millis(longshore_core::cache::LONGEST_TTL_MS),
};

/// How Redis is reached.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://HOST:PORT` or `rediss://…`; several of a cluster, or the sentinels.
    pub addresses: Vec<String>,
    pub topology: RedisKind,
    pub user: Option<String>,
    pub password: Option<String>,
    /// Read anew for each connection; comes before `password`.
    pub password_file: Option<PathBuf>,
    /// What each key begins with.
    pub prefix: String,
    /// Certificates beside the machine's own.
    pub ca_file: Option<PathBuf>,
    /// Another Redis for the agents' cache; empty: the same.
    pub cache: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisKind {
    Single,
    Cluster,
    Sentinel { master: String },
}

/// Whether Redis is there; `why` is empty when it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisHealth {
    pub up: bool,
    pub why: String,
}

pub(super) struct Companion {
    redis: Redis,
    bus: Bus,
    histories: Histories,
    cache: Cache,
}

impl Companion {
    pub(super) fn start(options: &RedisOptions, signals: Signals) -> Result<Companion, OptionsError> {
        let redis = Redis::connect(read(options, &options.addresses, &options.topology)?);
        let of_cache = match options.cache.as_slice() {
            [] => redis.clone(),
            addresses => Redis::connect(read(options, addresses, &RedisKind::Single)?),
        };
        Ok(Companion {
            bus: Bus::listen(redis.clone(), signals),
            histories: Histories::new(redis.clone(), COPIES),
            cache: Cache::new(of_cache, CACHE),
            redis,
        })
    }

    pub(super) fn publish(&self, wakes: Wakes) {
        self.bus.publish(wakes);
    }

    /// False while wake-ups of other replicas do not arrive.
    pub(super) fn bus_up(&self) -> watch::Receiver<bool> {
        self.bus.up()
    }

    pub(super) fn health(&self) -> RedisHealth {
        let health = self.redis.health();
        RedisHealth { up: health.up, why: health.error.unwrap_or_default() }
    }

    pub(super) async fn history(&self, conversation: &ConversationId, count: u64) -> Option<Vec<Message>> {
        self.histories.history(conversation, count).await
    }

    pub(super) async fn refill(&self, conversation: &ConversationId, count: u64, messages: &[Message]) {
        self.histories.refill(conversation, count, messages).await;
    }

    pub(super) async fn append(&self, conversation: &ConversationId, from: u64, messages: &[Message]) {
        self.histories.append(conversation, from, messages).await;
    }

    /// Errors: the copy may still be there.
    pub(super) async fn forget(&self, conversation: &ConversationId) -> Result<(), RedisError> {
        self.histories.forget(conversation).await
    }

    pub(super) fn permits(&self, seat: &str, quiet: bool) -> Permits {
        // How many there are is told as soon as it is known.
        Permits::start(self.redis.clone(), seat, 1, quiet)
    }

    /// The agents' shared cache.
    pub(super) fn cache(&self) -> &Cache {
        &self.cache
    }
}

fn read(options: &RedisOptions, addresses: &[String], kind: &RedisKind) -> Result<Options, OptionsError> {
    let topology = match kind {
        RedisKind::Single => Topology::Single,
        RedisKind::Cluster => Topology::Cluster,
        RedisKind::Sentinel { master } => {
            Topology::Sentinel { master: master.clone(), login: Login::default() }
        }
    };
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut read = Options::parse(topology, &addresses)?.with_prefix(&options.prefix)?;
    if options.user.is_some() {
        read.login.user.clone_from(&options.user);
    }
    if let Some(file) = &options.password_file {
        read.login.password = Some(Password::File(file.clone()));
    } else if let Some(password) = &options.password {
        read.login.password = Some(Password::Given(password.clone()));
    }
    read.ca_file.clone_from(&options.ca_file);
    Ok(read)
}
