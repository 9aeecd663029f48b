//! Fleets whose workers are replicas of a compose service: which container belongs to which worker, what becomes of those that
//! ended, and what is said to people.
//!
//! A replica and its worker are known to belong together by the container's id: a worker that docker-compose started says it as
//! its host, and one that we added carries the worker's id as a label. Only a replica whose worker was told to drain is removed,
//! or one of ours that has been left behind; all else that ends is docker-compose's own business.

mod note;
mod stand;

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use longshore_core::errors::chain;
use longshore_core::fleet::{Fleet, Platform as Declared};
use longshore_core::id::{FleetName, WorkerId};
use longshore_platform::docker::DockerPlatform;
use longshore_platform::docker::compose::{self, Replica, Service};
use longshore_platform::{Platform, Running};
use longshore_store::{Epoch, FleetRecord, WorkerFilter, WorkerRecord};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tracing::{info, warn};

use self::note::Notes;
use self::stand::{Stand, worker_of};
use super::containers::REMOVAL;
use super::{Crew, docker, planes};
use crate::app::{App, now};
use crate::controller::sleep_or_stop;

/// How often the services are looked through.
const LOOK: Duration = Duration::from_secs(1);

/// What names of compose platforms begin with; the engine's id follows.
pub const PLACE: &str = "compose@";

/// docker-compose replaces a replica by stopping it first: what ended is given that long to be followed by another.
const FOLLOWED: Duration = Duration::from_secs(15);

/// Until then an order to drain is in the store, and the worker's record says all about it.
const ORDERED: Duration = Duration::from_secs(10);

/// A replica that we added and that ended by itself is left behind by then.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

/// How soon the removal of a container is tried again that the engine could not remove.
const REMOVED_AGAIN: Duration = Duration::from_secs(15);

pub struct Compose {
    fleets: Mutex<HashMap<FleetName, Seen>>,
    /// Where the project is on the host, as a replica said last.
    folder: Mutex<Option<String>>,
    /// Replicas are added one after the other, since the next one's number follows from those that are there.
    turn: Semaphore,
}

impl Default for Compose {
    fn default() -> Self {
        Compose { fleets: Mutex::default(), folder: Mutex::default(), turn: Semaphore::new(1) }
    }
}

/// A service as it was seen last. What is remembered only makes a restarted control plane slower to act.
#[derive(Default)]
struct Seen {
    /// As which leader it has been looked at.
    adopted: Option<Epoch>,
    /// Since when replicas have run, or have been ended, without a worker.
    since: HashMap<String, (bool, Instant)>,
    /// Hosts and ids of workers that are on their way.
    expected: Vec<String>,
    /// Containers whose worker was told to drain.
    leaving: HashMap<String, Instant>,
    /// Containers that could not be removed: when that was tried last, and why not.
    stuck: HashMap<String, (Instant, String)>,
    notes: Notes,
}

/// A service that a replica can be added to.
pub struct Ready {
    pub platform: DockerPlatform,
    pub place: String,
    pub service: Service,
}

