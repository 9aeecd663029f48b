//! Forgets what nobody asks for any more: ended workers and their logs, silent strangers, old idempotency keys.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use longshore_core::errors::chain;
use longshore_core::id::WorkerId;
use longshore_core::task::Interruption;
use longshore_core::time::Timestamp;
use longshore_store::{StoreError, WorkerEnd, WorkerFilter, WorkerRecord};
use tracing::{info, warn};

use super::sleep_or_stop;
use crate::app::{App, now, roll};
use crate::ends::Ending;

const EVERY: Duration = Duration::from_secs(60);

/// How long ended workers, and their logs, are kept.
const KEEP_ENDED: Duration = Duration::from_secs(3600);

/// How long a repeated request with the same key is known.
const KEEP_KEYS: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long messages to webhooks are kept after they were delivered or given up.
const KEEP_DELIVERIES: Duration = Duration::from_secs(3 * 24 * 3600);

/// A worker that was cut off ends itself after 10 minutes; one that nobody watches and that is silent for longer has.
/// So many looks in a row, one a minute, that found it silent: a look that the store does not answer is none.
const SILENT_FOR_GOOD: u32 = 11;

/// A worker's log that is larger is begun anew; what it held is kept once.
const LOG_LIMIT: u64 = 64 << 20;

pub async fn run(app: App) -> &'static str {
    let mut silences = Silences::default();
    loop {
        tidy(&app, &mut silences).await;
        if sleep_or_stop(&app, EVERY).await {
            return "housekeeping";
        }
    }
}

async fn tidy(app: &App, silences: &mut Silences) {
    let store = &app.store;
    if app.epoch().is_some() {
        step("end silent workers", end_the_silent(app, silences)).await;
        // Before all that may take long: without room for what comes, nothing can be submitted.
        step("make room", store.make_room(now())).await;
        step("forget ended workers", store.forget_workers(now().before(KEEP_ENDED))).await;
        // Fixed before: with a bound that moves along, there may always be one more.
        let (old_keys, old_deliveries) = (now().before(KEEP_KEYS), now().before(KEEP_DELIVERIES));
        let keys = until_none_is_left(app, || store.forget_keys(old_keys));
        step("forget old idempotency keys", keys).await;
        let deliveries = until_none_is_left(app, || store.forget_deliveries(old_deliveries));
        step("forget ended deliveries", deliveries).await;
    }
    step("forget what is known of workers here", forget_here(app)).await;
}

/// One that fails is said and tried again at the next look: the others do not wait for it.
async fn step<T>(what: &'static str, done: impl Future<Output = Result<T, StoreError>>) {
    if let Err(error) = done.await {
        warn!(step = what, error = %chain(&error), "housekeeping fails; it is tried again");
    }
}

/// Repeats what forgets some at a time, while this replica leads.
async fn until_none_is_left<F>(app: &App, forget: impl Fn() -> F) -> Result<(), StoreError>
where
    F: Future<Output = Result<usize, StoreError>>,
{
    while !app.is_stopping() && app.epoch().is_some() && forget().await? > 0 {}
    Ok(())
}

/// What this replica holds of workers that the store has forgotten.
async fn forget_here(app: &App) -> Result<(), StoreError> {
    let known = app.store.workers(WorkerFilter { fleet: None, gone: true }).await?;
    let known: HashSet<WorkerId> = known.into_iter().map(|worker| worker.id).collect();
    app.polls.lock().expect("no holder panics").retain(|worker, _| known.contains(worker));
    app.worker_fleets.lock().expect("no holder panics").retain(|worker, _| known.contains(worker));
    let logs = app.state_dir.join("logs");
    // Copying a large log blocks.
    let _ = tokio::task::spawn_blocking(move || tidy_logs(&logs, &known)).await;
    Ok(())
}

/// Workers that others started end without a word when they are killed.
async fn end_the_silent(app: &App, silences: &mut Silences) -> Result<(), StoreError> {
    let mut workers = app.store.workers(WorkerFilter::default()).await?;
    workers.retain(|worker| worker.platform != app.own_platform);
    let seen = workers.iter().filter_map(|it| Some((it.id.clone(), heard(it)?)));
    let silent = silences.look(seen);
    for worker in workers.into_iter().filter(|worker| silent.contains(&worker.id)) {
        info!(worker = %worker.id, "worker was silent for too long and counts as ended");
        let (nonce, cause, why) = (worker.nonce, Interruption::LeaseExpired, Ending::Silent.to_string());
        app.store.worker_ended(WorkerEnd { worker: worker.id, nonce, cause, why }, roll(), now()).await?;
    }
    Ok(())
}

/// Since when a worker is silent, if it should not be. A pod that never registered may wait for a node as long as it likes; a
/// process that has not was lost with its machine, or with whoever was to start it.
fn heard(worker: &WorkerRecord) -> Option<Timestamp> {
    let planned = worker.planned_at.filter(|_| worker.platform.starts_with("process"));
    worker.last_seen.or(worker.registered_at).or(planned)
}

