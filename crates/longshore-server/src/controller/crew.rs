//! The workers of platform `process`: started, found again, watched, drained, and cleaned up after.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use longshore_core::errors::chain;
use longshore_core::fleet::{DrainMode, Fleet};
use longshore_core::id::{FleetName, WorkerId};
use longshore_core::json::Json;
use longshore_core::restart::{failures_after, restart_after};
use longshore_core::task::Interruption;
use longshore_core::time::Timestamp;
use longshore_platform::process::{
    Found, ProcessIdentity, ProcessPlatform, Running, Signal, WorkerEnd, WorkerSpec,
};
use longshore_store::{FleetRecord, PlannedWorker, StoreError, WorkerFilter, WorkerRecord};
use tracing::{error, info, warn};

use super::{liveness, name_secret, read_secret};
use crate::app::{App, now, roll};
use crate::start::{StartError, write_token};

/// What a draining worker gets beyond its drain time-out before it is killed.
const GRACE: Duration = Duration::from_secs(15);

/// What of our own environment a worker gets: enough to run programs, nothing secret.
const PASSED_ON: [&str; 21] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TERM",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
];

/// Cheap to clone.
#[derive(Clone)]
pub struct Crew(Arc<Inner>);

struct Inner {
    app: App,
    platform: ProcessPlatform,
    program: PathBuf,
    running: Mutex<HashMap<WorkerId, Member>>,
    starts: Mutex<HashMap<FleetName, Starts>>,
    /// Workers are being drained for good: none is started any more.
    closed: AtomicBool,
    /// Held while a worker is started, so that none slips in after `closed`.
    gate: tokio::sync::Mutex<()>,
}

struct Member {
    running: Running,
    /// Set once it was told to drain: when it is killed if it is still there.
    kill_at: Option<Instant>,
}

/// How starting workers of a fleet has gone lately.
#[derive(Default)]
struct Starts {
    failures: u32,
    not_before: Option<Instant>,
    failed_at: Timestamp,
}

/// A worker that a signal ends this soon after its start most likely ended by its own doing.
const SOON: Duration = Duration::from_secs(3);

impl Crew {
    pub fn new(app: App, program: PathBuf) -> Result<Crew, Box<dyn std::error::Error + Send + Sync>> {
        let platform = ProcessPlatform::new()?;
        Ok(Crew(Arc::new(Inner {
            app,
            platform,
            program,
            running: Mutex::default(),
            starts: Mutex::default(),
            closed: AtomicBool::new(false),
            gate: tokio::sync::Mutex::default(),
        })))
    }

    /// Finds the workers again that an earlier control plane started; ends those that are gone.
    pub async fn adopt(&self) -> Result<(), StartError> {
        let records = self.0.app.store.workers(WorkerFilter::default()).await?;
        let known: Vec<WorkerId> = self.0.running.lock().expect("no holder panics").keys().cloned().collect();
        let records = records.into_iter().filter(|record| !known.contains(&record.id));
        for record in records.filter(|record| record.platform == self.0.app.own_platform) {
            let identity = record.identity.as_ref().and_then(|json| json.read::<ProcessIdentity>().ok());
            let found = self.0.platform.find_again(record.id.as_str(), identity.as_ref()).await;
            match found.map_err(|error| StartError::Platform(error.into()))? {
                Found::Running(running) => self.found(&record, running).await?,
                Found::Gone(why) => {
                    info!(worker = %record.id, why = ?why, "worker of an earlier control plane is gone");
                    self.bury(&record.id, identity.as_ref(), WorkerEnd::Gone, None).await;
                }
            }
        }
        Ok(())
    }

    async fn found(&self, record: &WorkerRecord, running: Running) -> Result<(), StoreError> {
        info!(worker = %record.id, pid = running.identity().pid, "worker found again");
        self.0.app.store.save_identity(record.id.clone(), Json::of(running.identity()), now()).await?;
        let fleet = self.0.app.store.fleet(record.fleet.clone()).await?;
        let probe = fleet.map(|record| record.declaration.probe).unwrap_or_default();
        self.keep(&record.id, &record.fleet, running, probe);
        Ok(())
    }

    /// Whether a worker of this fleet may be started now: it needs somebody to register with, and its starts must not have
    /// failed too often lately.
    pub fn may_start(&self, fleet: &FleetName) -> bool {
        if self.0.app.links_to_start_with().is_empty() {
            let why = "no control plane with the role `link` is there, so workers could not register";
            self.0.app.trouble.lock().expect("no holder panics").insert(fleet.clone(), why.into());
            return false;
        }
        let starts = self.0.starts.lock().expect("no holder panics");
        starts.get(fleet).and_then(|starts| starts.not_before).is_none_or(|at| at <= Instant::now())
    }

