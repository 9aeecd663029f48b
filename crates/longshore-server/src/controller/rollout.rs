//! One step of a rollout at a time: looked at, decided in core, saved, and only then done.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use longshore_api::link::WorkerState;
use longshore_core::drain::Candidate;
use longshore_core::fleet::{Fleet, Platform};
use longshore_core::rollout::{self, Observed, Plan, Release, Seen, Standing, Step};
use longshore_store::{Epoch, FleetRecord, RolloutRecord, StoreError, WorkerFilter, WorkerRecord};
use tracing::info;

use super::Crew;
use super::fleet::is_ours;
use crate::app::{App, now};
use crate::convert::worker_state;
use crate::ends::is_its_own;

/// A plan in which nothing but time has passed is saved this often; a restart loses no more of it.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// What a controller remembers of a fleet's releases and its rollout; all of it is in the store.
#[derive(Default)]
pub struct Memory {
    /// A release never changes.
    releases: HashMap<Release, Fleet>,
    /// The newest plan that is not saved: only time has passed in it.
    unsaved: Option<(u64, u64, Plan)>,
    saved_at: Option<Instant>,
    said: String,
}

impl Memory {
    /// A release as its workers run it.
    pub async fn running(
        &mut self,
        app: &App,
        record: &FleetRecord,
        number: Release,
    ) -> Result<Fleet, StoreError> {
        if let Some(known) = self.releases.get(&number) {
            return Ok(record.declaration.running(known));
        }
        match app.store.release(record.name.clone(), number).await? {
            Some(release) => {
                let running = record.declaration.running(&release.declaration);
                self.releases.insert(number, release.declaration);
                Ok(running)
            }
            None => Ok(record.declaration.clone()),
        }
    }

    /// The same as a record to start workers by.
    pub async fn at(
        &mut self,
        app: &App,
        record: &FleetRecord,
        number: Release,
    ) -> Result<FleetRecord, StoreError> {
        let declaration = self.running(app, record, number).await?;
        Ok(FleetRecord { declaration, release: number, ..record.clone() })
    }

    /// The rollout as it was decided last, if nobody has written to it since.
    pub fn recall(&self, mut open: RolloutRecord) -> RolloutRecord {
        if let Some((number, version, plan)) = &self.unsaved
            && (*number, *version) == (open.number, open.version)
        {
            open.plan = plan.clone();
        }
        open
    }
}

/// Looks, decides, saves. `held`: why no worker of the release that comes can be started, by no fault of its own. `None`: somebody else has written to the rollout, or leads.
pub async fn decide(
    (app, held): (&App, Option<String>),
    memory: &mut Memory,
    record: &FleetRecord,
    open: RolloutRecord,
    (workers, desired): (&[(WorkerRecord, Candidate)], u32),
    epoch: Epoch,
) -> Result<Option<RolloutRecord>, StoreError> {
    let observed = Observed { held, ..observe(app, record, &open.plan, workers, desired).await? };
    let plan = rollout::decide(&open.plan, &observed, now());
    let says = format!("{} {:?} {:?}", plan.phase.as_str(), plan.step, plan.surge);
    let changed = timeless(&plan) != timeless(&open.plan);
    if says != memory.said {
        info!(fleet = %record.name, rollout = open.number, phase = plan.phase.as_str(), "{plan}");
        memory.said = says;
    }
    if !changed && memory.saved_at.is_some_and(|at| at.elapsed() < SAVE_EVERY) {
        memory.unsaved = Some((open.number, open.version, plan.clone()));
        return Ok(Some(RolloutRecord { plan, ..open }));
    }
    memory.unsaved = None;
    let saved = app.store.save_rollout(RolloutRecord { plan, ..open }, epoch, now()).await?;
    memory.saved_at = saved.is_some().then(Instant::now);
    Ok(saved)
}

/// A plan without what time alone changes.
fn timeless(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    (plan.looked_at, plan.spent_ms, plan.held_ms) = (None, 0, 0);
    for trial in plan.trials.values_mut() {
        (trial.waited_ms, trial.ready_ms) = (0, 0);
    }
    if let Step::Wait(rollout::Wait::Holding { left_ms, .. }) = &mut plan.step {
        *left_ms = 0;
    }
    plan
}

