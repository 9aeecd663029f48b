//! Keeps each fleet at the number of workers that core decides, on the declaration that is current.

mod pods;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use longshore_api::link::WorkerState;
use longshore_core::drain::{self, Candidate};
use longshore_core::errors::chain;
use longshore_core::fleet::{Platform, Scaling};
use longshore_core::id::{FleetName, WorkerId};
use longshore_core::json::Json;
use longshore_core::rollout::{Phase, Plan};
use longshore_core::scale::{self, Answer, Decision, Each, Load, Memory};
use longshore_core::time::Timestamp;
use longshore_core::useful::{self, Useful};
use longshore_store::{
    DecisionRecord, Epoch, FleetRecord, LeaseRecord, RolloutRecord, StoreError, WorkerFilter, WorkerRecord,
};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::cluster::{self, Pods};
use super::crew::is_replica;
use super::{Crew, rollout, told};
use crate::app::{App, now};
use crate::convert::worker_state;
use crate::{depth, images, wanted};

/// How often fleets are looked at when nothing wakes us.
const LOOK: Duration = Duration::from_millis(500);

/// The least time between two looks: what comes meanwhile, such as the pods of a large fleet one by one, is seen in one.
const PAUSE: Duration = Duration::from_millis(100);

/// The controller's loop.
pub async fn fleets(app: App, crew: Crew, pods: Pods) -> &'static str {
    let mut controllers: HashMap<FleetName, Controller> = HashMap::new();
    let mut leads: Option<Epoch> = None;
    let mut written = told::Written::new();
    while !app.is_stopping() {
        let led = leads;
        if let Err(error) = turn(&app, (&crew, &pods), &mut controllers, &mut leads).await {
            warn!(error = %chain(&error), "fleets could not be looked at; they stay as they are");
        }
        if leads != led {
            written.clear();
        }
        match leads {
            Some(_) => {
                if let Err(error) = told::publish(&app, &mut written).await {
                    warn!(error = %chain(&error), "what there is to tell of fleets could not be written down");
                }
            }
            None => written.clear(),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = next(&app.look_again) => {}
            () = app.stopped() => {}
        }
    }
    "fleet controller"
}

/// Resolves when there is a reason to look again, and not before `PAUSE` is over.
async fn next(reason: &Notify) {
    let rested = tokio::time::sleep(PAUSE);
    reason.notified().await;
    rested.await;
}

/// One look, if this replica leads. A new leader first finds the workers again that the one before started here.
async fn turn(
    app: &App,
    (crew, pods): (&Crew, &Pods),
    controllers: &mut HashMap<FleetName, Controller>,
    leads: &mut Option<Epoch>,
) -> Result<(), StoreError> {
    let Some(epoch) = app.epoch() else {
        controllers.clear();
        *leads = None;
        return Ok(());
    };
    if *leads != Some(epoch) {
        if let Err(error) = crew.adopt().await {
            warn!(error = %chain(&error), "workers of the leader before could not be found again; it is tried again");
            return Ok(());
        }
        // They act for the epoch that they began in.
        controllers.clear();
        *leads = Some(epoch);
    }
    look(app, (crew, pods), epoch, controllers).await
}

async fn look(
    app: &App,
    (crew, pods): (&Crew, &Pods),
    epoch: Epoch,
    controllers: &mut HashMap<FleetName, Controller>,
) -> Result<(), StoreError> {
    if crew.is_closed() {
        return Ok(());
    }
    let mut open = app.store.open_rollouts().await?;
    for record in app.store.fleets().await? {
        let open = open.iter().position(|open| open.fleet == record.name).map(|at| open.swap_remove(at));
        if app.is_stopping() {
            break;
        }
        let controller = controllers.entry(record.name.clone()).or_insert_with(|| Controller::new(epoch));
        match record.declaration.platform {
            Platform::External => {}
            Platform::Kubernetes => Box::pin(controller.keep_pods(app, pods, &record, open)).await?,
            Platform::Process | Platform::Docker | Platform::Compose => {
                controller.keep(app, crew, &record, open).await?;
            }
        }
    }
    Ok(())
}

/// One fleet's controller. What it remembers only makes it slower to shrink after a restart.
struct Controller {
    epoch: Epoch,
    memory: Memory,
    last_said: Option<String>,
    rollout: rollout::Memory,
    /// Of a fleet on a cluster.
    pods: pods::Memory,
    /// For those that scale a fleet in our place.
    wanted: wanted::Publisher,
    /// The question about its image that was answered last.
    replied: Option<uuid::Uuid>,
}

