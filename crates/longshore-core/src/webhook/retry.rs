//! What follows from one try to deliver a message.

use std::time::Duration;

use crate::time::Timestamp;

/// What came of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The receiver answered with this status, and perhaps with a wish for how long to wait.
    Status { code: u16, retry_after: Option<Duration> },
    /// No answer, or one that broke off: not sent, time-out, refused address.
    Nothing,
}

/// What becomes of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Delivered,
    RetryAt(Timestamp),
    GiveUp,
    /// The receiver says that it is gone: nothing more is sent to it.
    Disable,
}

/// How long after a message was made the last try may be.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(3 * 24 * 3600);

const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(6 * 3600);

/// Decides after a try.
///
/// Shape: 2xx is delivered, 410 disables, all else is tried again after `5s * 3^n`, at most 6 h, times a factor from 0.75
/// to 1.25; or later when the receiver asks for that, up to 6 h. Given up when the next try would be more than 3 days
/// after `since`. `tries` counts this one, so it is 1 after the first; `roll` lies in `[0, 1)`.
/// Errors: none; a large `tries` stays at the longest wait.
/// Source: Standard Webhooks (retries over days with growing, jittered waits; 410 as the end).
pub fn next(heard: Heard, tries: u32, since: Timestamp, now: Timestamp, roll: f64) -> Next {
    let asked = match heard {
        Heard::Status { code: 200..=299, .. } => return Next::Delivered,
        Heard::Status { code: 410, .. } => return Next::Disable,
        Heard::Status { retry_after, .. } => retry_after.unwrap_or_default(),
        Heard::Nothing => Duration::ZERO,
    };
    let grown = 3u32.checked_pow(tries.saturating_sub(1)).unwrap_or(u32::MAX);
    let wait = FIRST_WAIT.saturating_mul(grown).min(LONGEST_WAIT).mul_f64(0.75 + 0.5 * roll.clamp(0.0, 1.0));
    let at = now.after(wait.max(asked.min(LONGEST_WAIT)));
    if at.since(since) > GIVE_UP_AFTER { Next::GiveUp } else { Next::RetryAt(at) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Timestamp = Timestamp(1_795_000_000_000);

    fn status(code: u16) -> Heard {
        Heard::Status { code, retry_after: None }
    }

    /// The waits, in seconds, until it is given up, at the middle of the jitter.
    fn waits(heard: Heard) -> Vec<u64> {
        let (mut now, mut waits) = (START, Vec::new());
        while let Next::RetryAt(at) = next(heard, waits.len() as u32 + 1, START, now, 0.5) {
            waits.push(at.since(now).as_secs());
            now = at;
        }
        waits
    }

    #[test]
    fn waits_grow_from_seconds_to_hours_and_end_after_three_days() {
        let waits = waits(status(500));
        assert_eq!(waits[..8], [5, 15, 45, 135, 405, 1215, 3645, 10_935]);
        assert!(waits[8..].iter().all(|wait| *wait == 21_600), "{waits:?}");
        let total: u64 = waits.iter().sum();
        assert!((66..=72).contains(&(total / 3600)), "{total} s");
    }

    #[test]
    fn only_success_and_gone_end_it_at_once() {
        for code in [200, 201, 204, 299] {
            assert_eq!(next(status(code), 1, START, START, 0.5), Next::Delivered, "{code}");
        }
        assert_eq!(next(status(410), 1, START, START, 0.5), Next::Disable);
        for code in [101, 301, 302, 307, 400, 401, 404, 429, 500, 503] {
            assert!(matches!(next(status(code), 1, START, START, 0.5), Next::RetryAt(_)), "{code}");
        }
        assert!(matches!(next(Heard::Nothing, 1, START, START, 0.5), Next::RetryAt(_)));
    }

    #[test]
    fn a_receiver_may_ask_for_a_longer_wait_but_not_for_a_shorter_one() {
        let asks = |seconds| Heard::Status { code: 429, retry_after: Some(Duration::from_secs(seconds)) };
        let wait = |seconds| next(asks(seconds), 1, START, START, 0.5);
        assert_eq!(wait(90), Next::RetryAt(START.after(Duration::from_secs(90))));
        assert_eq!(wait(1), Next::RetryAt(START.after(Duration::from_secs(5))));
        assert_eq!(wait(u64::MAX), Next::RetryAt(START.after(LONGEST_WAIT)));
    }

    proptest! {
        #[test]
        fn a_retry_lies_ahead_and_within_three_days(
            code in 100u16..600, tries in 1u32.., late in 0u64..400_000, roll in 0.0..1.0f64,
        ) {
            let now = START.after(Duration::from_secs(late));
            if let Next::RetryAt(at) = next(status(code), tries, START, now, roll) {
                prop_assert!(at > now && at.since(START) <= GIVE_UP_AFTER);
                prop_assert!(at.since(now) <= LONGEST_WAIT.mul_f64(1.25));
            }
        }
    }
}
