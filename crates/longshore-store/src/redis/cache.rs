//! The cache that agents of a fleet share. Every value ends; losing all of them is allowed at any time.
//!
//! Each entry is a key of its own, which Redis lets end and may evict. Beside them an index tells what those of a fleet add
//! up to, and which make room first. Should it be lost, entries that it knew end by their time, and are not counted.

use std::sync::Arc;
use std::time::Duration;

use ::redis::cmd;
use longshore_core::cache::weight;
use longshore_core::id::FleetName;
use tracing::debug;

use super::Redis;
use super::error::RedisError;
use super::script::Lua;

/// Over a Redis of its own, or the one for everything.
#[derive(Clone)]
pub(crate) struct Cache {
    redis: Redis,
    script: Arc<Lua>,
    limits: Limits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Of one value.
    pub(crate) max_bytes: usize,
    /// Of all of a fleet: what ends soonest makes room.
    pub(crate) max_total: u64,
    /// Longer times to live are cut to it.
    pub(crate) max_ttl: Duration,
}

/// The most names that the script answers with.
const MOST: usize = 1000;

/// In bytes.
pub(crate) const MAX_KEY: usize = 512;

#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CacheError {
    #[error("a cache key of {bytes} bytes is not valid: expected 1 to {MAX_KEY}")]
    Key { bytes: usize },
    #[error("a cached value of {bytes} bytes is too large: at most {limit} are kept")]
    TooLarge { bytes: usize, limit: usize },
    #[error("a cached value needs a time to live of at least a millisecond")]
    NoTimeToLive,
    #[error("the cache cannot be used now")]
    Unavailable(#[from] RedisError),
}

impl Cache {
    pub(crate) fn new(redis: Redis, limits: Limits) -> Cache {
        let script = include_str!("cache.lua").replace("{MOST}", &MOST.to_string());
        Cache { redis, script: Arc::new(Lua::new(script)), limits }
    }

    pub(crate) async fn get(&self, fleet: &FleetName, key: &str) -> Result<Option<Vec<u8>>, CacheError> {
        let entry = self.entry(fleet, key)?;
        Ok(self.redis.query(cmd("GET").arg(entry)).await?)
    }

    pub(crate) async fn put(
        &self,
        fleet: &FleetName,
        key: &str,
        value: &[u8],
        ttl: Duration,
    ) -> Result<(), CacheError> {
        let entry = self.entry(fleet, key)?;
        if value.len() > self.limits.max_bytes {
            return Err(CacheError::TooLarge { bytes: value.len(), limit: self.limits.max_bytes });
        }
        let ttl = ttl.min(self.limits.max_ttl).as_millis();
        if ttl == 0 {
            return Err(CacheError::NoTimeToLive);
        }
        let weight = weight(key, value.len());
        let [ttl, weight, most] = [ttl.to_string(), weight.to_string(), self.limits.max_total.to_string()];
        let longest = self.limits.max_ttl.as_millis().to_string();
        let arguments = [&ttl, &weight, &most, &longest].map(|it| it.as_bytes());
        let [ttl, weight, most, longest] = arguments;
        let arguments = [b"put", key.as_bytes(), ttl, weight, most, longest, value];
        let gone: Vec<String> = self.run(fleet, Some(&entry), &arguments).await?;
        if let Err(error) = self.remove(fleet, &gone).await {
            debug!(%error, %fleet, "entries that made room are there until their time is over");
        }
        Ok(())
    }

    /// Says whether there was one.
    pub(crate) async fn delete(&self, fleet: &FleetName, key: &str) -> Result<bool, CacheError> {
        let entry = self.entry(fleet, key)?;
        Ok(self.run(fleet, Some(&entry), &[b"drop", key.as_bytes()]).await?)
    }

    /// Deletes all that a fleet has, as far as the index knows it.
    ///
    /// Errors: some of it may still be there.
    pub(crate) async fn clear(&self, fleet: &FleetName) -> Result<(), RedisError> {
        loop {
            let some: Vec<String> = self.run(fleet, None, &[b"some"]).await?;
            if some.is_empty() {
                return Ok(());
            }
            self.remove(fleet, &some).await?;
            let mut arguments = vec![&b"leave"[..]];
            arguments.extend(some.iter().map(String::as_bytes));
            let _: i64 = self.run(fleet, None, &arguments).await?;
        }
    }

    async fn remove(&self, fleet: &FleetName, names: &[String]) -> Result<(), RedisError> {
        if names.is_empty() {
            return Ok(());
        }
        let entries: Vec<String> = names.iter().map(|name| self.name(fleet, name)).collect();
        self.redis.query::<i64>(cmd("DEL").arg(entries)).await.map(drop)
    }

    async fn run<T: ::redis::FromRedisValue>(
        &self,
        fleet: &FleetName,
        entry: Option<&str>,
        arguments: &[&[u8]],
    ) -> Result<T, RedisError> {
        let [ends, weights] =
            ["ends", "weights"].map(|it| self.redis.key(&format!("cache:{{{fleet}}}:{it}")));
        let mut keys: Vec<&str> = vec![&ends, &weights];
        keys.extend(entry);
        self.redis.run(&self.script, &keys, arguments).await
    }

