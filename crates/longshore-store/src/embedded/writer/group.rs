//! Group commit: many commands, one sync of the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ffi};
use tracing::{error, warn};

use super::counts::Deltas;
use super::write::{Memory, Write};
use super::{Alone, Answer, Command, FatalHook, Run};
use crate::embedded::fault::{self, Fault};
use crate::error::StoreError;
use crate::signals::{Signals, Wakes};

/// A group takes no more than this, so that its first command does not wait for the last one's work.
const MOST: usize = 512;
const LONGEST: Duration = Duration::from_millis(2);

/// Pages in the log above which they are moved into the file.
const CHECKPOINT_PAGES: i32 = 1000;

pub(super) struct Groups {
    connection: Connection,
    memory: Memory,
    signals: Signals,
    fatal: FatalHook,
    log_pages: Arc<AtomicI32>,
    /// Whether commits are synced now.
    syncing: bool,
    /// What the disk holds is not known: nothing is acknowledged any more, should the hook return at all.
    broken: bool,
}

/// What the commands of a group that were kept add up to.
#[derive(Default)]
struct Kept {
    answers: Vec<Answer>,
    topics: Wakes,
    deltas: Deltas,
}

impl Groups {
    pub(super) fn new(
        mut connection: Connection,
        signals: Signals,
        fatal: FatalHook,
    ) -> rusqlite::Result<Groups> {
        let log_pages = Arc::new(AtomicI32::new(0));
        let pages = Arc::clone(&log_pages);
        connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, now: i32| {
            pages.store(now, Ordering::Relaxed);
            Ok(())
        }))?;
        let memory = Memory::load(&connection)?;
        Ok(Groups { connection, memory, signals, fatal, log_pages, syncing: true, broken: false })
    }

    /// Runs a group: `first`, and what `next` has at hand. Returns what does not belong into it.
    ///
    /// A group that begins with a command that need not be synced takes no other: it would make all of them wait for
    /// the disk. One that is synced takes any.
    pub(super) fn run(
        &mut self,
        first: Command,
        mut next: impl FnMut() -> Option<Command>,
    ) -> Option<Command> {
        let synced = first.synced;
        if let Err(error) = self.begin(synced) {
            refuse(first.run, error);
            return None;
        }
        let mut kept = Kept::default();
        let (started, mut command, mut count) = (Instant::now(), Some(first), 0);
        while let Some(one) = command.take_if(|one| synced || !one.synced) {
            if !self.run_one(one.run, &mut kept) {
                self.lost(kept);
                return None;
            }
            count += 1;
            command = (count < MOST && started.elapsed() < LONGEST).then(&mut next).flatten();
        }
        self.finish(kept);
        self.checkpoint();
        command
    }

    /// Runs what cannot be part of a transaction.
    pub(super) fn alone(&mut self, job: Alone) {
        let connection = if self.broken { Err(StoreError::Closed) } else { Ok(&self.connection) };
        // Its caller hears of the error; a sync that failed is everybody's matter.
        if job(connection) == Some(Fault::Sync) {
            self.give_up("rewrote its file", "a sync failed");
        }
    }

    fn begin(&mut self, synced: bool) -> Result<(), StoreError> {
        if self.broken {
            return Err(StoreError::Closed);
        }
        if self.syncing != synced {
            // Only between transactions, and only by a statement that is prepared anew.
            let level = if synced { "PRAGMA synchronous = FULL" } else { "PRAGMA synchronous = NORMAL" };
            self.connection.execute_batch(level)?;
            self.syncing = synced;
        }
        Ok(self.execute("BEGIN IMMEDIATE")?)
    }

    /// Runs one command in a savepoint of its own; false when SQLite gave the whole transaction up.
    fn run_one(&mut self, command: Run, kept: &mut Kept) -> bool {
        if let Err(error) = self.execute("SAVEPOINT command") {
            refuse(command, error.into());
            return !self.connection.is_autocommit();
        }
        let mut write = Write::new(&self.connection, &mut self.memory);
        let (keep, answer) = command(Ok(&mut write));
        let (topics, deltas) = write.into_effects();
        kept.answers.push(answer);
        if self.connection.is_autocommit() {
            return false;
        }
        let ended = if keep {
            kept.topics.extend(topics);
            kept.deltas.add(deltas);
            self.execute("RELEASE command")
        } else {
            self.memory.distrust();
            self.execute("ROLLBACK TO command").and_then(|()| self.execute("RELEASE command"))
        };
        // Neither can fail while the transaction lives; if one did, nothing of the group is to be kept.
        ended.is_ok()
    }

    /// Commits, then answers and wakes up.
    fn finish(&mut self, kept: Kept) {
        let written = self.memory.save(&self.connection, &kept.deltas).and_then(|()| self.execute("COMMIT"));
        match written {
            Ok(()) => {
                self.memory.saved();
                for answer in kept.answers {
                    answer(Ok(()));
                }
                self.signals.fire(kept.topics);
            }
            Err(error) => {
                self.judge(&error, "committed");
                self.roll_back();
                let error = StoreError::from(error);
                for answer in kept.answers {
                    answer(Err(error.clone()));
                }
            }
        }
    }

    /// SQLite rolled the transaction back by itself, as it does for a full disk or trouble with input and
    /// output.
    fn lost(&mut self, kept: Kept) {
        let code = last_code(&self.connection);
        let fault = fault::of_code(code);
        if fault == Fault::Sync {
            self.give_up("wrote", &format!("SQLite error {code}"));
        }
        self.roll_back();
        let error = match fault {
            Fault::Full => StoreError::Full,
            _ => fault::internal("ran a group of commands", format!("SQLite error {code}")),
        };
        for answer in kept.answers {
            answer(Err(error.clone()));
        }
    }

    fn roll_back(&mut self) {
        if !self.connection.is_autocommit() {
            let _ = self.execute("ROLLBACK");
        }
        self.memory.distrust();
    }

    /// Moves the log into the file when it has grown. Unlike the automatic one it does not hide a failed
    /// sync.
    fn checkpoint(&mut self) {
        if self.log_pages.load(Ordering::Relaxed) < CHECKPOINT_PAGES {
            return;
        }
        self.log_pages.store(0, Ordering::Relaxed);
        let moved = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = moved {
            self.judge(&error, "moved its log into its file");
            warn!(%error, "checkpoint failed; the log grows until one succeeds");
        }
    }

    fn judge(&mut self, error: &rusqlite::Error, what: &str) {
        if fault::leaves_doubt(error) {
            self.give_up(what, &error.to_string());
        }
    }

    fn give_up(&mut self, what: &str, why: &str) {
        error!(
            what,
            why, "the disk failed to keep what was written; ending at once, nothing more is acknowledged"
        );
        self.broken = true;
        (self.fatal)(why);
    }

    fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(drop)
    }
}

fn refuse(command: Run, error: StoreError) {
    let (_, answer) = command(Err(error.clone()));
    answer(Err(error));
}

/// The code of the last call that failed on this connection.
fn last_code(connection: &Connection) -> i32 {
    // SAFETY: the handle is open for as long as the connection is borrowed, and only this thread uses it.
    unsafe { ffi::sqlite3_extended_errcode(connection.handle()) }
}
