//! One process per store: a lock on a file beside it, which the kernel lets go when its holder dies.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::open::OpenError;

/// Held for as long as it lives.
pub(super) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    pub(super) fn take(dir: &Path) -> Result<Lock, OpenError> {
        let path = dir.join("lock");
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(|error| OpenError::io("open", &path, error))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                // The number is for the message of others only: a full disk must not stop us here.
                let _ = note_holder(&mut file);
                Ok(Lock { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                Err(OpenError::InUse { dir: dir.to_owned(), holder: holder(&mut file) })
            }
            Err((_, errno)) => Err(OpenError::io("lock", &path, errno.into())),
        }
    }
}

fn note_holder(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.read_to_string(&mut text).map(|_| text.trim().parse::<u32>()) {
        Ok(Ok(pid)) => format!("process {pid}"),
        _ => "another process".to_owned(),
    }
}
