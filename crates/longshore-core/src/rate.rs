//! How many tasks of a fleet may start in a time: a token bucket.
//!
//! Its whole state is one point in time, so that a store keeps it in one column: nothing has to be written for tokens to
//! come back, and a restart changes nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// So many starts per time; as many at once when none started for that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    pub tasks: u32,
    pub per_ms: u64,
}

/// The most tasks of a rate, and the longest time: what nanoseconds in 64 bits can tell apart.
pub const MOST_TASKS: u32 = 1_000_000;
pub const LONGEST_MS: u64 = 31 * 24 * 3_600_000;

/// When the bucket is full again, in nanoseconds since 1970: all that a bucket remembers. A new one is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FullAt(pub i64);

impl Rate {
    pub fn is_valid(self) -> bool {
        (1..=MOST_TASKS).contains(&self.tasks) && (1..=LONGEST_MS).contains(&self.per_ms)
    }

    /// How many tasks may start now.
    pub fn available(self, full_at: FullAt, now: Timestamp) -> u64 {
        let missing = self.missing_ns(full_at, now);
        u64::try_from((self.capacity_ns() - missing) / self.each_ns()).unwrap_or(0)
    }

    /// What the bucket remembers once `started` more have started; no more than are available may.
    pub fn after(self, full_at: FullAt, now: Timestamp, started: u64) -> FullAt {
        let started = i64::try_from(started).unwrap_or(i64::MAX);
        let missing = self.missing_ns(full_at, now).saturating_add(self.each_ns().saturating_mul(started));
        FullAt(nanoseconds(now).saturating_add(missing))
    }

    /// When the next task may start: now, or later.
    pub fn next(self, full_at: FullAt, now: Timestamp) -> Timestamp {
        let short = self.missing_ns(full_at, now) + self.each_ns() - self.capacity_ns();
        // Rounded up to what a time can tell: a moment too early there would be none.
        let wait_ms = u64::try_from(short).unwrap_or(0).div_ceil(1_000_000);
        now.after(Duration::from_millis(wait_ms))
    }

    /// How far the bucket is from full. Never more than all of it, whatever a clock that was set back makes of it.
    fn missing_ns(self, full_at: FullAt, now: Timestamp) -> i64 {
        full_at.0.saturating_sub(nanoseconds(now)).clamp(0, self.capacity_ns())
    }

    /// Rounded up: never more than the rate.
    fn each_ns(self) -> i64 {
        let ns = self.per_ms.min(LONGEST_MS) * 1_000_000;
        i64::try_from(ns.div_ceil(u64::from(self.tasks.max(1)))).unwrap_or(i64::MAX)
    }

    fn capacity_ns(self) -> i64 {
        self.each_ns() * i64::from(self.tasks.max(1))
    }
}

fn nanoseconds(at: Timestamp) -> i64 {
    at.0.saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_795_000_000_000);

    #[test]
    fn a_full_bucket_gives_all_at_once_then_one_at_a_time() {
        let rate = Rate { tasks: 100, per_ms: 60_000 };
        assert_eq!(rate.available(FullAt::default(), NOW), 100);
        let empty = rate.after(FullAt::default(), NOW, 100);
        assert_eq!((rate.available(empty, NOW), rate.next(empty, NOW)), (0, Timestamp(NOW.0 + 600)));
        assert_eq!(rate.available(empty, Timestamp(NOW.0 + 599)), 0);
        assert_eq!(rate.available(empty, Timestamp(NOW.0 + 600)), 1);
        assert_eq!(rate.available(empty, Timestamp(NOW.0 + 60_000)), 100);
    }

    #[test]
    fn a_clock_that_is_set_back_costs_one_time_at_most() {
        let rate = Rate { tasks: 3, per_ms: 1_000 };
        let empty = rate.after(FullAt::default(), NOW, 3);
        let back = Timestamp(NOW.0 - 3_600_000);
        assert_eq!(rate.available(empty, back), 0);
        assert!(rate.next(empty, back).0 <= back.0 + 1_000);
    }

    fn any_rate() -> impl Strategy<Value = Rate> {
        let tasks = prop_oneof![1..20u32, 1..=MOST_TASKS];
        (tasks, prop_oneof![1..5_000u64, 1..=LONGEST_MS]).prop_map(|(tasks, per_ms)| Rate { tasks, per_ms })
    }

    proptest! {
        /// Of everything that starts in a time there is at most a bucketful and what came back meanwhile.
        #[test]
        fn no_more_start_than_the_rate_allows(
            rate in any_rate(), looks in proptest::collection::vec((0..3_000i64, 0..50u64), 1..60),
        ) {
            let (mut now, mut full_at, mut started) = (NOW, FullAt::default(), 0u64);
            for (wait, want) in looks {
                now = Timestamp(now.0 + wait);
                let some = want.min(rate.available(full_at, now));
                full_at = rate.after(full_at, now, some);
                started += some;
                let back = u128::from((now.0 - NOW.0) as u64) * u128::from(rate.tasks) / u128::from(rate.per_ms);
                prop_assert!(u128::from(started) <= u128::from(rate.tasks) + back);
            }
        }

        #[test]
        fn when_the_next_may_start_one_may(rate in any_rate(), taken in 0..2_000_000u64) {
            let full_at = rate.after(FullAt::default(), NOW, taken.min(rate.tasks.into()));
            let next = rate.next(full_at, NOW);
            prop_assert!(rate.available(full_at, next) >= 1);
            prop_assert!(next == NOW || rate.available(full_at, Timestamp(next.0 - 1)) == 0);
        }
    }
}
