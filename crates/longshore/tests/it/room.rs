//! A place of one's own on the servers that all tests share, and tests that run on either store.

use longshore_testkit::Shared;

use crate::plane::Plane;

/// A schema and a prefix of keys of one's own.
pub struct Room {
    shared: Shared,
    name: String,
    /// The address given for Redis.
    redis: String,
}

impl Room {
    /// `None` where there are no servers for tests.
    pub fn new() -> Option<Room> {
        let shared = longshore_testkit::shared()?;
        let redis = shared.redis.clone();
        Some(Room { shared, name: format!("room_{}", uuid::Uuid::new_v4().simple()), redis })
    }

    /// Where Redis should be nobody listens.
    pub fn without_redis() -> Option<Room> {
        let mut room = Room::new()?;
        room.redis = "redis://127.0.0.1:1".into();
        Some(room)
    }

    pub fn toml(&self) -> String {
        let (name, redis, Shared { postgres, .. }) = (&self.name, &self.redis, &self.shared);
        format!(
            "[store]\ndatabase = \"{postgres}\"\nschema = \"{name}\"\nconnections = 4\n\
             redis = \"{redis}\"\nredis_prefix = \"{name}:\"\n"
        )
    }
}

/// Where a control plane keeps its state.
pub enum Stage {
    Embedded,
    Shared(Room),
}

impl Stage {
    /// `None` where there are no servers for tests.
    pub fn shared() -> Option<Stage> {
        Room::new().map(Stage::Shared)
    }

    /// To be put before all other settings.
    pub fn toml(&self) -> String {
        match self {
            Stage::Embedded => String::new(),
            Stage::Shared(room) => room.toml(),
        }
    }

    /// Moves the cursors of schedules back while the control plane is down, as if it had been down since.
    pub async fn set_back(&self, plane: &Plane, seconds: i64) {
        match self {
            Stage::Embedded => {
                let file = plane.dir().join(".longshore/longshore.db");
                let connection = rusqlite::Connection::open(file).expect("the store");
                let update =
                    "UPDATE schedule SET cursor = CAST(unixepoch('subsec') * 1000 AS INTEGER) - ?1 * 1000";
                assert_eq!(connection.execute(update, [seconds]).expect("a schedule"), 1);
            }
            Stage::Shared(room) => room.set_back(seconds).await,
        }
    }
}

impl Room {
    /// The same for all that are there, whether control planes are up or not.
    pub async fn set_back(&self, seconds: i64) {
        let update = format!(
            "UPDATE {}.schedule SET cursor = (extract(epoch FROM clock_timestamp()) * 1000)::bigint - {seconds} * 1000",
            self.name
        );
        execute(&self.shared.postgres, &update).await;
    }
}

/// Runs tests that take a stage, once for each store.
macro_rules! on_both_stores {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            // A command is waited for on one thread, and what it asks for arrives on another.
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&crate::room::Stage::Embedded).await;
            })*
        }

        mod shared {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let Some(stage) = crate::room::Stage::shared() else { return };
                super::$name(&stage).await;
            })*
        }
    };
}
pub(crate) use on_both_stores;

impl Drop for Room {
    fn drop(&mut self) {
        let (shared, name) = (self.shared.clone(), self.name.clone());
        // A runtime blocks on nothing inside of another.
        let cleaned = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(drop_schema(&shared.postgres, &name));
            drop_keys(&shared.redis, &name);
        });
        if cleaned.join().is_err() && !std::thread::panicking() {
            panic!("the schema or the keys of {} are left behind", self.name);
        }
    }
}

async fn drop_schema(postgres: &str, name: &str) {
    execute(postgres, &format!("DROP SCHEMA IF EXISTS {name} CASCADE")).await;
}

async fn execute(postgres: &str, statement: &str) {
    let (client, connection) =
        tokio_postgres::connect(postgres, tokio_postgres::NoTls).await.expect("Postgres answers");
    tokio::spawn(connection);
    client.batch_execute(statement).await.expect("it is ours");
}

fn drop_keys(url: &str, name: &str) {
    let mut redis = redis::Client::open(url).and_then(|it| it.get_connection()).expect("Redis answers");
    let mut keys: Vec<String> = Vec::new();
    let mut cursor = 0_u64;
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("*{name}*")).arg("COUNT").arg(1000);
        let (next, found): (u64, Vec<String>) = scan.query(&mut redis).expect("Redis answers");
        keys.extend(found);
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    if !keys.is_empty() {
        redis::cmd("DEL").arg(keys).exec(&mut redis).expect("Redis answers");
    }
}
