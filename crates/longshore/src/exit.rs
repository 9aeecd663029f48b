//! Exit statuses: what scripts that call longshore match on.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    Error,
    Usage,
    /// A task that was waited for failed or was cancelled.
    TaskFailed,
    /// A wait ended before what was waited for.
    TimedOut,
    /// No control plane there, or it does not let us in.
    Unreachable,
    /// Ctrl-C.
    Interrupted,
}

impl Exit {
    pub fn status(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Error => 1,
            Exit::Usage => 2,
            Exit::TaskFailed => 3,
            Exit::TimedOut => 4,
            Exit::Unreachable => 5,
            Exit::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.status())
    }
}
