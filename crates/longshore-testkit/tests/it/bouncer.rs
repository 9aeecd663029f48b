use longshore_testkit::{PgBouncer, Postgres};
use tokio_postgres::NoTls;

#[tokio::test]
async fn two_clients_share_one_connection_between_transactions() {
    let Some(postgres) = Postgres::options().tls().password("secret").start() else { return };
    let bouncer = PgBouncer::options().setting("default_pool_size", "1").start(&postgres);
    let Some(bouncer) = bouncer else { return };
    let first = backend(&bouncer.url()).await;
    assert_eq!(first, backend(&bouncer.url()).await);
    bouncer.kill();
    bouncer.start_again();
    assert_ne!(first, backend(&bouncer.url()).await);
}

async fn backend(url: &str) -> String {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let rows = client.simple_query("SELECT pg_backend_pid()").await.unwrap();
    let id = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    drop(client);
    connection.await.unwrap().unwrap();
    id.expect("there is one row")
}
