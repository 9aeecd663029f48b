//! What many ask and only the store can answer: one look serves all, and nobody waits longer for it than he likes.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// How old what was found in the store may be, for heartbeats and for whoever asks without a key.
pub const LATELY: Duration = Duration::from_secs(1);

/// The newest answer to a question. It is looked for in a task of its own, so that a look goes on when those who asked are
/// gone, as probes are soon: what it finds is there for the next.
pub struct Looked<T> {
    known: watch::Sender<Known<T>>,
}

struct Known<T> {
    found: Option<(Instant, T)>,
    /// Since when somebody looks.
    looking: Option<Instant>,
}

/// The look under way has found nothing for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silent(pub Duration);

impl<T> Default for Looked<T> {
    fn default() -> Looked<T> {
        Looked { known: watch::Sender::new(Known { found: None, looking: None }) }
    }
}

impl<T: Clone + Send + Sync + 'static> Looked<T> {
    /// What was found a moment ago at most; else it is looked for, and a look is waited for until it has taken this long.
    pub async fn lately<F>(&self, patience: Duration, look: impl FnOnce() -> F) -> Result<T, Silent>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut known = self.known.subscribe();
        let mut begins = None;
        self.known.send_if_modified(|known| {
            if known.fresh().is_none() && known.looking.is_none() {
                known.looking = Some(Instant::now());
                begins = Some(Looking { known: self.known.clone(), found: None });
            }
            false
        });
        if let Some(looking) = begins {
            let look = look();
            tokio::spawn(async move { looking.finds(look.await) });
        }
        let since = match &*known.borrow_and_update() {
            Known { looking: Some(since), .. } => *since,
            Known { found: Some((_, found)), .. } => return Ok(found.clone()),
            // It ended without finding anything.
            Known { found: None, looking: None } => return Err(Silent(Duration::ZERO)),
        };
        let ended = known.wait_for(|known| known.looking != Some(since));
        match timeout_at(since + patience, ended).await {
            Ok(Ok(known)) => known.fresh().cloned().ok_or(Silent(since.elapsed())),
            _ => Err(Silent(since.elapsed())),
        }
    }
}

impl<T> Known<T> {
    fn fresh(&self) -> Option<&T> {
        self.found.as_ref().filter(|(at, _)| at.elapsed() < LATELY).map(|(_, found)| found)
    }
}

/// A look under way. Dropped when it ends, in whatever way.
struct Looking<T> {
    known: watch::Sender<Known<T>>,
    found: Option<T>,
}

impl<T> Looking<T> {
    fn finds(mut self, found: T) {
        self.found = Some(found);
    }
}

impl<T> Drop for Looking<T> {
    fn drop(&mut self) {
        self.known.send_modify(|known| {
            known.looking = None;
            if let Some(found) = self.found.take() {
                known.found = Some((Instant::now(), found));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::oneshot;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    /// Asks with a look that finds what is sent; `None`: nobody has to look.
    async fn ask(looked: &Looked<u32>, look: Option<oneshot::Receiver<u32>>) -> Result<u32, Silent> {
        let look = || async { look.expect("nobody looks twice").await.expect("something is found") };
        looked.lately(PATIENCE, look).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_takes_long_is_answered_in_time_and_what_it_finds_is_kept() {
        let looked = Looked::default();
        let (find, look) = oneshot::channel();
        let began = Instant::now();
        assert_eq!(ask(&looked, Some(look)).await, Err(Silent(PATIENCE)));
        tokio::time::advance(PATIENCE).await;
        assert_eq!(ask(&looked, None).await, Err(Silent(2 * PATIENCE)), "known by now: nobody waits for it");
        assert_eq!(began.elapsed(), 2 * PATIENCE);
        find.send(7).expect("the look goes on");
        while looked.known.borrow().looking.is_some() {
            tokio::task::yield_now().await;
        }
        assert_eq!(ask(&looked, None).await, Ok(7), "though who began it is gone");
        tokio::time::advance(LATELY).await;
        let (find, look) = oneshot::channel();
        find.send(8).expect("it is kept");
        assert_eq!(ask(&looked, Some(look)).await, Ok(8));
    }

    #[tokio::test(start_paused = true)]
    async fn one_looks_for_all_who_ask_meanwhile() {
        let looked = Arc::new(Looked::default());
        let (find, look) = oneshot::channel();
        let first = ask(&looked, Some(look));
        let others = [ask(&looked, None), ask(&looked, None)];
        let found = async {
            tokio::time::sleep(PATIENCE / 2).await;
            find.send(7).expect("somebody looks");
        };
        let (first, others, ()) = tokio::join!(first, futures_util::future::join_all(others), found);
        assert_eq!((first, others), (Ok(7), vec![Ok(7), Ok(7)]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_broke_off_keeps_nobody_from_looking_again() {
        let looked = Looked::default();
        let (find, look) = oneshot::channel();
        drop(find);
        assert!(ask(&looked, Some(look)).await.is_err());
        let (find, look) = oneshot::channel();
        find.send(8).expect("it is kept");
        assert_eq!(ask(&looked, Some(look)).await, Ok(8));
    }
}
