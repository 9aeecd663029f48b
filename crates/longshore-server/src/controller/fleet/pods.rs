//! A fleet whose workers are pods: Kubernetes starts and replaces them; what there is to be, and what becomes of the work of
//! those that end, is decided here.

mod autoscaling;
mod conflicts;
mod deployment;
mod marks;
mod paused;
mod scene;
#[cfg(test)]
mod tests;
mod workers;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use longshore_core::drain;
use longshore_core::errors::chain;
use longshore_core::fleet::ScaledBy;
use longshore_core::id::WorkerId;
use longshore_core::kubernetes::{Agreed, Known, Version};
use longshore_core::rollout::{Canary, Phase, Policy, Release};
use longshore_core::scale::Decision;
use longshore_platform::kubernetes::ClusterError;
use longshore_store::{FleetRecord, LeaseRecord, Ordered, RolloutRecord, StoreError, WorkerRecord};
use tracing::{info, warn};

use self::conflicts::Conflicts;
use self::marks::Marks;
use self::paused::Paused;
use self::scene::Scene;
use super::{Controller, Observed, candidate, invested, rollout};
use crate::app::{App, now};
use crate::controller::cluster::{Pods, Sight};
use crate::owned::Owned;

/// The API server may be away for so long before anybody hears of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a change of ours may take until it is seen.
const CATCH_UP: Duration = Duration::from_secs(5);

/// How soon a write that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Requests that are made at once, where there are many.
const AT_ONCE: usize = 8;

/// What a controller remembers of a fleet on a cluster.
#[derive(Default)]
pub struct Memory {
    /// What the Deployment's template was agreed to be, as it is in the store; none: not read yet.
    template: Option<Known>,
    /// What we wrote last: older sights of the Deployment say nothing, for a while.
    wrote: Option<(i64, Instant)>,
    /// The Deployment with the template that we wrote last: what is older is nobody's change.
    templated: Version,
    /// The Deployment's own rollout, as we set it last.
    paused: Paused,
    /// Ends of containers that were taken notice of, by pod.
    ends: HashMap<String, String>,
    /// Workers that were ended since their pods were gone.
    lost: HashSet<WorkerId>,
    /// Pods that were chosen to go, whose workers have ended and cannot be told.
    dismissed: HashSet<String>,
    /// Writes that were refused since what was seen was out of date.
    conflicts: Conflicts,
    /// Writes that failed are tried again after a while: when the last one of each kind did, and why.
    failed: HashMap<Write, (Instant, String)>,
    marks: Marks,
    /// What was said last of what is in the way.
    said: Option<String>,
    /// When the number of pods was lowered last.
    lowered: Option<Instant>,
    /// Who was last written down to own rollouts.
    owner: Option<Owned>,
}

impl Memory {
    fn agreed(&self) -> Option<&Agreed> {
        self.template.as_ref().and_then(Known::agreed)
    }
}

/// One that fails holds up no other: each is a right of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Write {
    Scale,
    Template,
    Pause,
}

/// What was done, or what is in the way, for people.
type Done = Result<Result<(), String>, StoreError>;

impl Controller {
    pub(super) async fn keep_pods(
        &mut self,
        app: &App,
        pods: &Pods,
        record: &FleetRecord,
        open: Option<RolloutRecord>,
    ) -> Result<(), StoreError> {
        let kept = match pods.sight() {
            Ok(sight) => self.keep_seen(app, &sight, record, open).await?,
            Err(why) => Err(why),
        };
        let trouble = kept.err();
        if self.pods.said != trouble {
            match &trouble {
                Some(why) if record.active => {
                    warn!(fleet = %record.name, why, "fleet is not as it should be in the cluster");
                }
                Some(why) => {
                    warn!(fleet = %record.name, why, "pods of a fleet that is no more cannot be removed: delete its Deployment");
                }
                None => {}
            }
            self.pods.said.clone_from(&trouble);
        }
        let trouble = trouble.filter(|_| record.active);
        let mut troubles = app.trouble.lock().expect("no holder panics");
        match trouble {
            Some(why) => drop(troubles.insert(record.name.clone(), why)),
            None => drop(troubles.remove(&record.name)),
        }
        Ok(())
    }

