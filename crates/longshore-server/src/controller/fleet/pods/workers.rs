//! Pods and the workers in them: a pod that is new is a worker that was planned, and one that has ended gives its tasks back.

use std::collections::{HashMap, HashSet};

use longshore_core::fleet::DrainMode;
use longshore_core::id::WorkerId;
use longshore_core::kubernetes::release_of_pod;
use longshore_core::rollout::Release;
use longshore_core::task::Interruption;
use longshore_core::time::Timestamp;
use longshore_platform::kubernetes::PodSeen;
use longshore_store::{FleetRecord, PlannedWorker, StoreError, WorkerEnd, WorkerFilter, WorkerRecord};
use tracing::{info, warn};

use super::Controller;
use crate::app::{App, now, roll};
use crate::controller::cluster::Sight;
use crate::controller::crew::cause;
use crate::ends::Ending;

/// Releases that a pod may be of.
const RELEASES: usize = 50;

/// Seconds by which the clock of a node may be ahead of the store's: a worker that runs is not taken for one that ended before.
const CLOCKS_S: i64 = 10;

/// Brings the store's workers up to what is seen of their pods. Returns those that have one, by its name.
pub async fn follow(
    app: &App,
    sight: &Sight,
    record: &FleetRecord,
    pods: &[PodSeen],
    controller: &mut Controller,
) -> Result<HashMap<String, WorkerRecord>, StoreError> {
    let place = sight.place();
    let all = app.store.workers(WorkerFilter { fleet: Some(record.name.clone()), gone: true }).await?;
    let names: HashSet<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
    let mut known: HashMap<String, WorkerRecord> = HashMap::new();
    // Whoever the store has forgotten is not heard of again.
    let stored: HashSet<&str> = all.iter().map(|worker| worker.id.as_str()).collect();
    controller.pods.lost.retain(|id| stored.contains(id.as_str()));
    for worker in all {
        match names.contains(worker.id.as_str()) {
            true => drop(known.insert(worker.id.to_string(), worker)),
            false if worker.platform == place && worker.ended_at.is_none() => {
                lose(app, &worker, controller).await?;
            }
            false => {}
        }
    }
    controller.pods.lost.retain(|id| !names.contains(id.as_str()));
    let uids: HashSet<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
    controller.pods.ends.retain(|uid, _| uids.contains(uid.as_str()));
    let mut changed = false;
    // A pod may be seen before it is known which release somebody else's change is.
    let agreed = controller.pods.agreed().cloned();
    let release = |pod: &PodSeen| agreed.as_ref().filter(|it| it.mark == pod.mark).map(|it| it.release);
    let moved = |pod: &PodSeen, worker: &WorkerRecord| release(pod).is_some_and(|it| it != worker.release);
    let new = |pod: &&PodSeen| {
        known.get(&pod.name).is_none_or(|worker| worker.platform != place || moved(pod, worker))
    };
    for pod in pods.iter().filter(|pod| !pod.over).filter(new) {
        changed |= plan(app, record, pod, &place, controller).await?;
    }
    changed |= end_those_that_did(app, &known, pods, controller).await?;
    if changed {
        // What was written just now.
        let all = app.store.workers(WorkerFilter { fleet: Some(record.name.clone()), gone: true }).await?;
        let there = all.into_iter().filter(|worker| names.contains(worker.id.as_str()));
        known = there.map(|worker| (worker.id.to_string(), worker)).collect();
    }
    Ok(known)
}

/// Each end once, when it is written down: a container that is started again registers anew, and its last end stays to be seen.
/// Returns whether there was one.
async fn end_those_that_did(
    app: &App,
    known: &HashMap<String, WorkerRecord>,
    pods: &[PodSeen],
    controller: &mut Controller,
) -> Result<bool, StoreError> {
    let mut changed = false;
    for pod in pods {
        let Some(worker) = known.get(&pod.name).filter(|worker| worker.ended_at.is_none()) else { continue };
        let container = pod.ended.as_ref().map(|ended| ended.container.clone()).unwrap_or_default();
        let seen = |last: &String| !pod.over && !container.is_empty() && *last == container;
        if controller.pods.ends.get(&pod.uid).is_some_and(seen) {
            continue;
        }
        if let Some((cause, how)) = ended(pod, worker.registered_at) {
            end(app, worker, cause, how).await?;
            changed = true;
        }
        controller.pods.ends.insert(pod.uid.clone(), container);
    }
    Ok(changed)
}