impl Compose {
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turn.acquire().await.ok()
    }

    /// Returns whether this leader has not looked at the fleet before.
    fn has_adopted(&self, fleet: &FleetName, epoch: Epoch) -> bool {
        let mut fleets = self.fleets.lock().expect("no holder panics");
        fleets.entry(fleet.clone()).or_default().adopted.replace(epoch) != Some(epoch)
    }

    fn adopted(&self, app: &App, fleet: &FleetName) -> bool {
        let fleets = self.fleets.lock().expect("no holder panics");
        let adopted = fleets.get(fleet).and_then(|seen| seen.adopted);
        adopted.is_some() && adopted == app.epoch()
    }

    /// Whether this worker runs in a replica of the fleet's service, as far as was seen.
    pub fn expects(&self, worker: &WorkerRecord) -> bool {
        let fleets = self.fleets.lock().expect("no holder panics");
        let expected = fleets.get(&worker.fleet).map(|seen| &seen.expected);
        expected.is_some_and(|expected| expected.iter().any(|it| is_of(it, worker)))
    }

    /// Replicas that run and whose workers have not registered yet.
    pub fn on_their_way(&self, fleet: &FleetName, workers: &[WorkerRecord]) -> u32 {
        let fleets = self.fleets.lock().expect("no holder panics");
        let Some(seen) = fleets.get(fleet) else { return 0 };
        let missing = seen.expected.iter().filter(|it| !workers.iter().any(|worker| is_of(it, worker)));
        u32::try_from(missing.count()).unwrap_or(u32::MAX)
    }

    /// `seen`: where the project is, if a replica says so now. Returns where it was last.
    fn folder(&self, seen: Option<String>) -> Option<String> {
        let mut folder = self.folder.lock().expect("no holder panics");
        if seen.is_some() {
            *folder = seen;
        }
        folder.clone()
    }

    fn leaves(&self, worker: &WorkerRecord, container: &str) {
        let mut fleets = self.fleets.lock().expect("no holder panics");
        let seen = fleets.entry(worker.fleet.clone()).or_default();
        seen.leaving.insert(container.to_owned(), Instant::now());
        seen.expected.retain(|it| !is_of(it, worker));
    }
}

fn is_of(expected: &str, worker: &WorkerRecord) -> bool {
    worker.id.as_str() == expected || worker.host.as_deref() == Some(expected)
}

/// Whether the worker runs in a container of a compose service: added by us, or found to be one of its replicas.
pub fn is_replica(worker: &WorkerRecord) -> bool {
    worker.platform.starts_with(PLACE) || worker.identity.is_some()
}

/// The controller's loop; it acts only while this replica leads and declares such fleets.
pub async fn run(app: App, crew: Crew) -> &'static str {
    while !sleep_or_stop(&app, LOOK).await {
        let Some(epoch) = app.epoch() else { continue };
        // A worker that is being started has a record and no container yet: none begins meanwhile, and others are known.
        let _gate = crew.0.gate.lock().await;
        if let Err(error) = look(&app, &crew, epoch).await {
            warn!(error = %chain(&error), "compose services could not be looked through; it is tried again");
        }
    }
    "compose services"
}

async fn look(app: &App, crew: &Crew, epoch: Epoch) -> Result<(), longshore_store::StoreError> {
    let mut fleets = app.store.fleets().await?;
    fleets.retain(|record| record.declaration.platform == Declared::Compose);
    let mut first = false;
    let mut counts = note::Counted::default();
    for record in &fleets {
        let owner = owner(&fleets, service_of(&record.declaration));
        match look_at(app, crew, record, owner, &mut counts).await {
            Ok(()) => first |= crew.0.compose.has_adopted(&record.name, epoch),
            Err(why) => crew.0.starts.hold(app, (&record.name, record.release), why),
        }
    }
    if first {
        app.look_again.notify_one();
    }
    let names: Vec<_> = fleets.iter().map(|record| &record.name).collect();
    note::tell(app, crew, &names, counts).await;
    Ok(())
}

/// Whose the replicas of a service are: a fleet that is declared no more leaves its service to one that is, as when it got
/// another name.
fn owner<'a>(fleets: &'a [FleetRecord], service: &str) -> Option<&'a FleetName> {
    let with = fleets.iter().filter(|record| service_of(&record.declaration) == service);
    with.min_by_key(|record| !record.active).map(|record| &record.name)
}

fn service_of(fleet: &Fleet) -> &str {
    fleet.service.as_deref().unwrap_or(fleet.name.as_str())
}

