//! When to start something again that failed to start or did not stay up: a worker, or a worker's http agent.

use std::time::Duration;

/// The first wait, the longest wait, and how long it must have stayed up for its past to be forgotten.
pub const BASE: Duration = Duration::from_millis(200);
pub const CAP: Duration = Duration::from_secs(30);
pub const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// Returns the number of failures in a row, this one included, after something ended that had been up for `uptime_ms`.
pub fn failures_after(before: u32, uptime_ms: u64) -> u32 {
    if healthy(uptime_ms) { 1 } else { before.saturating_add(1) }
}

/// Returns how long to wait before the next start.
///
/// Shape: between half of and all of `min(30 s, 0.2 s * 2^(failures - 1))`, spread by `roll` in `[0, 1)`; half at
/// least, so that a crash loop never spins. Zero failures: no wait. An `uptime_ms` of a minute or more makes this the
/// first failure, whatever came before.
/// Units: `consecutive_failures` counts the one that just happened; `uptime_ms` is how long the last start stayed up.
/// Errors: none; it saturates at the cap.
pub fn restart_after(consecutive_failures: u32, uptime_ms: u64, roll: f64) -> Duration {
    let failures = if healthy(uptime_ms) { consecutive_failures.min(1) } else { consecutive_failures };
    let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
    // 2^20 times the base is far above the cap, and cannot overflow.
    let most = BASE.saturating_mul(1 << doublings.min(20)).min(CAP);
    let half = most / 2;
    half + half.mul_f64(if roll.is_finite() { roll.clamp(0.0, 1.0) } else { 0.0 })
}

fn healthy(uptime_ms: u64) -> bool {
    Duration::from_millis(uptime_ms) >= HEALTHY_AFTER
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_double_up_to_the_cap() {
        let waits: Vec<u128> = (0..10).map(|n| restart_after(n, 0, 0.0).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 15_000]);
    }

    #[test]
    fn a_minute_of_health_forgets_the_past() {
        assert_eq!(restart_after(9, 60_000, 0.0), restart_after(1, 0, 0.0));
        assert!(restart_after(9, 59_999, 0.0) > restart_after(1, 0, 0.0));
        assert_eq!((failures_after(9, 60_000), failures_after(9, 59_999)), (1, 10));
    }

    proptest! {
        #[test]
        fn a_failure_always_waits_and_never_beyond_the_cap(failures in 1u32.., uptime: u64, roll: f64) {
            let wait = restart_after(failures, uptime, roll);
            prop_assert!(wait >= BASE / 2 && wait <= CAP);
        }

        #[test]
        fn more_failures_never_shorten_the_wait(failures: u32, roll in 0.0..1.0f64) {
            prop_assert!(restart_after(failures, 0, roll) <= restart_after(failures.saturating_add(1), 0, roll));
        }
    }
}
