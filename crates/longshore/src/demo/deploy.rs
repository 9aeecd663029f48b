//! The release that comes while tasks run: the declaration changes, and is handed over as `longshore apply` does it.
//!
//! What becomes of it is the control plane's: [`Book`] looks on, and here is only counted who left for it.

use std::collections::BTreeSet;

use longshore_api::client::Client;
use longshore_api::fleet::{Apply, Worker};
use longshore_api::link::WorkerState;
use longshore_api::rollout::Rollout;
use longshore_core::fleet::Fleet;

use super::book::{Book, Look};
use super::stage::{FLEET, Stage};
use crate::error::Outcome;

/// When, in tasks that have ended, of all.
const DEPLOY_AT: f64 = 0.58;

pub struct Deploy<'a> {
    stage: &'a Stage,
    total: u64,
    begun: Option<Begun>,
}

/// What was there when it began.
struct Begun {
    unfinished: u64,
    surge: u32,
    gone: BTreeSet<String>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Rolled {
    pub from: u64,
    pub to: u64,
    /// `done` is what it should be.
    pub phase: String,
    pub says: String,
    pub seconds: f64,
    /// Tasks without an end when it began.
    pub unfinished: u64,
    /// Workers of the old release that left since, those apart that were killed or drained by hand.
    pub workers: Vec<String>,
    /// Workers that were there at once meanwhile, and how many more than the fleet's most may have been.
    pub peak: usize,
    pub surge: u32,
    /// Workers at the end that do not run the new release.
    pub behind: Vec<String>,
}

impl<'a> Deploy<'a> {
    pub fn new(stage: &'a Stage, total: u64) -> Deploy<'a> {
        Deploy { stage, total, begun: None }
    }

    /// Declares the fleet for the first time.
    pub async fn first(&self, client: &Client) -> Outcome<()> {
        apply(client, self.stage.settings()?.fleets).await
    }

    /// Hands over the next release once it is due: one worker was drained by hand before.
    pub async fn step(
        &mut self,
        client: &Client,
        look: &Look,
        drained: bool,
        book: &mut Book,
    ) -> Outcome<()> {
        let done = look.ended() as f64 / self.total.max(1) as f64;
        if self.begun.is_some() || !drained || done < DEPLOY_AT {
            return Ok(());
        }
        let fleets = self.stage.next_release()?;
        let surge = fleets.first().map_or(0, |fleet| fleet.rollout.surge);
        apply(client, fleets).await?;
        let rollout = client.rollout(FLEET, None).await?;
        let left = self.total.saturating_sub(look.ended());
        book.tell(format!(
            "release {} is declared with {left} tasks to go; it replaces release {}",
            rollout.to, rollout.from
        ));
        book.rollout = Some(rollout);
        let gone = gone(&look.workers).map(|worker| worker.id.clone()).collect();
        self.begun = Some(Begun { unfinished: look.unfinished(), surge, gone });
        Ok(())
    }

    /// `None`: it never began. `by_hand` are workers that were killed or drained by the tour itself.
    pub fn facts(&self, book: &Book, last: &Look, by_hand: &BTreeSet<&str>) -> Option<Rolled> {
        let (begun, rollout) = (self.begun.as_ref()?, book.rollout.as_ref()?);
        let left = gone(&last.workers).filter(|worker| {
            worker.release == rollout.from
                && !begun.gone.contains(&worker.id)
                && !by_hand.contains(worker.id.as_str())
        });
        let behind =
            last.workers.iter().filter(|it| it.state != WorkerState::Gone && it.release != rollout.to);
        Some(Rolled {
            from: rollout.from,
            to: rollout.to,
            phase: rollout.phase.clone(),
            says: rollout.says.clone(),
            seconds: seconds(rollout),
            unfinished: begun.unfinished,
            workers: left.map(|worker| worker.id.clone()).collect(),
            peak: book.peak_of_rollout,
            surge: begun.surge,
            behind: behind.map(|worker| worker.id.clone()).collect(),
        })
    }
}

async fn apply(client: &Client, fleets: Vec<Fleet>) -> Outcome<()> {
    client.apply(&Apply { fleets, dry_run: false }).await?;
    Ok(())
}

fn gone(workers: &[Worker]) -> impl Iterator<Item = &Worker> {
    workers.iter().filter(|worker| worker.state == WorkerState::Gone)
}

/// From its begin to its end; 0: it has none.
pub fn seconds(rollout: &Rollout) -> f64 {
    rollout.ended_at.map_or(0.0, |end| end.since(rollout.started_at).as_secs_f64())
}
