//! The workers that this control plane starts: found again, watched, drained, and cleaned up after.

mod compose;
mod containers;
mod docker;
mod planes;
mod process;
mod processes;
mod start;
mod starts;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use longshore_core::errors::chain;
use longshore_core::fleet::{self, DrainMode, Fleet};
use longshore_core::id::{FleetName, WorkerId};
use longshore_core::json::Json;
use longshore_core::rollout::Release;
use longshore_core::settings::DockerSettings;
use longshore_core::task::Interruption;
use longshore_core::time::Timestamp;
use longshore_platform::process::ProcessPlatform;
use longshore_platform::{End, Found, Identity, Platform, Running, Signal};
use longshore_store::{StoreError, WorkerFilter, WorkerRecord};
use tokio::sync::Semaphore;
use tracing::{error, info, warn};

pub use self::compose::{is_replica, run as compose_services};
pub use self::containers::run as containers;
use self::docker::Docker;
pub use self::processes::run as processes;
use self::starts::{Starts, is_failed_start};
use super::{liveness, name_secret, read_secret};
use crate::app::{App, now, roll};
use crate::door::Door;
use crate::start::StartError;

/// What a draining worker gets beyond its drain time-out before it is killed.
const GRACE: Duration = Duration::from_secs(15);

/// How long it is tried to kill a worker at the end of a drain of all, and how long it may take to see to what it left.
const UNKILLED: Duration = Duration::from_secs(45);

/// More than a few at a time make an engine slower for each.
const TURNS: usize = 4;

/// Cheap to clone.
#[derive(Clone)]
pub struct Crew(Arc<Inner>);

struct Inner {
    app: App,
    process: Platform,
    docker: Docker,
    compose: compose::Compose,
    program: PathBuf,
    running: Mutex<HashMap<WorkerId, Member>>,
    starts: Starts,
    starting: Mutex<docker::Starting>,
    /// Containers that an engine is asked to start at the same time.
    turns: Semaphore,
    /// Workers are being drained for good: none is started any more.
    closed: AtomicBool,
    /// Held while a worker is started, so that none slips in after `closed`.
    gate: tokio::sync::Mutex<()>,
}

/// Where a worker is about to be started.
enum Ground {
    Process,
    Docker(docker::Ready),
    Compose(compose::Ready),
}

