//! A control plane with a database of its own.

use std::time::Duration;

use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::process;
use crate::plane::Plane;

pub struct Stage {
    pub plane: Plane,
    /// Of its database.
    pub url: String,
    /// In the database of this stage; statements of the bench itself.
    pub database: Client,
    /// The process that all of Postgres' own are children of.
    postmaster: u32,
    _made: Made,
}

/// Drops the database when all that used it has gone.
struct Made {
    server: String,
    name: String,
}

impl Stage {
    /// With these fleets (TOML), and without Redis if it says so.
    pub async fn set(fleets: &str) -> Option<Stage> {
        let servers = longshore_testkit::shared()?;
        let made =
            Made { server: servers.postgres.clone(), name: format!("bench_{}", Uuid::new_v4().simple()) };
        let server = connect(&servers.postgres).await;
        server.batch_execute(&format!("CREATE DATABASE {}", made.name)).await.expect("a superuser may");
        let url = in_database(&servers.postgres, &made.name);
        let database = connect(&url).await;
        let store = format!("[store]\ndatabase = \"{url}\"\nredis = \"{}\"\n", servers.redis);
        let prefix = format!("redis_prefix = \"{}\"\n", made.name);
        let plane = Plane::start(&format!("{store}{prefix}{fleets}")).await;
        let own: i32 = database.query_one("SELECT pg_backend_pid()", &[]).await.expect("it answers").get(0);
        let postmaster = process::parent_of(own.unsigned_abs());
        Some(Stage { plane, url, database, postmaster, _made: made })
    }

    /// CPU time of the control plane and of the database until now.
    pub fn used(&self) -> Used {
        Used { serve: process::tree_used(self.plane.pid()), postgres: process::tree_used(self.postmaster) }
    }

    /// Transactions of this database until now, as far as its processes have told.
    pub async fn transactions(&self) -> i64 {
        let count =
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()";
        self.database.query_one(count, &[]).await.expect("it answers").get(0)
    }
}

/// CPU time of each part.
#[derive(Clone, Copy)]
pub struct Used {
    pub serve: Duration,
    pub postgres: Duration,
}

impl Used {
    pub fn since(self, before: Used) -> Used {
        Used { serve: self.serve - before.serve, postgres: self.postgres.saturating_sub(before.postgres) }
    }
}

pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the database is there");
    tokio::spawn(connection);
    client
}

/// The same server, another database.
fn in_database(url: &str, name: &str) -> String {
    let (server, _) = url.rsplit_once('/').expect("it ends with a database");
    format!("{server}/{name}")
}

impl Drop for Made {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // Off the runtime's threads, which must not be blocked.
        let dropped = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                let _ = connect(&server).await.batch_execute(&drop).await;
            });
        });
        let _ = dropped.join();
    }
}
