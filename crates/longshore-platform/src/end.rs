//! How a worker ended, whatever it ran as.

use std::fmt;

use nix::sys::signal::Signal;

use crate::process::WorkerEnd;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It exited with this status.
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
    /// The kernel killed it because its container had used up its memory.
    OutOfMemory,
    /// Nobody saw how.
    Gone,
}

impl End {
    /// Whether it ended by a fault of its own program: a kill from outside is none.
    pub fn is_crash(self) -> bool {
        match self {
            // 101 is a panic of the supervisor.
            End::Exited(status) => status == 101,
            End::Signaled(signal) => is_fault(signal),
            End::OutOfMemory => true,
            End::Gone => false,
        }
    }
}

fn is_fault(signal: i32) -> bool {
    let faults = [Signal::SIGSEGV, Signal::SIGABRT, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE];
    faults.into_iter().any(|fault| fault as i32 == signal)
}

impl From<WorkerEnd> for End {
    fn from(end: WorkerEnd) -> End {
        match end {
            WorkerEnd::Exited(status) => End::Exited(status),
            WorkerEnd::Signaled(signal) => End::Signaled(signal),
            WorkerEnd::Gone => End::Gone,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Exited(status) => write!(f, "exited with status {status}"),
            End::Signaled(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
            End::OutOfMemory => {
                write!(f, "killed for lack of memory: its container had used up `resources.memory_limit`")
            }
            End::Gone => write!(f, "gone, status unknown"),
        }
    }
}