    fn entry(&self, fleet: &FleetName, key: &str) -> Result<String, CacheError> {
        match key.len() {
            1..=MAX_KEY => Ok(self.name(fleet, key)),
            bytes => Err(CacheError::Key { bytes }),
        }
    }

    /// The braces keep a fleet's keys in one slot of a cluster. No fleet's name holds any, so no key of one fleet is one of
    /// another.
    fn name(&self, fleet: &FleetName, key: &str) -> String {
        self.redis.key(&format!("cache:{{{fleet}}}:entry:{key}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::testing::{Server, redis};

    const LIMITS: Limits = Limits { max_bytes: 100, max_total: 1000, max_ttl: Duration::from_secs(60) };

    fn fleet(name: &str) -> FleetName {
        FleetName::new(name).expect("valid")
    }

    #[tokio::test]
    async fn values_are_kept_per_fleet_until_deleted() {
        let server = Server::start().await;
        let cache = Cache::new(redis(&server).await, LIMITS);
        let (a, b) = (fleet("a"), fleet("b"));
        cache.put(&a, "k", b"\x00\xff", Duration::from_secs(9)).await.unwrap();
        assert_eq!(cache.get(&a, "k").await.unwrap(), Some(b"\x00\xff".to_vec()));
        assert_eq!(cache.get(&b, "k").await.unwrap(), None);
        assert!(!cache.delete(&b, "k").await.unwrap());
        assert!(cache.delete(&a, "k").await.unwrap());
        assert_eq!(cache.get(&a, "k").await.unwrap(), None);
    }

    #[tokio::test]
    async fn values_end_and_no_longer_life_than_the_cap_is_given() {
        let server = Server::start().await;
        let redis = redis(&server).await;
        let cache = Cache::new(redis.clone(), LIMITS);
        cache.put(&fleet("a"), "long", b"1", Duration::MAX).await.unwrap();
        let left: i64 = server.ask(&["PTTL", &redis.key("cache:{a}:entry:long")]).await;
        assert!((1..=60_000).contains(&left), "{left} ms");
        cache.put(&fleet("a"), "short", b"1", Duration::from_millis(1)).await.unwrap();
        while cache.get(&fleet("a"), "short").await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_ends_soonest_makes_room_and_what_has_ended_is_not_counted() {
        let server = Server::start().await;
        let redis = redis(&server).await;
        let cache = Cache::new(redis.clone(), LIMITS);
        let a = fleet("a");
        let put = async |key: &str, seconds| {
            cache.put(&a, key, &[7; 71], Duration::from_secs(seconds)).await.unwrap();
        };
        let keys = async || {
            let mut keys: Vec<String> = server.ask(&["KEYS", "*:entry:*"]).await;
            keys.sort();
            keys.iter().map(|key| key.rsplit(':').next().unwrap().to_owned()).collect::<Vec<_>>().join("")
        };
        // Each weighs 200: five fit.
        for (key, seconds) in [("d", 50), ("b", 30), ("c", 40), ("a", 20), ("e", 10)] {
            put(key, seconds).await;
        }
        assert_eq!(keys().await, "abcde");
        put("a", 60).await;
        put("f", 5).await;
        assert_eq!(keys().await, "abcdf", "`a` was put anew, and what was just put stays");
        put("g", 20).await;
        assert_eq!(keys().await, "abcdg");
        cache.delete(&a, "g").await.unwrap();
        cache.put(&a, "h", &[7; 71], Duration::from_millis(1)).await.unwrap();
        while cache.get(&a, "h").await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
        put("i", 1).await;
        assert_eq!(keys().await, "abcdi", "nobody had to go");
        let total: String = server.ask(&["HGET", &redis.key("cache:{a}:weights"), ""]).await;
        assert_eq!(total, "1000");
        cache.put(&fleet("b"), "k", b"1", Duration::from_secs(9)).await.unwrap();
        cache.clear(&a).await.unwrap();
        assert_eq!(keys().await, "k");
        let total: String = server.ask(&["HGET", &redis.key("cache:{a}:weights"), ""]).await;
        assert_eq!(total, "0");
    }

    #[tokio::test]
    async fn what_cannot_be_kept_is_refused_before_it_is_sent() {
        let server = Server::start().await;
        let cache = Cache::new(redis(&server).await, LIMITS);
        let put = async |key: &str, bytes: usize, ttl| {
            let put = cache.put(&fleet("a"), key, &vec![0; bytes], ttl).await;
            put.expect_err("it is refused").to_string()
        };
        let second = Duration::from_secs(1);
        assert!(put("k", 101, second).await.contains("101 bytes is too large: at most 100"));
        assert!(put("", 1, second).await.contains("key of 0 bytes"));
        assert!(put(&"k".repeat(513), 1, second).await.contains("key of 513 bytes"));
        assert!(put("k", 1, Duration::ZERO).await.contains("time to live"));
    }
}
