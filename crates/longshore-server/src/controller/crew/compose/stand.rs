//! How a service's replicas stand: which workers are on their way, what is to be removed, what people should know.

use std::collections::BTreeSet;
use std::time::Duration;

use longshore_platform::Identity;
use longshore_platform::docker::compose::Replica;
use longshore_store::{WorkerRecord, WorkerState};

use super::{FOLLOWED, LEFT_BEHIND};

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stand {
    /// Hosts and ids of workers that run or are on their way.
    pub expected: Vec<String>,
    /// Containers that have ended and are nobody's business but ours.
    pub remove: Vec<String>,
    /// Names of those that could not be removed, each with why.
    pub stuck: Vec<(String, String)>,
    /// Names of containers that run and whose workers have not registered in time.
    pub silent: Vec<String>,
    /// Names of containers that end again and again.
    pub failing: Vec<String>,
    /// Replicas that are there to stay, or about to be replaced.
    pub count: u32,
    /// The configurations that those which run were made with.
    pub configs: BTreeSet<String>,
}

impl Stand {
    /// `age`: for how long it has run, or has been ended, without a worker.
    pub fn add(&mut self, replica: &Replica, has_worker: bool, told: bool, age: Duration, startup: Duration) {
        if !told {
            self.count += u32::from(replica.runs || age <= FOLLOWED);
            if replica.runs {
                self.configs.insert(replica.config.clone());
            }
            if replica.restarts && !has_worker {
                self.failing.push(replica.name.clone());
            }
        }
        match (replica.runs, told) {
            (true, true) => {}
            (true, false) if has_worker || age <= startup => self.expected.push(expected(replica)),
            (true, false) => self.silent.push(replica.name.clone()),
            (false, true) => self.remove.push(replica.id.clone()),
            (false, false) if age <= FOLLOWED => self.expected.push(expected(replica)),
            (false, false) if replica.worker.is_some() && age > LEFT_BEHIND => {
                self.remove.push(replica.id.clone());
            }
            (false, false) => {}
        }
    }
}

/// What the replica's worker will be known by.
fn expected(replica: &Replica) -> String {
    replica.worker.clone().unwrap_or_else(|| replica.hostname().to_owned())
}

/// The worker in a replica: the one that it was added for, else the one that says it is there; of several the newest.
pub fn worker_of<'a>(replica: &Replica, workers: &'a [WorkerRecord]) -> Option<&'a WorkerRecord> {
    let lives = workers.iter().filter(|worker| worker.state != WorkerState::Gone);
    match &replica.worker {
        Some(id) => lives.into_iter().find(|worker| worker.id.as_str() == id),
        None => lives
            .filter(|worker| {
                worker.planned_at.is_none() && worker.host.as_deref() == Some(replica.hostname())
            })
            .max_by_key(|worker| worker.registered_at),
    }
}

/// Whether the worker that ended in this container had been told to.
pub fn was_told(replica: &Replica, ended: &[WorkerRecord]) -> bool {
    ended.iter().any(|worker| {
        let identity = worker.identity.as_ref().and_then(|json| json.read::<Identity>().ok());
        let here = matches!(identity, Some(Identity::Docker(it)) if it.container == replica.id);
        here && worker.state == WorkerState::Gone && worker.drain.is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTUP: Duration = Duration::from_secs(120);

    fn replica(worker: Option<&str>, runs: bool) -> Replica {
        Replica {
            id: "0123456789abcdef".into(),
            name: "shop_agent_1".into(),
            number: 1,
            worker: worker.map(str::to_owned),
            runs,
            restarts: false,
            created: 0,
            config: "hash".into(),
            folder: None,
        }
    }

    fn stand(replica: &Replica, has_worker: bool, told: bool, seconds: u64) -> Stand {
        let mut stand = Stand::default();
        stand.add(replica, has_worker, told, Duration::from_secs(seconds), STARTUP);
        stand
    }

    #[test]
    fn one_that_runs_is_expected_until_it_was_told_to_go_or_stays_silent() {
        let runs = replica(None, true);
        assert_eq!(stand(&runs, false, false, 1).expected, ["0123456789ab"]);
        assert_eq!(stand(&runs, true, false, 900).expected, ["0123456789ab"]);
        assert_eq!(stand(&replica(Some("agent-x-1"), true), false, false, 1).expected, ["agent-x-1"]);
        let told = stand(&runs, true, true, 1);
        assert_eq!((told.expected.len(), told.remove.len(), told.count), (0, 0, 0));
        let silent = stand(&runs, false, false, 121);
        assert_eq!((silent.silent.len(), silent.expected.len()), (1, 0));
    }

    #[test]
    fn one_that_ended_is_removed_only_if_it_was_told_or_ours_and_left_behind() {
        let (theirs, ours) = (replica(None, false), replica(Some("agent-x-1"), false));
        for seconds in [1, 30, 900] {
            assert_eq!(stand(&theirs, false, true, seconds).remove, ["0123456789abcdef"]);
            assert_eq!(
                stand(&theirs, false, false, seconds).remove,
                [""; 0],
                "docker-compose's own business"
            );
        }
        // docker-compose stops one before it replaces it.
        assert_eq!(
            (stand(&theirs, false, false, 1).expected.len(), stand(&theirs, false, false, 1).count),
            (1, 1)
        );
        assert_eq!(stand(&theirs, false, false, 30).expected.len(), 0);
        assert_eq!(stand(&ours, false, false, 30).remove, [""; 0]);
        assert_eq!(stand(&ours, false, false, 61).remove, ["0123456789abcdef"]);
    }
}
