//! Connections to the control plane, and whether one is kept for the next request.
//!
//! An address may stand for several replicas, or for somebody else until the control plane is there: a Service, a load
//! balancer. A connection leads to one of them for as long as it lasts. Kept after it has brought no answer, it would bring
//! none again and again, while a new one would reach a replica that works.
//!
//! A control plane in trouble says so itself. Then all replicas may be in it, as while the database fails over, and a new
//! connection of every worker for every request would add to it; or only this one is, so now and then a new one is tried.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{CONNECTION, HeaderValue};
use reqwest::{Client, IntoUrl, Method, RequestBuilder};

/// How long no connection is kept after one was of no use: in this time those that lie idle are used, and gone.
const DOUBT: Duration = Duration::from_secs(10);

/// Of the requests that are refused in a row, each one of so many is its connection's last.
const TRIES: u32 = 3;

pub(super) struct Connections {
    http: Client,
    known: Mutex<Known>,
}

/// What is known of those who answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// No control plane has answered yet.
    Nothing,
    /// So many requests since the last good answer brought word of trouble.
    Good { refused: u32 },
    /// The last failure was then.
    Failed(Instant),
}

impl Connections {
    /// None is kept until the first answer.
    pub(super) fn to_be_tried(http: Client) -> Connections {
        Connections { http, known: Known::Nothing.into() }
    }

    /// Where a control plane is known to answer.
    pub(super) fn to_be_kept(http: Client) -> Connections {
        Connections { http, known: Known::Good { refused: 0 }.into() }
    }

    pub(super) fn request(&self, method: Method, url: impl IntoUrl) -> RequestBuilder {
        let request = self.http.request(method, url);
        match self.lock().keeps(Instant::now()) {
            true => request,
            false => request.header(CONNECTION, HeaderValue::from_static("close")),
        }
    }

    /// A control plane has answered.
    pub(super) fn answered(&self) {
        let mut known = self.lock();
        *known = known.answered();
    }

    /// A control plane has answered that it is in trouble.
    pub(super) fn refused(&self) {
        let mut known = self.lock();
        *known = known.refused(Instant::now());
    }

    /// There was no answer, or one that another connection may not bring.
    pub(super) fn failed(&self) {
        let mut known = self.lock();
        *known = known.failed(Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn keeps(self, now: Instant) -> bool {
        match self {
            Known::Nothing => false,
            Known::Good { refused } => refused % TRIES != TRIES - 1,
            Known::Failed(at) => now.saturating_duration_since(at) >= DOUBT,
        }
    }

    fn answered(self) -> Known {
        match self {
            // Nothing was kept, so nothing is left that leads elsewhere.
            Known::Nothing | Known::Good { .. } => Known::Good { refused: 0 },
            known => known,
        }
    }

    fn refused(self, now: Instant) -> Known {
        match self {
            Known::Good { refused } => Known::Good { refused: refused.saturating_add(1) },
            doubt @ Known::Failed(_) if !doubt.keeps(now) => doubt,
            Known::Nothing | Known::Failed(_) => Known::Good { refused: 1 },
        }
    }

    fn failed(self, now: Instant) -> Known {
        match self {
            Known::Nothing => Known::Nothing,
            Known::Good { .. } | Known::Failed(_) => Known::Failed(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_kept_before_the_first_answer() {
        let now = Instant::now();
        let known = Known::Nothing.failed(now);
        assert!(!known.keeps(now + 100 * DOUBT), "whoever answered then was no control plane");
        assert!(known.answered().keeps(now));
    }

    #[test]
    fn none_is_kept_for_a_while_after_a_failure_whatever_others_bring() {
        let now = Instant::now();
        let known = Known::Good { refused: 0 }.failed(now).answered();
        assert!(!known.keeps(now + DOUBT / 2));
        assert!(known.keeps(now + DOUBT));
        assert!(!known.failed(now + DOUBT / 2).keeps(now + DOUBT), "a while after the last one");
        assert!(!known.refused(now + DOUBT / 2).keeps(now + DOUBT / 2), "whatever it brings");
    }

    /// Whether each of the requests is one after which its connection is kept, with so many refused before.
    fn kept(mut known: Known, now: Instant, refused: u32) -> Vec<bool> {
        let mut next = || {
            let kept = known.keeps(now);
            known = known.refused(now);
            kept
        };
        (0..refused).map(|_| next()).collect()
    }

    #[test]
    fn of_a_control_plane_in_trouble_a_new_connection_is_tried_now_and_then() {
        let now = Instant::now();
        let good = Known::Good { refused: 0 };
        assert_eq!(kept(good, now, 7), [true, true, false, true, true, false, true]);
        assert_eq!(
            kept(Known::Nothing, now, 4),
            [false, true, false, true],
            "it is one, whatever it answers"
        );
        let known = good.refused(now).refused(now).answered();
        assert_eq!(kept(known, now, 3), [true, true, false], "in a row");
        let failed = Known::Failed(now);
        assert_eq!(kept(failed, now + DOUBT, 3), [true, true, false], "the doubt is over");
    }
}
