//! A store in a folder of its own, a clock that a test turns by hand, and short words for long requests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use longshore_core::fleet::Fleet;
use longshore_core::id::{ConversationId, FleetName, Held, TaskId, TenantName, WorkerId};
use longshore_core::json::Json;
use longshore_core::retry::Backoff;
use longshore_core::task::{Ending, Failure, Interruption, OnBusy, OnInterrupt};
use longshore_core::time::Timestamp;
use longshore_store::*;
use tempfile::TempDir;
use uuid::Uuid;

/// When each world begins: milliseconds since 1970.
const START: i64 = 1_795_000_000_000;

pub const LEASE: Duration = Duration::from_secs(30);

pub struct World {
    pub store: Store,
    now: AtomicI64,
    pub dir: Option<TempDir>,
    /// As the leader of its control planes.
    pub epoch: Epoch,
    schema: Option<Schema>,
}

/// A schema of one test, dropped with it.
struct Schema {
    options: ConnectOptions,
    /// Not through a pooler.
    database: String,
}

/// A worker as it speaks on the link.
#[derive(Clone)]
pub struct Crew {
    pub id: WorkerId,
    pub nonce: Uuid,
}

impl World {
    /// An empty embedded store with the fleets `a` and `b`.
    pub async fn embedded() -> World {
        let dir = folder();
        let store = Store::open(&OpenOptions::new(dir.path())).unwrap();
        World::new(store, Some(dir)).await
    }

    /// An empty shared store with the same fleets, in a schema of its own; `None` where there is no server for tests.
    pub async fn shared() -> Option<World> {
        let options = shared_options()?;
        let database = options.database.clone();
        Some(World::connect(options, database).await)
    }

    /// The same through PgBouncer in transaction mode.
    pub async fn pooled() -> Option<World> {
        let options = shared_options()?;
        let database = options.database.clone();
        let Ok(pooler) = std::env::var("LONGSHORE_TEST_PGBOUNCER") else {
            skip("no PgBouncer: run it by `./dev test`, which starts one");
            return None;
        };
        Some(World::connect(ConnectOptions { database: pooler, pooled: true, ..options }, database).await)
    }

    /// The same on a server of the test's own, without Redis.
    pub async fn on(server: &longshore_testkit::Postgres) -> World {
        let options = ConnectOptions { connections: 4, ..ConnectOptions::new(server.url()) };
        World::connect(options, server.url()).await
    }

    /// An empty store as it is wanted; `database` is the way around any pooler.
    pub async fn connect(options: ConnectOptions, database: String) -> World {
        let store = Store::connect(&options, Timestamp(START)).await.unwrap();
        let mut world = World::new(store, None).await;
        world.schema = Some(Schema { options, database });
        world
    }

    /// How its shared store was connected to.
    pub fn options(&self) -> &ConnectOptions {
        &self.schema.as_ref().expect("shared").options
    }

    /// The store of another control plane on the same database.
    pub async fn another(&self) -> Store {
        Store::connect(self.options(), self.now()).await.unwrap()
    }

    /// The same world as another control plane sees it: a clock of its own, and nothing to clean up.
    pub async fn beside(&self) -> World {
        let now = AtomicI64::new(self.now().0);
        World { store: self.another().await, now, dir: None, epoch: self.epoch, schema: None }
    }

