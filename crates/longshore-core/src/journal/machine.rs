//! The journal of one task in memory: the protocol as a state machine.
//!
//! The reference for every store: the same operations with the same answers. Keeps no bodies, only what was decided.

use std::collections::{BTreeMap, BTreeSet};

use super::{AskState, Asked, Divergence, Found, Span, Way, allot, inherits, tainted, way};

/// Identifies a call within a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub generation: u32,
    /// The canonical request.
    pub request: u64,
    pub occurrence: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// Whoever is at it; nobody once it is answered, or when it was given up after it may have been billed.
    pub owner: Option<u64>,
    /// The newest fence that asked for it.
    pub fence: u64,
    pub answer: Option<u64>,
    /// How often it was taken over from an owner that was gone.
    pub maybe_billed: u32,
    /// Taken from an earlier generation.
    pub inherited: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Ask {
    fence: u64,
    call: u64,
    key: Key,
    state: AskState,
    begun: u64,
    ended: u64,
    live: bool,
}

/// What an ask led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    Replay { key: Key, answer: u64 },
    Join { key: Key },
    Live { key: Key },
}

impl Begun {
    pub fn key(&self) -> Key {
        match *self {
            Begun::Replay { key, .. } | Begun::Join { key } | Begun::Live { key } => key,
        }
    }
}

/// A task's journal with what its rules depend on: the lease, and which owners are alive.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Journal {
    generation: u32,
    counter: u64,
    lease: Option<u64>,
    owners: BTreeSet<u64>,
    entries: BTreeMap<Key, Entry>,
    asks: Vec<Ask>,
}

impl Journal {
    pub fn generation(&self) -> u32 {
        self.generation
    }

    pub fn lease(&self) -> Option<u64> {
        self.lease
    }

    pub fn entry(&self, key: Key) -> Option<&Entry> {
        self.entries.get(&key)
    }

    pub fn entries(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter()
    }

    pub fn owner_starts(&mut self, owner: u64) {
        self.owners.insert(owner);
    }

    pub fn owner_is_gone(&mut self, owner: u64) {
        self.owners.remove(&owner);
    }

    /// An attempt begins; its fence is larger than all before.
    pub fn grant(&mut self, fence: u64) {
        self.lease = Some(fence);
    }

    /// An agent asks. `None`: the fence is old, so nothing is written and nothing may be sent.
    pub fn begin(
        &mut self,
        (fence, call): (u64, u64),
        request: u64,
        retry: bool,
        owner: u64,
    ) -> Option<Begun> {
        if self.lease != Some(fence) {
            return None;
        }
        let known = self.asks.iter().position(|ask| ask.fence == fence && ask.call == call);
        let key = match known {
            Some(at) => self.asks[at].key,
            None => {
                let occurrence = allot(&self.asked(fence, request), retry);
                Key { generation: self.generation, request, occurrence }
            }
        };
        let found = self.found(key);
        let way = way(found);
        self.record(known, (fence, call), key, way);
        Some(self.go(way, key, fence, owner))
    }

    fn asked(&self, fence: u64, request: u64) -> Vec<Asked> {
        let same = self.asks.iter().filter(|ask| ask.fence == fence && ask.key.request == request);
        same.map(|ask| Asked { occurrence: ask.key.occurrence, state: ask.state, ended: ask.ended }).collect()
    }

    fn found(&self, key: Key) -> Found {
        match self.entries.get(&key) {
            None => Found::Nothing,
            Some(Entry { answer: Some(_), .. }) => Found::Answered,
            Some(Entry { owner: None, .. }) => Found::Nothing,
            Some(Entry { owner: Some(owner), .. }) => {
                Found::Intent { owner_gone: !self.owners.contains(owner) }
            }
        }
    }

    fn record(&mut self, known: Option<usize>, (fence, call): (u64, u64), key: Key, way: Way) {
        let live = matches!(way, Way::Live | Way::TakeOver);
        match known {
            // Asked again by its relay: it is open anew, and it stays what it was.
            Some(at) => {
                self.asks[at].state = AskState::Open;
                self.asks[at].ended = 0;
                self.asks[at].live |= live;
            }
            None => {
                self.counter += 1;
                let begun = self.counter;
                self.asks.push(Ask { fence, call, key, state: AskState::Open, begun, ended: 0, live });
            }
        }
    }

    fn go(&mut self, way: Way, key: Key, fence: u64, owner: u64) -> Begun {
        let fresh = Entry { owner: None, fence, answer: None, maybe_billed: 0, inherited: false };
        let entry = self.entries.entry(key).or_insert(fresh);
        entry.fence = entry.fence.max(fence);
        if matches!(way, Way::Live | Way::TakeOver) {
            entry.owner = Some(owner);
            entry.maybe_billed += u32::from(way == Way::TakeOver);
        }
        match (way, self.entries[&key].answer) {
            (Way::Replay, Some(answer)) => Begun::Replay { key, answer },
            (Way::Join, _) => Begun::Join { key },
            _ => Begun::Live { key },
        }
    }