async fn plan(
    app: &App,
    record: &FleetRecord,
    pod: &PodSeen,
    place: &str,
    controller: &Controller,
) -> Result<bool, StoreError> {
    let Some(epoch) = app.epoch() else { return Ok(false) };
    // A pod whose name cannot be a worker's has none that could register.
    let Ok(id) = WorkerId::new(pod.name.clone()) else { return Ok(false) };
    let release = release(app, record, pod, controller).await?;
    let planned = PlannedWorker { id, fleet: record.name.clone(), release, platform: place.to_owned() };
    let planned = app.store.plan_worker(planned, epoch, now()).await?;
    if planned {
        info!(worker = pod.name, fleet = %record.name, release, "pod is a worker of this release");
    }
    Ok(planned)
}

/// The release that a pod runs; the one that is served, where it is of none that is known.
async fn release(
    app: &App,
    record: &FleetRecord,
    pod: &PodSeen,
    controller: &Controller,
) -> Result<Release, StoreError> {
    let agreed = controller.pods.agreed();
    if let Some(agreed) = agreed.filter(|agreed| agreed.mark == pod.mark) {
        return Ok(agreed.release);
    }
    let releases = app.store.releases(record.name.clone(), RELEASES).await?;
    let releases: Vec<_> = releases.into_iter().map(|it| (it.number, it.declaration)).collect();
    Ok(release_of_pod(&releases, agreed, &pod.mark).unwrap_or(record.release))
}

/// How a pod's worker ended, if it did since it registered.
fn ended(pod: &PodSeen, registered_at: Option<Timestamp>) -> Option<(Interruption, Ending)> {
    let ended = pod.ended.as_ref()?;
    let said = ended.said.as_deref().map(|said| said.trim().to_owned());
    let came_later = registered_at.is_some_and(|at| came_later(pod, at.0 / 1000, ended.at));
    let taken = pod.over || pod.leaves && !ended.end.is_crash();
    let how = match (taken, said) {
        // The node's word, where it has one, says more than how the container took it.
        (true, Some(why)) if pod.over => Ending::PodTaken(why),
        (true, said) => Ending::PodTaken(Ending::Seen(ended.end, said).to_string()),
        (false, said) => Ending::Seen(ended.end, said),
    };
    (pod.over || !came_later).then(|| (cause(ended.end), how))
}

/// Whether a worker registered after its pod's container had ended, in which case that is no end of it: a container that is
/// started again registers anew, and that gives back by itself what was held before.
fn came_later(pod: &PodSeen, registered_at: i64, ended_at: i64) -> bool {
    match pod.runs {
        // Once it is ready it has registered, whatever the clocks say.
        true => pod.ready || registered_at + CLOCKS_S >= ended_at,
        false => registered_at >= ended_at,
    }
}

/// A worker whose pod is not to be seen has ended; one that speaks up again, since somebody took the fleet's label off its pod,
/// is told to drain and left alone.
async fn lose(app: &App, worker: &WorkerRecord, controller: &mut Controller) -> Result<(), StoreError> {
    if !controller.pods.lost.contains(&worker.id) {
        end(app, worker, Interruption::WorkerEnded, Ending::PodGone).await?;
        controller.pods.lost.insert(worker.id.clone());
        return Ok(());
    }
    if worker.drain.is_none() {
        warn!(worker = %worker.id, "worker goes on without a pod of the fleet: it is told to drain");
        app.store.order_drain(worker.id.clone(), DrainMode::Handover, 0, now()).await?;
    }
    Ok(())
}

async fn end(app: &App, worker: &WorkerRecord, cause: Interruption, how: Ending) -> Result<(), StoreError> {
    let why = how.to_string();
    info!(worker = %worker.id, why, "worker ended");
    let end = WorkerEnd { worker: worker.id.clone(), nonce: worker.nonce, cause, why };
    let released = app.store.worker_ended(end, roll(), now()).await?;
    if !released.is_empty() {
        info!(worker = %worker.id, tasks = released.len(), "its tasks are given to others");
    }
    app.look_again.notify_one();
    Ok(())
}

#[cfg(test)]
mod tests {
    use longshore_platform::End;
    use longshore_platform::kubernetes::Ended;

    use super::*;
    use crate::ends::is_its_own;

    const AT: i64 = 1_000;

