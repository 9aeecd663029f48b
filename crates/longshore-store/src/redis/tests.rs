//! The connection under everything that happens to it, and everything over the servers that people have.

use std::time::{Duration, Instant};

use ::redis::cmd;
use longshore_core::id::{ConversationId, FleetName, TaskId};
use longshore_core::json::Json;
use longshore_core::limit::Need;
use longshore_core::provider::Limit;
use longshore_core::time::Timestamp;

use super::bus::Bus;
use super::cache::{Cache, Limits};
use super::error::RedisError;
use super::history::Histories;
use super::options::{Login, Options, Password, Topology};
use super::permits::{Answer, Permits};
use super::testing::{Server, free_port, options, redis};
use super::*;
use crate::model::Message;
use crate::signals::{Signals, Topic, Woken};

async fn set(redis: &Redis, value: &str) -> Result<(), RedisError> {
    redis.query(cmd("SET").arg(redis.key("cache:test")).arg(value)).await
}

#[tokio::test]
async fn connecting_needs_no_server_yet() {
    let port = free_port();
    let redis = Redis::connect(options(port));
    let begun = Instant::now();
    for _ in 0..1_000 {
        assert!(matches!(set(&redis, "x").await, Err(RedisError::Down { .. })));
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "it waited: {:?}", begun.elapsed());
    let health = redis.health();
    assert!(!health.up && health.error.is_some(), "{health:?}");
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    let server = Server::start().await;
    let redis = redis(&server).await;
    set(&redis, "x").await.unwrap();
    server.kill();
    assert!(set(&redis, "x").await.is_err());
    redis.wait_until(false).await;
    assert!(redis.health().error.is_some());
    server.start_again().await;
    redis.wait_until(true).await;
    set(&redis, "x").await.unwrap();
    assert!(redis.health().error.is_none());
}

#[tokio::test]
async fn a_server_that_stops_answering_costs_one_wait_not_one_each() {
    let server = Server::start().await;
    let mut options = options(server.port);
    options.timeout = Duration::from_millis(100);
    let redis = Redis::connect(options);
    redis.wait_until(true).await;
    server.freeze(true);
    assert!(matches!(set(&redis, "x").await, Err(RedisError::TimedOut)));
    redis.wait_until(false).await;
    let begun = Instant::now();
    for _ in 0..50 {
        assert!(matches!(set(&redis, "x").await, Err(RedisError::Down { .. })));
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    server.freeze(false);
    redis.wait_until(true).await;
    set(&redis, "x").await.unwrap();
}

#[tokio::test]
async fn a_refused_command_is_an_answer() {
    let server = Server::start().await;
    let redis = redis(&server).await;
    let refused: Result<(), _> =
        redis.query(cmd("EVAL").arg("return redis.error_reply('ERR no')").arg(0)).await;
    assert!(matches!(refused, Err(RedisError::Refused { .. })), "{refused:?}");
    assert!(redis.health().up);
}

#[tokio::test]
async fn a_server_that_became_a_replica_is_given_up() {
    let (primary, server) = (Server::start().await, Server::start().await);
    let redis = redis(&server).await;
    server.ask::<()>(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]).await;
    let refused = set(&redis, "x").await;
    assert!(matches!(refused, Err(RedisError::Unfit { .. })), "{refused:?}");
    server.ask::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    redis.wait_until(true).await;
    set(&redis, "x").await.unwrap();
}

#[tokio::test]
async fn a_password_that_rotates_in_its_file_is_read_again() {
    let server = Server::with(&["--requirepass", "one"]).await;
    let file = server.folder.path().join("password");
    std::fs::write(&file, "one\n").unwrap();
    let mut options = options(server.port);
    options.login = Login { user: None, password: Some(Password::File(file.clone())) };
    let redis = Redis::connect(options);
    redis.wait_until(true).await;
    // As an operator rotates: the new one is set, old connections end, the file follows.
    let client = ::redis::Client::open(format!("redis://:one@127.0.0.1:{}", server.port)).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    let () = cmd("CONFIG").arg(&["SET", "requirepass", "two"]).query_async(&mut admin).await.unwrap();
    let _: i64 = cmd("CLIENT").arg(&["KILL", "TYPE", "normal"]).query_async(&mut admin).await.unwrap();
    redis.wait_until(false).await;
    std::fs::write(&file, "two\n").unwrap();
    redis.wait_until(true).await;
    set(&redis, "x").await.unwrap();
}

#[tokio::test]
async fn tls_checks_the_authority_and_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = free_port().to_string();
    let (certificate_text, key) = (certificate.display().to_string(), key.display().to_string());
    let _server = Server::with(&[
        "--tls-port",
        &tls,
        "--tls-cert-file",
        &certificate_text,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
    ])
    .await;
    let at = |host: &str, ca: bool| {
        let address = format!("rediss://{host}:{tls}");
        let mut options = Options::parse(Topology::Single, &[&address]).unwrap();
        options.ca_file = ca.then(|| certificate.clone());
        options
    };
    let redis = Redis::connect(at("localhost", true));
    redis.wait_until(true).await;
    set(&redis, "x").await.unwrap();
    for (wrong, why) in
        [(at("localhost", false), "UnknownIssuer"), (at("127.0.0.1", true), "not valid for name")]
    {
        let error = link::Link::open(&wrong).await.map(drop).expect_err("it is not trusted").to_string();
        assert!(error.contains(why), "{error}");
    }
}

