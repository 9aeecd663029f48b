//! What the leader last decided for fleets that others scale, told to them by whichever replica they ask.
//!
//! A number that is too old is no number: who asks is told so, and leaves the fleet as it is.

use std::time::{Duration, Instant};

use longshore_core::id::FleetName;
use longshore_core::kubernetes::tell;
use longshore_core::scale::{Answer, Decision, GrowReason, Standstill};
use longshore_core::time::Timestamp;
use longshore_store::{Epoch, StoreError};
use serde::{Deserialize, Serialize};

use crate::app::{App, now};

/// How long a decision counts. Longer than another leader needs to take over.
const LASTS: Duration = Duration::from_secs(15);

/// How often a decision is written down that says the same as the one before.
const EVERY: Duration = Duration::from_secs(2);

/// One look of the leader at a fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub at: Timestamp,
    /// The workers that it should have, beyond what an autoscaler would ignore.
    pub desired: u32,
    /// Tasks that could run now.
    pub pending: u64,
    /// Those that are ready or starting.
    pub workers: u32,
    /// Those that are ready. None: written by a release that did not tell.
    #[serde(default)]
    pub ready: Option<u32>,
    /// The number of pods that an autoscaler would make of `desired`, though neither that nor the number there is to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub misread: Option<u32>,
    /// Why nothing can start, and `pending` says nothing of the workers that are needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standstill: Option<Standstill>,
}

impl Mark {
    /// `replicas`: pods that there are to be; `there`: pods that there are.
    fn of(answer: &Answer, (replicas, there): (u32, u32), at: Timestamp) -> Mark {
        // An operator's number is meant as it is.
        let exactly = matches!(answer.decision, Decision::Grow { reason: GrowReason::Ordered { .. }, .. });
        let told = tell(answer.desired, exactly, replicas, there, answer.policy.max);
        Mark {
            at,
            desired: told.unwrap_or(answer.desired),
            pending: answer.load.runnable,
            workers: answer.crew.workers(),
            ready: Some(answer.crew.ready),
            misread: told.err(),
            standstill: answer.load.standstill,
        }
    }

    /// The workers that an autoscaler is to be told.
    ///
    /// Errors: why it is told none, in words that follow a fleet's name.
    pub fn told(&self) -> Result<u32, String> {
        self.misread.map_or(Ok(self.desired), |pods| {
            Err(format!(
                "has {pods} pods for {} workers: an autoscaler would take the one for the other, so it is told nothing and leaves \
                 their number as it is",
                self.desired
            ))
        })
    }

    /// Clocks of replicas differ: one that is from the future is as doubtful as one that is too old.
    fn counts(&self, now: Timestamp) -> bool {
        now.since(self.at) <= LASTS && self.at.since(now) <= LASTS
    }

    /// How long ago it was made, in seconds.
    pub fn age(&self, now: Timestamp) -> u64 {
        now.since(self.at).as_secs()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Fresh(Mark),
    /// The last one, if there ever was one.
    Stale(Option<Mark>),
}

impl Wanted {
    pub fn read(text: Option<&str>, now: Timestamp) -> Wanted {
        let mark: Option<Mark> = text.and_then(|text| serde_json::from_str(text).ok());
        match mark {
            Some(mark) if mark.counts(now) => Wanted::Fresh(mark),
            old => Wanted::Stale(old),
        }
    }

    /// Why there is no number, in words that follow a fleet's name.
    pub fn doubt(&self, now: Timestamp) -> Option<String> {
        match self {
            Wanted::Fresh(_) => None,
            Wanted::Stale(None) => Some("was not looked at by a control plane yet".into()),
            Wanted::Stale(Some(mark)) => {
                Some(format!("was last looked at {} s ago: does no control plane lead?", mark.age(now)))
            }
        }
    }
}

fn key(fleet: &FleetName) -> String {
    format!("wanted:{fleet}")
}

/// Writes down what the leader decides for one fleet; remembers what it wrote last.
#[derive(Default)]
pub struct Publisher(Option<(Instant, Mark)>);

impl Publisher {
    /// `pods`: how many there are to be, and how many there are. A decision that was made without numbers is not written down: the one before grows old.
    pub async fn publish(
        &mut self,
        app: &App,
        fleet: &FleetName,
        answer: &Answer,
        pods: (u32, u32),
        epoch: Epoch,
    ) -> Result<(), StoreError> {
        let mark = Mark::of(answer, pods, now());
        if !answer.load.fresh || !self.is_news(&mark) {
            return Ok(());
        }
        let text = serde_json::to_string(&mark).expect("plain data");
        app.store.meta_put_leading(key(fleet), text, epoch).await?;
        self.0 = Some((Instant::now(), mark));
        Ok(())
    }