    async fn keep_seen(
        &mut self,
        app: &App,
        sight: &Sight,
        record: &FleetRecord,
        open: Option<RolloutRecord>,
    ) -> Done {
        if let Some((since, why)) = sight.watch.broken() {
            // What is known is out of date: nothing is concluded from it.
            return Ok(match since > PATIENCE {
                true => Err(format!("the API server cannot be watched: {why}")),
                false => Ok(()),
            });
        }
        let seen = sight.watch.pods(record.name.as_str());
        let workers = workers::follow(app, sight, record, &seen, self).await?;
        let Some(deployment) = sight.watch.deployment(record.name.as_str()) else {
            // Of a fleet that is no more that is as it should be.
            if !record.active {
                return Ok(Ok(()));
            }
            let namespace = sight.cluster.namespace();
            return Ok(Err(format!(
                "there is no Deployment of this fleet in namespace `{namespace}`: apply what `longshore render kubernetes` writes"
            )));
        };
        let older =
            |(generation, at): (i64, Instant)| deployment.generation < generation && at.elapsed() < CATCH_UP;
        if self.pods.wrote.is_some_and(older) {
            return Ok(Ok(()));
        }
        self.pods.dismissed.retain(|name| workers.get(name).is_some_and(|worker| !scene::is_up(worker)));
        let scene = Scene::new(app, sight, record, deployment, (seen, workers), &self.pods);
        match record.active {
            true => self.steer(&scene, open).await,
            false => Ok(self.scale_to(&scene, 0).await),
        }
    }

    async fn steer(&mut self, scene: &Scene<'_>, open: Option<RolloutRecord>) -> Done {
        let (app, record) = (scene.app, scene.record);
        let crew = scene.counts().crew(scene.number);
        let mut observed = Observed { crew: Some(crew), ..Observed::default() };
        for pod in &scene.pods {
            let workers = if pod.works() { &mut observed.active } else { &mut observed.draining };
            workers.push(pod.worker.clone());
        }
        let serving = self.rollout.at(app, record, record.release).await?;
        // Surge is not among those that are counted.
        let answer = self.decide(app, &serving, &observed, None).await?;
        self.memory.clone_from(&answer.memory);
        self.say(app, record, &answer).await?;
        if record.declaration.scaling.by != ScaledBy::Direct {
            let pods = (scene.number.replicas, scene.there(open.is_some()));
            self.wanted.publish(app, &record.name, &answer, pods, self.epoch).await?;
        }
        let open = open.map(|open| self.rollout.recall(open));
        // A rollout that is stuck keeps no fleet from growing.
        let Rolled { heads_for, moves, kept: rolled, open } =
            self.roll_pods(scene, open, answer.desired, &observed).await?;
        scene.tell(self.of_others(scene, open.then_some(heads_for)).await?);
        self.publish_owner(scene).await?;
        let mut untold = None;
        if record.declaration.scaling.by == ScaledBy::Direct {
            let scaled = match scene.autoscalers().map(|all| all.is_empty()) {
                Ok(true) => {
                    let scaled = self.scale_pods(scene, &answer.decision, !moves).await?;
                    untold = self.pods.marks.trouble().map(str::to_owned);
                    scaled
                }
                Ok(false) => Ok(()),
                Err(why) => Err(why),
            };
            if let Err(why) = scaled {
                return Ok(Err(why));
            }
        }
        let trouble = || scene.trouble(answer.desired).or(untold);
        Ok(rolled.and_then(|_| trouble().map_or(Ok(()), Err)))
    }

    /// Written down for the replicas that are asked to deploy something.
    async fn publish_owner(&mut self, scene: &Scene<'_>) -> Result<(), StoreError> {
        let owned = Owned { by: scene.external.clone() };
        if self.pods.owner.as_ref() != Some(&owned) {
            owned.publish(scene.app, &scene.record.name, self.epoch).await?;
            self.pods.owner = Some(owned);
        }
        Ok(())
    }

    /// `shrinks`: false while a rollout replaces pods.
    async fn scale_pods(&mut self, scene: &Scene<'_>, decision: &Decision, shrinks: bool) -> Done {
        let app = scene.app;
        let victims = match decision {
            Decision::Shrink { by, .. } if shrinks => scene.counts().victims(scene.number, by.get()).1,
            _ => 0,
        };
        // Most looks have no use for them, and there may be many.
        let leases = match victims > 0 || scene.drains() {
            true => app.store.leases(None).await?,
            false => Vec::new(),
        };
        if victims > 0 {
            self.dismiss(scene, victims, &leases).await?;
        }
        let marked = !scene.sight.cluster.heeds_deletion_cost() || self.mark(scene, &leases).await;
        let decision = match decision {
            Decision::Shrink { .. } if !shrinks => return Ok(Ok(())),
            // The rest is marked in the next look, and only then may the first go.
            Decision::Shrink { .. } | Decision::Hold(_) if !marked => {
                app.look_again.notify_one();
                return Ok(Ok(()));
            }
            decision => decision,
        };
        let replicas = scene.counts().replicas(scene.number, decision);
        Ok(self.scale_to(scene, replicas).await)
    }

