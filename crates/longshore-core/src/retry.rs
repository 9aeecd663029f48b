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
        Duration::from_millis((most as f64 * roll.clamp(0.0, 1.0)) as u64)
    }
}