/// Errors: what is in the way, for people.
async fn look_at(
    app: &App,
    crew: &Crew,
    record: &FleetRecord,
    owner: Option<&FleetName>,
    counts: &mut note::Counted,
) -> Result<(), String> {
    let (docker, service) = crew.0.service(&record.declaration).await?;
    let platform = Platform::Compose(docker.clone());
    let place = crew.0.compose_place().ok_or("no Docker engine has answered")?;
    let filter = |gone| WorkerFilter { fleet: Some(record.name.clone()), gone };
    let workers = app.store.workers(filter(false)).await.map_err(|error| chain(&error))?;
    // Workers that we added: found again after a restart of ours, or ended meanwhile.
    let added = workers.iter().filter(|worker| worker.platform == place);
    for worker in added.filter(|worker| !crew.is_starting(&worker.id) && !crew.has(&worker.id)) {
        crew.adopt_one(&platform, worker).await.map_err(|error| chain(&error))?;
    }
    if let Some(other) = owner.filter(|owner| **owner != record.name) {
        return match record.active {
            true => Err(format!("{service} is the one of fleet `{other}` already")),
            false => Ok(()),
        };
    }
    let replicas = docker.replicas(&service).await.map_err(|error| chain(&error))?;
    for replica in replicas.iter().filter(|replica| replica.runs) {
        let Some(worker) = worker_of(replica, &workers) else { continue };
        if !crew.has(&worker.id) {
            let running = docker.watch_replica(&service, worker.id.as_str(), &replica.id).await;
            if let Some(running) = running.map_err(|error| chain(&error))? {
                crew.found(worker, Running::Compose(running)).await.map_err(|error| chain(&error))?;
            }
        }
    }
    let ended = match replicas.iter().all(|replica| replica.runs) {
        true => Vec::new(),
        false => app.store.workers(filter(true)).await.map_err(|error| chain(&error))?,
    };
    let mut stand = {
        let mut fleets = crew.0.compose.fleets.lock().expect("no holder panics");
        let seen = fleets.entry(record.name.clone()).or_default();
        seen.look(&replicas, &workers, &ended, Duration::from_millis(record.declaration.probe.startup_ms))
    };
    let mut removed = Vec::new();
    for container in std::mem::take(&mut stand.remove) {
        let failed = match timeout(REMOVAL, docker.remove_replica(&service, &container)).await {
            Ok(done) => done.err().map(|error| chain(&error)),
            Err(_) => Some("the Docker engine does not answer in time".into()),
        };
        removed.push((container, failed));
    }
    let mut fleets = crew.0.compose.fleets.lock().expect("no holder panics");
    stand.stuck = fleets.entry(record.name.clone()).or_default().removed(removed, &replicas);
    counts.add(&record.name, &service, &replicas, stand);
    Ok(())
}

impl Seen {
    fn look(
        &mut self,
        replicas: &[Replica],
        workers: &[WorkerRecord],
        ended: &[WorkerRecord],
        startup: Duration,
    ) -> Stand {
        self.leaving.retain(|_, since| since.elapsed() < ORDERED);
        self.since.retain(|id, _| replicas.iter().any(|replica| replica.id == *id));
        let mut stand = Stand::default();
        for replica in replicas {
            let worker = worker_of(replica, workers).filter(|_| replica.runs);
            if worker.is_some() {
                self.since.remove(&replica.id);
            } else if self.since.get(&replica.id).is_none_or(|(ran, _)| *ran != replica.runs) {
                self.since.insert(replica.id.clone(), (replica.runs, Instant::now()));
            }
            let age = self.since.get(&replica.id).map_or(Duration::ZERO, |(_, since)| since.elapsed());
            let told = self.leaving.contains_key(&replica.id)
                || worker.is_some_and(|worker| worker.drain.is_some())
                || !replica.runs && stand::was_told(replica, ended);
            stand.add(replica, worker.is_some(), told, age, startup);
        }
        // Others are copied from the last one, so it stays, ended or not.
        let kept = replicas.len() - stand.remove.len();
        if kept == 0 {
            stand.remove.pop();
        }
        self.expected = stand.expected.clone();
        self.stuck.retain(|id, _| stand.remove.contains(id));
        let lately =
            |id: &String| self.stuck.get(id).is_some_and(|(tried, _)| tried.elapsed() < REMOVED_AGAIN);
        stand.remove.retain(|id| !lately(id));
        stand
    }

