//! Which attempts this worker holds, and how far each has come.
//!
//! An attempt stays in it until its ending is acknowledged or its lease is known to be gone: what is not listed in a
//! heartbeat is given to somebody else.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use longshore_api::link::ClaimedTask;
use longshore_core::id::Held;
use tokio::sync::{Notify, watch};

use crate::attempt::{self, Attempt, Stop, StopSender, Why};

pub struct Ledger {
    inner: Mutex<Inner>,
    /// How many attempts run: those whose agents are not stopped and whose endings are not known.
    running: watch::Sender<usize>,
    /// There is something that the next heartbeat should tell at once.
    pub news: Notify,
    /// A slot may have become free.
    pub freed: Notify,
}

#[derive(Default)]
struct Inner {
    slots: BTreeMap<Held, Slot>,
    last_claim: u64,
}

struct Slot {
    stop: StopSender,
    alone: bool,
    running: bool,
    lost: bool,
    cancelling: bool,
}

/// What a heartbeat says of attempts; all of one moment.
#[derive(Debug, PartialEq)]
pub struct Report {
    pub held: Vec<Held>,
    pub cancelling: Vec<Held>,
    pub last_claim: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger {
            inner: Mutex::default(),
            running: watch::Sender::new(0),
            news: Notify::new(),
            freed: Notify::new(),
        }
    }
}

impl Ledger {
    /// Enters what a claim brought; returns what is to be run.
    pub fn accept(&self, seq: u64, tasks: Vec<ClaimedTask>) -> Vec<Attempt> {
        let mut inner = self.lock();
        inner.last_claim = inner.last_claim.max(seq);
        let mut attempts = Vec::new();
        for task in tasks {
            let held = attempt::held(&task);
            // The same answer, read twice.
            if inner.slots.contains_key(&held) {
                continue;
            }
            let (sender, stop) = attempt::stop_channel();
            let slot =
                Slot { stop: sender, alone: task.alone, running: true, lost: false, cancelling: false };
            inner.slots.insert(held, slot);
            attempts.push(Attempt { task, stop });
        }
        self.recount(&inner);
        drop(inner);
        if !attempts.is_empty() {
            self.news.notify_one();
        }
        attempts
    }

    /// A claim whose answer nobody waits for: whatever it brought may be given to others.
    pub fn abandon_claim(&self, seq: u64) {
        let mut inner = self.lock();
        inner.last_claim = inner.last_claim.max(seq);
        drop(inner);
        self.news.notify_one();
    }

    pub fn last_claim(&self) -> u64 {
        self.lock().last_claim
    }

    /// Slots that may be filled now, and how many are taken.
    pub fn room(&self, concurrency: u32) -> (u32, u32) {
        let inner = self.lock();
        let running = inner.slots.values().filter(|slot| slot.running).count() as u32;
        let alone = inner.slots.values().any(|slot| slot.running && slot.alone);
        (if alone { 0 } else { concurrency.saturating_sub(running) }, running)
    }

    /// The attempt's end is known and waits to be delivered.
    pub fn ending(&self, held: Held) {
        let mut inner = self.lock();
        if let Some(slot) = inner.slots.get_mut(&held) {
            slot.running = false;
        }
        self.recount(&inner);
        drop(inner);
        self.freed.notify_one();
    }

    /// The attempt's end is delivered, or the lease is gone.
    pub fn forget(&self, held: Held) {
        let mut inner = self.lock();
        inner.slots.remove(&held);
        self.recount(&inner);
        drop(inner);
        self.freed.notify_one();
    }

    /// Stops one attempt, if it still runs. Returns whether it was held and running.
    pub fn stop(&self, held: Held, stop: Stop) -> bool {
        let mut inner = self.lock();
        let Some(slot) = inner.slots.get_mut(&held).filter(|slot| slot.running) else { return false };
        slot.order(stop);
        drop(inner);
        self.news.notify_one();
        true
    }

    /// Stops everything that runs; returns how many.
    pub fn stop_all(&self, stop: Stop) -> usize {
        let mut inner = self.lock();
        let running = inner.slots.values_mut().filter(|slot| slot.running);
        running.map(|slot| slot.order(stop)).count()
    }

    pub fn report(&self) -> Report {
        let inner = self.lock();
        // Lost ones are not listed: the answer would be the same again, at once.
        let listed = inner.slots.iter().filter(|(_, slot)| !slot.lost);
        let cancelling = inner.slots.iter().filter(|(_, slot)| slot.cancelling && !slot.lost);
        Report {
            held: listed.map(|(held, _)| *held).collect(),
            cancelling: cancelling.map(|(held, _)| *held).collect(),
            last_claim: inner.last_claim,
        }
    }

    pub fn running(&self) -> usize {
        *self.running.borrow()
    }

    /// Attempts whose ending is not acknowledged.
    pub fn undelivered(&self) -> usize {
        self.lock().slots.values().filter(|slot| !slot.running).count()
    }

    /// Waits until nothing runs.
    pub async fn idle(&self) {
        let mut running = self.running.subscribe();
        // The sender is in `self`, so it cannot have gone.
        _ = running.wait_for(|count| *count == 0).await;
    }

    fn recount(&self, inner: &Inner) {
        let count = inner.slots.values().filter(|slot| slot.running).count();
        self.running.send_if_modified(|now| std::mem::replace(now, count) != count);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn order(&mut self, stop: Stop) {
        self.lost |= stop.why == Why::Lost;
        self.cancelling |= stop.why == Why::Cancelled;
        self.stop.order(stop);
    }
}
