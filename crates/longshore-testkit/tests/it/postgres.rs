use std::time::Duration;

use longshore_testkit::Postgres;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls};

/// Long enough that an answer would have come, and no wait when there is one.
const A_WHILE: Duration = Duration::from_millis(100);

#[tokio::test]
async fn what_was_committed_is_there_after_a_kill_on_the_same_port() {
    let Some(postgres) = Postgres::start() else { return };
    let url = postgres.url();
    let client = connect(&url).await.unwrap();
    client.batch_execute("CREATE TABLE t AS SELECT 7 AS n").await.unwrap();
    postgres.kill();
    assert!(client.simple_query("SELECT 1").await.is_err(), "its backends are gone too");
    assert!(connect(&url).await.is_err());
    postgres.start_again();
    assert_eq!(postgres.url(), url);
    assert_eq!(number(&connect(&url).await.unwrap(), "SELECT n FROM t").await, 7);
}

#[tokio::test]
async fn while_it_is_paused_a_query_waits_and_is_answered_after() {
    let Some(postgres) = Postgres::start() else { return };
    let client = connect(&postgres.url()).await.unwrap();
    postgres.pause();
    let mut query = Box::pin(number(&client, "SELECT 5"));
    assert!(timeout(A_WHILE, &mut query).await.is_err(), "a stopped server answered");
    postgres.resume();
    assert_eq!(query.await, 5);
}

#[tokio::test]
async fn a_paused_one_can_be_shut_down_and_a_restarted_one_has_its_settings() {
    let Some(postgres) = Postgres::options().setting("max_connections", "33").start() else { return };
    postgres.pause();
    postgres.restart();
    assert_eq!(postgres.sql("SHOW max_connections"), "33");
    assert_eq!(postgres.sql("SHOW fsync"), "on");
}

#[tokio::test]
async fn a_password_is_asked_for_and_can_change() {
    let Some(postgres) = Postgres::options().password("one's").start() else { return };
    assert_eq!(postgres.sql("SELECT 1"), "1");
    assert_eq!(refusal(postgres.port(), "wrong").await, "28P01");
    postgres.set_password("two");
    assert_eq!(postgres.sql("SELECT 2"), "2");
    assert_eq!(refusal(postgres.port(), "one's").await, "28P01");
}

async fn refusal(port: u16, password: &str) -> String {
    let url = format!("postgres://longshore@127.0.0.1:{port}/postgres");
    let mut config: Config = url.parse().unwrap();
    let refused = config.password(password).connect(NoTls).await.err().expect("it is not the password");
    refused.code().expect("the server says why").code().to_owned()
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn number(client: &Client, sql: &str) -> i32 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}