    /// What came of removals: why each one failed that did. Returns the names of all replicas that stay so, each with why.
    fn removed(
        &mut self,
        done: Vec<(String, Option<String>)>,
        replicas: &[Replica],
    ) -> Vec<(String, String)> {
        for (container, failed) in done {
            match failed {
                Some(why) => drop(self.stuck.insert(container, (Instant::now(), why))),
                None => drop(self.stuck.remove(&container)),
            }
        }
        let named =
            replicas.iter().filter_map(|it| Some((it.name.clone(), self.stuck.get(&it.id)?.1.clone())));
        named.collect()
    }
}

impl super::Inner {
    /// The engine, and the service that the fleet's workers are replicas of.
    ///
    /// Errors: what is in the way, for people.
    async fn service(&self, fleet: &Fleet) -> Result<(DockerPlatform, Service), String> {
        let docker = self.docker.meet().await.map_err(|error| chain(&error))?;
        let project = match self.docker.project() {
            Some(project) => project.to_owned(),
            None => own_project(&docker).await?,
        };
        Ok((docker, Service { project, name: service_of(fleet).to_owned() }))
    }

    /// The platform that workers which we add are recorded with.
    fn compose_place(&self) -> Option<String> {
        let place = self.docker.place()?;
        Some(format!("{PLACE}{}", place.strip_prefix(docker::PLACE)?))
    }

    /// Everything that adding a replica needs, so that none is planned in vain.
    ///
    /// Errors: why none can be added now, for people.
    pub async fn prepare_compose(&self, record: &FleetRecord) -> Result<Ready, String> {
        if !self.compose.adopted(&self.app, &record.name) {
            return Err("the containers that are there have not been looked through yet".into());
        }
        let prepared = timeout(docker::PATIENCE, async {
            let (platform, service) = self.service(&record.declaration).await?;
            platform.can_copy(&service).await.map_err(|error| chain(&error))?;
            self.wait_for_siblings(record, &platform, &service).await?;
            let place = self.compose_place().ok_or("no Docker engine has answered")?;
            Ok(Ready { platform, place, service })
        });
        prepared.await.unwrap_or_else(|_| Err("the Docker engine does not answer in time".into()))
    }
}

impl super::Inner {
    /// Whoever decided that one is to be added may not have seen yet what docker-compose makes just now.
    async fn wait_for_siblings(
        &self,
        record: &FleetRecord,
        platform: &DockerPlatform,
        service: &Service,
    ) -> Result<(), String> {
        let replicas = platform.replicas(service).await.map_err(|error| chain(&error))?;
        let filter = WorkerFilter { fleet: Some(record.name.clone()), gone: false };
        let workers = self.app.store.workers(filter).await.map_err(|error| chain(&error))?;
        let made_s = |replica: &Replica| now().0 / 1_000 - replica.created;
        let comes = |replica: &&Replica| {
            replica.worker.is_none()
                && made_s(replica) < FOLLOWED.as_secs() as i64
                && worker_of(replica, &workers).is_none()
        };
        match replicas.iter().find(comes) {
            Some(replica) => {
                Err(format!("container `{}` has just been made: its worker is waited for", replica.name))
            }
            None => Ok(()),
        }
    }
}

impl Ready {
    pub fn spec(&self, fleet: &FleetName, id: &WorkerId) -> compose::Copy {
        let service = self.service.clone();
        compose::Copy { service, worker_id: id.to_string(), fleet: fleet.to_string() }
    }
}

/// Whether the engine starts a replica's container again once it has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restarts {
    /// As the compose file says.
    #[default]
    Declared,
    /// It is being told not to.
    Asked,
    Forbidden,
}

