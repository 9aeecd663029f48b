//! When each token of an answer is there.

use std::time::Duration;

use tokio::time::Instant;

use crate::draw::Draw;
use crate::options::{Latency, Pace};
use crate::trace::Row;

const TTFT_MEDIAN_S: f64 = 0.4;
/// One in a hundred waits three times the median.
const TTFT_SIGMA: f64 = 0.47;
const TOKEN_MEDIAN_S: f64 = 0.015;
const TOKEN_SIGMA: f64 = 0.25;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Timeline {
    pub(crate) start: Instant,
    pub(crate) ttft: Duration,
    per_token: Duration,
}

impl Timeline {
    pub(crate) fn new(
        latency: &Latency,
        row: Option<Row>,
        tokens: u64,
        draw: &mut Draw,
        start: Instant,
    ) -> Timeline {
        let (ttft, per_token) = drawn(latency.pace, row, tokens, draw);
        let ttft = latency.ttft_ms.map_or(ttft, |ms| ms as f64 / 1000.0);
        let per_token = latency.token_ms.map_or(per_token, |ms| ms / 1000.0);
        let scaled =
            |seconds: f64| Duration::try_from_secs_f64(seconds / latency.speed).unwrap_or(Duration::ZERO);
        Timeline { start, ttft: scaled(ttft), per_token: scaled(per_token) }
    }

    /// When so many tokens are there.
    pub(crate) fn due(&self, tokens: u64) -> Instant {
        let further = u32::try_from(tokens.saturating_sub(1)).unwrap_or(u32::MAX);
        self.start + self.ttft + self.per_token * further
    }

    /// How many tokens are there by now, of `all`.
    pub(crate) fn tokens_by(&self, now: Instant, all: u64) -> u64 {
        let since = now.saturating_duration_since(self.start + self.ttft);
        if now < self.start + self.ttft {
            0
        } else if self.per_token.is_zero() {
            all
        } else {
            all.min(1 + (since.as_nanos() / self.per_token.as_nanos()) as u64)
        }
    }
}

/// Seconds to the first token, and for each further one.
fn drawn(pace: Pace, row: Option<Row>, tokens: u64, draw: &mut Draw) -> (f64, f64) {
    match pace {
        Pace::None => (0.0, 0.0),
        Pace::Fixed { ms } => (ms as f64 / 1000.0, 0.0),
        Pace::Real => {
            let ttft = draw.log_normal(TTFT_MEDIAN_S, TTFT_SIGMA);
            match row.and_then(|row| row.seconds) {
                // The trace knows the whole; at most half of it passes before the first token.
                Some(all) => {
                    let ttft = if tokens > 1 { ttft.min(all / 2.0) } else { all };
                    (ttft, (all - ttft) / (tokens.saturating_sub(1).max(1)) as f64)
                }
                None => (ttft, draw.log_normal(TOKEN_MEDIAN_S, TOKEN_SIGMA)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn timeline(latency: Latency, row: Option<Row>, tokens: u64) -> Timeline {
        Timeline::new(&latency, row, tokens, &mut Draw::new(1, &Digest::of(b""), "pace"), Instant::now())
    }

    fn ms(line: &Timeline, tokens: u64) -> u128 {
        (line.due(tokens) - line.start).as_millis()
    }

    #[test]
    fn a_trace_gives_the_whole_duration_and_speed_divides_it() {
        let real = Latency { pace: Pace::Real, speed: 2.0, ..Latency::default() };
        let row = Row { output_tokens: 100, seconds: Some(4.0) };
        let line = timeline(real, Some(row), 100);
        assert!((1995..=2005).contains(&ms(&line, 100)), "{line:?}");
        assert!(ms(&line, 1) <= 1000, "{line:?}");
    }

    #[test]
    fn said_times_go_before_the_pace() {
        let latency = Latency { ttft_ms: Some(100), token_ms: Some(2.0), ..Latency::default() };
        let line = timeline(latency, None, 11);
        assert_eq!((ms(&line, 0), ms(&line, 1), ms(&line, 11)), (100, 100, 120));
        let fixed = timeline(Latency { pace: Pace::Fixed { ms: 70 }, ..Latency::default() }, None, 11);
        assert_eq!((ms(&fixed, 1), ms(&fixed, 11)), (70, 70));
    }

    #[test]
    fn what_was_generated_follows_the_clock() {
        let latency = Latency { ttft_ms: Some(100), token_ms: Some(10.0), ..Latency::default() };
        let line = timeline(latency, None, 5);
        let by = |ms| line.tokens_by(line.start + Duration::from_millis(ms), 5);
        assert_eq!([by(0), by(99), by(100), by(125), by(1000)], [0, 0, 1, 3, 5]);
    }
}
