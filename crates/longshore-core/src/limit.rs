//! Decides when a call may be sent, so that a provider's limit holds.
//!
//! One window for one provider and one key of its limits. Waits for nothing itself and has no clock: the caller brings
//! seconds along, sleeps as it is told, and asks again. Who comes first is the caller's to decide.

pub mod split;

use crate::provider::Limit;

/// What was reserved and used in the last minute, in slots of one second.
///
/// Time goes forward only: an earlier second than the newest one seen counts as that one. A call counts in the whole
/// second that it was admitted in, so a minute ends up to a second early for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    limit: Limit,
    slots: [Slot; SLOTS as usize],
    /// The newest second seen.
    now: u64,
    blocked_until: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slot {
    second: u64,
    used: Use,
}

/// Requests and tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Use {
    requests: u64,
    tokens: u64,
}

/// What one call is expected to use, beside being one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    pub tokens: u64,
}

/// The right to send one call now. It is settled or withdrawn, once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit that is neither settled nor withdrawn counts as it was reserved"]
pub struct Permit {
    second: u64,
    tokens: u64,
}

/// May the call be sent?
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Admitted(Permit),
    /// Not before so many seconds have passed; at least 1.
    Wait {
        seconds: u64,
    },
    /// Never: it needs more than a minute allows.
    TooLarge {
        limit: u64,
    },
}

const SLOTS: u64 = 60;

/// Output that is expected of a model nothing is known about.
const UNKNOWN_OUTPUT: u64 = 1_024;

/// A rule of thumb for English; settling mends what it gets wrong.
const BYTES_PER_TOKEN: usize = 4;

/// Returns how many tokens a call should reserve.
///
/// Shape: a quarter of the request's bytes, rounded up, and the output: what was learned about such calls, or else 1024,
/// and never more than the call's own `max_output`.
/// Source: reserving a high percentile of learned outputs used 99% of a limit, reserving `max_output` 7%, in a simulation.
pub fn predict(input_bytes: usize, max_output: Option<u64>, learned_output: Option<u64>) -> u64 {
    let input = input_bytes.div_ceil(BYTES_PER_TOKEN) as u64;
    let output = learned_output.unwrap_or(UNKNOWN_OUTPUT);
    input.saturating_add(output.min(max_output.unwrap_or(u64::MAX)))
}

impl Window {
    pub fn new(limit: Limit) -> Window {
        Window { limit, slots: [Slot::default(); SLOTS as usize], now: 0, blocked_until: 0 }
    }

    /// Admits a call and reserves what it needs, or says when to ask again.
    ///
    /// Shape: what was admitted, settled or not, in this second and the 59 before it stays within the limit.
    /// Units: `now_s` in monotonic seconds, from any beginning.
    /// Errors: none; the wait is the earliest at which enough has fallen out of the window, if nobody else asks.
    pub fn ask(&mut self, now_s: u64, need: Need) -> Answer {
        self.now = self.now.max(now_s);
        if let Some(limit) = self.never_fits(need) {
            return Answer::TooLarge { limit };
        }
        let blocked = self.blocked_until.saturating_sub(self.now);
        match blocked.max(self.seconds_until_it_fits(need)) {
            0 => Answer::Admitted(self.reserve(need)),
            seconds => Answer::Wait { seconds },
        }
    }

    /// Puts what the call used in the place of what it reserved, in the second that it was admitted in.
    pub fn settle(&mut self, permit: &Permit, tokens: u64) {
        if let Some(slot) = self.slot(permit.second) {
            slot.used.tokens = slot.used.tokens.saturating_sub(permit.tokens).saturating_add(tokens);
        }
    }

    /// Gives back all of a call that was never sent.
    pub fn withdraw(&mut self, permit: Permit) {
        if let Some(slot) = self.slot(permit.second) {
            slot.used = slot.used.less(Use { requests: 1, tokens: permit.tokens });
        }
    }

    /// Admits nothing before `second`: the provider said so. A longer block stays.
    pub fn block_until(&mut self, second: u64) {
        self.blocked_until = self.blocked_until.max(second);
    }

    /// What is in use stays so; more than the new limit, too.
    pub fn set_limit(&mut self, limit: Limit) {
        self.limit = limit;
    }

    /// Requests and tokens that count at `now_s`.
    pub fn in_use(&self, now_s: u64) -> (u64, u64) {
        let Use { requests, tokens } = self.used_at(self.now.max(now_s));
        (requests, tokens)
    }

    fn never_fits(&self, need: Need) -> Option<u64> {
        let Limit { requests_per_minute, tokens_per_minute } = self.limit;
        let over = |limit: Option<u64>, need: u64| limit.filter(|limit| need > *limit);
        over(requests_per_minute, 1).or(over(tokens_per_minute, need.tokens))
    }

    /// Lets the oldest seconds fall out of the window, one by one, until there is room.
    fn seconds_until_it_fits(&self, need: Need) -> u64 {
        let mut used = self.used_at(self.now);
        let mut wait = 0;
        for age in (0..SLOTS).rev() {
            if self.fits(used, need) {
                break;
            }
            used = used.less(self.used_in(self.now.checked_sub(age)));
            wait = SLOTS - age;
        }
        wait
    }

    fn fits(&self, used: Use, need: Need) -> bool {
        let within = |used: u64, need: u64, limit: Option<u64>| {
            limit.is_none_or(|limit| used.checked_add(need).is_some_and(|sum| sum <= limit))
        };
        within(used.requests, 1, self.limit.requests_per_minute)
            && within(used.tokens, need.tokens, self.limit.tokens_per_minute)
    }

    fn reserve(&mut self, need: Need) -> Permit {
        let second = self.now;
        let slot = &mut self.slots[index(second)];
        if slot.second != second {
            *slot = Slot { second, used: Use::default() };
        }
        slot.used = slot.used.plus(Use { requests: 1, tokens: need.tokens });
        Permit { second, tokens: need.tokens }
    }

    fn used_at(&self, now: u64) -> Use {
        let counts = |slot: &&Slot| slot.second <= now && now - slot.second < SLOTS;
        self.slots.iter().filter(counts).fold(Use::default(), |sum, slot| sum.plus(slot.used))
    }

    fn used_in(&self, second: Option<u64>) -> Use {
        let slot = second.map(|second| (second, self.slots[index(second)]));
        slot.filter(|(second, slot)| slot.second == *second).map_or(Use::default(), |(_, slot)| slot.used)
    }

    /// The slot of `second`, unless a later one has taken its place.
    fn slot(&mut self, second: u64) -> Option<&mut Slot> {
        Some(&mut self.slots[index(second)]).filter(|slot| slot.second == second)
    }
}

fn index(second: u64) -> usize {
    (second % SLOTS) as usize
}

impl Use {
    fn plus(self, other: Use) -> Use {
        Use {
            requests: self.requests.saturating_add(other.requests),
            tokens: self.tokens.saturating_add(other.tokens),
        }
    }

    fn less(self, other: Use) -> Use {
        Use {
            requests: self.requests.saturating_sub(other.requests),
            tokens: self.tokens.saturating_sub(other.tokens),
        }
    }
}

#[cfg(test)]
mod tests;
