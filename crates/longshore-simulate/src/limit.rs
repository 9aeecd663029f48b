//! The provider's limits per model, over a sliding minute, really enforced.
//!
//! A call is charged when it is admitted, with the tokens that it will really take; what was refused costs nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);

/// Per model and minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub requests: Option<u64>,
    pub tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Requests,
    Tokens,
}

/// How a model stands against its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) limits: Limits,
    pub(crate) requests_used: u64,
    pub(crate) tokens_used: u64,
    /// Until nothing is used any more.
    pub(crate) reset: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Admitted,
    /// It fits after this wait.
    Wait(Kind, Duration),
    /// It never fits.
    TooLarge,
}

#[derive(Default)]
pub(crate) struct Windows(Mutex<HashMap<String, Window>>);

impl Windows {
    pub(crate) fn admit(
        &self,
        model: &str,
        limits: Limits,
        tokens: u64,
        now: Instant,
    ) -> (Verdict, Standing) {
        self.of(model, limits, |window| {
            let verdict = window.admit(limits, tokens, now);
            (verdict, window.standing(limits, now))
        })
        .unwrap_or((Verdict::Admitted, Standing::default()))
    }

    pub(crate) fn standing(&self, model: &str, limits: Limits, now: Instant) -> Standing {
        self.of(model, limits, |window| window.standing(limits, now)).unwrap_or_default()
    }

    /// Nothing is kept where nothing is limited.
    fn of<T>(&self, model: &str, limits: Limits, ask: impl FnOnce(&mut Window) -> T) -> Option<T> {
        if limits == Limits::default() {
            return None;
        }
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !windows.contains_key(model) {
            windows.insert(model.to_owned(), Window::default());
        }
        windows.get_mut(model).map(ask)
    }
}

#[derive(Default)]
struct Window {
    calls: VecDeque<(Instant, u64)>,
    tokens: u64,
}

impl Window {
    fn admit(&mut self, limits: Limits, tokens: u64, now: Instant) -> Verdict {
        self.forget(now);
        if limits.tokens.is_some_and(|limit| tokens > limit) || limits.requests == Some(0) {
            return Verdict::TooLarge;
        }
        let wait = self.wait(limits, tokens, now);
        if wait.is_none() {
            self.calls.push_back((now, tokens));
            self.tokens += tokens;
        }
        wait.map_or(Verdict::Admitted, |(kind, wait)| Verdict::Wait(kind, wait))
    }

    /// How long until enough has left the window, and what the longer wait is for.
    fn wait(&self, limits: Limits, tokens: u64, now: Instant) -> Option<(Kind, Duration)> {
        let until = |at: Instant| (at + MINUTE).saturating_duration_since(now);
        let count = self.calls.len() as u64;
        let requests = limits.requests.filter(|limit| count >= *limit).and_then(|limit| {
            self.calls.get((count - limit) as usize).map(|(at, _)| (Kind::Requests, until(*at)))
        });
        let room = limits.tokens.filter(|limit| self.tokens + tokens > *limit).and_then(|limit| {
            let mut over = self.tokens + tokens - limit;
            let enough = self.calls.iter().find(|(_, tokens)| {
                over = over.saturating_sub(*tokens);
                over == 0
            });
            enough.map(|(at, _)| (Kind::Tokens, until(*at)))
        });
        [requests, room].into_iter().flatten().max_by_key(|(_, wait)| *wait)
    }

    fn standing(&mut self, limits: Limits, now: Instant) -> Standing {
        self.forget(now);
        let newest = self.calls.back().map(|(at, _)| *at);
        Standing {
            limits,
            requests_used: self.calls.len() as u64,
            tokens_used: self.tokens,
            reset: newest.map_or(Duration::ZERO, |at| (at + MINUTE).saturating_duration_since(now)),
        }
    }

    fn forget(&mut self, now: Instant) {
        while let Some((_, tokens)) = self.calls.front().copied().filter(|(at, _)| *at + MINUTE <= now) {
            self.calls.pop_front();
            self.tokens -= tokens;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { requests: Some(3), tokens: Some(100) };

    /// Calls as (second, tokens); what each of them is told.
    fn check(limits: Limits, calls: &[(u64, u64)], told: &[Verdict]) {
        let (mut window, start) = (Window::default(), Instant::now());
        let verdicts: Vec<_> = calls
            .iter()
            .map(|(at, tokens)| window.admit(limits, *tokens, start + Duration::from_secs(*at)))
            .collect();
        assert_eq!(verdicts, told, "{calls:?}");
    }

    const fn wait(kind: Kind, seconds: u64) -> Verdict {
        Verdict::Wait(kind, Duration::from_secs(seconds))
    }

    #[test]
    fn the_window_slides() {
        use Verdict::Admitted;
        let full = wait(Kind::Requests, 50);
        check(
            LIMITS,
            &[(0, 1), (10, 1), (10, 1), (10, 1), (60, 1)],
            &[Admitted, Admitted, Admitted, full, Admitted],
        );
    }

    #[test]
    fn a_call_waits_until_enough_tokens_have_left() {
        use Verdict::Admitted;
        let calls = [(0, 40), (20, 40), (30, 50), (60, 50)];
        check(LIMITS, &calls, &[Admitted, Admitted, wait(Kind::Tokens, 30), Admitted]);
        check(LIMITS, &[(0, 40), (20, 40), (30, 90)], &[Admitted, Admitted, wait(Kind::Tokens, 50)]);
    }

    #[test]
    fn more_than_the_limit_never_fits() {
        check(LIMITS, &[(0, 101), (0, 100)], &[Verdict::TooLarge, Verdict::Admitted]);
    }

    proptest! {
        #[test]
        fn no_minute_holds_more_than_the_limit(calls in proptest::collection::vec((0u64..20, 1u64..60), 1..60)) {
            let (mut window, start) = (Window::default(), Instant::now());
            let (mut now, mut admitted) = (0, Vec::new());
            for (step, tokens) in calls {
                now += step;
                let verdict = window.admit(LIMITS, tokens, start + Duration::from_secs(now));
                if verdict == Verdict::Admitted {
                    admitted.push((now, tokens));
                }
                let within = admitted.iter().filter(|(at, _)| at + 60 > now);
                prop_assert!(within.clone().count() <= 3);
                prop_assert!(within.map(|(_, tokens)| tokens).sum::<u64>() <= 100);
            }
        }

        #[test]
        fn the_told_wait_is_the_shortest_that_helps(first in 1u64..100, second in 1u64..100, at in 0u64..59) {
            let (mut window, start) = (Window::default(), Instant::now());
            window.admit(LIMITS, first, start);
            let now = start + Duration::from_secs(at);
            if let Verdict::Wait(_, wait) = window.admit(LIMITS, second, now) {
                let nearly = wait.saturating_sub(Duration::from_millis(1));
                prop_assert_ne!(window.admit(LIMITS, second, now + nearly), Verdict::Admitted);
                prop_assert_eq!(window.admit(LIMITS, second, now + wait), Verdict::Admitted);
            }
        }
    }
}