/// A fleet's workers as they are now.
#[derive(Default)]
struct Observed {
    /// Neither draining nor gone.
    active: Vec<WorkerRecord>,
    draining: Vec<WorkerRecord>,
    crew: Option<scale::Crew>,
}

impl Controller {
    fn new(epoch: Epoch) -> Controller {
        Controller {
            epoch,
            memory: Memory::default(),
            last_said: None,
            rollout: Default::default(),
            pods: Default::default(),
            wanted: Default::default(),
            replied: None,
        }
    }

    async fn keep(
        &mut self,
        app: &App,
        crew: &Crew,
        record: &FleetRecord,
        open: Option<RolloutRecord>,
    ) -> Result<(), StoreError> {
        images::reply(app, crew, record, &mut self.replied).await?;
        let observed = observe(app, crew, record).await?;
        for worker in &observed.draining {
            crew.enforce(worker);
        }
        if !record.active {
            return self.drain(app, crew, record, &observed.active).await;
        }
        let serving = self.rollout.at(app, record, record.release).await?;
        let current = observed.active.iter().filter(|worker| worker.release == record.release);
        let newest =
            current.filter(|w| worker_state(w) == WorkerState::Ready).filter_map(|w| w.registered_at).max();
        if let Some(registered_at) = newest {
            let others = open.as_ref().map_or(Vec::new(), |open| vec![open.plan.from, open.plan.to]);
            crew.came_up(&record.name, record.release, &others, registered_at);
        }
        let open = open.map(|open| self.rollout.recall(open));
        let answer = self.decide(app, &serving, &observed, open.as_ref()).await?;
        self.memory = answer.memory.clone();
        self.say(app, record, &answer).await?;
        let Some(open) = open else { return self.apply(app, crew, &serving, &observed, &answer).await };
        self.roll(app, crew, (record, &serving), open, &observed, &answer).await
    }

    /// A step of a rollout; the scaler adds what is missing beside it, and removes nothing while the rollout moves workers.
    async fn roll(
        &mut self,
        app: &App,
        crew: &Crew,
        (record, serving): (&FleetRecord, &FleetRecord),
        open: RolloutRecord,
        observed: &Observed,
        answer: &Answer,
    ) -> Result<(), StoreError> {
        let leases = app.store.leases(None).await?;
        let invested = invested(&leases, now());
        let cost = |worker: &WorkerRecord| candidate(worker, record, &invested);
        let workers: Vec<_> = observed.active.iter().map(|worker| (worker.clone(), cost(worker))).collect();
        let held = crew.held(&record.name, open.plan.heads_for());
        let saved = rollout::decide(
            (app, held),
            &mut self.rollout,
            record,
            open,
            (&workers, answer.desired),
            self.epoch,
        );
        let Some(RolloutRecord { plan, .. }) = saved.await? else {
            app.look_again.notify_one();
            return Ok(());
        };
        rollout::apply(app, crew, &mut self.rollout, record, &plan, &workers).await?;
        let there = u32::try_from(workers.len()).unwrap_or(u32::MAX);
        match &answer.decision {
            Decision::Grow { by, .. } => {
                let serving = self.rollout.at(app, serving, plan.serving()).await?;
                start(crew, &serving, by.get().min(plan.lacks(there, answer.desired))).await
            }
            Decision::Shrink { by, .. } if plan.paused || plan.phase == Phase::Finishing => {
                self.drain_cheapest(app, crew, record, &observed.active, by.get()).await
            }
            Decision::Shrink { .. } | Decision::Hold(_) => Ok(()),
        }
    }

    async fn decide(
        &self,
        app: &App,
        record: &FleetRecord,
        observed: &Observed,
        open: Option<&RolloutRecord>,
    ) -> Result<Answer, StoreError> {
        let fleet = &record.declaration;
        let load = match depth::of(app, record).await {
            Ok(queue) => queue.load(),
            Err(StoreError::Closed) => return Err(StoreError::Closed),
            Err(_) => Load { runnable: 0, oldest_wait_ms: None, running: 0, fresh: false, standstill: None },
        };
        let useful = useful::most(fleet, &app.providers);
        let policy = bounded(fleet.scaling, useful.as_ref());
        let crew = observed.crew.unwrap_or(scale::Crew { ready: 0, starting: 0, draining: 0 });
        let crew = open.map_or(crew, |open| without_surge(crew, &open.plan));
        let each = Each { concurrency: fleet.concurrency, startup_ms: fleet.probe.startup_ms };
        Ok(scale::decide(&load, &crew, &policy, each, record.replicas, &self.memory, now()))
    }