    /// Tells those to drain that have the least to lose.
    async fn dismiss(
        &mut self,
        scene: &Scene<'_>,
        by: u32,
        leases: &[LeaseRecord],
    ) -> Result<(), StoreError> {
        let (app, record) = (scene.app, scene.record);
        // What is told is not taken back: whoever leads now has chosen, or will.
        if !self.leads(app) {
            return Ok(());
        }
        let workers: Vec<_> = scene.pods.iter().filter(|pod| pod.works()).map(|pod| &pod.worker).collect();
        let invested = invested(leases, now());
        let candidates: Vec<_> = workers.iter().map(|it| candidate(it, record, &invested)).collect();
        let victims: HashSet<_> = drain::choose(&candidates, by).into_iter().collect();
        let mut orders = Vec::new();
        for worker in workers.into_iter().filter(|worker| victims.contains(&worker.id)) {
            let contract = self.rollout.running(app, record, worker.release).await?.drain;
            info!(worker = %worker.id, fleet = %record.name, in_flight = worker.in_flight, "worker is told to drain");
            let (store, id) = (&app.store, worker.id.clone());
            orders.push(async move {
                let told = store.order_drain(id.clone(), contract.mode, contract.timeout_ms, now()).await;
                told.map(|told| (!told).then(|| id.to_string()))
            });
        }
        let mut told = stream::iter(orders).buffer_unordered(AT_ONCE);
        while let Some(untold) = told.next().await {
            self.pods.dismissed.extend(untold?);
        }
        Ok(())
    }

    async fn scale_to(&mut self, scene: &Scene<'_>, replicas: u32) -> Result<(), String> {
        let (name, now) = (&scene.deployment.name, scene.deployment.replicas);
        if replicas == now {
            self.pods.failed.remove(&Write::Scale);
            return Ok(());
        }
        if let Some(held) = self.held(scene, Write::Scale) {
            return held;
        }
        let scaled = scene.sight.cluster.scale(&scene.deployment, replicas).await;
        if scaled.is_ok() && replicas < now {
            self.pods.lowered = Some(Instant::now());
        }
        self.wrote(Write::Scale, scaled.map(|()| {
            info!(fleet = %scene.record.name, deployment = name, from = now, to = replicas, "Deployment is scaled");
            scene.deployment.generation + 1
        }))
    }

    /// What comes of a write that is not tried now: this replica leads no more, or one has just failed, which stays in the way
    /// until it is tried again. `None`: it is to be tried.
    fn held(&self, scene: &Scene<'_>, what: Write) -> Option<Result<(), String>> {
        if !self.leads(scene.app) {
            return Some(Ok(()));
        }
        let lately = self.pods.failed.get(&what).filter(|(at, _)| at.elapsed() < AGAIN);
        lately.map(|(_, why)| Err(why.clone()))
    }

    /// Remembers the generation that a write has made, or that it failed.
    ///
    /// Errors: why it failed, for people.
    fn wrote(&mut self, what: Write, written: Result<i64, ClusterError>) -> Result<(), String> {
        match written {
            Ok(generation) => {
                self.pods.wrote = Some((generation, Instant::now()));
                self.pods.conflicts.none();
                self.pods.failed.remove(&what);
                Ok(())
            }
            // What is seen is out of date, which it is not for long.
            Err(ClusterError::Conflict { .. }) if self.pods.conflicts.another(Instant::now()) < PATIENCE => {
                Ok(())
            }
            Err(error) => {
                let why = chain(&error);
                self.pods.failed.insert(what, (Instant::now(), why.clone()));
                Err(why)
            }
        }
    }

    /// Says which pods are to go first. Returns whether it is said of all that may go now, or cannot be.
    async fn mark(&mut self, scene: &Scene<'_>, leases: &[LeaseRecord]) -> bool {
        if !self.leads(scene.app) {
            return true;
        }
        let invested = invested(leases, now());
        let found =
            scene.pods.iter().filter_map(|pod| Some((pod.seen.name.as_str(), pod.seen.deletion_cost?)));
        self.pods.marks.found(found);
        let pods = scene.pods.iter().map(|pod| {
            let invested = invested.get(&pod.worker.id).copied().unwrap_or_default();
            (pod.seen.name.as_str(), pod.standing, invested)
        });
        let cluster = &scene.sight.cluster;
        let write = |pod: String, cost| async move { cluster.set_deletion_cost(&pod, cost).await };
        self.pods.marks.keep(pods, write, Instant::now()).await
    }