    fn pod(end: End) -> PodSeen {
        let ended = Ended { container: "c1".into(), end, at: AT, said: None };
        PodSeen { ended: Some(ended), ..PodSeen::default() }
    }

    /// Whether its release is to blame; none: it has not ended.
    fn blamed(pod: &PodSeen, registered_at: Option<Timestamp>) -> Option<bool> {
        ended(pod, registered_at).map(|(_, how)| is_its_own(&how.to_string()))
    }

    #[test]
    fn a_release_is_not_blamed_for_pods_that_somebody_or_their_node_took_away() {
        let killed = pod(End::Signaled(9));
        assert_eq!(blamed(&killed, None), Some(true));
        // Deleted before it came up, or drained with its node.
        assert_eq!(blamed(&PodSeen { leaves: true, ..killed.clone() }, None), Some(false));
        assert_eq!(blamed(&PodSeen { leaves: true, ..pod(End::Exited(1)) }, None), Some(false));
        // What it crashed of itself it crashed of.
        assert_eq!(blamed(&PodSeen { leaves: true, ..pod(End::OutOfMemory) }, None), Some(true));
        for end in [End::Gone, End::Signaled(9), End::Exited(1)] {
            let over = PodSeen { leaves: true, over: true, ..pod(end) };
            assert_eq!(blamed(&over, None), Some(false), "{end}");
        }
        let (_, how) = ended(&PodSeen { over: true, ..killed }, None).expect("it ended");
        assert_eq!(how.to_string(), "its pod was taken away: killed by SIGKILL");
    }

    #[test]
    fn what_runs_again_is_not_taken_for_what_ended_though_its_nodes_clock_is_ahead() {
        let again = PodSeen { runs: true, ..pod(End::OutOfMemory) };
        let ends =
            |pod: &PodSeen, after_s: i64| blamed(pod, Some(Timestamp((AT + after_s) * 1000 + 500))).is_some();
        assert!(!ends(&again, 1), "it has registered since");
        assert!(!ends(&again, -5), "it has, by a clock that is behind");
        assert!(!ends(&PodSeen { ready: true, ..again.clone() }, -3600), "only who has registered is ready");
        assert!(ends(&again, -60), "it has not registered yet, and what it held is given to others");
        // Nothing runs that could have registered.
        let waits = PodSeen { runs: false, ..again };
        assert!(ends(&waits, -5) && !ends(&waits, 1));
    }

    #[tokio::test]
    async fn a_death_that_could_not_be_written_down_is_not_taken_for_handled() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut server = crate::tests::scene::start(&dir, "", None).await.expect("it starts");
        let app = server.app().clone();
        let epoch = crate::tests::scene::leads(&app).await;
        let mut controller = Controller::new(epoch);
        for name in ["gone", "crashed"] {
            let (id, fleet) = (WorkerId::new(name).expect("a name"), crate::tests::scene::fleet("a"));
            let planned = PlannedWorker { id, fleet, release: 1, platform: "kubernetes@x".into() };
            assert!(app.store.plan_worker(planned, epoch, now()).await.expect("stored"));
        }
        let workers = app.store.workers(WorkerFilter::default()).await.expect("read");
        let known: HashMap<_, _> = workers.into_iter().map(|it| (it.id.to_string(), it)).collect();
        let crashed = PodSeen { name: "crashed".into(), uid: "u".into(), ..pod(End::Exited(1)) };
        let pods = [crashed];
        server.stop().await;
        lose(&app, &known["gone"], &mut controller).await.expect_err("it is closed");
        end_those_that_did(&app, &known, &pods, &mut controller).await.expect_err("it is closed");
        assert!(controller.pods.lost.is_empty() && controller.pods.ends.is_empty());
        // Nothing of it was lost with the process either.
        let server = crate::tests::scene::start(&dir, "", None).await.expect("it starts again");
        let app = server.app().clone();
        lose(&app, &known["gone"], &mut controller).await.expect("stored");
        assert!(end_those_that_did(&app, &known, &pods, &mut controller).await.expect("stored"));
        let left = app.store.workers(WorkerFilter::default()).await.expect("read");
        assert_eq!(left.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), [""; 0]);
        // Each end once: of one that has registered since, the last end is not new.
        assert!(!end_those_that_did(&app, &known, &pods, &mut controller).await.expect("nothing to do"));
    }
}
