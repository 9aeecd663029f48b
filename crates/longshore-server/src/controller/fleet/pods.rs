//! A fleet whose workers are pods: Kubernetes starts and replaces them; what there is to be, and what becomes of the work of
//! those that end, is decided here.

mod deployment;
mod scene;
mod workers;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use longshore_core::drain;
use longshore_core::errors::chain;
use longshore_core::fleet::ScaledBy;
use longshore_core::kubernetes::{Agreed, Standing, deletion_cost};
use longshore_core::rollout::{Canary, Phase, Policy};
use longshore_core::scale::{Answer, Decision};
use longshore_store::{FleetRecord, RolloutRecord, StoreError, WorkerRecord};
use tracing::{info, warn};

use self::scene::{Pod, Scene};
use super::{Controller, Observed, candidate, rollout};
use crate::app::{App, now};
use crate::controller::cluster::{Pods, Sight};
use crate::owned::Owned;

/// The API server may be away for so long before anybody hears of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a change of ours may take until it is seen.
const CATCH_UP: Duration = Duration::from_secs(5);

/// What a controller remembers of a fleet on a cluster.
#[derive(Default)]
pub struct Memory {
    /// What the Deployment's template was agreed to be; none: not read yet.
    agreed: Option<Option<Agreed>>,
    /// What we wrote last: older sights of the Deployment say nothing, for a while.
    wrote: Option<(i64, Instant)>,
    /// Marks that were set, by pod.
    costs: HashMap<String, i32>,
    /// What was said last of what is in the way.
    said: Option<String>,
    /// How many there were when others were asked to remove some.
    asked: Option<u32>,
    /// Who was last written down to own rollouts.
    owner: Option<Owned>,
}