impl Restarts {
    /// Whether the engine is to be told now: not while it is, nor once it has obeyed.
    pub fn ask(&mut self) -> bool {
        let ask = *self == Restarts::Declared;
        if ask {
            *self = Restarts::Asked;
        }
        ask
    }

    fn answered(&mut self, obeyed: bool) {
        match (obeyed, *self) {
            (true, _) => *self = Restarts::Forbidden,
            // Asked twice at once, it obeyed the other time.
            (false, Restarts::Forbidden) => {}
            (false, _) => *self = Restarts::Declared,
        }
    }
}

impl Crew {
    /// Before a worker is told to drain: the engine must not start its container again once it has ended.
    ///
    /// False: that could not be seen to, so it must not be told yet.
    pub(super) async fn leaves(&self, record: &WorkerRecord) -> bool {
        let running = self.0.running.lock().expect("no holder panics").get_mut(&record.id).map(|member| {
            if record.drain.is_none() {
                // It may have obeyed an earlier order, and have been started again.
                member.kill_at = None;
            }
            member.running.clone()
        });
        let Some(Running::Compose(running)) = running else { return true };
        let container = &running.identity().container;
        let forbidden = running.platform().forbid_restart(container).await;
        if let Some(member) = self.0.running.lock().expect("no holder panics").get_mut(&record.id) {
            member.restarts.answered(forbidden.is_ok());
        }
        if let Err(error) = forbidden {
            warn!(worker = %record.id, error = %chain(&error), "the engine would start a replica again that is to drain; it is asked again");
            return false;
        }
        info!(worker = %record.id, container, "replica will not be started again");
        self.0.compose.leaves(record, container);
        true
    }

    pub fn compose(&self) -> &Compose {
        &self.0.compose
    }
}

/// The project that the container is in that this process runs in.
async fn own_project(docker: &DockerPlatform) -> Result<String, String> {
    let unknown = "which compose project the fleet is in cannot be told, since this control plane is in no container of it: set `[docker] project`";
    let container = planes::own(docker).await?.ok_or(unknown)?.name;
    let project = docker.project_of(&container).await.map_err(|error| chain(&error))?;
    project.ok_or_else(|| unknown.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_told_until_it_obeys() {
        let mut restarts = Restarts::default();
        assert!(restarts.ask());
        assert!(!restarts.ask(), "it has not answered yet");
        restarts.answered(false);
        assert!(restarts.ask());
        restarts.answered(true);
        restarts.answered(false);
        assert!(!restarts.ask());
    }

    fn replica(id: &str) -> Replica {
        Replica {
            id: id.into(),
            name: format!("shop_agent_{id}"),
            number: 1,
            worker: Some(format!("agent-x-{id}")),
            runs: false,
            restarts: false,
            created: 0,
            config: "hash".into(),
            folder: None,
        }
    }

    #[test]
    fn what_cannot_be_removed_is_tried_again_later_and_told_meanwhile() {
        let mut seen = Seen::default();
        let replicas = ["1", "2"].map(replica);
        for id in ["1", "2"] {
            seen.leaving.insert(id.into(), Instant::now());
        }
        let look = |seen: &mut Seen| seen.look(&replicas, &[], &[], Duration::ZERO).remove;
        // The last one is copied from.
        assert_eq!(look(&mut seen), ["1"]);
        let busy = vec![("shop_agent_1".to_owned(), "busy".to_owned())];
        assert_eq!(seen.removed(vec![("1".into(), Some("busy".into()))], &replicas), busy);
        assert_eq!(look(&mut seen), [""; 0]);
        assert_eq!(seen.removed(Vec::new(), &replicas), busy);
        seen.stuck.get_mut("1").expect("it is stuck").0 -= REMOVED_AGAIN;
        assert_eq!(look(&mut seen), ["1"]);
        assert_eq!(seen.removed(vec![("1".into(), None)], &replicas), []);
        assert!(seen.stuck.is_empty());
    }
}
