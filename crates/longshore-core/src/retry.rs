//! When to try again after a failure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Exponential backoff with full jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    pub base_ms: u64,
    pub cap_ms: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { base_ms: 1_000, cap_ms: 300_000 }
    }
}

impl Backoff {
    /// Returns how long to wait before the next attempt.
    ///
    /// Shape: `roll * min(cap, base * 2^failures)`; `failures` starts at 0 and `roll` lies in `[0, 1)`.
    /// Units: milliseconds, rounded down.
    /// Errors: none; a large `failures` saturates at the cap.
    /// Source: "Exponential Backoff and Jitter" (full jitter), AWS Architecture Blog, 2015.
    pub fn wait(&self, failures: u32, roll: f64) -> Duration {
        let factor = 1u64.checked_shl(failures).unwrap_or(u64::MAX);
        let most = self.base_ms.saturating_mul(factor).min(self.cap_ms);
        // Again `min`: a number above 2^53 may be rounded up on its way through floating point.
        Duration::from_millis(((most as f64 * roll.clamp(0.0, 1.0)) as u64).min(most))
    }
}

/// The longest wait that an agent may ask for: a day. It holds no worker meanwhile, but somebody waits for the task.
pub const LONGEST_ASKED_MS: u64 = 24 * 3_600_000;

impl Backoff {
    /// Returns how long to wait before the next attempt when the agent may have said for how long.
    ///
    /// Shape: what it asked for, a day at most, and up to a tenth more, so that tasks that were sent away together do not
    /// come back together; else as [`Backoff::wait`].
    /// Units: milliseconds.
    pub fn wait_as_asked(&self, failures: u32, asked_ms: Option<u64>, roll: f64) -> Duration {
        let Some(asked) = asked_ms.map(|ms| ms.min(LONGEST_ASKED_MS)) else {
            return self.wait(failures, roll);
        };
        Duration::from_millis(asked + (asked as f64 / 10.0 * roll.clamp(0.0, 1.0)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_upper_bound_doubles_up_to_the_cap() {
        let backoff = Backoff { base_ms: 1_000, cap_ms: 10_000 };
        let waits: Vec<u128> = (0..6).map(|n| backoff.wait(n, 1.0).as_millis()).collect();
        assert_eq!(waits, [1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
        assert_eq!(backoff.wait(2, 0.5), Duration::from_secs(2));
        assert_eq!(backoff.wait(2, 0.0), Duration::ZERO);
    }

    #[test]
    fn an_agents_wish_is_kept_up_to_a_day() {
        let backoff = Backoff::default();
        let wait = |asked, roll| backoff.wait_as_asked(7, asked, roll).as_millis() as u64;
        assert_eq!(wait(Some(30_000), 0.0), 30_000);
        assert_eq!(wait(Some(30_000), 0.5), 31_500);
        assert_eq!(wait(Some(0), 0.9), 0);
        assert_eq!(wait(Some(u64::MAX), 0.0), LONGEST_ASKED_MS);
        assert_eq!(wait(None, 0.5), backoff.wait(7, 0.5).as_millis() as u64);
    }

    fn any_backoff() -> impl Strategy<Value = Backoff> {
        let ms = || prop_oneof![0u64..1_000_000, any::<u64>()];
        (ms(), ms()).prop_map(|(base_ms, cap_ms)| Backoff { base_ms, cap_ms })
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_the_cap(backoff in any_backoff(), failures: u32, roll: f64) {
            prop_assert!(backoff.wait(failures, roll) <= Duration::from_millis(backoff.cap_ms));
        }

        #[test]
        fn more_failures_never_lower_the_upper_bound(backoff in any_backoff(), failures in 0u32..200) {
            prop_assert!(backoff.wait(failures, 1.0) <= backoff.wait(failures + 1, 1.0));
        }

        #[test]
        fn a_larger_roll_never_waits_less(
            backoff in any_backoff(), failures in 0u32..100, a in 0.0..1.0f64, b in 0.0..1.0f64,
        ) {
            prop_assert!(backoff.wait(failures, a.min(b)) <= backoff.wait(failures, a.max(b)));
        }
    }
}
