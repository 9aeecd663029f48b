//! Holds answers back, so that a test can act in the middle of a call.

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) held: bool,
    /// Where streams stop; without it before their first byte, as every other answer.
    pub(crate) after_chunks: Option<usize>,
}

/// One for all calls.
pub(crate) struct Gate {
    hold: watch::Sender<Hold>,
    waiting: watch::Sender<usize>,
}

impl Gate {
    pub(crate) fn open() -> Gate {
        Gate { hold: watch::channel(Hold::default()).0, waiting: watch::channel(0).0 }
    }

    pub(crate) fn set(&self, hold: Hold) {
        self.hold.send_replace(hold);
    }

    pub(crate) fn waiting(&self) -> usize {
        *self.waiting.borrow()
    }

    pub(crate) async fn until_waiting(&self, calls: usize) {
        // The sender lives as long as this gate.
        let _ = self.waiting.subscribe().wait_for(|waiting| *waiting >= calls).await;
    }

    /// Waits while answers are held before their first byte.
    pub(crate) async fn before_answer(&self, stream: bool) {
        self.pass(|hold| !hold.held || (stream && hold.after_chunks.is_some())).await;
    }

    /// After how many chunks a stream has to stop now.
    pub(crate) fn stop_at(&self) -> Option<usize> {
        let hold = *self.hold.borrow();
        hold.after_chunks.filter(|_| hold.held)
    }

    /// Waits while streams are held after as many chunks as this one has sent, or fewer.
    pub(crate) async fn after(&self, sent: usize) {
        self.pass(|hold| !hold.held || hold.after_chunks.is_none_or(|after| sent < after)).await;
    }

    async fn pass(&self, free: impl Fn(&Hold) -> bool) {
        if free(&self.hold.borrow()) {
            return;
        }
        let _counted = Counted::new(&self.waiting);
        let _ = self.hold.subscribe().wait_for(|hold| free(hold)).await;
    }
}

/// Counted for as long as it lives, so a caller that gives up is not counted any more.
struct Counted<'a>(&'a watch::Sender<usize>);

impl Counted<'_> {
    fn new(waiting: &watch::Sender<usize>) -> Counted<'_> {
        waiting.send_modify(|waiting| *waiting += 1);
        Counted(waiting)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}