    /// Stores a decision that differs from the one before: holding is one, too.
    async fn say(&mut self, app: &App, record: &FleetRecord, answer: &Answer) -> Result<(), StoreError> {
        let name = &record.name;
        let (kind, gist) = gist(&answer.decision);
        let (from, to) = (answer.crew.workers(), answer.desired);
        // Another order, or other limits, make it another decision even if its reason's name is the same. A wish to grow
        // that failed starts keep from coming true is said once, too.
        let mut gist = format!("{gist} {:?} {:?}", record.replicas, answer.policy);
        if kind != "hold" {
            gist = format!("{gist} {from} {to}");
        }
        if self.last_said.as_deref() == Some(&gist) {
            return Ok(());
        }
        let reason = match useful::most(&record.declaration, &app.providers) {
            Some(useful) if record.declaration.scaling.max > answer.policy.max => {
                format!(
                    "{answer}; the limit of `{}` at provider `{}` feeds no more",
                    useful.model, useful.provider
                )
            }
            _ => answer.to_string(),
        };
        let (kept, inputs) = (reason.clone(), Json::of(answer));
        let decision = DecisionRecord { at: now(), from, to, kind: kind.into(), reason: kept, inputs };
        // It is said once it is written down: what was not is decided, and written, in the next look.
        app.store.record_decision(name.clone(), decision, self.epoch).await?;
        info!(fleet = %name, kind, desired = answer.desired, runnable = answer.load.runnable, running = answer.load.running, reason, "scaler decides");
        app.metrics.decided(name.as_str(), kind);
        self.last_said = Some(gist);
        Ok(())
    }
}

/// What a provider's limit can feed is a maximum like the declared one; the minimum stays.
fn bounded(policy: Scaling, useful: Option<&Useful>) -> Scaling {
    let most = useful.map_or(u32::MAX, |useful| useful.workers.max(policy.min));
    Scaling { max: policy.max.min(most), ..policy }
}

/// The kind of a decision, and what makes it another one: its reason's name without the numbers.
fn gist(decision: &Decision) -> (&'static str, String) {
    let text = format!("{decision:?}");
    let names = text.split(|c: char| !c.is_alphabetic()).filter(|word| word.starts_with(char::is_uppercase));
    let gist = names.collect::<Vec<_>>().join(" ");
    match decision {
        Decision::Hold(_) => ("hold", gist),
        Decision::Grow { .. } => ("grow", gist),
        Decision::Shrink { .. } => ("shrink", gist),
    }
}

async fn observe(app: &App, control: &Crew, record: &FleetRecord) -> Result<Observed, StoreError> {
    let mut observed = Observed::default();
    let mut crew = scale::Crew { ready: 0, starting: 0, draining: 0 };
    let filter = WorkerFilter { fleet: Some(record.name.clone()), gone: false };
    let workers = app.store.workers(filter).await?;
    if record.declaration.platform == Platform::Compose {
        crew.starting += control.compose().on_their_way(&record.name, &workers);
    }
    for worker in workers {
        let ours = is_ours(&worker) || control.compose().expects(&worker);
        // It works beside the service's replicas, which alone are counted, and ours to remove.
        if !ours && record.declaration.platform == Platform::Compose {
            continue;
        }
        match worker_state(&worker) {
            WorkerState::Ready => crew.ready += 1,
            // Not ready is on its way to ready, or to be replaced by its liveness probe.
            WorkerState::Starting | WorkerState::NotReady if ours => crew.starting += 1,
            // Nobody here would replace it, so it does not stand for one of ours either.
            WorkerState::Starting | WorkerState::NotReady => continue,
            // Told by nobody here: docker-compose replaces it.
            WorkerState::Draining if is_replica(&worker) && worker.drain.is_none() => crew.starting += 1,
            WorkerState::Draining => crew.draining += 1,
            WorkerState::Gone => {}
        }
        match worker_state(&worker) {
            WorkerState::Gone => {}
            WorkerState::Draining => observed.draining.push(worker),
            _ => observed.active.push(worker),
        }
    }
    observed.crew = Some(crew);
    Ok(observed)
}