/// What was done, or what is in the way, for people.
type Done<T = ()> = Result<Result<T, String>, StoreError>;

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
        let trouble = kept.err().filter(|_| record.active);
        if self.pods.said != trouble {
            if let Some(why) = &trouble {
                warn!(fleet = %record.name, why, "fleet is not as it should be in the cluster");
            }
            self.pods.said.clone_from(&trouble);
        }
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
                true => Err(format!("the API server cannot be watched for {} s: {why}", since.as_secs())),
                false => Ok(()),
            });
        }
        let seen = sight.watch.pods(record.name.as_str());
        let workers = workers::follow(app, sight, record, &seen, self).await?;
        let Some(deployment) = sight.watch.deployment(record.name.as_str()) else {
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
        let scene = Scene::new(app, sight, record, deployment, (seen, workers));
        match record.active {
            true => self.steer(&scene, open).await,
            false => Ok(scene.scale_to(0).await),
        }
    }

    async fn steer(&mut self, scene: &Scene<'_>, open: Option<RolloutRecord>) -> Done {
        let (app, record) = (scene.app, scene.record);
        let counts = scene.counts();
        let mut observed =
            Observed { crew: Some(counts.crew(scene.deployment.replicas)), ..Observed::default() };
        for pod in &scene.pods {
            let workers = if pod.works() { &mut observed.active } else { &mut observed.draining };
            workers.push(pod.worker.clone());
        }
        let serving = self.rollout.at(app, record, record.release).await?;
        // Surge is not among those that are counted.
        let answer = self.decide(app, &serving, &observed, None).await?;
        self.remember(record, &answer);
        self.say(app, record, &answer).await?;
        if record.declaration.scaling.by != ScaledBy::Direct {
            self.wanted.publish(app, &record.name, &answer, self.epoch).await?;
        }
        let open = open.map(|open| self.rollout.recall(open));
        let moves = match self.roll_pods(scene, open, answer.desired, &observed).await? {
            Ok(moves) => moves,
            Err(why) => return Ok(Err(why)),
        };
        scene.tell();
        self.publish_owner(scene).await?;
        let direct = record.declaration.scaling.by == ScaledBy::Direct;
        if direct && scene.scaled_by_another().is_none() {
            let shrinks = !moves;
            if let Err(why) = self.scale_pods(scene, &answer.decision, shrinks).await? {
                return Ok(Err(why));
            }
        }
        Ok(scene.trouble().map_or(Ok(()), Err))
    }

    /// A wish to shrink stands until it is done: whoever scales in our place may ask at any time.
    fn remember(&mut self, record: &FleetRecord, answer: &Answer) {
        let workers = answer.crew.workers();
        let shrinks = matches!(answer.decision, Decision::Shrink { .. });
        let by_others = record.declaration.scaling.by != ScaledBy::Direct;
        let asked = self.pods.asked.filter(|_| shrinks && by_others);
        let done = asked.is_some_and(|from| workers < from);
        let stands = shrinks && by_others && !done;
        self.pods.asked = stands.then(|| asked.unwrap_or(workers));
        self.memory = if stands { self.memory.until_done(answer) } else { answer.memory.clone() };
    }

    /// Written down for the replicas that are asked to deploy something.
    async fn publish_owner(&mut self, scene: &Scene<'_>) -> Result<(), StoreError> {
        let owned = Owned { by: scene.external.clone() };
        if self.pods.owner.as_ref() != Some(&owned) {
            owned.publish(scene.app, &scene.record.name).await?;
            self.pods.owner = Some(owned);
        }
        Ok(())
    }

    /// `shrinks`: false while a rollout replaces pods.
    async fn scale_pods(&mut self, scene: &Scene<'_>, decision: &Decision, shrinks: bool) -> Done {
        let (app, record) = (scene.app, scene.record);
        let leases = app.store.leases(None).await?;
        if let Decision::Shrink { by, .. } = decision
            && shrinks
        {
            let workers: Vec<_> =
                scene.pods.iter().filter(|pod| pod.works()).map(|pod| &pod.worker).collect();
            let candidates: Vec<_> =
                workers.iter().map(|worker| candidate(worker, record, &leases)).collect();
            let victims = drain::choose(&candidates, by.get());
            for worker in workers.into_iter().filter(|worker| victims.contains(&worker.id)) {
                let contract = self.rollout.running(app, record, worker.release).await?.drain;
                info!(worker = %worker.id, fleet = %record.name, in_flight = worker.in_flight, "worker is told to drain");
                app.store.order_drain(worker.id.clone(), contract.mode, contract.timeout_ms, now()).await?;
            }
        }
        if scene.sight.cluster.heeds_deletion_cost() {
            let costs = scene.pods.iter().filter_map(|pod| {
                let invested = candidate(&pod.worker, record, &leases).invested_ms;
                Some((pod, deletion_cost(pod.standing, invested)?))
            });
            if let Err(why) = self.mark(scene, costs.collect()).await {
                return Ok(Err(why));
            }
        }
        let replicas = scene.counts().replicas(scene.deployment.replicas, decision);
        let scaled = scene.scale_to(replicas).await;
        if scaled.is_ok() && replicas != scene.deployment.replicas {
            self.pods.wrote = Some((scene.deployment.generation + 1, Instant::now()));
        }
        Ok(scaled)
    }

    /// Says which pods are to go first.
    async fn mark(&mut self, scene: &Scene<'_>, costs: Vec<(&Pod, i32)>) -> Result<(), String> {
        let marked = &mut self.pods.costs;
        marked.retain(|name, _| scene.pods.iter().any(|pod| pod.seen.name == *name));
        for (pod, cost) in costs {
            // While it works on, what was written first will do.
            let draining = pod.standing == Standing::Draining;
            if marked.get(&pod.seen.name).is_some_and(|set| *set == cost || draining) {
                continue;
            }
            let set = scene.sight.cluster.set_deletion_cost(&pod.seen.name, cost).await;
            set.map_err(|error| chain(&error))?;
            marked.insert(pod.seen.name.clone(), cost);
        }
        Ok(())
    }

    /// Returns whether a rollout moves pods.
    async fn roll_pods(
        &mut self,
        scene: &Scene<'_>,
        open: Option<RolloutRecord>,
        desired: u32,
        observed: &Observed,
    ) -> Done<bool> {
        let (app, record) = (scene.app, scene.record);
        let Some(mut open) = open else {
            return Ok(self.keep_template(scene, record.release).await?.map(|()| false));
        };
        open.plan.policy = match scene.external {
            // It is watched: whoever began it decides whether it goes back.
            Some(_) => without_verdict(open.plan.policy),
            None if is_without_verdict(&open.plan.policy) => record.declaration.rollout,
            None => open.plan.policy,
        };
        let leases = app.store.leases(None).await?;
        let cost = |worker: &WorkerRecord| candidate(worker, record, &leases);
        let workers: Vec<_> = observed.active.iter().map(|it| (it.clone(), cost(it))).collect();
        let held = scene.held(open.plan.to);
        let seen = (&workers[..], desired);
        let saved = rollout::decide((app, held), &mut self.rollout, record, open, seen, self.epoch);
        let Some(RolloutRecord { plan, .. }) = saved.await? else {
            app.look_again.notify_one();
            return Ok(Ok(true));
        };
        if plan.has_ended() {
            app.look_again.notify_one();
        }
        if let Err(why) = self.keep_template(scene, plan.heads_for()).await? {
            return Ok(Err(why));
        }
        let paused = plan.paused && !plan.has_ended();
        if let Err(why) = scene.pause(paused).await {
            return Ok(Err(why));
        }
        Ok(Ok(matches!(plan.phase, Phase::Forward | Phase::Finishing | Phase::Back { .. }) && !paused))
    }
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
