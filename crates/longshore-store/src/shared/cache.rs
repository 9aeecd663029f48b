//! The cache that the agents of a fleet share, in Redis.
//!
//! While Redis is away nothing is found: that is what a cache may say at any time. But nothing is put or deleted either, and
//! that is told: what was there before might be found again.

use std::sync::Arc;
use std::time::Duration;

use longshore_core::id::FleetName;
use longshore_core::time::Timestamp;
use tracing::debug;

use super::Shared;
use crate::error::StoreError;
use crate::model::{Cached, NewCached};
use crate::redis::cache::{Cache, CacheError};

impl Shared {
    pub(crate) async fn cache_get(
        &self,
        fleet: FleetName,
        key: String,
        _now: Timestamp,
    ) -> Result<Option<Cached>, StoreError> {
        match self.agents_cache()?.get(&fleet, &key).await {
            Ok(found) => Ok(found.as_deref().and_then(unpack)),
            Err(CacheError::Unavailable(error)) => {
                debug!(%error, %fleet, "nothing from the cache");
                Ok(None)
            }
            Err(error) => Err(failed(error)),
        }
    }

    pub(crate) async fn cache_put(&self, entry: NewCached, _now: Timestamp) -> Result<(), StoreError> {
        let ttl = Duration::from_millis(entry.ttl_ms);
        let value = pack(&entry.cached);
        self.agents_cache()?.put(&entry.fleet, &entry.key, &value, ttl).await.map_err(failed)
    }

    pub(crate) async fn cache_delete(
        &self,
        fleet: FleetName,
        key: String,
        _now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.agents_cache()?.delete(&fleet, &key).await.map_err(failed)
    }

    fn agents_cache(&self) -> Result<&Cache, StoreError> {
        self.core().companion.as_deref().map(super::companion::Companion::cache).ok_or(StoreError::NoRedis)
    }
}

fn failed(error: CacheError) -> StoreError {
    match error {
        CacheError::Unavailable(why) => StoreError::RedisUnavailable { why: why.to_string() },
        refused => StoreError::Internal { what: "kept something for agents", source: Arc::new(refused) },
    }
}

/// Longer than any content type that is kept; more is cut off with its meaning, so it is left out whole.
pub(super) const KIND_LIMIT: usize = 1024;

/// The length of the content type, plus one, or 0 without one; the content type; the value.
fn pack(cached: &Cached) -> Vec<u8> {
    let kind = cached.kind.as_deref().filter(|kind| kind.len() <= KIND_LIMIT);
    let length = kind.map_or(0, |kind| kind.len() as u16 + 1);
    let mut packed = Vec::with_capacity(2 + usize::from(length) + cached.value.len());
    packed.extend(length.to_be_bytes());
    packed.extend(kind.unwrap_or_default().as_bytes());
    packed.extend(&cached.value);
    packed
}

/// `None`: this is no entry of ours.
fn unpack(packed: &[u8]) -> Option<Cached> {
    let (length, rest) = packed.split_first_chunk::<2>()?;
    let length = u16::from_be_bytes(*length);
    let (kind, value) = rest.split_at_checked(usize::from(length.saturating_sub(1)))?;
    let kind = match length {
        0 => None,
        _ => Some(String::from_utf8(kind.to_vec()).ok()?),
    };
    Some(Cached { kind, value: value.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_again() {
        for kind in [None, Some(String::new()), Some("text/plain".to_owned())] {
            for value in [&b""[..], b"\x00\xff", b"text"] {
                let cached = Cached { kind: kind.clone(), value: value.to_vec() };
                assert_eq!(unpack(&pack(&cached)), Some(cached));
            }
        }
        let long = Cached { kind: Some("k".repeat(KIND_LIMIT + 1)), value: vec![1] };
        assert_eq!(unpack(&pack(&long)), Some(Cached { kind: None, value: vec![1] }));
        for foreign in [&b""[..], b"\x00", b"\x00\x09short"] {
            assert_eq!(unpack(foreign), None);
        }
    }
}
