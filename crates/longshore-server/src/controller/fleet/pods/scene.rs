//! A fleet as it is in the cluster and in the store, and what there is to say of it.

use std::collections::HashMap;

use longshore_api::link::WorkerState;
use longshore_core::fleet::ScaledBy;
use longshore_core::kubernetes::{Counts, Facts, Number, Standing, Version, is_asleep, is_late};
use longshore_core::rollout::{Owner, Release};
use longshore_platform::kubernetes::{Autoscaler, DeploymentSeen, PodSeen};
use longshore_store::{FleetRecord, WorkerRecord};

use super::{CATCH_UP, Memory, autoscaling};
use crate::app::{App, now};
use crate::controller::cluster::Sight;
use crate::convert::worker_state;

pub struct Scene<'a> {
    pub app: &'a App,
    pub sight: &'a Sight,
    pub record: &'a FleetRecord,
    pub deployment: DeploymentSeen,
    pub pods: Vec<Pod>,
    pub number: Number,
    /// Why longshore changes nothing of what the pods are made from.
    pub external: Option<String>,
}

pub struct Pod {
    pub seen: PodSeen,
    pub worker: WorkerRecord,
    pub standing: Standing,
    facts: Facts,
}

impl Pod {
    fn new(seen: PodSeen, worker: WorkerRecord, dismissed: bool, startup_ms: u64) -> Pod {
        let state = worker_state(&worker);
        let since = worker.ended_at.or(worker.registered_at).or(worker.planned_at);
        let facts = Facts {
            // One that drains by itself is about to leave, or its container is started again: Kubernetes counts it until it is asked to
            // end.
            leaves: seen.leaves,
            up: is_up(&worker),
            ready: state == WorkerState::Ready,
            seen_ready: seen.ready,
            told: worker.drain.is_some(),
            dismissed,
            late: is_late(seen.stuck.is_some(), worker.in_flight, since, startup_ms, now()),
        };
        Pod { seen, worker, standing: facts.standing(), facts }
    }

    /// It is one of those that the fleet has.
    pub fn works(&self) -> bool {
        matches!(self.standing, Standing::Ready | Standing::Starting)
    }
}

/// A worker has come up, and can be told something.
pub fn is_up(worker: &WorkerRecord) -> bool {
    worker.ended_at.is_none() && worker.registered_at.is_some()
}

impl<'a> Scene<'a> {
    /// Of the Deployment, as it is seen.
    pub fn version(&self) -> Version {
        Version { uid: self.deployment.uid.clone(), generation: self.deployment.generation }
    }

