//! How many files this process may have open: as many as it can get, since each connection is one.
//!
//! What it starts gets what this process was given: some programs look at every number up to the limit.

use std::io;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

static GIVEN: OnceLock<(u64, u64)> = OnceLock::new();

/// Raises the limit as far as it goes, once; returns it.
pub fn raise() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    GIVEN.get_or_init(|| (soft, hard));
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// The limit before [`raise`], soft and hard; `None`: it was not raised.
pub fn given() -> Option<(u64, u64)> {
    GIVEN.get().copied()
}

/// Takes back what [`raise`] did. For a new process, before exec: makes system calls only.
pub fn restore() -> io::Result<()> {
    match given() {
        Some((soft, hard)) => Ok(setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?),
        None => Ok(()),
    }
}
