//! Postgres as people have it, and what is refused.

use longshore_core::task::Ending;
use longshore_core::time::Timestamp;
use longshore_store::*;
use longshore_testkit::{Postgres, PostgresOptions};

use super::{everything, until};
use crate::support::*;

/// Does a little of everything.
async fn works(world: &World) {
    let id = world.submit(NewTask { publish_input: true, ..talk("c") }).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    assert!(world.end(&crew, held, Ending::Succeeded).await);
    assert_eq!(world.kinds(id).await, ["submitted", "queued", "started", "attempt_ended", "succeeded"]);
    world.store.make_room(world.now().after(LEASE * 10_000)).await.unwrap();
}

async fn refused(options: &ConnectOptions) -> ConnectError {
    match Store::connect(options, Timestamp(1_795_000_000_000)).await {
        Ok(_) => panic!("it must be refused"),
        Err(error) => error,
    }
}

fn says(error: &ConnectError, word: &str) {
    let text = error.to_string();
    assert!(text.contains(word), "`{text}` says nothing of {word}");
}

#[tokio::test]
async fn a_schema_of_any_name() {
    let Some(options) = shared_options() else { return };
    let schema = format!("My \"odd\" schéma; -- {}", options.schema);
    // Names end after 63 bytes.
    let schema = schema.chars().take(48).collect();
    let options = ConnectOptions { schema, ..options };
    let world = World::connect(options.clone(), options.database).await;
    works(&world).await;
    let again = world.another().await;
    assert_eq!(everything(&again).await.len(), 1);
    world.clean_up().await;
}

#[tokio::test]
async fn a_role_that_owns_nothing_but_its_schema() {
    let Some(options) = shared_options() else { return };
    let (admin, connection) =
        tokio_postgres::connect(&options.database, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let name = &options.schema;
    let make = format!("CREATE ROLE {name} LOGIN; CREATE SCHEMA {name} AUTHORIZATION {name}");
    admin.batch_execute(&make).await.unwrap();
    let database = options.database.replace("longshore@", &format!("{name}@"));
    assert_ne!(database, options.database);
    let role = ConnectOptions { database: database.clone(), ..options.clone() };
    let other = ConnectOptions { schema: format!("{name}_other"), ..role.clone() };
    says(&refused(&other).await, "permission denied");
    let world = World::connect(role, database).await;
    works(&world).await;
    world.clean_up().await;
    admin.batch_execute(&format!("DROP ROLE {name}")).await.unwrap();
}

#[tokio::test]
async fn certificates_are_verified() {
    let (Some(server), Some(stranger)) =
        (PostgresOptions::default().tls().start(), PostgresOptions::default().tls().start())
    else {
        return;
    };
    let options = |url: String, authority: &Postgres| {
        let file = authority.ca_file().unwrap().display().to_string();
        ConnectOptions::new(format!("{url}?sslmode=verify-full&sslrootcert={file}"))
    };
    let right = options(server.url(), &server);
    let store = Store::connect(&right, Timestamp(1_795_000_000_000)).await.unwrap();
    store.put_fleets(Vec::new(), Timestamp(0)).await.unwrap();
    says(&refused(&options(server.url(), &stranger)).await, "invalid peer certificate");
    says(&refused(&options(server.url_at("127.0.0.1"), &server)).await, "not valid for name");
    let plain = ConnectOptions::new(format!("{}?sslmode=disable", server.url()));
    says(&refused(&plain).await, "no encryption");
    let missing =
        ConnectOptions::new(format!("{}?sslmode=verify-full&sslrootcert=/no/such.pem", server.url()));
    says(&refused(&missing).await, "/no/such.pem");
}

#[tokio::test]
async fn a_password_may_be_rotated() {
    let Some(server) = PostgresOptions::default().password("first").start() else { return };
    let folder = folder();
    let file = folder.path().join("password");
    let write = |password: &str| std::fs::write(&file, format!("{password}\n")).unwrap();
    write("wrong");
    let password_file = Some(file.clone());
    let options = ConnectOptions { password_file, connections: 4, ..ConnectOptions::new(server.url()) };
    says(&refused(&options).await, "password authentication failed");
    write("first");
    let world = World::connect(options, server.url()).await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'longshore'";
    for password in ["second", "third"] {
        server.set_password(password);
        world.submit(new_task()).await;
        server.sql(end);
        // Its connections are gone, and the file is not written yet.
        until("the old password to be refused", async || match world.store.counts().await {
            Err(StoreError::Unavailable { why }) => why.contains("password").then_some(()),
            Err(error) => panic!("{error:?}"),
            Ok(_) => None,
        })
        .await;
        write(password);
        world.submit(new_task()).await;
    }
    std::fs::remove_file(&file).unwrap();
    server.sql(end);
    until("the missing file to be told", async || match world.store.counts().await {
        Err(StoreError::Unavailable { why }) => why.contains("could not read the password").then_some(()),
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn a_database_that_forgets_is_refused() {
    for setting in ["fsync", "synchronous_commit"] {
        let Some(server) = Postgres::options().setting(setting, "off").start() else { return };
        match refused(&ConnectOptions::new(server.url())).await {
            ConnectError::Unsafe { setting: told, value } => {
                assert_eq!((told, value.as_str()), (setting, "off"))
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn ten_replicas_that_start_at_once_make_one_schema() {
    let Some(options) = shared_options() else { return };
    let options = ConnectOptions { redis: None, ..options };
    let check = ConnectOptions { migrate: Migrate::Check, ..options.clone() };
    assert!(matches!(refused(&check).await, ConnectError::Behind { found: 0, .. }));
    let opened = (0..10).map(|_| Store::connect(&options, Timestamp(1_795_000_000_000)));
    let opened = futures_util::future::join_all(opened).await;
    for store in &opened {
        assert!(store.as_ref().unwrap().fleets().await.unwrap().is_empty());
    }
    drop(opened);
    let world = World::connect(check, options.database.clone()).await;
    works(&world).await;
    let client = world.client().await;
    client.batch_execute("UPDATE schema_version SET version = 99").await.unwrap();
    assert!(matches!(refused(&options).await, ConnectError::Newer { found: 99, .. }));
    works_still(&world).await;
    world.clean_up().await;
}

/// A replica that runs already goes on while a newer one has migrated.
async fn works_still(world: &World) {
    world.submit(new_task()).await;
}