    /// Starts one worker: its id is saved first, so that a restart of ours can find it at any time.
    pub async fn start(&self, record: &FleetRecord) -> Result<(), StoreError> {
        let _gate = self.0.gate.lock().await;
        if self.is_closed() {
            return Ok(());
        }
        let fleet = &record.declaration;
        let id = self.next_id(&fleet.name).await?;
        let planned = PlannedWorker {
            id: id.clone(),
            fleet: fleet.name.clone(),
            release: record.release,
            platform: self.0.app.own_platform.clone(),
        };
        // Not saved: another replica leads by now, or has made the very same plan.
        let Some(epoch) = self.0.app.epoch() else { return Ok(()) };
        if !self.0.app.store.plan_worker(planned, epoch, now()).await? {
            return Ok(());
        }
        let spec = match self.spec(fleet, &id) {
            Ok(spec) => spec,
            Err(why) => return self.not_started(fleet, &id, why).await,
        };
        match self.0.platform.start(spec).await {
            Ok(running) => {
                // Watched first: if its identity cannot be saved, a restart of ours still finds it by its id.
                let identity = Json::of(running.identity());
                self.keep(&id, &fleet.name, running, fleet.probe);
                self.0.app.store.save_identity(id, identity, now()).await.map(drop)
            }
            Err(failed) => self.not_started(fleet, &id, chain(&failed)).await,
        }
    }

    async fn not_started(&self, fleet: &Fleet, id: &WorkerId, why: String) -> Result<(), StoreError> {
        error!(worker = %id, fleet = %fleet.name, why, "worker could not be started");
        self.start_failed(&fleet.name, why.clone(), Duration::ZERO);
        self.end(id, Interruption::WorkerEnded, why).await.map(drop)
    }

    /// Names follow from a counter in the store, so that a name is never given twice; and they name the installation,
    /// since what carries a dead worker's name is killed, and another installation may run on this machine.
    async fn next_id(&self, fleet: &FleetName) -> Result<WorkerId, StoreError> {
        let key = format!("ordinal:{fleet}");
        let last = self.0.app.store.meta_get(key.clone()).await?.and_then(|text| text.parse::<u64>().ok());
        let ordinal = last.unwrap_or(0) + 1;
        self.0.app.store.meta_put(key, ordinal.to_string()).await?;
        let name = format!("{fleet}-{}-{ordinal}", self.0.app.signer.installation());
        Ok(WorkerId::new(name).expect("a fleet's name, letters and a number make a worker id"))
    }

    fn spec(&self, fleet: &Fleet, id: &WorkerId) -> Result<WorkerSpec, String> {
        let dir = &self.0.app.state_dir;
        let absolute =
            fs::canonicalize(dir).map_err(|error| format!("could not use `{}`: {error}", dir.display()))?;
        for folder in ["logs", "tmp"].map(|name| absolute.join(name)) {
            fs::create_dir_all(&folder)
                .map_err(|error| format!("could not create `{}`: {error}", folder.display()))?;
        }
        let mut args: Vec<_> =
            ["worker", "--id", id.as_str(), "--probe-addr", "127.0.0.1:0", "--agent-port", "0", "--"]
                .map(Into::into)
                .to_vec();
        args.extend(fleet.command.iter().map(Into::into));
        Ok(WorkerSpec {
            worker_id: id.to_string(),
            program: self.0.program.clone(),
            args,
            env: self.environment(fleet, id, &absolute)?,
            env_clear: true,
            working_dir: PathBuf::from(&fleet.working_dir),
            log_file: log_file(&absolute, id),
        })
    }

    fn environment(
        &self,
        fleet: &Fleet,
        id: &WorkerId,
        dir: &Path,
    ) -> Result<Vec<(std::ffi::OsString, std::ffi::OsString)>, String> {
        let passed = PASSED_ON.iter().filter_map(|name| Some(((*name).into(), std::env::var_os(name)?)));
        let mut env: Vec<_> = passed.collect();
        env.extend(fleet.env.iter().map(|(name, value)| (name.into(), value.into())));
        for (name, source) in &fleet.secrets {
            let value = read_secret(source).map_err(|error| {
                format!("could not read secret `{name}` from {}: {error}", name_secret(source))
            })?;
            env.push((name.into(), value.into()));
        }
        let log = std::env::var_os("LONGSHORE_LOG").map(|log| ("LONGSHORE_LOG".into(), log));
        env.extend(log);
        // On the store's disk, where what a killed worker leaves behind is found and removed.
        env.push(("TMPDIR".into(), dir.join("tmp").into()));
        env.push(("LONGSHORE_WORKER_ID".into(), id.as_str().into()));
        env.push(("LONGSHORE_FLEET".into(), fleet.name.as_str().into()));
        env.push(("LONGSHORE_LINK".into(), self.0.app.links_to_start_with().join(",").into()));
        let trust = self.0.app.link_trust.as_ref();
        env.extend(trust.map(|trust| ("LONGSHORE_LINK_CA".into(), trust.to_string().into())));
        // The fleet may have been declared at another replica.
        let token = write_token(&self.0.app, dir, &fleet.name).map_err(|error| chain(&error))?;
        env.push(("LONGSHORE_WORKER_TOKEN_FILE".into(), token.into()));
        Ok(env)
    }

