//! Many commands, one transaction: what waits while a transaction runs becomes the next one.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use rand::Rng;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tracing::debug;

use super::core::Core;
use super::fault::{DbError, words};
use crate::error::StoreError;

const TRIES: u32 = 8;

/// A command, and who waits for its answer.
struct Asked<C, A> {
    command: C,
    answer: oneshot::Sender<Result<A, StoreError>>,
}

/// Takes commands of one kind. Cheap to clone.
pub(super) struct Batches<C, A> {
    queue: mpsc::UnboundedSender<Asked<C, A>>,
}

/// Runs commands together: all of them are done, or none, and the answers are in their order.
pub(super) type Together<C, A> = for<'a> fn(&'a Core, &'a [C]) -> BoxFuture<'a, Result<Vec<A>, DbError>>;

/// How much goes into one transaction.
pub(super) struct Limits<C> {
    /// What the commands may weigh together; the first one always fits.
    pub most: usize,
    pub weigh: fn(&C) -> usize,
    /// Transactions at the same time.
    pub parallel: usize,
    /// At least so long from the beginning of one transaction to that of the next.
    pub apart: Duration,
}

impl<C: Send + Sync + 'static, A: Send + 'static> Batches<C, A> {
    pub(super) fn start(core: Arc<Core>, limits: Limits<C>, run: Together<C, A>) -> Batches<C, A> {
        let (queue, asked) = mpsc::unbounded_channel();
        tokio::spawn(serve(core, limits, run, asked));
        Batches { queue }
    }

    /// Queued at once, whether its answer is awaited or not.
    pub(super) fn ask(&self, command: C) -> impl Future<Output = Result<A, StoreError>> + Send + use<C, A> {
        let (answer, answered) = oneshot::channel();
        let sent = self.queue.send(Asked { command, answer });
        async move {
            sent.map_err(|_| StoreError::Closed)?;
            answered.await.unwrap_or(Err(StoreError::Closed))
        }
    }
}

async fn serve<C: Send + Sync + 'static, A: Send + 'static>(
    core: Arc<Core>,
    limits: Limits<C>,
    run: Together<C, A>,
    mut asked: mpsc::UnboundedReceiver<Asked<C, A>>,
) {
    let slots = Arc::new(Semaphore::new(limits.parallel));
    let (mut left, mut next) = (None, Instant::now());
    loop {
        let Some(first) = (match left.take() {
            Some(first) => Some(first),
            None => asked.recv().await,
        }) else {
            return;
        };
        // What comes while all are busy belongs into the batch as well.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        if next > Instant::now() {
            tokio::time::sleep_until(next).await;
        }
        next = Instant::now() + limits.apart;
        let mut weight = (limits.weigh)(&first.command);
        let mut batch = vec![first];
        while let Ok(next) = asked.try_recv() {
            weight += (limits.weigh)(&next.command);
            if weight > limits.most {
                left = Some(next);
                break;
            }
            batch.push(next);
        }
        let core = Arc::clone(&core);
        tokio::spawn(async move {
            answer(&core, run, batch).await;
            drop(slot);
        });
    }
}

async fn answer<C, A>(core: &Core, run: Together<C, A>, batch: Vec<Asked<C, A>>) {
    let (commands, waiting): (Vec<C>, Vec<_>) =
        batch.into_iter().map(|asked| (asked.command, asked.answer)).unzip();
    match again(core, run, &commands).await {
        Ok(answers) => {
            for (waiting, answer) in waiting.into_iter().zip(answers) {
                let _ = waiting.send(Ok(answer));
            }
        }
        // One of them may be to blame: the others must not suffer.
        Err(error) if commands.len() > 1 && !error.is_outage() => {
            debug!(
                error = words(&error),
                commands = commands.len(),
                "a batch failed; its commands run one by one"
            );
            for (command, waiting) in commands.iter().zip(waiting) {
                let done = again(core, run, std::slice::from_ref(command)).await;
                let done = done.map_err(StoreError::from);
                let _ = waiting.send(done.and_then(|mut answers| answers.pop().ok_or(StoreError::Closed)));
            }
        }
        Err(error) => {
            let error = StoreError::from(error);
            for waiting in waiting {
                let _ = waiting.send(Err(error.clone()));
            }
        }
    }
}

/// Transactions that got in each other's way are run again.
async fn again<C, A>(core: &Core, run: Together<C, A>, commands: &[C]) -> Result<Vec<A>, DbError> {
    let mut tries = 0;
    loop {
        // A defect must not look like the end of the store to all who wait.
        let done = AssertUnwindSafe(run(core, commands)).catch_unwind().await;
        match done.unwrap_or(Err(DbError::Panic)) {
            Err(error) if error.is_conflict() && tries < TRIES => {
                tries += 1;
                debug!(error = words(&error), tries, "transactions got in each other's way");
                let most = 5u64 << tries.min(6);
                let wait = rand::rng().random_range(1..=most);
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            done => return done,
        }
    }
}
