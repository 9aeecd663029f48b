//! An agent's lines on this worker's own log, with a bound.

use std::time::Duration;

use longshore_core::id::TaskId;
use tokio::time::Instant;
use tracing::{info, warn};

/// Bytes that one attempt, or a long-lived agent in one minute, may log.
const BUDGET: usize = 1 << 20;

/// A line costs at least this much, for its frame.
const FRAME: usize = 64;

/// Whose lines they are.
pub enum Source {
    Attempt {
        task: TaskId,
        attempt: u32,
    },
    /// An http agent serves many tasks; its lines name none.
    Process {
        pid: i32,
    },
}

pub struct AgentLog {
    source: Source,
    left: usize,
    cut_lines: u64,
    cut_bytes: u64,
    refill: Option<Instant>,
}

impl AgentLog {
    pub fn new(source: Source) -> AgentLog {
        let refill = matches!(source, Source::Process { .. }).then(Instant::now);
        AgentLog { source, left: BUDGET, cut_lines: 0, cut_bytes: 0, refill }
    }

    pub fn line(&mut self, stream: &'static str, line: &[u8]) {
        if line.is_empty() {
            return;
        }
        self.refill();
        let cost = line.len() + FRAME;
        if cost > self.left {
            self.left = 0;
            self.cut_lines += 1;
            self.cut_bytes += line.len() as u64;
            return;
        }
        self.left -= cost;
        let line = String::from_utf8_lossy(line);
        match self.source {
            Source::Attempt { task, attempt } => info!(%task, attempt, stream, %line, "agent output"),
            Source::Process { pid } => info!(pid, stream, %line, "agent output"),
        }
    }

    /// An event that breaks a rule.
    pub fn odd(&self, why: &str) {
        match self.source {
            Source::Attempt { task, attempt } => warn!(%task, attempt, why, "agent event ignored"),
            Source::Process { pid } => warn!(pid, why, "agent event ignored"),
        }
    }

    fn refill(&mut self) {
        if self.refill.is_some_and(|since| since.elapsed() >= Duration::from_secs(60)) {
            self.say_what_was_cut();
            self.left = BUDGET;
            self.refill = Some(Instant::now());
        }
    }

    fn say_what_was_cut(&mut self) {
        let (lines, bytes) = (std::mem::take(&mut self.cut_lines), std::mem::take(&mut self.cut_bytes));
        if lines == 0 {
            return;
        }
        match self.source {
            Source::Attempt { task, attempt } => warn!(%task, attempt, lines, bytes, "output was cut"),
            Source::Process { pid } => warn!(pid, lines, bytes, "output was cut"),
        }
    }
}

impl Drop for AgentLog {
    fn drop(&mut self) {
        self.say_what_was_cut();
    }
}
