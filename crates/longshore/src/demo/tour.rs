//! The tour's story: the burst arrives, a worker is killed, another one drained, a new release deployed, the queue empties, the fleet shrinks.
//!
//! Speaks to the control plane as anybody would, through its API.

use std::collections::BTreeSet;
use std::time::Duration;

use longshore_api::client::Client;
use longshore_core::id::FleetName;
use longshore_simulate::Sim;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::audit::{Releases, audit};
use super::book::{Book, Look};
use super::chaos::Chaos;
use super::deploy::Deploy;
use super::screen::Screen;
use super::stage::{FLEET, MAX, MIN};
use super::submit::{Burst, burst};
use super::summary::Facts;
use super::trace::Arrival;
use super::twin::Twin;
use super::view::Scene;
use crate::error::{Fault, Outcome};

/// How often the fleet is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Without any task ending for so long, something is stuck.
const STUCK: Duration = Duration::from_secs(45);

/// How long the rollout may take to end, and the fleet to shrink, when all is done.
const SHRINK: Duration = Duration::from_secs(45);

pub struct Tour<'a> {
    provider: &'a Sim,
    client: Client,
    arrivals: Vec<Arrival>,
    chaos: Chaos,
    deploy: Deploy<'a>,
    book: Book,
    screen: Screen,
    ticks: Interval,
}

impl<'a> Tour<'a> {
    pub fn new(
        provider: &'a Sim,
        client: Client,
        arrivals: Vec<Arrival>,
        (chaos, deploy): (Chaos, Deploy<'a>),
        screen: Screen,
    ) -> Tour<'a> {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Tour { provider, client, arrivals, chaos, deploy, book: Book::open(), screen, ticks }
    }

    /// Goes through the whole of it; `leftovers` of the facts is for the caller to find out.
    pub async fn run(mut self, twin: &Twin) -> Outcome<Facts> {
        self.deploy.first(&self.client).await?;
        let (burst, stuck) = self.work().await?;
        let at_end = match stuck {
            None => self.shrink().await?,
            Some(_) => self.look("stuck").await?,
        };
        let releases: Releases = at_end.workers.iter().map(|it| (it.id.clone(), it.release)).collect();
        let tasks = audit(&self.client, &burst.sent, twin, &releases).await?;
        let last = self.look("done").await?;
        let by_hand = self.chaos.killed.iter().map(|killed| &killed.worker).chain(&self.chaos.drained);
        let by_hand: BTreeSet<&str> = by_hand.map(String::as_str).collect();
        let gone = last.workers.iter().filter(|worker| worker.state.as_str() == "gone");
        Ok(Facts {
            tasks,
            bill: self.provider.bill(),
            planned: self.arrivals.len(),
            repeat_is_the_same: burst.repeat_is_the_same,
            killed: self.chaos.killed.iter().map(|killed| (killed.worker.clone(), killed.at.0)).collect(),
            drained: self.chaos.drained.clone(),
            gone: gone.map(|worker| worker.id.clone()).collect(),
            rolled: self.deploy.facts(&self.book, &last, &by_hand),
            peak: self.book.peak,
            desired: self.book.decisions.iter().map(|decision| decision.to).collect(),
            min: MIN,
            max: MAX,
            at_end: at_end.active(),
            leftovers: 0,
            seconds: self.book.start.elapsed().as_secs_f64(),
            stuck,
        })
    }

    /// Until every task has ended, or nothing moves any more.
    async fn work(&mut self) -> Outcome<(Burst, Option<String>)> {
        // Ends with this future: a tour that is broken off submits nothing more.
        let mut submitting = JoinSet::new();
        let fleet = FleetName::new(FLEET).map_err(|error| Fault::of(&error))?;
        submitting.spawn(burst(self.client.clone(), fleet, self.arrivals.clone()));
        let (mut sent, mut moved) = (None, (Instant::now(), 0));
        loop {
            self.ticks.tick().await;
            if let Some(joined) = submitting.try_join_next() {
                sent = Some(joined.map_err(|error| Fault::new("the submission broke off").cause(&error))??);
                self.book.tell(format!("all {} tasks are submitted", self.arrivals.len()));
            }
            let phase = match (self.book.rolls(), &sent) {
                (true, _) => "a new release is deployed",
                (false, None) => "the burst arrives",
                (false, Some(_)) => "the queue is worked off",
            };
            let look = self.look(phase).await?;
            self.chaos.step(&self.client, &look, &mut self.book).await?;
            let drained = !self.chaos.drained.is_empty();
            self.deploy.step(&self.client, &look, drained, &mut self.book).await?;
            if look.ended() != moved.1 {
                moved = (Instant::now(), look.ended());
            }
            let stuck = (moved.0.elapsed() > STUCK).then(|| stuck(&look));
            match sent.take() {
                Some(burst) if look.unfinished() == 0 || stuck.is_some() => return Ok((burst, stuck)),
                None if stuck.is_some() => return Err(Fault::new(stuck.unwrap_or_default())),
                unfinished => sent = unfinished,
            }
        }
    }

    /// Until the rollout has ended and the fleet is back at its least, or their time is up.
    async fn shrink(&mut self) -> Outcome<Look> {
        self.book.tell("every task has ended".into());
        let until = Instant::now() + SHRINK;
        loop {
            self.ticks.tick().await;
            let look = self.look("the fleet shrinks").await?;
            let there = look.active() + look.count(longshore_api::link::WorkerState::Draining);
            if (there == MIN as usize && !self.book.rolls()) || Instant::now() > until {
                return Ok(look);
            }
        }
    }

    async fn look(&mut self, phase: &str) -> Outcome<Look> {
        let look = self.book.look(&self.client).await?;
        let (total, calls) = (self.arrivals.len() as u64, &self.provider.bill().totals);
        self.screen.show(&Scene { look: &look, book: &self.book, calls, total, phase });
        Ok(look)
    }
}

fn stuck(look: &Look) -> String {
    let trouble = look.fleet.trouble.as_ref().map(|trouble| format!(": {trouble}"));
    format!("no task ended for {} s{}", STUCK.as_secs(), trouble.unwrap_or_default())
}
