//! A fleet as it is in the cluster and in the store, and what there is to say of it.

use std::collections::{HashMap, HashSet};

use longshore_api::link::WorkerState;
use longshore_core::fleet::ScaledBy;
use longshore_core::kubernetes::{Counts, Facts, Standing};
use longshore_core::rollout::{Owner, Release};
use longshore_platform::kubernetes::{DeploymentSeen, PodSeen};
use longshore_store::{FleetRecord, WorkerRecord};

use crate::app::App;
use crate::controller::cluster::Sight;
use crate::convert::worker_state;

pub struct Scene<'a> {
    pub app: &'a App,
    pub sight: &'a Sight,
    pub record: &'a FleetRecord,
    pub deployment: DeploymentSeen,
    pub pods: Vec<Pod>,
    /// Why longshore changes nothing of what the pods are made from.
    pub external: Option<String>,
}

pub struct Pod {
    pub seen: PodSeen,
    pub worker: WorkerRecord,
    pub standing: Standing,
}

impl Pod {
    fn new(seen: PodSeen, worker: WorkerRecord, dismissed: bool) -> Pod {
        let state = worker_state(&worker);
        let by_itself = state == WorkerState::Draining && worker.drain.is_none();
        let facts = Facts {
            leaves: seen.leaves || by_itself,
            ready: state == WorkerState::Ready,
            seen_ready: seen.ready,
            told: worker.drain.is_some(),
            gone: state == WorkerState::Gone,
            dismissed,
        };
        Pod { seen, worker, standing: facts.standing() }
    }

    /// Its worker has come up, and can be told something.
    pub fn is_up(&self) -> bool {
        self.worker.ended_at.is_none() && self.worker.registered_at.is_some()
    }

    /// It is one of those that the fleet has.
    pub fn works(&self) -> bool {
        matches!(self.standing, Standing::Ready | Standing::Starting)
    }
}

impl<'a> Scene<'a> {
    /// `pods`: as they are seen, and the workers in them by name.
    pub fn new(
        app: &'a App,
        sight: &'a Sight,
        record: &'a FleetRecord,
        deployment: DeploymentSeen,
        (seen, mut workers): (Vec<PodSeen>, HashMap<String, WorkerRecord>),
        dismissed: &HashSet<String>,
    ) -> Scene<'a> {
        let pods = seen.into_iter().filter_map(|seen| {
            let worker = workers.remove(&seen.name)?;
            let dismissed = dismissed.contains(&seen.name);
            Some(Pod::new(seen, worker, dismissed))
        });
        let pods = pods.collect();
        let external = match (record.declaration.rollout.owner, &deployment.tracked_by) {
            (_, Some(tool)) => Some(format!("{tool} keeps Deployment `{}` as Git has it", deployment.name)),
            (Owner::External, None) => Some("`rollout.owner` is \"external\"".into()),
            (Owner::Longshore, None) => None,
        };
        Scene { app, sight, record, deployment, pods, external }
    }

    pub fn counts(&self) -> Counts {
        Counts::of(self.pods.iter().map(|pod| (pod.standing, pod.seen.ready)))
    }

    /// Pods are not made: a quota or the like forbids it.
    pub fn refused(&self) -> bool {
        self.deployment.failure.is_some()
    }

    /// The autoscaler that scales the Deployment.
    ///
    /// Errors: why that is not known.
    pub fn scaled_by_another(&self) -> Result<Option<String>, String> {
        self.sight.autoscaler_of(&self.deployment.name)
    }

    /// Why pods of a release cannot be started, by no fault of their own.
    pub fn held(&self, release: Release) -> Option<String> {
        let mut of_it = self.pods.iter().filter(|pod| pod.worker.release == release);
        of_it.find_map(|pod| pod.seen.stuck.clone()).or_else(|| self.deployment.failure.clone())
    }

    /// What keeps the fleet from being what it should be.
    pub fn trouble(&self) -> Option<String> {
        if let Some(why) = self.sight.unjoined(&self.record.name) {
            return Some(why);
        }
        if let Some(why) = &self.deployment.failure {
            return Some(format!("pods are refused: {why}"));
        }
        let stuck = self.pods.iter().find_map(|pod| Some((&pod.seen.name, pod.seen.stuck.as_ref()?)));
        stuck.map(|(pod, why)| format!("pod `{pod}`: {why}"))
    }

    /// Notes what else there is to know of the fleet.
    pub fn tell(&self) {
        let notes = self.notes();
        let mut all = self.app.notes.lock().expect("no holder panics");
        match notes.is_empty() {
            true => drop(all.remove(&self.record.name)),
            false => drop(all.insert(self.record.name.clone(), notes)),
        }
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let (name, by) = (&self.deployment.name, self.record.declaration.scaling.by);
        match (by, self.sight.autoscaler_of(name)) {
            (ScaledBy::Direct, Ok(Some(autoscaler))) => notes.push(format!(
                "HorizontalPodAutoscaler `{autoscaler}` scales Deployment `{name}`, so longshore does not: delete it, or set \
                 `scaling.by` to \"hpa\" or \"keda\""
            )),
            (ScaledBy::Hpa | ScaledBy::Keda, Ok(None)) => notes.push(format!(
                "`scaling.by` is \"{}\", and no HorizontalPodAutoscaler scales Deployment `{name}`: its number stays as it is",
                by.as_str()
            )),
            _ => {}
        }
        let drained = self.counts().drained;
        let scales = by == ScaledBy::Direct && matches!(self.scaled_by_another(), Ok(None));
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
