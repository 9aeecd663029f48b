//! What the shared store says to children, questions and the agents' cache.

use longshore_core::json::Json;
use longshore_core::task::{Ending, State};
use longshore_core::wait::{Ask, Awaits, OnExpiry};
use longshore_store::*;

use crate::support::*;

#[tokio::test]
async fn agents_share_a_cache_where_there_is_redis() {
    let Some(options) = shared_options().filter(|options| options.redis.is_some()) else { return };
    let database = options.database.clone();
    let world = World::connect(options, database).await;
    let cached = Cached { kind: Some("text/plain".into()), value: b"\x00\xff".to_vec() };
    let entry = NewCached { fleet: fleet("a"), key: "k".into(), ttl_ms: 3_600_000, cached: cached.clone() };
    world.store.cache_put(entry, world.now()).await.unwrap();
    let get = async |of| world.store.cache_get(fleet(of), "k".into(), world.now()).await.unwrap();
    assert_eq!((get("a").await, get("b").await), (Some(cached), None));
    assert!(world.store.cache_delete(fleet("a"), "k".into(), world.now()).await.unwrap());
    assert_eq!(get("a").await, None);
    world.clean_up().await;
}

#[tokio::test]
async fn without_redis_there_is_no_cache_and_that_is_said() {
    let Some(options) = shared_options() else { return };
    let database = options.database.clone();
    let world = World::connect(ConnectOptions { redis: None, ..options }, database).await;
    let got = world.store.cache_get(fleet("a"), "k".into(), world.now()).await;
    assert!(matches!(got, Err(StoreError::NoRedis)), "{got:?}");
    world.clean_up().await;
}