    fn is_news(&self, mark: &Mark) -> bool {
        let tells = |mark: &Mark| (mark.desired, mark.misread);
        self.0.as_ref().is_none_or(|(at, last)| tells(last) != tells(mark) || at.elapsed() >= EVERY)
    }
}

/// Reads what the leader last decided.
pub async fn of(app: &App, fleet: &FleetName) -> Result<Wanted, StoreError> {
    Ok(Wanted::read(app.store.meta_get(key(fleet)).await?.as_deref(), now()))
}

#[cfg(test)]
mod tests {
    use longshore_core::fleet::Scaling;
    use longshore_core::scale::{self, Crew, Each, Load};

    use super::*;

    const AT: Timestamp = Timestamp(1_000_000);

    fn answer(runnable: u64, ready: u32, ordered: Option<u32>) -> Answer {
        let load = Load { runnable, oldest_wait_ms: None, running: 0, fresh: true, standstill: None };
        let crew = Crew { ready, starting: 0, draining: 0 };
        let policy = Scaling { max: 50, ..Scaling::default() };
        let each = Each { concurrency: 1, startup_ms: 1000 };
        scale::decide(&load, &crew, &policy, each, ordered, &Default::default(), AT)
    }

    #[test]
    fn a_mark_counts_for_a_while_and_not_from_a_clock_that_is_far_off() {
        let mark = Mark::of(&answer(3, 2, None), (2, 2), AT);
        let text = serde_json::to_string(&mark).expect("plain data");
        let at = |wait: Duration| Wanted::read(Some(&text), AT.after(wait));
        assert_eq!(at(LASTS), Wanted::Fresh(mark.clone()));
        let late = at(LASTS + Duration::from_millis(1));
        assert_eq!(late, Wanted::Stale(Some(mark.clone())));
        let doubt = late.doubt(AT.after(Duration::from_secs(40))).expect("stale");
        assert!(doubt.contains("40 s ago"), "{doubt}");
        let ahead = Wanted::read(Some(&text), AT.before(LASTS + Duration::from_millis(1)));
        assert_eq!(ahead, Wanted::Stale(Some(mark)));
        assert_eq!(Wanted::read(None, AT), Wanted::Stale(None));
        assert_eq!(Wanted::read(Some("{}"), AT), Wanted::Stale(None), "of another version");
    }

    #[test]
    fn growth_is_asked_for_beyond_what_is_tolerated_and_orders_as_they_are() {
        let of = |answer: &Answer| Mark::of(answer, (20, 20), AT).told();
        let backlog = answer(8 * 21, 20, None);
        assert_eq!((backlog.desired, of(&backlog)), (21, Ok(23)));
        assert_eq!(of(&answer(0, 20, Some(21))), Ok(21));
        let held = answer(60, 20, None);
        assert_eq!((held.desired, of(&held)), (20, Ok(20)));
    }

    #[test]
    fn nothing_is_told_that_would_add_what_a_rollout_has_there_for_a_while() {
        let mark = Mark::of(&answer(60, 20, None), (20, 21), AT);
        let why = mark.told().expect_err("nothing");
        assert!(mark.desired == 20 && why.contains("has 21 pods for 20 workers"), "{why}");
        let text = serde_json::to_string(&mark).expect("plain data");
        assert_eq!(Wanted::read(Some(&text), AT), Wanted::Fresh(mark));
        // As releases before wrote it.
        let old = Wanted::read(
            Some(r#"{"at":"1970-01-01T00:16:40.000Z","desired":4,"pending":3,"workers":2}"#),
            AT,
        );
        let Wanted::Fresh(old) = old else { panic!("{old:?}") };
        assert_eq!(old.told(), Ok(4));
    }

    #[test]
    fn the_same_again_is_written_down_only_after_a_while() {
        let mark = Mark::of(&answer(3, 2, None), (2, 2), AT);
        let mut publisher = Publisher::default();
        assert!(publisher.is_news(&mark));
        publisher.0 = Some((Instant::now(), mark.clone()));
        assert!(!publisher.is_news(&Mark { pending: 4, ..mark.clone() }));
        assert!(publisher.is_news(&Mark { desired: 9, ..mark.clone() }));
        assert!(publisher.is_news(&Mark { misread: Some(3), ..mark.clone() }));
        publisher.0 = Instant::now().checked_sub(EVERY).map(|at| (at, mark.clone()));
        assert!(publisher.is_news(&mark));
    }
}
