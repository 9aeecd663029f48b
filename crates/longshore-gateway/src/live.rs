//! One call under way: what of its answer may be seen, shared between whoever makes it and whoever waits for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use longshore_api::llm::{Broken, Head};
use tokio::sync::watch;

pub struct Live {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    /// The follower has taken what there was, or has gone.
    taken: watch::Sender<()>,
    followers: AtomicUsize,
}

#[derive(Default)]
struct State {
    head: Option<Head>,
    /// And not taken yet.
    shown: Vec<Bytes>,
    end: Option<End>,
}

/// How a call ended for those who follow it.
#[derive(Clone, Debug)]
pub enum End {
    /// All is shown. `delivered`: the journal has noted it so already.
    Whole { delivered: bool },
    /// What was shown cannot be completed.
    Broken(Broken),
    /// Nothing was shown, and this call is not made any more: ask again.
    AskAgain,
}

/// What is new since a follower last looked.
pub struct News {
    pub head: Option<Head>,
    pub data: Vec<Bytes>,
    pub end: Option<End>,
}

impl Live {
    pub fn new() -> Live {
        Live {
            state: Mutex::default(),
            changed: watch::Sender::new(()),
            taken: watch::Sender::new(()),
            followers: AtomicUsize::new(0),
        }
    }

    pub fn head(&self, head: Head) {
        self.lock().head.get_or_insert(head);
        self.changed.send_replace(());
    }

    pub fn show(&self, data: impl IntoIterator<Item = Bytes>) {
        self.lock().shown.extend(data);
        self.changed.send_replace(());
    }

    pub fn end(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.changed.send_replace(());
    }

    /// Something of the answer may have reached the agent.
    pub fn has_shown(&self) -> bool {
        self.lock().head.is_some()
    }

    pub fn is_followed(&self) -> bool {
        self.followers.load(Ordering::Acquire) > 0
    }

    /// Resolves when nobody waits for the answer any more.
    pub async fn abandoned(&self) {
        let mut changed = self.changed.subscribe();
        while self.is_followed() {
            // The sender is in `self`.
            let _ = changed.changed().await;
        }
    }

    /// Resolves when all but so many bytes of what was shown are taken, or nobody waits any more: an answer that goes
    /// through is read as fast as its agent reads it.
    pub async fn room(&self, most: usize) {
        let mut taken = self.taken.subscribe();
        while self.is_followed() && self.lock().shown.iter().map(Bytes::len).sum::<usize>() > most {
            // The sender is in `self`.
            let _ = taken.changed().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one who waits for the answer.
pub struct Follower {
    live: std::sync::Arc<Live>,
    changed: watch::Receiver<()>,
    had_head: bool,
}

impl Follower {
    pub fn new(live: &std::sync::Arc<Live>) -> Follower {
        live.followers.fetch_add(1, Ordering::AcqRel);
        let mut changed = live.changed.subscribe();
        changed.mark_changed();
        Follower { live: std::sync::Arc::clone(live), changed, had_head: false }
    }

    /// Waits for something new. Cancel-safe.
    pub async fn news(&mut self) -> News {
        // The sender is in `live`, which this holds.
        let _ = self.changed.changed().await;
        let mut state = self.live.lock();
        let head = state.head.clone().filter(|_| !self.had_head);
        let data = std::mem::take(&mut state.shown);
        self.had_head |= head.is_some();
        let end = state.end.clone();
        drop(state);
        self.live.taken.send_replace(());
        News { head, data, end }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.live.followers.fetch_sub(1, Ordering::AcqRel);
        self.live.changed.send_replace(());
        self.live.taken.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn head() -> Head {
        Head { status: 200, headers: Vec::new(), stored: false }
    }

    #[tokio::test]
    async fn a_follower_sees_everything_once_and_in_order() {
        let live = Arc::new(Live::new());
        live.head(head());
        live.show([Bytes::from_static(b"a")]);
        let mut follower = Follower::new(&live);
        let first = follower.news().await;
        assert!(first.head.is_some() && first.end.is_none());
        assert_eq!(first.data, ["a"]);
        live.show([Bytes::from_static(b"b")]);
        live.end(End::Whole { delivered: false });
        let last = follower.news().await;
        assert!(last.head.is_none() && matches!(last.end, Some(End::Whole { .. })));
        assert_eq!(last.data, ["b"]);
    }

    #[tokio::test]
    async fn there_is_room_once_the_follower_has_taken_what_there_was_or_has_gone() {
        let live = Arc::new(Live::new());
        let mut follower = Follower::new(&live);
        live.show([Bytes::from_static(b"abc")]);
        live.room(3).await;
        let waits = |live: &Arc<Live>| {
            let live = Arc::clone(live);
            tokio::spawn(async move { live.room(2).await })
        };
        let waiting = waits(&live);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        follower.news().await;
        waiting.await.expect("it ends");
        live.show([Bytes::from_static(b"abc")]);
        let waiting = waits(&live);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(follower);
        waiting.await.expect("it ends");
    }

    #[tokio::test]
    async fn it_is_known_when_nobody_waits_any_more() {
        let live = Arc::new(Live::new());
        let follower = Follower::new(&live);
        assert!(live.is_followed());
        let watched = Arc::clone(&live);
        let abandoned = tokio::spawn(async move { watched.abandoned().await });
        drop(follower);
        abandoned.await.expect("it ends");
    }
}
