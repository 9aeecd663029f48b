//! Waits for a batch to end, through restarts of the control plane.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use longshore_api::batch::{Batch, BatchCounts, BatchEvent};
use longshore_api::client::Client;
use longshore_core::batch::BatchId;
use tokio::time::{sleep, timeout};

use super::in_words;
use crate::commands::wait::{FIRST_PAUSE, Patience, QUIET, Stumble, over, passes};
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output::{self, clock};
use crate::signals;

/// What is shown while waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    Nothing,
    /// One line that changes on a terminal, lines elsewhere; on standard error.
    Lines,
    /// Events as JSON lines on standard output.
    Json,
}

/// Returns the batch once its last task has ended.
///
/// Errors: status 4 when `limit` has passed, 130 at Ctrl-C, 5 when the control plane was away for five minutes.
pub async fn for_end(client: &Client, id: BatchId, limit: Option<Duration>, show: Show) -> Outcome<Batch> {
    let mut follower =
        Follower { client, id, show, seen: 0, patience: Patience::default(), on_one_line: false };
    let ended = tokio::select! {
        biased;
        batch = follower.run() => batch,
        () = over(limit) => Err(timed_out(id, limit.unwrap_or_default())),
        () = signals::interrupted() => {
            output::note(&format!("interrupted; batch {id} goes on: `longshore batches watch {id}` follows it"));
            Err(Fault::quiet(Exit::Interrupted))
        }
    };
    follower.leave_line();
    ended
}

fn timed_out(id: BatchId, limit: Duration) -> Fault {
    let limit = output::length(limit.as_millis() as u64);
    Fault::new(format!("batch {id} has not ended within {limit}; it goes on"))
        .exit(Exit::TimedOut)
        .hint(format!("`longshore batches watch {id}` follows it, `longshore batches cancel {id}` ends it"))
}

struct Follower<'a> {
    client: &'a Client,
    id: BatchId,
    show: Show,
    /// Number of the last event that was shown.
    seen: u64,
    patience: Patience,
    /// The cursor stands behind a line that will be overwritten.
    on_one_line: bool,
}

impl Follower<'_> {
    async fn run(&mut self) -> Outcome<Batch> {
        // Before anything else, so that an unknown batch or an unreachable control plane is said at once.
        self.client.batch(self.id).await?;
        loop {
            match self.once().await {
                Ok(Some(batch)) => return Ok(batch),
                Ok(None) => {
                    self.patience.reset();
                    sleep(FIRST_PAUSE).await;
                }
                Err(error) if passes(&error) => {
                    self.leave_line();
                    self.patience.pause(error).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Follows one stream to its end; returns the batch if that was the batch's end as well.
    async fn once(&mut self) -> Result<Option<Batch>, Stumble> {
        let mut stream = self.client.follow_batch(self.id, self.seen).await?;
        while let Ok(event) = timeout(QUIET, stream.next()).await {
            let Some(event) = event? else { break };
            self.seen = event.seq.unwrap_or(self.seen);
            self.patience.reset();
            self.tell(&event)?;
        }
        drop(stream);
        let batch = self.client.batch(self.id).await?;
        Ok(batch.finished_at.is_some().then_some(batch))
    }

    fn tell(&mut self, event: &BatchEvent) -> Result<(), Stumble> {
        match self.show {
            Show::Nothing => {}
            Show::Json => output::json_line(event)?,
            Show::Lines => self.say(event),
        }
        Ok(())
    }

    fn say(&mut self, event: &BatchEvent) {
        let counts = event.data.read::<BatchCounts>();
        match (event.kind.as_str(), counts) {
            ("progress", Ok(counts)) if io::stderr().is_terminal() => {
                // Nobody reading it is no reason to stop.
                let _ = write!(io::stderr(), "\r\u{1b}[2K{}", in_words(&counts));
                self.on_one_line = true;
            }
            ("progress", Ok(counts)) => output::note(&format!("{}  {}", clock(event.at), in_words(&counts))),
            (kind, _) => {
                self.leave_line();
                output::note(&format!("{}  {}", clock(event.at), output::clean(kind)));
            }
        }
    }

    fn leave_line(&mut self) {
        if std::mem::take(&mut self.on_one_line) {
            output::note("");
        }
    }
}
