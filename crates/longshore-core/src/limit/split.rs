//! Decides where one of several gateways gets its permits: from all of them together, or from its own part.
//!
//! Together they count in one place, which knows who was heard of lately and admits that part of the limit. A gateway
//! that cannot reach it may use its own part once nothing that was admitted for all can still count. Has no clock: seconds
//! are the gateway's own monotonic ones.

use super::SLOTS;
use crate::provider::Limit;

/// Seconds without a word after which the shared place counts a gateway as cut off.
pub const SEAT_S: u64 = 5;

/// Seconds after which a message that is still on its way changes nothing any more.
pub const STALE_S: u64 = 2;

/// Seconds in which a use counts.
pub const WINDOW_S: u64 = SLOTS;

/// Whole seconds of two clocks: each may be rounded the wrong way.
const MARGIN_S: u64 = 2;

/// From the last word that may have been heard until a gateway may use its own part: it is counted as present for as long
/// as the word is fresh and its seat is kept (one more second for rounding), and what was admitted just before that counts
/// for a whole window.
pub const SILENCE_S: u64 = STALE_S + SEAT_S + 1 + WINDOW_S + MARGIN_S;

/// What one gateway remembers of its contact with the shared place.
#[derive(Clone, Debug)]
pub struct Split {
    started: u64,
    contact: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Neither: what was admitted for all may still count.
    Wait { seconds: u64 },
    /// Its own part, counted by itself.
    Alone,
}

impl Split {
    /// A process that has just started may have a predecessor that was heard of until now.
    pub fn new(now_s: u64) -> Split {
        Split { started: now_s, contact: now_s }
    }

    /// A message was sent that may have been heard, or may still be.
    pub fn sent(&mut self, now_s: u64) {
        self.contact = self.contact.max(now_s);
    }

    /// When the newest message was sent.
    pub fn contact(&self) -> u64 {
        self.contact
    }

    /// The newest message turned out to have changed nothing: the one before counts.
    pub fn unsent(&mut self, now_s: u64, before: u64) {
        if self.contact == now_s {
            self.contact = before;
        }
    }

    /// What to do without the shared place.
    pub fn without(&self, now_s: u64) -> Source {
        match (self.contact + SILENCE_S).saturating_sub(now_s) {
            0 => Source::Alone,
            seconds => Source::Wait { seconds },
        }
    }

    /// Does this process know all that its gateway has used in a window? Not of its predecessor.
    pub fn remembers_a_window(&self, now_s: u64) -> bool {
        now_s >= self.started + WINDOW_S + MARGIN_S
    }
}

/// The part of a limit that `part` of `whole` gateways may use, rounded down; all of it for no more than all.
pub fn share(limit: Limit, part: u32, whole: u32) -> Limit {
    let whole = u128::from(whole.max(1));
    let part = u128::from(part).min(whole);
    let of = |limit: u64| u64::try_from(u128::from(limit) * part / whole).unwrap_or(limit);
    Limit {
        requests_per_minute: limit.requests_per_minute.map(of),
        tokens_per_minute: limit.tokens_per_minute.map(of),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_gateway_that_is_cut_off_waits_until_nothing_shared_counts() {
        let mut split = Split::new(100);
        split.sent(300);
        split.sent(200);
        assert_eq!(split.without(300), Source::Wait { seconds: 70 });
        assert_eq!(split.without(369), Source::Wait { seconds: 1 });
        assert_eq!(split.without(370), Source::Alone);
    }

    #[test]
    fn a_message_that_changed_nothing_does_not_count() {
        let mut split = Split::new(0);
        let before = split.contact();
        split.sent(80);
        split.unsent(80, before);
        assert_eq!(split.without(80), Source::Alone);
        split.sent(80);
        split.sent(81);
        split.unsent(80, before);
        assert_eq!(split.without(81), Source::Wait { seconds: 70 });
    }

    #[test]
    fn a_young_process_does_not_know_what_its_gateway_used() {
        let split = Split::new(10);
        assert!(!split.remembers_a_window(71));
        assert!(split.remembers_a_window(72));
        assert_eq!(split.without(10), Source::Wait { seconds: 70 }, "its predecessor may have been heard");
    }

    #[test]
    fn parts_are_rounded_down_and_never_more_than_all() {
        let limit = Limit { requests_per_minute: Some(10), tokens_per_minute: None };
        let part = |part, whole| share(limit, part, whole).requests_per_minute;
        assert_eq!((part(1, 3), part(2, 3), part(3, 3), part(9, 3)), (Some(3), Some(6), Some(10), Some(10)));
        assert_eq!((part(0, 3), part(1, 0)), (Some(0), Some(10)));
        assert_eq!(share(limit, 1, 3).tokens_per_minute, None);
    }

    proptest! {
        #[test]
        fn those_together_and_those_alone_stay_within_the_limit(limit: u64, whole in 1u32..50, together in 0u32..50) {
            let together = together.min(whole);
            let all = Limit { requests_per_minute: Some(limit), tokens_per_minute: None };
            let of = |part| u128::from(share(all, part, whole).requests_per_minute.expect("limited"));
            let sum = of(together) + of(1) * u128::from(whole - together);
            prop_assert!(sum <= u128::from(limit));
        }
    }
}