/// It could not be told whether a worker lives, or that could not be written down.
#[derive(Debug, thiserror::Error)]
enum AdoptError {
    #[error(transparent)]
    Platform(#[from] longshore_platform::Error),
    #[error("the store failed")]
    Store(#[from] StoreError),
}

struct Member {
    running: Running,
    /// Set once it was told to drain: when it is killed if it is still there.
    kill_at: Option<Instant>,
    /// Of a replica of a compose service.
    restarts: compose::Restarts,
}

impl Crew {
    /// `door`: how workers in containers reach this replica.
    pub fn new(
        app: App,
        program: PathBuf,
        door: Door,
        docker: DockerSettings,
    ) -> Result<Crew, Box<dyn std::error::Error + Send + Sync>> {
        let process = Platform::Process(ProcessPlatform::new()?);
        Ok(Crew(Arc::new(Inner {
            process,
            docker: Docker::new(app.clone(), program.clone(), door, docker),
            compose: Default::default(),
            app,
            program,
            running: Mutex::default(),
            starts: Starts::default(),
            starting: Mutex::default(),
            turns: Semaphore::new(TURNS),
            closed: AtomicBool::new(false),
            gate: tokio::sync::Mutex::default(),
        })))
    }

    /// Finds the workers again that an earlier control plane started as processes; ends those that are gone.
    ///
    /// Containers are looked through beside it, since their engine may be down.
    pub async fn adopt(&self) -> Result<(), StartError> {
        for record in self.unwatched_processes().await? {
            let adopted = self.adopt_one(&self.0.process, &record).await;
            adopted.map_err(|error| StartError::Platform(error.into()))?;
        }
        Ok(())
    }

    /// Workers of this machine that are processes for the store, and that nobody here waits for.
    async fn unwatched_processes(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        let mut records = self.0.app.store.workers(WorkerFilter::default()).await?;
        records.retain(|record| record.platform == self.0.app.own_platform && !self.has(&record.id));
        Ok(records)
    }

    /// Errors: it could not be told whether the worker lives.
    async fn adopt_one(&self, platform: &Platform, record: &WorkerRecord) -> Result<(), AdoptError> {
        let identity = record.identity.as_ref().and_then(|json| json.read::<Identity>().ok());
        match platform.find_again(record.id.as_str(), identity.as_ref()).await? {
            Found::Running(running) => self.found(record, running).await?,
            Found::Ended(end, why) => {
                info!(worker = %record.id, why, "worker of an earlier control plane is gone");
                self.bury(&record.id, platform, identity, end, None).await;
            }
        }
        Ok(())
    }

    fn has(&self, worker: &WorkerId) -> bool {
        self.0.running.lock().expect("no holder panics").contains_key(worker)
    }

    async fn found(&self, record: &WorkerRecord, running: Running) -> Result<(), StoreError> {
        let identity = running.identity();
        info!(worker = %record.id, at = %identity, "worker found again");
        self.0.app.store.save_identity(record.id.clone(), Json::of(&identity), now()).await?;
        let fleet = self.0.app.store.fleet(record.fleet.clone()).await?;
        let probe = fleet.map(|record| record.declaration.probe).unwrap_or_default();
        self.keep(&record.id, (&record.fleet, record.release), running, probe);
        Ok(())
    }

    /// Watches a running worker until its end.
    fn keep(
        &self,
        id: &WorkerId,
        (fleet, release): (&FleetName, Release),
        running: Running,
        probe: fleet::Probe,
    ) {
        let member = Member { running: running.clone(), kill_at: None, restarts: Default::default() };
        self.0.running.lock().expect("no holder panics").insert(id.clone(), member);
        tokio::spawn(liveness::watch(self.0.app.clone(), id.clone(), running.clone(), probe));
        let (crew, id, fleet, born) = (self.clone(), id.clone(), fleet.clone(), Instant::now());
        tokio::spawn(async move {
            let end = running.ended().await;
            let platform = match &running {
                Running::Process(_) => crew.0.process.clone(),
                Running::Docker(running) => Platform::Docker(running.platform().clone()),
                Running::Compose(running) => Platform::Compose(running.platform().clone()),
            };
            let start = Some(((&fleet, release), born.elapsed()));
            crew.bury(&id, &platform, Some(running.identity()), end, start).await;
        });
    }

    /// Kills what an ended worker left behind, and only then gives its tasks to others.
    async fn bury(
        &self,
        id: &WorkerId,
        platform: &Platform,
        identity: Option<Identity>,
        end: End,
        start: Option<((&FleetName, Release), Duration)>,
    ) {
        let was_told = self.0.running.lock().expect("no holder panics").get(id).is_some_and(Member::was_told);
        let failed = start.filter(|(_, uptime)| !was_told && is_failed_start(end, *uptime));
        // Asked before what is left of it is removed.
        let said = match failed {
            Some(_) => self.last_words(id, platform, identity.as_ref()).await,
            None => None,
        };
        self.clean_up_after(id, platform, identity.as_ref()).await;
        info!(worker = %id, %end, "worker ended");
        self.0.running.lock().expect("no holder panics").remove(id);
        if let Some((at, uptime)) = failed {
            let said = said.unwrap_or_else(|| "it said nothing".into());
            self.0.starts.failed(&self.0.app, at, format!("worker `{id}` {end}: {said}"), uptime);
        }
        let why = end.to_string();
        while let Err(error) = self.end(id, cause(end), why.clone()).await {
            if self.0.app.is_stopping() {
                return;
            }
            error!(worker = %id, error = %chain(&error), "could not release the leases of an ended worker; trying again");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        self.0.app.look_again.notify_one();
    }

    /// The last thing that a worker said, for people.
    async fn last_words(
        &self,
        id: &WorkerId,
        platform: &Platform,
        identity: Option<&Identity>,
    ) -> Option<String> {
        match platform {
            Platform::Process(_) => process::last_line(&self.0.app.state_dir, id),
            Platform::Docker(platform) => last_line_of(&platform.last_output(id.as_str()).await?),
            Platform::Compose(platform) => match identity {
                Some(Identity::Docker(it)) => last_line_of(&platform.last_output(&it.container).await?),
                _ => None,
            },
        }
    }

    /// Kills what a dead worker left running. Tries for as long as a lease lasts: what still runs must not meet its task's
    /// next attempt.
    async fn clean_up_after(&self, id: &WorkerId, platform: &Platform, identity: Option<&Identity>) {
        let deadline = Instant::now() + crate::link::LEASE;
        loop {
            match platform.sweep(id.as_str(), identity).await {
                Ok(survivors) if survivors.is_empty() => return,
                Ok(survivors) => {
                    error!(worker = %id, ?survivors, "what a dead worker started lives on")
                }
                Err(failed) => {
                    error!(worker = %id, error = %chain(&failed), "could not clean up after a worker")
                }
            }
            if Instant::now() > deadline || self.0.app.is_stopping() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn end(&self, id: &WorkerId, cause: Interruption, why: String) -> Result<(), StoreError> {
        let end = longshore_store::WorkerEnd { worker: id.clone(), nonce: None, cause, why };
        self.0.app.store.worker_ended(end, roll(), now()).await.map(drop)
    }

    /// See [`Starts::came_up`].
    pub fn came_up(&self, fleet: &FleetName, release: Release, others: &[Release], registered_at: Timestamp) {
        self.0.starts.came_up(&self.0.app, (fleet, release), others, registered_at);
    }

    /// See [`Starts::forget`].
    pub fn forget_trouble(&self, fleet: &FleetName) {
        self.0.starts.forget(&self.0.app, fleet);
    }

    /// Tells a worker to drain. Returns whether it could: what would bring it back has to be asked first.
    pub async fn drain(
        &self,
        record: &WorkerRecord,
        mode: DrainMode,
        timeout_ms: u64,
    ) -> Result<bool, StoreError> {
        if !self.leaves(record).await {
            return Ok(false);
        }
        self.0.app.store.order_drain(record.id.clone(), mode, timeout_ms, now()).await.map(|_| true)
    }

    /// Follows up on a draining worker: one that never registered cannot hear the order, one that overstays is killed.
    pub fn enforce(&self, record: &WorkerRecord) {
        let Some(order) = &record.drain else { return };
        let mut running = self.0.running.lock().expect("no holder panics");
        let Some(member) = running.get_mut(&record.id) else { return };
        let kill_at = member.kill_at.get_or_insert_with(|| {
            if record.registered_at.is_none() {
                member.running.signal(Signal::SIGTERM);
            }
            // Since the order, which an earlier control plane may have given.
            let since = record.drain_ordered_at.map_or(Duration::ZERO, |at| now().since(at));
            Instant::now() + (Duration::from_millis(order.timeout_ms) + GRACE).saturating_sub(since)
        });
        if *kill_at <= Instant::now() {
            warn!(worker = %record.id, "worker did not end within its drain time-out: it is killed");
            member.running.signal(Signal::SIGKILL);
        }
        // Somebody else may have told it, who does not see to its container.
        if matches!(member.running, Running::Compose(_)) && member.restarts.ask() {
            let (crew, record) = (self.clone(), record.clone());
            tokio::spawn(async move { crew.leaves(&record).await });
        }
    }

    /// Whether workers are being drained for good.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Relaxed)
    }

    /// Starts no more workers, drains every one there is and waits until all have ended.
    pub async fn drain_all(&self) {
        self.0.closed.store(true, Ordering::Relaxed);
        // Whoever is at it has planned its worker once we get through.
        drop(self.0.gate.lock().await);
        while !self.starting().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let running: Vec<_> = self.own_members();
        if running.is_empty() {
            return;
        }
        info!(workers = running.len(), "draining all workers");
        let deadline = self.last_drain().await;
        for (_, running) in &running {
            running.signal(Signal::SIGTERM);
        }
        join_all(running.into_iter().map(|(id, running)| self.see_out(id, running, deadline))).await;
    }

    /// Waits until a worker that drains has ended and its tasks are released; not for ever, since an engine that is away ends
    /// nothing. The next control plane finds again what is left.
    async fn see_out(&self, id: WorkerId, running: Running, deadline: Instant) {
        if tokio::time::timeout_at(deadline.into(), running.ended()).await.is_err() {
            warn!(worker = %id, "worker did not end within its drain time-out: it is killed");
            let killed = liveness::kill_until(running.ended(), || running.signal(Signal::SIGKILL));
            if tokio::time::timeout(UNKILLED, killed).await.is_err() {
                let at = running.identity();
                error!(worker = %id, %at, "worker could not be killed and is left: the next start looks for it");
                return;
            }
        }
        // Until it is buried, its tasks are not released.
        let buried = async {
            while self.has(&id) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(UNKILLED, buried).await.is_err() {
            error!(worker = %id, "what an ended worker left could not be seen to: its tasks go on when their leases end");
        }
    }

    /// When the last worker must have drained, by the longest time-out of all fleets.
    async fn last_drain(&self) -> Instant {
        let asked = async {
            loop {
                match self.0.app.store.fleets().await {
                    Ok(fleets) => return fleets,
                    Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
                }
            }
        };
        let fleets = tokio::time::timeout(GRACE, asked).await.unwrap_or_else(|_| {
            warn!("drain time-outs could not be read: workers get two minutes to drain");
            Vec::new()
        });
        let longest =
            fleets.iter().map(|record| record.declaration.drain.timeout_ms).max().unwrap_or(120_000);
        Instant::now() + Duration::from_millis(longest) + GRACE
    }

    /// A second signal to every worker: hand over at once.
    pub fn hurry(&self) {
        for (_, running) in self.own_members() {
            running.signal(Signal::SIGTERM);
        }
    }

    /// Without those that docker-compose keeps: they outlive this process.
    fn own_members(&self) -> Vec<(WorkerId, Running)> {
        let own = |(_, running): &(WorkerId, Running)| !matches!(running, Running::Compose(_));
        self.members().into_iter().filter(own).collect()
    }

    fn members(&self) -> Vec<(WorkerId, Running)> {
        let running = self.0.running.lock().expect("no holder panics");
        running.iter().map(|(id, member)| (id.clone(), member.running.clone())).collect()
    }
}

impl Member {
    fn was_told(&self) -> bool {
        self.kill_at.is_some()
    }
}

/// The fleet's secrets, read now. Errors name the secret and its source, never a value.
fn secrets(fleet: &Fleet) -> Result<Vec<(String, String)>, String> {
    let read = fleet.secrets.iter().map(|(name, source)| match read_secret(source) {
        Ok(value) => Ok((name.clone(), value)),
        Err(error) => Err(format!("could not read secret `{name}` from {}: {error}", name_secret(source))),
    });
    read.collect()
}

/// The last line that says something; short.
fn last_line_of(text: &str) -> Option<String> {
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.chars().take(500).collect())
}

/// A crash may be a task's doing; a kill from outside or an exit of its own is not.
pub fn cause(end: End) -> Interruption {
    if end.is_crash() { Interruption::WorkerCrashed } else { Interruption::WorkerEnded }
}
