use std::time::Duration;

use longshore_core::cache::{TOTAL_LIMIT, VALUE_LIMIT};
use longshore_store::*;

use crate::support::*;

const HOUR_MS: u64 = 3_600_000;

fn entry(key: &str, ttl_ms: u64, value: &[u8]) -> NewCached {
    let cached = Cached { kind: Some("text/plain".into()), value: value.to_vec() };
    NewCached { fleet: fleet("a"), key: key.into(), ttl_ms, cached }
}

async fn put(world: &World, entry: NewCached) {
    world.store.cache_put(entry, world.now()).await.unwrap();
}

async fn get(world: &World, of: &str, key: &str) -> Option<Vec<u8>> {
    let found = world.store.cache_get(fleet(of), key.into(), world.now()).await.unwrap();
    found.map(|cached| cached.value)
}

pub async fn what_was_put_is_there_until_its_time(world: &World) {
    put(world, entry("k", 1000, b"\0one")).await;
    assert_eq!(get(world, "a", "k").await.as_deref(), Some(&b"\0one"[..]));
    assert_eq!(get(world, "b", "k").await, None, "each fleet has its own");
    put(world, entry("k", 2000, b"two")).await;
    world.pass(Duration::from_millis(1999));
    assert_eq!(get(world, "a", "k").await.as_deref(), Some(&b"two"[..]));
    world.pass(Duration::from_millis(1));
    assert_eq!(get(world, "a", "k").await, None, "before anybody tidied up");
    world.tick(Duration::from_secs(1)).await;
    assert_eq!(get(world, "a", "k").await, None);
}

/// As the cache sees it: in Redis it goes by Redis' own clock.
async fn pass(world: &World, wait: Duration) {
    world.pass(wait);
    if world.dir.is_none() {
        tokio::time::sleep(wait).await;
    }
}

pub async fn what_was_put_goes_by_itself(world: &World) {
    if !world.has_cache().await {
        return;
    }
    put(world, entry("k", HOUR_MS, b"\0one")).await;
    assert_eq!(get(world, "a", "k").await.as_deref(), Some(&b"\0one"[..]));
    assert_eq!(get(world, "b", "k").await, None, "each fleet has its own");
    put(world, entry("k", 2000, b"two")).await;
    assert_eq!(get(world, "a", "k").await.as_deref(), Some(&b"two"[..]), "long before its time");
    pass(world, Duration::from_millis(2000)).await;
    assert_eq!(get(world, "a", "k").await, None, "before anybody tidied up");
    world.tick(Duration::from_secs(1)).await;
    assert_eq!(get(world, "a", "k").await, None);
}

pub async fn what_is_deleted_is_gone(world: &World) {
    if !world.has_cache().await {
        return;
    }
    put(world, entry("k", HOUR_MS, b"1")).await;
    let delete = || world.store.cache_delete(fleet("a"), "k".into(), world.now());
    assert!(delete().await.unwrap());
    assert!(!delete().await.unwrap());
    assert_eq!(get(world, "a", "k").await, None);
}

pub async fn a_full_cache_drops_what_expires_soonest(world: &World) {
    if !world.has_cache().await {
        return;
    }
    let value = vec![7; VALUE_LIMIT];
    let fits = TOTAL_LIMIT as usize / VALUE_LIMIT - 2;
    put(world, NewCached { fleet: fleet("b"), ..entry("theirs", 60_000, &value) }).await;
    for number in 0..fits {
        put(world, entry(&number.to_string(), HOUR_MS + number as u64, &value)).await;
    }
    put(world, entry("brief", 600_000, &value[..1])).await;
    assert!(get(world, "a", "brief").await.is_some(), "all fit so far");
    put(world, entry("new", 60_000, &value)).await;
    put(world, entry("newer", 120_000, &value)).await;
    assert_eq!(get(world, "a", "new").await, None, "it was the first to go");
    assert!(get(world, "a", "newer").await.is_some(), "what was just put stays");
    assert!(get(world, "a", "0").await.is_some());
    put(world, entry("0", HOUR_MS * 2, &value)).await;
    put(world, entry("newest", HOUR_MS * 2, &value)).await;
    assert_eq!(get(world, "a", "newer").await, None);
    assert!(get(world, "a", "0").await.is_some(), "it was put anew, for longer");
    assert!(get(world, "b", "theirs").await.is_some(), "other fleets lose nothing");
}