    /// Asked by an owner before it sends a call that had to wait: true to go on, false when the intent is withdrawn
    /// because no valid fence wants it any more.
    pub fn may_send(&mut self, key: Key, owner: u64) -> bool {
        let Some(entry) = self.entries.get(&key).filter(|entry| entry.owner == Some(owner)) else {
            return false;
        };
        if self.lease == Some(entry.fence) {
            return true;
        }
        self.give_up(key);
        false
    }

    /// The intent goes, but not the mark that it may have been billed before: else the next one at it would buy again
    /// unseen.
    fn give_up(&mut self, key: Key) {
        match self.entries.get_mut(&key) {
            Some(entry) if entry.maybe_billed > 0 => entry.owner = None,
            _ => drop(self.entries.remove(&key)),
        }
    }

    /// Stores an answer, once. False: another owner has the intent, or it is answered already.
    ///
    /// An intent that was lost is restored: its commit was not synced, and its call was paid for.
    pub fn answer(&mut self, key: Key, owner: u64, fence: u64, answer: u64) -> bool {
        let lost = Entry { owner: Some(owner), fence, answer: None, maybe_billed: 0, inherited: false };
        let entry = self.entries.entry(key).or_insert(lost);
        if entry.owner != Some(owner) || entry.answer.is_some() {
            return false;
        }
        (entry.owner, entry.answer) = (None, Some(answer));
        true
    }

    /// An owner gives a call up whose outcome is not journaled: the intent goes, and who asked for it is told.
    ///
    /// `billed`: how many of its tries the provider may have billed all the same.
    pub fn fail(&mut self, key: Key, owner: u64, billed: u32) {
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.owner == Some(owner)) else {
            return;
        };
        entry.maybe_billed += billed;
        self.give_up(key);
        self.counter += 1;
        for ask in self.asks.iter_mut().filter(|ask| ask.key == key && ask.state == AskState::Open) {
            (ask.state, ask.ended) = (AskState::Failed, self.counter);
        }
    }

    /// How an ask ended for its agent. The relay's word, which may come later, counts more than the gateway's.
    pub fn ended(&mut self, (fence, call): (u64, u64), whole: bool) {
        self.counter += 1;
        let state = if whole { AskState::Delivered } else { AskState::Undelivered };
        let ask = self.asks.iter_mut().find(|ask| ask.fence == fence && ask.call == call);
        // An error that was not journaled stays one: there is no answer that could be delivered.
        if let Some(ask) = ask.filter(|ask| ask.state != AskState::Failed) {
            (ask.state, ask.ended) = (state, self.counter);
        }
    }

    /// The attempt was interrupted: its successor gets everything again.
    pub fn interrupt(&mut self) {
        self.lease = None;
    }

    /// The attempt failed: a new generation begins, with what it may inherit.
    pub fn fail_attempt(&mut self) {
        let Some(fence) = self.lease.take() else { return };
        // The journal begins with its first call: what failed before has nothing to do with answers.
        if self.asks.is_empty() {
            return;
        }
        let old = self.generation;
        self.generation += 1;
        if !inherits(self.generation) {
            return;
        }
        let asks: Vec<&Ask> = self.asks.iter().filter(|ask| ask.fence == fence).collect();
        let spans: Vec<Span> = asks.iter().map(|ask| span(ask)).collect();
        let bad: BTreeSet<Key> =
            asks.iter().zip(tainted(&spans)).filter(|(_, bad)| *bad).map(|(ask, _)| ask.key).collect();
        let kept = self
            .entries
            .iter()
            .filter(|(key, entry)| key.generation == old && entry.answer.is_some() && !bad.contains(key));
        let kept: Vec<(Key, Entry)> = kept
            .map(|(key, entry)| {
                (Key { generation: old + 1, ..*key }, Entry { inherited: true, ..entry.clone() })
            })
            .collect();
        self.entries.extend(kept);
    }

    /// How the attempt with this fence followed those before it.
    pub fn divergence(&self, fence: u64) -> Divergence {
        let own = |ask: &&Ask| ask.fence == fence;
        let asked: BTreeSet<Key> = self.asks.iter().filter(own).map(|ask| ask.key).collect();
        let live = self.asks.iter().filter(own).filter(|ask| ask.live).count() as u32;
        let before = self.asks.iter().filter(|ask| {
            ask.fence < fence && ask.state == AskState::Delivered && ask.key.generation == self.generation
        });
        let mut there: BTreeSet<Key> = before.map(|ask| ask.key).collect();
        let of_now = self.entries.iter().filter(|(key, _)| key.generation == self.generation);
        there.extend(of_now.filter(|(_, entry)| entry.inherited).map(|(key, _)| *key));
        let replayed = there.intersection(&asked).count() as u32;
        Divergence { replayed, unasked: there.len() as u32 - replayed, live }
    }
}

fn span(ask: &Ask) -> Span {
    Span { begun: ask.begun, ended: ask.ended, delivered: ask.state == AskState::Delivered }
}