/// All that longshore does with Redis.
async fn use_everything(redis: &Redis) {
    let fleet = FleetName::new("a").unwrap();
    let limits = Limits { max_bytes: 100, max_total: 300, max_ttl: Duration::from_secs(60) };
    let cache = Cache::new(redis.clone(), limits);
    for key in ["one", "two", "three"] {
        cache.put(&fleet, key, b"1", Duration::from_secs(9)).await.unwrap();
        assert_eq!(cache.get(&fleet, key).await.unwrap().as_deref(), Some(&b"1"[..]));
        assert!(cache.delete(&fleet, key).await.unwrap());
    }
    for key in ["one", "two", "three"] {
        cache.put(&fleet, key, b"1", Duration::from_secs(9)).await.unwrap();
    }
    cache.clear(&fleet).await.unwrap();
    assert_eq!(cache.get(&fleet, "three").await.unwrap(), None);
    let histories = Histories::new(redis.clone(), Duration::from_secs(60));
    for name in ["x", "y", "z"] {
        let talk = ConversationId::new(name).unwrap();
        let say =
            |seq| Message { seq, task: TaskId(uuid::Uuid::nil()), at: Timestamp(0), data: Json::null() };
        let all: Vec<Message> = (1..=201).map(say).collect();
        histories.append(&talk, 1, &all).await;
        assert_eq!(histories.history(&talk, 201).await.map(|messages| messages.len()), Some(200));
        histories.forget(&talk).await.unwrap();
    }
    let permits = Permits::start(redis.clone(), &format!("seat-{}", rand::random::<u64>()), 1, true);
    let limit = Limit { requests_per_minute: Some(9), tokens_per_minute: Some(99) };
    let Answer::Admitted(permit) = permits.ask("openai/*", limit, Need { tokens: 50 }).await else {
        panic!("a quiet start admits at once")
    };
    permits.settle(permit, 20).await;
    permits.block("openai/*", 9).await;
    assert!(matches!(
        permits.ask("openai/*", limit, Need { tokens: 1 }).await,
        Answer::Wait { seconds: 8..=9 }
    ));
    let (one, other) = (Signals::default(), Signals::default());
    let (first, second) = (Bus::listen(redis.clone(), one), Bus::listen(redis.clone(), other.clone()));
    second.up().wait_for(|up| *up).await.unwrap();
    let mut wake = other.runnable(&fleet);
    first.publish([Topic::Runnable(fleet)]);
    while wake.wait().await != Woken::Called {}
}

const FORBIDDEN: &[&str] = &[
    "acl",
    "bgrewriteaof",
    "bgsave",
    "config",
    "debug",
    "failover",
    "flushall",
    "flushdb",
    "keys",
    "migrate",
    "module",
    "monitor",
    "psync",
    "replicaof",
    "save",
    "script",
    "shutdown",
    "slaveof",
    "swapdb",
    "sync",
    "wait",
];

#[tokio::test]
async fn everything_works_for_the_least_user_where_commands_are_renamed_away() {
    let rename: Vec<&str> = FORBIDDEN.iter().flat_map(|name| ["--rename-command", name, ""]).collect();
    let user = format!(
        "longshore on >secret ~longshore:* &longshore:* -@all {}",
        COMMANDS.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ")
    );
    let words: Vec<&str> = user.split(' ').collect();
    let server =
        Server::with(&[&rename[..], &["--user"], &words[..], &["--user", "default", "off"]].concat()).await;
    let mut options = options(server.port);
    let password = Some(Password::Given("secret".into()));
    options.login = Login { user: Some("longshore".into()), password };
    let redis = Redis::connect(options);
    redis.wait_until(true).await;
    use_everything(&redis).await;
    let other: Result<(), _> = redis.query(cmd("SET").arg("other:key").arg(1)).await;
    assert!(matches!(other, Err(RedisError::Refused { .. })), "the user is confined: {other:?}");
}

#[test]
fn no_forbidden_command_is_on_the_list() {
    for name in COMMANDS {
        assert!(!FORBIDDEN.contains(&name.split('|').next().unwrap()), "{name}");
    }
    assert!(COMMANDS.is_sorted());
}

#[test]
fn the_page_for_operators_names_the_least_user() {
    let page = include_str!("../../../../docs/redis.md");
    let list = COMMANDS.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
    assert!(page.contains(&list), "docs/redis.md lacks: {list}");
}

#[tokio::test]
async fn everything_works_on_a_cluster() {
    let servers = Server::cluster().await;
    let addresses: Vec<String> =
        servers.iter().map(|server| format!("redis://127.0.0.1:{}", server.port)).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let redis = Redis::connect(Options::parse(Topology::Cluster, &addresses[..1]).unwrap());
    redis.wait_until(true).await;
    use_everything(&redis).await;
    let mut used = 0;
    for server in &servers {
        used += u64::from(server.calls("evalsha").await > 0);
    }
    assert!(used > 1, "keys are spread over the nodes");
}

#[tokio::test]
async fn a_failover_by_sentinel_is_followed() {
    let master = Server::start().await;
    let replica = Server::with(&["--replicaof", "127.0.0.1", &master.port.to_string()]).await;
    let sentinel = Server::sentinel(master.port).await;
    let address = format!("redis://127.0.0.1:{}", sentinel.port);
    let topology = Topology::Sentinel { master: "main".into(), login: Login::default() };
    let redis = Redis::connect(Options::parse(topology, &[&address]).unwrap());
    redis.wait_until(true).await;
    use_everything(&redis).await;
    // Sentinel asks the master about its replicas now and then; without one there is nothing to fail over to.
    let known = async || sentinel.ask::<String>(&["INFO", "sentinel"]).await.contains("slaves=1");
    while !known().await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    master.kill();
    redis.wait_until(false).await;
    redis.wait_until(true).await;
    set(&redis, "after").await.unwrap();
    assert_eq!(replica.ask::<String>(&["GET", &redis.key("cache:test")]).await, "after");
}