/// How many looks in a row have found nothing new of each worker: when it was last seen was written down by the clock of
/// whichever replica it spoke to, so only a change of it says anything.
#[derive(Default)]
struct Silences(HashMap<WorkerId, (Timestamp, u32)>);

impl Silences {
    /// Takes when each was last seen, and returns those of which that has been the same for too long.
    fn look(&mut self, seen: impl Iterator<Item = (WorkerId, Timestamp)>) -> HashSet<WorkerId> {
        let mut known = std::mem::take(&mut self.0);
        self.0 = seen
            .map(|(worker, seen)| {
                let looks = known.remove(&worker).filter(|(before, _)| *before == seen);
                (worker, (seen, looks.map_or(0, |(_, looks)| looks + 1)))
            })
            .collect();
        let silent = self.0.iter().filter(|(_, (_, looks))| *looks >= SILENT_FOR_GOOD);
        silent.map(|(worker, _)| worker.clone()).collect()
    }
}

fn tidy_logs(folder: &Path, known: &HashSet<WorkerId>) {
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let worker =
            path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| WorkerId::new(stem).ok());
        let done = match worker {
            Some(worker) if !known.contains(&worker) => fs::remove_file(&path),
            Some(_) if path.extension().is_some_and(|ending| ending == "log") => cut(&path),
            _ => Ok(()),
        };
        if let Err(error) = done {
            warn!(%error, log = %path.display(), "could not tidy a worker's log");
        }
    }
}

/// Its worker appends to the file and cannot be given another one: so its text is copied and the file emptied.
fn cut(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.len() <= LOG_LIMIT {
        return Ok(());
    }
    let older: PathBuf = path.with_extension("old");
    fs::copy(path, older)?;
    fs::OpenOptions::new().write(true).open(path)?.set_len(0)
}

#[cfg(test)]
mod tests {
    use longshore_core::id::FleetName;
    use longshore_store::WorkerState;

    use super::*;

    #[test]
    fn who_is_heard_of_is_not_silent_whatever_the_clocks_say() {
        let mut silences = Silences::default();
        let mut look = |seen: &[(&str, i64)]| {
            let seen = seen.iter().map(|(name, at)| (WorkerId::new(*name).expect("a name"), Timestamp(*at)));
            let mut silent: Vec<String> = silences.look(seen).iter().map(WorkerId::to_string).collect();
            silent.sort();
            silent
        };
        for _ in 0..8 {
            assert_eq!(look(&[("steady", 5), ("killed", 9_000_000)]), [""; 0]);
        }
        // A replica whose clock is behind hears of one.
        for _ in 8..11 {
            assert_eq!(look(&[("steady", 4), ("killed", 9_000_000)]), [""; 0]);
        }
        assert_eq!(look(&[("steady", 4), ("killed", 9_000_000)]), ["killed"]);
        // One that was forgotten and comes back is new.
        assert_eq!(look(&[("steady", 4)]), [""; 0]);
        assert_eq!(look(&[("steady", 4), ("killed", 9_000_000)]), [""; 0]);
    }

    #[test]
    fn a_process_that_never_registered_is_silent_since_it_was_planned_and_a_pod_is_not() {
        let worker = |platform: &str| WorkerRecord {
            id: WorkerId::new("research-abcdef-7").expect("a name"),
            fleet: FleetName::new("research").expect("a name"),
            nonce: None,
            last_claim: 0,
            state: WorkerState::Starting,
            reason: String::new(),
            memory: 0,
            concurrency: 1,
            version: String::new(),
            host: None,
            pid: None,
            probe_addr: None,
            platform: platform.into(),
            identity: None,
            release: 1,
            planned_at: Some(Timestamp(5)),
            registered_at: None,
            last_seen: None,
            drain: None,
            drain_ordered_at: None,
            ended_at: None,
            end: None,
            in_flight: 0,
        };
        assert_eq!(heard(&worker("process@lost")), Some(Timestamp(5)));
        assert_eq!(heard(&worker("kubernetes@agents")), None, "it waits for a node");
        let registered = WorkerRecord { registered_at: Some(Timestamp(7)), ..worker("process@lost") };
        assert_eq!(heard(&registered), Some(Timestamp(7)));
    }

    #[test]
    fn logs_of_forgotten_workers_go_and_large_ones_are_cut() {
        let folder = std::env::temp_dir().join(format!("longshore-logs-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&folder).expect("a folder");
        let write = |name: &str, size: u64| {
            let file = fs::File::create(folder.join(name)).expect("a file");
            file.set_len(size).expect("sparse");
        };
        write("a-1.log", 10);
        write("a-2.log", LOG_LIMIT + 1);
        write("a-3.log", 10);
        let known = ["a-1", "a-2"].map(|id| WorkerId::new(id).expect("valid")).into();
        tidy_logs(&folder, &known);
        let size = |name: &str| fs::metadata(folder.join(name)).ok().map(|file| file.len());
        assert_eq!((size("a-1.log"), size("a-2.log"), size("a-3.log")), (Some(10), Some(0), None));
        assert_eq!(size("a-2.old"), Some(LOG_LIMIT + 1));
        fs::remove_dir_all(folder).expect("cleaned up");
    }
}