/// Started by this installation, so watched and replaced by it.
pub(super) fn is_ours(worker: &WorkerRecord) -> bool {
    ["process", "docker@", cluster::PLACE].iter().any(|place| worker.platform.starts_with(place))
        || is_replica(worker)
}

impl Controller {
    async fn apply(
        &mut self,
        app: &App,
        crew: &Crew,
        record: &FleetRecord,
        observed: &Observed,
        answer: &Answer,
    ) -> Result<(), StoreError> {
        let outdated = observed.active.iter().any(|worker| worker.release != record.release);
        match &answer.decision {
            Decision::Grow { by, .. } => start(crew, record, by.get()).await,
            _ if outdated => self.replace(app, crew, record, observed, answer).await,
            Decision::Shrink { by, .. } => {
                self.drain_cheapest(app, crew, record, &observed.active, by.get()).await
            }
            Decision::Hold(_) => Ok(()),
        }
    }

    /// Replaces what a rollout did not see, such as workers that somebody else started, one by one.
    async fn replace(
        &mut self,
        app: &App,
        crew: &Crew,
        record: &FleetRecord,
        observed: &Observed,
        answer: &Answer,
    ) -> Result<(), StoreError> {
        let starting = observed.active.iter().any(|worker| worker_state(worker) != WorkerState::Ready);
        let workers = observed.active.len() as u32;
        if workers <= answer.desired && !starting {
            info!(fleet = %record.name, release = record.release, "a new worker replaces an outdated one");
            return start(crew, record, 1).await;
        }
        if starting || !observed.draining.is_empty() {
            return Ok(());
        }
        let old: Vec<_> =
            observed.active.iter().filter(|worker| worker.release != record.release).cloned().collect();
        self.drain_cheapest(app, crew, record, &old, 1).await
    }

    /// Drains the `by` workers with the least work at risk.
    async fn drain_cheapest(
        &mut self,
        app: &App,
        crew: &Crew,
        record: &FleetRecord,
        among: &[WorkerRecord],
        by: u32,
    ) -> Result<(), StoreError> {
        let leases = app.store.leases(None).await?;
        let invested = invested(&leases, now());
        let candidates: Vec<_> = among.iter().map(|worker| candidate(worker, record, &invested)).collect();
        let victims: HashSet<_> = drain::choose(&candidates, by).into_iter().collect();
        let victims: Vec<_> = among.iter().filter(|worker| victims.contains(&worker.id)).cloned().collect();
        self.drain(app, crew, record, &victims).await
    }

    async fn drain(
        &mut self,
        app: &App,
        crew: &Crew,
        record: &FleetRecord,
        victims: &[WorkerRecord],
    ) -> Result<(), StoreError> {
        for worker in victims {
            rollout::drain(app, crew, &mut self.rollout, record, worker).await?;
        }
        Ok(())
    }
}

/// The workers that the scaler counts: surge is apart, and a place that is kept for a new worker is taken.
fn without_surge(crew: scale::Crew, plan: &Plan) -> scale::Crew {
    let counted = plan.counted(crew.workers());
    let ready = crew.ready.min(counted);
    scale::Crew { ready, starting: counted - ready, draining: crew.draining }
}

pub(super) async fn start(crew: &Crew, record: &FleetRecord, by: u32) -> Result<(), StoreError> {
    for _ in 0..by {
        if !crew.may_start(&record.name, record.release) {
            break;
        }
        crew.start(record).await?;
    }
    Ok(())
}

/// How long each worker's tasks have run so far, summed, in milliseconds.
fn invested(leases: &[LeaseRecord], now: Timestamp) -> HashMap<&WorkerId, u64> {
    let mut all = HashMap::new();
    for lease in leases {
        *all.entry(&lease.worker).or_default() += now.since(lease.started_at).as_millis() as u64;
    }
    all
}

