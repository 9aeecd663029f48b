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
