//! Connections to the control plane, and whether one is kept for the next request.
//!
//! An address may stand for several replicas, or for somebody else until the control plane is there: a Service, a load
//! balancer. A connection leads to one of them for as long as it lasts. Kept after it has brought no answer, it would bring
//! none again and again, while a new one would reach a replica that works.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{CONNECTION, HeaderValue};
use reqwest::{Client, IntoUrl, Method, RequestBuilder};

/// How long no connection is kept after one was of no use: in this time those that lie idle are used, and gone.
const DOUBT: Duration = Duration::from_secs(10);

pub(super) struct Connections {
    http: Client,
    known: Mutex<Known>,
}

/// What is known of those who answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// No control plane has answered yet.
    Nothing,
    Good,
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
        Connections { http, known: Known::Good.into() }
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
            Known::Good => true,
            Known::Failed(at) => now.saturating_duration_since(at) >= DOUBT,
        }
    }

    fn answered(self) -> Known {
        match self {
            // Nothing was kept, so nothing is left that leads elsewhere.
            Known::Nothing => Known::Good,
            known => known,
        }
    }

    fn failed(self, now: Instant) -> Known {
        match self {
            Known::Nothing => Known::Nothing,
            Known::Good | Known::Failed(_) => Known::Failed(now),
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
        let known = Known::Good.failed(now).answered();
        assert!(!known.keeps(now + DOUBT / 2));
        assert!(known.keeps(now + DOUBT));
        assert!(!known.failed(now + DOUBT / 2).keeps(now + DOUBT), "a while after the last one");
    }
}
