//! Agents' private temporary folders: `<run folder>/<worker>/<nonce>/<number>/{home,tmp}`.
//!
//! What an earlier start of the same worker left behind is removed when this one is registered, for then the old one is
//! known to be gone or superseded.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use longshore_core::id::WorkerId;
use tracing::warn;
use uuid::Uuid;

use crate::error::WorkerError;

pub struct RunFolder {
    /// Of this worker, over all its starts.
    worker: PathBuf,
    /// Of this start.
    own: PathBuf,
    next: AtomicU64,
}

/// One agent's folder; removed when it is dropped.
pub struct Private {
    path: PathBuf,
}

impl RunFolder {
    pub fn create(base: &Path, worker: &WorkerId, nonce: Uuid) -> Result<RunFolder, WorkerError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| WorkerError::RunDir { path, source }
        };
        // Absolute, because it is handed to agents.
        let base = std::path::absolute(base).map_err(failed(base))?;
        std::fs::create_dir_all(&base).map_err(failed(&base))?;
        let folder = base.join(format!("longshore-{}", worker.as_str().replace(['/', ':'], "_")));
        make_own(&folder).map_err(failed(&folder))?;
        let own = folder.join(nonce.simple().to_string());
        make_own(&own).map_err(failed(&own))?;
        Ok(RunFolder { worker: folder, own, next: AtomicU64::new(1) })
    }

    /// Removes what earlier starts of this worker left.
    pub fn remove_leftovers(&self) {
        let Ok(entries) = std::fs::read_dir(&self.worker) else { return };
        for entry in entries.flatten().filter(|entry| entry.path() != self.own) {
            remove(&entry.path());
        }
    }

    pub fn private(&self) -> io::Result<Private> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let private = Private { path: self.own.join(number.to_string()) };
        for path in [private.path.clone(), private.path.join("home"), private.path.join("tmp")] {
            DirBuilder::new().mode(0o700).create(path)?;
        }
        Ok(private)
    }

    /// Removes what is left of this start.
    pub fn clear(&self) {
        remove(&self.own);
        // Fails if another start of this worker uses it.
        _ = std::fs::remove_dir(&self.worker);
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Private {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the folder without holding up other tasks.
    pub async fn discard(self) {
        _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// The base may be shared with other users, who could have made a folder of that name to look into it.
fn make_own(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other,
    }
    let found = path.symlink_metadata()?;
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "it exists and is not a folder of this user",
        ));
    }
    std::fs::set_permissions(path, Permissions::from_mode(0o700))
}

fn remove(path: &Path) {
    let removed = std::fs::remove_dir_all(path).or_else(|_| {
        // Agents make folders that even their owner may not change, such as a module cache.
        unlock(path);
        std::fs::remove_dir_all(path)
    });
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(path = %path.display(), %error, "an agent's folder could not be removed");
        }
        _ => {}
    }
}

fn unlock(path: &Path) {
    let is_folder = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    if !is_folder || std::fs::set_permissions(path, Permissions::from_mode(0o700)).is_err() {
        return;
    }
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        unlock(&entry.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_folder(base: &Path, nonce: u128) -> RunFolder {
        let worker = WorkerId::new("host/w:1").expect("valid");
        RunFolder::create(base, &worker, Uuid::from_u128(nonce)).expect("created")
    }

    #[test]
    fn a_private_folder_is_closed_to_others_and_gone_afterwards() {
        let base = tempfile::tempdir().expect("a folder");
        let run = run_folder(base.path(), 1);
        let private = run.private().expect("made");
        let path = private.path().to_owned();
        assert_eq!(path.metadata().expect("there").mode() & 0o777, 0o700);
        let locked = path.join("home/locked");
        std::fs::create_dir_all(locked.join("inner")).expect("made");
        std::fs::set_permissions(&locked, Permissions::from_mode(0o500)).expect("locked");
        drop(private);
        assert!(!path.exists());
        drop(run);
        assert_eq!(std::fs::read_dir(base.path()).expect("read").count(), 0);
    }

    #[test]
    fn leftovers_of_an_earlier_start_are_removed_and_nothing_else() {
        let base = tempfile::tempdir().expect("a folder");
        let old = run_folder(base.path(), 1);
        std::mem::forget(old.private().expect("made"));
        std::mem::forget(old); // as kill -9 would
        let run = run_folder(base.path(), 2);
        let private = run.private().expect("made");
        run.remove_leftovers();
        assert!(private.path().exists());
        assert_eq!(std::fs::read_dir(&run.worker).expect("read").count(), 1);
    }
}