/// Does what the plan says; it is saved.
pub async fn apply(
    app: &App,
    crew: &Crew,
    memory: &mut Memory,
    record: &FleetRecord,
    plan: &Plan,
    workers: &[(WorkerRecord, Candidate)],
) -> Result<(), StoreError> {
    match &plan.step {
        Step::Start { release, by } => {
            let record = memory.at(app, record, *release).await?;
            super::fleet::start(crew, &record, *by).await
        }
        Step::Drain { workers: names } => {
            for (worker, _) in workers.iter().filter(|(worker, _)| names.contains(&worker.id)) {
                drain(app, crew, memory, record, worker).await?;
            }
            Ok(())
        }
        Step::Wait(_) => Ok(()),
        Step::End => {
            if plan.has_ended() {
                crew.forget_trouble(&record.name);
                app.look_again.notify_one();
            }
            Ok(())
        }
    }
}

/// Tells a worker to drain, by the contract of its own release.
pub async fn drain(
    app: &App,
    crew: &Crew,
    memory: &mut Memory,
    record: &FleetRecord,
    worker: &WorkerRecord,
) -> Result<(), StoreError> {
    let contract = memory.running(app, record, worker.release).await?.drain;
    // Where it cannot be told the next look comes in its time.
    if crew.drain(worker, contract.mode, contract.timeout_ms).await? {
        info!(worker = %worker.id, fleet = %record.name, release = worker.release, in_flight = worker.in_flight,
            "worker is told to drain");
        app.look_again.notify_one();
    }
    Ok(())
}

async fn observe(
    app: &App,
    record: &FleetRecord,
    plan: &Plan,
    workers: &[(WorkerRecord, Candidate)],
    desired: u32,
) -> Result<Observed, StoreError> {
    let ours = workers.iter().filter(|(worker, _)| is_ours(worker));
    let others = workers.len() - ours.clone().count();
    let mut seen: Vec<Seen> = ours.map(|(worker, cost)| see(worker, cost.clone())).collect();
    let filter = WorkerFilter { fleet: Some(record.name.clone()), gone: true };
    let all = app.store.workers(filter).await?;
    seen.extend(all.iter().filter(|worker| is_ours(worker)).filter_map(|worker| ended(worker, plan)));
    let samples = match plan.policy.canary.min_samples {
        0 => Default::default(),
        _ => app.store.outcomes(record.name.clone()).await?,
    };
    // Kubernetes keeps no pod for the tasks that began on it: settings of before may still say so.
    let keeps = record.declaration.platform != Platform::Kubernetes;
    let pinned = match plan.policy.pin_release && keeps {
        true => app.store.pinned(record.name.clone()).await?,
        false => Default::default(),
    };
    let desired = desired.saturating_sub(u32::try_from(others).unwrap_or(u32::MAX));
    Ok(Observed { workers: seen, desired, held: None, samples, pinned })
}

fn see(worker: &WorkerRecord, cost: Candidate) -> Seen {
    let standing = match worker_state(worker) {
        WorkerState::Ready => Standing::Ready,
        WorkerState::Starting => Standing::Starting,
        WorkerState::NotReady => Standing::NotReady { why: worker.reason.clone() },
        WorkerState::Draining | WorkerState::Gone => Standing::Draining,
    };
    Seen { release: worker.release, standing, cost }
}

/// A worker that drains, or that was started for this rollout and ended though nobody told it to.
fn ended(worker: &WorkerRecord, plan: &Plan) -> Option<Seen> {
    let standing = match worker_state(worker) {
        WorkerState::Draining => Standing::Draining,
        WorkerState::Gone => {
            let why = worker.end.clone().unwrap_or_default();
            let by_itself = worker.drain.is_none() && is_its_own(&why);
            let of_this = worker.release == plan.to && worker.planned_at >= Some(plan.started_at);
            if !by_itself || !of_this {
                return None;
            }
            Standing::Crashed { why }
        }
        _ => return None,
    };
    let cost = Candidate {
        worker: worker.id.clone(),
        in_flight: worker.in_flight,
        invested_ms: 0,
        ready: false,
        generation_current: false,
        started_at: worker.planned_at.unwrap_or_default(),
    };
    Some(Seen { release: worker.release, standing, cost })
}
