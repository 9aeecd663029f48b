//! Looks after the workers of this machine that nobody watches, while this replica leads: an end that could not be written down
//! is found here again.
//!
//! One that does not lead leaves them alone: whom it watches it would drain when it stops, though they may be another one's.

use std::collections::HashMap;
use std::time::Duration;

use longshore_core::errors::chain;
use longshore_core::id::WorkerId;
use longshore_core::time::Timestamp;
use longshore_platform::{End, Found, Identity};
use tracing::{info, warn};

use super::{AdoptError, Crew};
use crate::app::{App, now};
use crate::controller::sleep_or_stop;
use crate::link::LEASE;

const LOOK: Duration = Duration::from_secs(15);

/// The controller's loop.
pub async fn run(app: App, crew: Crew) -> &'static str {
    let mut missing = Missing::default();
    while !sleep_or_stop(&app, LOOK).await {
        if app.epoch().is_none() {
            missing = Missing::default();
            continue;
        }
        if let Err(error) = crew.look_for_processes(&mut missing).await {
            warn!(error = %chain(&error), "workers of this machine could not be looked for; it is tried again");
        }
    }
    "processes"
}

/// Workers without a process in the last look, and when each was last heard of. One that is missing once may be about to be started,
/// or to be buried, by another replica on this machine, which knows more of its end. One that is heard of is alive on another
/// machine that is called like this one, or that sees processes of its own only.
#[derive(Default)]
pub(super) struct Missing(HashMap<WorkerId, Option<Timestamp>>);

struct Gone {
    worker: WorkerId,
    last_seen: Option<Timestamp>,
    identity: Option<Identity>,
    end: End,
}

impl Missing {
    /// Takes who is missing now, and returns who was before as well and was not heard of meanwhile.
    fn look(&mut self, now: Vec<Gone>) -> Vec<Gone> {
        let missing = now.iter().map(|gone| (gone.worker.clone(), gone.last_seen)).collect();
        let before = std::mem::replace(&mut self.0, missing);
        now.into_iter().filter(|gone| before.get(&gone.worker) == Some(&gone.last_seen)).collect()
    }
}

impl Crew {
    async fn look_for_processes(&self, missing: &mut Missing) -> Result<(), AdoptError> {
        if self.is_closed() {
            return Ok(());
        }
        // None is planned meanwhile: it has a record and no process yet.
        let gate = self.0.gate.lock().await;
        let mut missed = Vec::new();
        for record in self.unwatched_processes().await? {
            let identity = record.identity.as_ref().and_then(|json| json.read::<Identity>().ok());
            match self.0.process.find_again(record.id.as_str(), identity.as_ref()).await {
                Ok(Found::Running(running)) => self.found(&record, running).await?,
                // The others do not wait for it.
                Err(error) => {
                    warn!(worker = %record.id, error = %chain(&error), "it cannot be told whether a worker lives; it is tried again");
                }
                Ok(Found::Ended(end, _)) if is_silent(record.last_seen) => {
                    missed.push(Gone { worker: record.id, last_seen: record.last_seen, identity, end });
                }
                Ok(Found::Ended(..)) => {}
            }
        }
        drop(gate);
        for Gone { worker, identity, end, .. } in missing.look(missed) {
            info!(%worker, "worker of this machine is gone");
            self.bury(&worker, &self.0.process, identity, end, None).await;
        }
        Ok(())
    }
}

/// For as long as a lease lasts. Who never registered is.
fn is_silent(last_seen: Option<Timestamp>) -> bool {
    last_seen.is_none_or(|seen| now().since(seen) >= LEASE)
}

#[cfg(test)]
mod tests {
    use longshore_store::PlannedWorker;

    use super::*;
    use crate::app::now;
    use crate::tests::scene;

    #[tokio::test]
    async fn a_worker_whose_start_was_never_seen_to_the_end_is_ended_by_the_second_look() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut server = scene::start(&dir, "", None).await.expect("it starts");
        let (app, crew) = (server.app(), server.crew());
        scene::leads(app).await;
        // Whoever comes to lead looks once.
        crew.adopt().await.expect("adopted");
        let id = WorkerId::new("a-abcdef-7").expect("a name");
        let planned = PlannedWorker {
            id: id.clone(),
            fleet: scene::fleet("a"),
            release: 1,
            platform: app.own_platform.clone(),
        };
        let epoch = app.epoch().expect("it leads");
        assert!(app.store.plan_worker(planned, epoch, now()).await.expect("stored"));
        let is_there = async || {
            let record = app.store.worker(id.clone()).await.expect("read").expect("it was planned");
            record.ended_at.is_none()
        };
        let mut missing = Missing::default();
        crew.look_for_processes(&mut missing).await.expect("looked");
        assert!(is_there().await, "whoever plans one may be about to start it");
        crew.look_for_processes(&mut missing).await.expect("looked");
        assert!(!is_there().await);
        server.stop().await;
    }

    #[test]
    fn who_is_missing_twice_in_a_row_and_not_heard_of_is_gone() {
        let mut missing = Missing::default();
        let mut look = |seen: &[(&str, i64)]| {
            let gone = |(name, at): &(&str, i64)| Gone {
                worker: WorkerId::new(*name).expect("a name"),
                last_seen: (*at > 0).then_some(Timestamp(*at)),
                identity: None,
                end: End::Gone,
            };
            let found = missing.look(seen.iter().map(gone).collect());
            found.iter().map(|gone| gone.worker.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(look(&[("a", 1), ("b", 0)]), [""; 0]);
        assert_eq!(look(&[("b", 0), ("c", 1)]), ["b"], "it never registered");
        assert_eq!(look(&[("a", 1), ("c", 1)]), ["c"], "`a` was there meanwhile");
        assert_eq!(look(&[("a", 6)]), [""; 0], "it lives where this machine does not see it");
        assert_eq!(look(&[("a", 6)]), ["a"]);
    }
}