    async fn roll_pods(
        &mut self,
        scene: &Scene<'_>,
        open: Option<RolloutRecord>,
        desired: u32,
        observed: &Observed,
    ) -> Result<Rolled, StoreError> {
        let (app, record) = (scene.app, scene.record);
        let Some(mut open) = open else {
            let mut kept = self.keep_template(scene, record.release).await?;
            if kept.is_ok() {
                kept = self.unpause(scene).await?;
            }
            return Ok(Rolled { heads_for: record.release, moves: false, open: false, kept });
        };
        // Somebody else has written to the rollout, or is about to be heard: it is looked at again.
        let as_it_was = Rolled { heads_for: open.plan.heads_for(), moves: true, open: true, kept: Ok(()) };
        let heard = scene.external.is_none() && open.plan.phase == Phase::Forward;
        if let Some(order) = self.ordered_by_hand(scene, heard.then_some(open.plan.paused)).await? {
            if !self.leads(app) {
                return Ok(as_it_was);
            }
            info!(fleet = %record.name, ?order, "somebody else paused the Deployment's rollout, or let it go on");
            let ordered = app.store.order_rollout(record.name.clone(), order, now()).await?;
            if let Ordered::Obeyed(_) = ordered {
                self.pods.paused.obeyed(scene.deployment.paused);
            }
            self.note_pause(scene).await?;
            app.look_again.notify_one();
            return Ok(as_it_was);
        }
        let insisted = self.insisted() == Some(open.plan.to);
        let theirs = scene.external.is_some() || insisted;
        open.plan.policy = match theirs {
            // It is watched: whoever began it decides whether it goes back.
            true => without_verdict(open.plan.policy),
            false if is_without_verdict(&open.plan.policy) => record.declaration.rollout,
            false => open.plan.policy,
        };
        open.plan.watched = true;
        let leases = app.store.leases(None).await?;
        let invested = invested(&leases, now());
        let cost = |worker: &WorkerRecord| candidate(worker, record, &invested);
        let workers: Vec<_> = observed.active.iter().map(|it| (it.clone(), cost(it))).collect();
        // Pods of a release that cannot even be written down are not started either.
        let unwritten = self.pods.failed.get(&Write::Template).map(|(_, why)| why.clone());
        let held = unwritten.or_else(|| scene.held(open.plan.heads_for()));
        let seen = (&workers[..], desired);
        let saved =
            rollout::decide((app, held.clone()), &mut self.rollout, record, open, seen, self.epoch).await?;
        let Some(RolloutRecord { plan, .. }) = saved else {
            app.look_again.notify_one();
            return Ok(as_it_was);
        };
        if plan.has_ended() {
            app.look_again.notify_one();
        }
        let mut kept = self.keep_template(scene, plan.heads_for()).await?;
        if kept.is_ok() {
            kept = self.pause(scene, plan.paused && !plan.has_ended()).await?;
        }
        if let Some(why) = held.filter(|_| plan.is_stuck()) {
            kept = Err(deployment::stuck(&record.name, &plan, &why));
        }
        let moves = deployment::moves_pods(&plan, theirs) && !plan.is_stuck();
        Ok(Rolled { heads_for: plan.heads_for(), moves, open: !plan.has_ended(), kept })
    }

    /// Right before something is written that the store does not refuse of one that does not lead any more.
    fn leads(&self, app: &App) -> bool {
        app.epoch() == Some(self.epoch)
    }
}

/// What became of a look at what pods are made from.
struct Rolled {
    /// The release that all pods are to be of in the end.
    heads_for: Release,
    /// A rollout replaces pods.
    moves: bool,
    /// There is a rollout, whoever replaces the pods.
    open: bool,
    /// Errors: what is in the way, for people.
    kept: Result<(), String>,
}

/// Never a reason to go back.
fn without_verdict(policy: Policy) -> Policy {
    let canary = Canary { min_samples: 0, ..policy.canary };
    Policy { ready_ms: u64::MAX, deadline_ms: u64::MAX, crashes: u32::MAX, canary, ..policy }
}

/// As it was saved while somebody else owned the rollout.
fn is_without_verdict(policy: &Policy) -> bool {
    policy.ready_ms == u64::MAX && policy.crashes == u32::MAX
}