    /// `seen`: the pods, and the workers in them by name.
    pub fn new(
        app: &'a App,
        sight: &'a Sight,
        record: &'a FleetRecord,
        deployment: DeploymentSeen,
        (seen, mut workers): (Vec<PodSeen>, HashMap<String, WorkerRecord>),
        memory: &Memory,
    ) -> Scene<'a> {
        let startup_ms = record.declaration.probe.startup_ms;
        let pods = seen.into_iter().filter_map(|seen| {
            let worker = workers.remove(&seen.name)?;
            let dismissed = memory.dismissed.contains(&seen.name);
            Some(Pod::new(seen, worker, dismissed, startup_ms))
        });
        let pods = pods.collect();
        let number = Number {
            replicas: deployment.replicas,
            // A quota or the like.
            refused: deployment.failure.is_some(),
            lowered: memory.lowered.is_some_and(|at| at.elapsed() < CATCH_UP),
        };
        let external = match (record.declaration.rollout.owner, &deployment.tracked_by) {
            (_, Some(tool)) => Some(format!("{tool} keeps Deployment `{}` as Git has it", deployment.name)),
            (Owner::External, None) => Some("`rollout.owner` is \"external\"".into()),
            (Owner::Longshore, None) => None,
        };
        Scene { app, sight, record, deployment, pods, number, external }
    }

    /// Pods that there are, or may be before the next look: a rollout adds some, and takes others away.
    pub fn there(&self, rolls: bool) -> u32 {
        let rolls = rolls || self.deployment.replaces;
        let surge = if rolls { self.record.declaration.rollout.surge } else { 0 };
        self.deployment.there.max(self.number.replicas.saturating_add(surge))
    }

    pub fn counts(&self) -> Counts {
        Counts::of(self.pods.iter().map(|pod| pod.facts))
    }

    /// Some are to go, and have tasks to finish.
    pub fn drains(&self) -> bool {
        self.pods.iter().any(|pod| pod.standing == Standing::Draining)
    }

    /// The autoscalers that scale the Deployment.
    ///
    /// Errors: why that is not known.
    pub fn autoscalers(&self) -> Result<Vec<Autoscaler>, String> {
        self.sight.autoscalers_of(&self.deployment.name)
    }

    /// Why pods of a release cannot be started, by no fault of their own.
    pub fn held(&self, release: Release) -> Option<String> {
        let mut of_it = self.pods.iter().filter(|pod| pod.worker.release == release);
        of_it.find_map(|pod| pod.seen.stuck.clone()).or_else(|| self.deployment.failure.clone())
    }

    /// What keeps the fleet from having the `desired` workers.
    pub fn trouble(&self, desired: u32) -> Option<String> {
        if let Some(why) = self.sight.unjoined(&self.record.name) {
            return Some(why);
        }
        if let Some(why) = &self.deployment.failure {
            return Some(format!("pods are refused: {why}"));
        }
        if let Some(why) = self.asleep(desired) {
            return Some(why);
        }
        let stuck = self.pods.iter().find_map(|pod| Some((&pod.seen.name, pod.seen.stuck.as_ref()?)));
        stuck.map(|(pod, why)| format!("pod `{pod}`: {why}"))
    }

    fn asleep(&self, desired: u32) -> Option<String> {
        let autoscaler = self.autoscalers().ok()?.into_iter().next()?;
        let (name, by) = (&self.deployment.name, self.record.declaration.scaling.by);
        is_asleep(by, autoscaler.least, self.number.replicas, desired).then(|| {
            format!(
                "{desired} workers are wanted, and HorizontalPodAutoscaler `{}` does not scale Deployment `{name}` from 0: \
                 `kubectl -n {} scale deployment {name} --replicas=1`",
                autoscaler.name,
                self.sight.cluster.namespace(),
            )
        })
    }

    /// Notes what else there is to know of the fleet. `of_others`: what others did to what its pods are made from.
    pub fn tell(&self, of_others: Vec<String>) {
        let mut notes = self.notes();
        notes.extend(of_others);
        let mut all = self.app.notes.lock().expect("no holder panics");
        match notes.is_empty() {
            true => drop(all.remove(&self.record.name)),
            false => drop(all.insert(self.record.name.clone(), notes)),
        }
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let (name, scaling) = (&self.deployment.name, &self.record.declaration.scaling);
        let autoscalers = self.autoscalers();
        if let Ok(autoscalers) = &autoscalers {
            notes.extend(autoscaling::notes(name, scaling.by, autoscalers));
        }
        if let (Some(asked), true) = (self.record.replicas, scaling.by != ScaledBy::Direct) {
            let least = autoscalers.iter().flatten().map(|it| it.least).max();
            notes.extend(autoscaling::ordered(asked, scaling, self.number.replicas, least));
        }
        notes.extend(self.sight.left_over());
        let drained = self.counts().drained;
        let scales = scaling.by == ScaledBy::Direct && autoscalers.is_ok_and(|all| all.is_empty());
        if drained > 0 && !scales {
            notes.push(format!(
                "{drained} pods have drained for longshore, which does not scale the fleet any more: `kubectl delete pod` replaces them"
            ));
        }
        let unlike = self.deployment.unlike(&self.record.declaration);
        if !unlike.is_empty() {
            notes.push(format!(
                "Deployment `{name}` does not have `{}` as the fleet declares it, and a release does not write that: render \
                 the fleet and apply it again",
                unlike.join("`, `")
            ));
        }
        if let Some(why) = &self.external {
            notes.push(format!("{why}: rollouts are shown, and neither begun nor undone by longshore"));
        }
        notes
    }
}