    /// A connection beside the store, which finds the store's tables.
    pub async fn client(&self) -> tokio_postgres::Client {
        let schema = self.schema.as_ref().expect("shared");
        let (client, connection) =
            tokio_postgres::connect(&schema.database, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let path = schema.options.schema.replace('"', "\"\"");
        client.batch_execute(&format!("SET search_path = \"{path}\"")).await.unwrap();
        client
    }

    pub async fn new(store: Store, dir: Option<TempDir>) -> World {
        let epoch = store.lead(Uuid::new_v4()).await.unwrap().expect("nobody else is there");
        let world = World { store, now: AtomicI64::new(START), dir, epoch, schema: None };
        let fleets = ["a", "b"].map(|name| Fleet::new(fleet(name), vec!["true".into()], "/".into()));
        world.store.put_fleets(fleets.to_vec(), world.now()).await.unwrap();
        world
    }

    pub fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::Relaxed))
    }

    pub fn pass(&self, wait: Duration) {
        self.now.fetch_add(wait.as_millis() as i64, Ordering::Relaxed);
    }

    pub async fn submit(&self, task: NewTask) -> TaskId {
        self.store.submit(vec![task], None, self.now()).await.unwrap().ids[0]
    }

    pub async fn worker(&self, name: &str) -> Crew {
        self.worker_of(name, "a").await
    }

    pub async fn worker_of(&self, name: &str, of: &str) -> Crew {
        let crew = Crew { id: WorkerId::new(name).unwrap(), nonce: Uuid::new_v4() };
        self.register_of(&crew, of).await.unwrap();
        crew
    }

    pub async fn register(&self, crew: &Crew) -> Result<RegisterOutcome, RegisterError> {
        self.register_of(crew, "a").await
    }

    async fn register_of(&self, crew: &Crew, of: &str) -> Result<RegisterOutcome, RegisterError> {
        let registration = Registration {
            worker: crew.id.clone(),
            nonce: crew.nonce,
            fleet: fleet(of),
            version: "0.1.0".into(),
            pid: Some(1),
            host: None,
            probe_addr: None,
            concurrency: 8,
        };
        self.store.register(registration, self.now()).await
    }

    pub async fn claim(&self, crew: &Crew, seq: u64, max: u32) -> Result<Vec<LeasedTask>, ClaimError> {
        self.claim_busy(crew, seq, max, 0).await
    }

    pub async fn claim_busy(
        &self,
        crew: &Crew,
        seq: u64,
        max: u32,
        in_flight: u32,
    ) -> Result<Vec<LeasedTask>, ClaimError> {
        let worker = crew.id.clone();
        let request = ClaimRequest { worker, nonce: crew.nonce, seq, max, in_flight, lease: LEASE };
        self.store.claim(request, self.now()).await
    }

    pub async fn claim_one(&self, crew: &Crew, seq: u64) -> LeasedTask {
        let tasks = self.claim(crew, seq, 1).await.unwrap();
        tasks.into_iter().next().expect("something is runnable")
    }

    pub async fn beat(
        &self,
        crew: &Crew,
        held: Vec<Held>,
        last_claim: u64,
    ) -> Result<HeartbeatNews, LinkError> {
        let condition = Condition { state: WorkerState::Ready, reason: String::new(), memory: 1 };
        let (worker, nonce) = (crew.id.clone(), crew.nonce);
        let heartbeat = Heartbeat { worker, nonce, held, last_claim, condition, lease: LEASE };
        self.store.heartbeat(heartbeat, self.now()).await
    }

    pub async fn end(&self, crew: &Crew, held: Held, ending: Ending) -> bool {
        self.end_with(crew, held, ending, Vec::new()).await
    }

    /// True if the ending was accepted.
    pub async fn end_with(
        &self,
        crew: &Crew,
        held: Held,
        ending: Ending,
        events: Vec<NewAgentEvent>,
    ) -> bool {
        let result = (ending == Ending::Succeeded).then(|| json(r#"{"ok":true}"#));
        let end = EndAttempt { held, events, ending, result, roll: 0.5 };
        let ended =
            self.store.end_attempts(crew.id.clone(), crew.nonce, vec![end], self.now()).await.unwrap();
        assert_eq!(ended.accepted.len() + ended.refused.len(), 1);
        !ended.accepted.is_empty()
    }

    pub async fn crash(&self, crew: &Crew) -> Vec<Held> {
        let cause = Interruption::WorkerCrashed;
        let end = WorkerEnd { worker: crew.id.clone(), nonce: None, cause, why: "killed".into() };
        self.store.worker_ended(end, 0.5, self.now()).await.unwrap()
    }

    /// Lets service time and wall time pass, in steps that a tick may make.
    pub async fn tick(&self, mut wait: Duration) -> Vec<Held> {
        let mut expired = Vec::new();
        while !wait.is_zero() {
            let step = wait.min(Duration::from_secs(2));
            self.pass(step);
            expired.extend(
                self.store.tick(self.epoch, Some(step), true, self.now(), 0.5).await.unwrap().expired,
            );
            wait -= step;
        }
        expired
    }

    /// One number out of the embedded store's file.
    pub fn ask(&self, query: &str) -> i64 {
        let path = self.dir.as_ref().expect("an embedded store").path().join("longshore.db");
        rusqlite::Connection::open(path).unwrap().query_row(query, [], |row| row.get(0)).unwrap()
    }

    /// How a fleet stands now.
    pub async fn load(&self, name: &str) -> Load {
        self.store.load(fleet(name), self.now()).await.unwrap()
    }

    /// Changes the shared store behind its back.
    pub async fn on_server(&self, statements: &str) {
        self.client().await.batch_execute(statements).await.unwrap();
    }

    /// A column of texts out of the shared store.
    pub async fn ask_server(&self, query: &str) -> Vec<String> {
        let rows = self.client().await.query(query, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// How many copies of conversations with this in their name Redis would serve; none where there is no Redis.
    pub async fn copies(&self, of: &str) -> usize {
        let Ok(url) = std::env::var("LONGSHORE_TEST_REDIS") else { return 0 };
        let client = redis::Client::open(url).unwrap();
        let mut redis = client.get_multiplexed_async_connection().await.unwrap();
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg(format!("{}:*history:*{of}*", self.options().schema))
            .query_async(&mut redis)
            .await
            .unwrap();
        let mut copies = 0;
        for key in keys {
            let last: Option<u64> =
                redis::cmd("HGET").arg(&key).arg("last").query_async(&mut redis).await.unwrap();
            copies += usize::from(last.is_some());
        }
        copies
    }

    /// Whether agents can cache here, now: with the shared store that takes Redis.
    pub async fn has_cache(&self) -> bool {
        if self.dir.is_some() {
            return true;
        }
        while self.store.redis().is_some_and(|redis| !redis.up) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.store.redis().is_some()
    }

    pub async fn task(&self, id: TaskId) -> TaskRecord {
        self.store.task(id).await.unwrap().expect("it was submitted")
    }

    /// Leaves nothing behind on a server that other tests use.
    pub async fn clean_up(self) {
        if self.schema.is_none() {
            return;
        }
        let client = self.client().await;
        self.store.close().await.unwrap();
        let drop = format!("DROP SCHEMA \"{}\" CASCADE", self.options().schema.replace('"', "\"\""));
        client.batch_execute(&drop).await.unwrap();
    }

    pub async fn kinds(&self, id: TaskId) -> Vec<String> {
        self.store.events(id, 0, 1000).await.unwrap().into_iter().map(|event| event.kind).collect()
    }
}

/// In memory where there is such a place: most tests ask what is written, not how fast a disk is.
pub fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub fn new_task() -> NewTask {
    NewTask {
        id: TaskId(Uuid::now_v7()),
        fleet: fleet("a"),
        input: json(r#"{"n":1e400}"#),
        tenant: TenantName::default(),
        conversation: None,
        on_busy: OnBusy::Enqueue,
        publish_input: false,
        priority: 0,
        run_at: None,
        deadline_at: None,
        timeout_ms: 1000,
        max_attempts: 3,
        on_interrupt: OnInterrupt::Resume,
        backoff: Backoff { base_ms: 1000, cap_ms: 60_000 },
        labels: BTreeMap::new(),
        retry_of: None,
    }
}

pub fn talk(conversation: &str) -> NewTask {
    NewTask { conversation: Some(ConversationId::new(conversation).unwrap()), ..new_task() }
}

pub fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

pub fn fleet(name: &str) -> FleetName {
    FleetName::new(name).unwrap()
}

pub fn json(text: &str) -> Json {
    Json::parse(text).unwrap()
}

pub fn failed(code: &str) -> Ending {
    Ending::Failed(Failure::new(code, "no"))
}

pub fn says(n: u64, kind: AgentEventKind, text: &str) -> NewAgentEvent {
    NewAgentEvent { n, at: Timestamp(1_795_000_000_000), kind, data: json(text) }
}

/// A schema of one's own on the server that all tests share.
pub fn shared_options() -> Option<ConnectOptions> {
    let database = shared_database()?;
    let schema = format!("t{}", Uuid::new_v4().simple());
    let redis = std::env::var("LONGSHORE_TEST_REDIS").ok();
    let redis = redis.map(|url| redis_options(url, &format!("{schema}:")));
    Some(ConnectOptions { schema, connections: 4, redis, ..ConnectOptions::new(database) })
}

pub fn redis_options(url: String, prefix: &str) -> RedisOptions {
    RedisOptions {
        addresses: vec![url],
        topology: RedisKind::Single,
        user: None,
        password: None,
        password_file: None,
        prefix: prefix.into(),
        ca_file: None,
        cache: Vec::new(),
    }
}

fn shared_database() -> Option<String> {
    let database = std::env::var("LONGSHORE_TEST_POSTGRES").ok();
    if database.is_none() {
        skip("no PostgreSQL: run it by `./dev test`, which starts one");
    }
    database
}

/// Leaves a test out where it cannot run; where all must run (CI) that is a failure.
pub fn skip(why: &str) {
    assert_ne!(std::env::var("LONGSHORE_TEST_REQUIRE").as_deref(), Ok("all"), "SKIPPED: {why}");
    eprintln!("SKIPPED: {why}");
}
