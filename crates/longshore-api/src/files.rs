//! How many files this process may have open: as many as it can get, since each connection is one.
//!
//! What it starts gets what this process was given: some programs look at every number up to the limit.

use std::io;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

static GIVEN: OnceLock<(u64, u64)> = OnceLock::new();

/// Raises the limit as far as it goes, once; returns what it is then.
pub fn raise() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= hard {
        return Ok(soft);
    }
    // A hard limit may be above what the system allows by now.
    if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        warn!(%error, soft, hard, "the limit of open files could not be raised");
        return Ok(soft);
    }
    GIVEN.get_or_init(|| (soft, hard));
    Ok(hard)
}

/// The limit before [`raise`], soft and hard; `None`: it was not raised.
pub fn given() -> Option<(u64, u64)> {
    GIVEN.get().copied()
}

/// Takes back what [`raise`] did. For a new process, before exec: makes a system call only. Fails silently: a program may
/// be slower with more, and nothing worse.
pub fn restore() {
    if let Some((soft, hard)) = given() {
        _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
    }
}
