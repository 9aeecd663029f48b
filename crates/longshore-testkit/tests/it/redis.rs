use longshore_testkit::Redis;

#[test]
fn what_was_acknowledged_is_there_after_a_kill_on_the_same_port() {
    let Some(redis) = Redis::start() else { return };
    let url = redis.url();
    assert_eq!(redis.cli(&["SET", "k", "v"]), "OK");
    redis.kill();
    redis.start_again();
    assert_eq!((redis.cli(&["GET", "k"]), redis.url()), ("v".to_owned(), url));
}

#[test]
fn one_without_a_disk_forgets() {
    let Some(redis) = Redis::options().memory_only().start() else { return };
    redis.cli(&["SET", "k", "v"]);
    redis.restart();
    assert_eq!(redis.cli(&["GET", "k"]), "");
}

#[test]
fn commands_can_be_forbidden_and_a_user_limited() {
    let options = Redis::options().forbid("CONFIG").user("app", "secret", "~ls:* &ls:* +@all");
    let Some(redis) = options.start() else { return };
    assert!(redis.url().starts_with("redis://app:secret@127.0.0.1:"));
    assert_eq!(redis.cli(&["SET", "ls:k", "v"]), "OK");
    let refused = redis.cli(&["SET", "k", "v"]);
    assert!(refused.starts_with("NOPERM"), "{refused}");
    let unknown = redis.cli(&["CONFIG", "GET", "port"]);
    assert!(unknown.starts_with("ERR unknown command"), "{unknown}");
}

#[tokio::test]
async fn while_it_is_paused_a_command_waits_and_is_answered_after() {
    let Some(server) = Redis::start() else { return };
    let client = redis::Client::open(server.url()).unwrap();
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    server.pause();
    let ping = redis::cmd("PING");
    let mut answer = Box::pin(ping.query_async::<String>(&mut connection));
    let wait = tokio::time::timeout(std::time::Duration::from_millis(100), &mut answer).await;
    assert!(wait.is_err(), "a stopped server answered");
    server.resume();
    assert_eq!(answer.await.unwrap(), "PONG");
}