    /// Watches a running worker until its end.
    fn keep(&self, id: &WorkerId, fleet: &FleetName, running: Running, probe: longshore_core::fleet::Probe) {
        let member = Member { running: running.clone(), kill_at: None };
        self.0.running.lock().expect("no holder panics").insert(id.clone(), member);
        tokio::spawn(liveness::watch(self.0.app.clone(), id.clone(), running.clone(), probe));
        let (crew, id, fleet, born) = (self.clone(), id.clone(), fleet.clone(), Instant::now());
        tokio::spawn(async move {
            let end = running.ended().await;
            crew.bury(&id, Some(running.identity()), end, Some((&fleet, born.elapsed()))).await;
        });
    }

    /// Kills what an ended worker left behind, and only then gives its tasks to others.
    async fn bury(
        &self,
        id: &WorkerId,
        identity: Option<&ProcessIdentity>,
        end: WorkerEnd,
        start: Option<(&FleetName, Duration)>,
    ) {
        self.clean_up_after(id, identity).await;
        info!(worker = %id, %end, "worker ended");
        let was_told = self.0.running.lock().expect("no holder panics").remove(id);
        let was_told = was_told.is_some_and(|member| member.kill_at.is_some());
        if let Some((fleet, uptime)) = start {
            self.judge_start(fleet, id, &end, uptime, was_told);
        }
        let why = end.to_string();
        while let Err(error) = self.end(id, cause(&end), why.clone()).await {
            if self.0.app.is_stopping() {
                return;
            }
            error!(worker = %id, error = %chain(&error), "could not release the leases of an ended worker; trying again");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        self.0.app.look_again.notify_one();
    }

    /// Kills what a dead worker left running. Tries for as long as a lease lasts: what still runs must not meet its task's
    /// next attempt.
    async fn clean_up_after(&self, id: &WorkerId, identity: Option<&ProcessIdentity>) {
        let deadline = Instant::now() + crate::link::LEASE;
        loop {
            match self.0.platform.sweep(id.as_str(), identity).await {
                Ok(swept) if swept.survivors.is_empty() => return,
                Ok(swept) => {
                    error!(worker = %id, survivors = ?swept.survivors, "a dead worker's processes live on")
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

    /// A worker that ends by itself soon after its start will do so again: wait longer each time.
    fn judge_start(
        &self,
        fleet: &FleetName,
        id: &WorkerId,
        end: &WorkerEnd,
        uptime: Duration,
        was_told: bool,
    ) {
        let by_itself = match end {
            WorkerEnd::Exited(status) => *status != 0,
            WorkerEnd::Signaled(signal) => is_crash(*signal) || uptime < SOON,
            WorkerEnd::Gone => false,
        };
        if !by_itself || was_told {
            return;
        }
        let last = last_line(&log_file(&self.0.app.state_dir, id));
        let why = format!("worker `{id}` {end}: {last}");
        self.start_failed(fleet, why, uptime);
    }

    fn start_failed(&self, fleet: &FleetName, why: String, uptime: Duration) {
        let mut starts = self.0.starts.lock().expect("no holder panics");
        let starts = starts.entry(fleet.clone()).or_default();
        let uptime_ms = uptime.as_millis() as u64;
        starts.failures = failures_after(starts.failures, uptime_ms);
        let wait = restart_after(starts.failures, uptime_ms, roll());
        starts.not_before = Some(Instant::now() + wait);
        starts.failed_at = now();
        warn!(%fleet, why, failures = starts.failures, wait_ms = wait.as_millis() as u64, "workers do not come up");
        self.0.app.trouble.lock().expect("no holder panics").insert(fleet.clone(), why);
    }

    /// A worker of the current declaration registered at this time and is ready: if that was after the last failed
    /// start, whatever kept the fleet's workers from coming up is over.
    pub fn came_up(&self, fleet: &FleetName, registered_at: Timestamp) {
        let mut starts = self.0.starts.lock().expect("no holder panics");
        if starts.get(fleet).is_some_and(|starts| registered_at <= starts.failed_at) {
            return;
        }
        starts.remove(fleet);
        self.0.app.trouble.lock().expect("no holder panics").remove(fleet);
    }

    /// Tells a worker to drain.
    pub async fn drain(
        &self,
        record: &WorkerRecord,
        mode: DrainMode,
        timeout_ms: u64,
    ) -> Result<(), StoreError> {
        self.0.app.store.order_drain(record.id.clone(), mode, timeout_ms, now()).await.map(drop)
    }

    /// Follows up on a draining worker: one that never registered cannot hear the order, one that overstays is killed.
    pub fn enforce(&self, record: &WorkerRecord) {
        let Some(order) = &record.drain else { return };
        let mut running = self.0.running.lock().expect("no holder panics");
        let Some(member) = running.get_mut(&record.id) else { return };
        let kill_at = member.kill_at.get_or_insert_with(|| {
            if record.registered_at.is_none() {
                let _ = member.running.signal(Signal::SIGTERM);
            }
            // Since the order, which an earlier control plane may have given.
            let since = record.drain_ordered_at.map_or(Duration::ZERO, |at| now().since(at));
            Instant::now() + (Duration::from_millis(order.timeout_ms) + GRACE).saturating_sub(since)
        });
        if *kill_at <= Instant::now() {
            warn!(worker = %record.id, "worker did not end within its drain time-out: it is killed");
            let _ = member.running.signal(Signal::SIGKILL);
        }
    }

    /// Whether workers are being drained for good.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Relaxed)
    }

    /// Starts no more workers, drains every one there is and waits until all have ended.
    pub async fn drain_all(&self) {
        self.0.closed.store(true, Ordering::Relaxed);
        // Whoever is at it has started its worker once we get through.
        drop(self.0.gate.lock().await);
        let running: Vec<_> = self.members();
        if running.is_empty() {
            return;
        }
        info!(workers = running.len(), "draining all workers");
        let deadline = self.last_drain().await;
        for (_, running) in &running {
            let _ = running.signal(Signal::SIGTERM);
        }
        for (id, running) in running {
            if tokio::time::timeout_at(deadline.into(), running.ended()).await.is_err() {
                warn!(worker = %id, "worker did not end within its drain time-out: it is killed");
                let _ = running.signal(Signal::SIGKILL);
                running.ended().await;
            }
            // Until it is buried, its tasks are not released.
            while self.0.running.lock().expect("no holder panics").contains_key(&id) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// When the last worker must have drained, by the longest time-out of all fleets.
    async fn last_drain(&self) -> Instant {
        let fleets = self.0.app.store.fleets().await.unwrap_or_default();
        let longest =
            fleets.iter().map(|record| record.declaration.drain.timeout_ms).max().unwrap_or(120_000);
        Instant::now() + Duration::from_millis(longest) + GRACE
    }

    /// A second signal to every worker: hand over at once.
    pub fn hurry(&self) {
        for (_, running) in self.members() {
            let _ = running.signal(Signal::SIGTERM);
        }
    }

    fn members(&self) -> Vec<(WorkerId, Running)> {
        let running = self.0.running.lock().expect("no holder panics");
        running.iter().map(|(id, member)| (id.clone(), member.running.clone())).collect()
    }
}

fn log_file(dir: &Path, id: &WorkerId) -> PathBuf {
    dir.join("logs").join(format!("{id}.log"))
}

/// The last thing that a worker said, for people; short. Reads the end of its log only.
fn last_line(log: &Path) -> String {
    const END: u64 = 4096;
    let mut bytes = Vec::new();
    let read = fs::File::open(log).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(END)))?;
        file.take(END).read_to_end(&mut bytes)
    });
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rev().find(|line| read.is_ok() && !line.trim().is_empty());
    line.unwrap_or("it said nothing").chars().take(500).collect()
}

/// A crash may be a task's doing; a kill from outside or an exit of its own is not.
fn cause(end: &WorkerEnd) -> Interruption {
    match end {
        // 101 is a panic of the supervisor.
        WorkerEnd::Exited(101) => Interruption::WorkerCrashed,
        WorkerEnd::Signaled(signal) if is_crash(*signal) => Interruption::WorkerCrashed,
        _ => Interruption::WorkerEnded,
    }
}

fn is_crash(signal: i32) -> bool {
    [Signal::SIGSEGV, Signal::SIGABRT, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE]
        .into_iter()
        .any(|crash| crash as i32 == signal)
}