fn candidate(worker: &WorkerRecord, record: &FleetRecord, invested: &HashMap<&WorkerId, u64>) -> Candidate {
    Candidate {
        worker: worker.id.clone(),
        in_flight: worker.in_flight,
        invested_ms: invested.get(&worker.id).copied().unwrap_or_default(),
        ready: worker_state(worker) == WorkerState::Ready,
        generation_current: worker.release == record.release,
        started_at: worker.planned_at.or(worker.registered_at).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::Instant;

    use longshore_core::id::{Fence, Held, TaskId};
    use longshore_core::time::ServiceTime;

    use super::*;
    use crate::tests::scene;

    fn lease(worker: &WorkerId, started_at: i64) -> LeaseRecord {
        LeaseRecord {
            held: Held { task: TaskId(uuid::Uuid::nil()), fence: Fence(1) },
            worker: worker.clone(),
            fleet: FleetName::new("a").expect("valid"),
            attempt: 1,
            started_at: Timestamp(started_at),
            expires: ServiceTime(0),
            alone: false,
            cancel_requested: false,
        }
    }

    fn crowd(workers: usize, leases: usize) -> (Vec<WorkerId>, Vec<LeaseRecord>) {
        let workers: Vec<_> = (0..workers)
            .map(|n| WorkerId::new(format!("research-6f7c9d5b4-{n:05}")).expect("valid"))
            .collect();
        let leases = (0..leases).map(|n| lease(&workers[(n * 7) % workers.len()], n as i64)).collect();
        (workers, leases)
    }

    /// As it reads, worker by worker.
    fn one_by_one(worker: &WorkerId, leases: &[LeaseRecord], now: Timestamp) -> u64 {
        let its = leases.iter().filter(|lease| lease.worker == *worker);
        its.map(|lease| now.since(lease.started_at).as_millis() as u64).sum()
    }

    #[test]
    fn what_tasks_have_taken_is_summed_for_each_worker() {
        let (workers, leases) = crowd(9, 20);
        let (now, idle) = (Timestamp(1_000), WorkerId::new("idle").expect("valid"));
        let all = invested(&leases, now);
        for worker in workers.iter().chain([&idle]) {
            assert_eq!(
                all.get(worker).copied().unwrap_or_default(),
                one_by_one(worker, &leases, now),
                "{worker}"
            );
        }
    }

    #[tokio::test]
    async fn a_decision_that_could_not_be_written_down_is_not_taken_for_said() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut server = scene::start(&dir, "", None).await.expect("it starts");
        let app = server.app();
        let record = app.store.fleet(scene::fleet("a")).await.expect("read").expect("declared");
        let mut controller = Controller::new(Epoch(1));
        let answer = controller.decide(app, &record, &Observed::default(), None).await.expect("decided");
        let before = app.store.close().await;
        assert!(before.is_ok() && controller.say(app, &record, &answer).await.is_err());
        assert_eq!(controller.last_said, None, "it is written down in the next look");
        server.stop().await;
    }

    #[tokio::test]
    async fn looks_are_apart_however_many_reasons_there_are() {
        let reason = Notify::new();
        let began = Instant::now();
        for _ in 0..3 {
            reason.notify_one();
            reason.notify_one();
            next(&reason).await;
        }
        assert!(began.elapsed() >= 3 * PAUSE, "{:?}", began.elapsed());
        tokio::time::timeout(2 * PAUSE, next(&reason)).await.expect_err("a reason is used up");
    }

    /// `cargo test --release -p longshore-server --lib -- --ignored --nocapture a_look_at_5000_pods`
    #[test]
    #[ignore = "a measurement"]
    fn a_look_at_5000_pods() {
        let (workers, leases) = crowd(5_000, 10_000);
        let took = |what: &mut dyn FnMut()| {
            let began = Instant::now();
            what();
            began.elapsed()
        };
        let before = took(&mut || {
            black_box(workers.iter().map(|it| one_by_one(it, &leases, now())).sum::<u64>());
        });
        let after = took(&mut || {
            let all = invested(&leases, now());
            black_box(workers.iter().filter_map(|it| all.get(it)).sum::<u64>());
        });
        let names: Vec<String> = workers.iter().map(WorkerId::to_string).collect();
        let search = took(&mut || {
            black_box(names.iter().filter(|name| workers.iter().any(|it| it.as_str() == *name)).count());
        });
        let sets = took(&mut || {
            let there: HashSet<&str> = workers.iter().map(WorkerId::as_str).collect();
            black_box(names.iter().filter(|name| there.contains(name.as_str())).count());
        });
        println!("costs: {before:?} worker by worker, {after:?} summed once");
        println!("what is remembered of pods: {search:?} searched, {sets:?} by sets");
    }
}
