//! The cache that agents of a fleet share. Every value ends; losing all of them is allowed at any time.

use std::time::Duration;

use ::redis::cmd;
use longshore_core::id::FleetName;

use super::Redis;
use super::error::RedisError;

/// Over a Redis of its own, or the one for everything.
#[derive(Clone)]
pub(crate) struct Cache {
    redis: Redis,
    limits: Limits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Of one value.
    pub(crate) max_bytes: usize,
    /// Longer times to live are cut to it.
    pub(crate) max_ttl: Duration,
}

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
        Cache { redis, limits }
    }

    pub(crate) async fn get(&self, fleet: &FleetName, key: &str) -> Result<Option<Vec<u8>>, CacheError> {
        let key = self.key(fleet, key)?;
        Ok(self.redis.query(cmd("GET").arg(key)).await?)
    }

    pub(crate) async fn put(
        &self,
        fleet: &FleetName,
        key: &str,
        value: &[u8],
        ttl: Duration,
    ) -> Result<(), CacheError> {
        let key = self.key(fleet, key)?;
        if value.len() > self.limits.max_bytes {
            return Err(CacheError::TooLarge { bytes: value.len(), limit: self.limits.max_bytes });
        }
        let ttl = u64::try_from(ttl.min(self.limits.max_ttl).as_millis()).unwrap_or(u64::MAX);
        if ttl == 0 {
            return Err(CacheError::NoTimeToLive);
        }
        Ok(self.redis.query(cmd("SET").arg(key).arg(value).arg("PX").arg(ttl)).await?)
    }

    /// Says whether there was one.
    pub(crate) async fn delete(&self, fleet: &FleetName, key: &str) -> Result<bool, CacheError> {
        let key = self.key(fleet, key)?;
        Ok(self.redis.query(cmd("DEL").arg(key)).await?)
    }

    /// No fleet's name holds a colon, so no key of one fleet is one of another.
    fn key(&self, fleet: &FleetName, key: &str) -> Result<String, CacheError> {
        match key.len() {
            1..=MAX_KEY => Ok(self.redis.key(&format!("cache:{fleet}:{key}"))),
            bytes => Err(CacheError::Key { bytes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::testing::{Server, redis};

    const LIMITS: Limits = Limits { max_bytes: 100, max_ttl: Duration::from_secs(60) };

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
        let left: i64 = server.ask(&["PTTL", &redis.key("cache:a:long")]).await;
        assert!((1..=60_000).contains(&left), "{left} ms");
        cache.put(&fleet("a"), "short", b"1", Duration::from_millis(1)).await.unwrap();
        while cache.get(&fleet("a"), "short").await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
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
