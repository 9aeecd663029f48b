//! Agents' private temporary folders: `<run folder>/longshore-worker-<id>/<nonce>/<number>/{home,tmp}`.
//!
//! A start of a worker holds a lock on its nonce's folder for as long as it lives, so that what a killed one left behind
//! is known, and removed by the next worker that starts.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use longshore_core::id::WorkerId;
use tracing::warn;
use uuid::Uuid;

use crate::error::WorkerError;

pub struct RunFolder {
    /// Of all workers.
    base: PathBuf,
    /// Of this worker, over all its starts.
    worker: PathBuf,
    /// Of this start.
    own: PathBuf,
    _lock: File,
    next: AtomicU64,
}

/// One agent's folder; removed when it is dropped.
pub struct Private {
    path: PathBuf,
}

const PREFIX: &str = "longshore-worker-";

/// Another worker may remove a folder in the moment between its creation and its lock.
const TRIES: usize = 5;

impl RunFolder {
    pub fn create(base: &Path, worker: &WorkerId, nonce: Uuid) -> Result<RunFolder, WorkerError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| WorkerError::RunDir { path, source }
        };
        // Absolute, because it is handed to agents.
        let base = std::path::absolute(base).map_err(failed(base))?;
        std::fs::create_dir_all(&base).map_err(failed(&base))?;
        let folder = base.join(format!("{PREFIX}{}", worker.as_str().replace(['/', ':'], "_")));
        let own = folder.join(nonce.simple().to_string());
        let mut made = make_locked(&folder, &own);
        for _ in 1..TRIES {
            made = made.or_else(|_| make_locked(&folder, &own));
        }
        let lock = made.map_err(failed(&own))?;
        Ok(RunFolder { base, worker: folder, own, _lock: lock, next: AtomicU64::new(1) })
    }

    /// Removes what workers of this user left that were killed. Takes as long as there is to remove.
    pub fn leftovers(&self) -> impl FnOnce() + Send + 'static {
        let base = self.base.clone();
        move || remove_leftovers(&base)
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

fn make_locked(folder: &Path, own: &Path) -> io::Result<File> {
    make_own(folder)?;
    make_own(own)?;
    let lock = File::open(own)?;
    lock.try_lock()?;
    // Whoever held the lock before may have removed the folder under it.
    if own.symlink_metadata()?.ino() == lock.metadata()?.ino() {
        Ok(lock)
    } else {
        Err(io::Error::from(io::ErrorKind::NotFound))
    }
}

fn remove_leftovers(base: &Path) {
    let user = nix::unistd::geteuid().as_raw();
    for worker in subfolders(base, |name| name.starts_with(PREFIX)) {
        if worker.symlink_metadata().is_ok_and(|found| found.uid() != user) {
            continue;
        }
        for start in subfolders(&worker, |name| Uuid::try_parse(name).is_ok()) {
            let Ok(lock) = File::open(&start) else { continue };
            if lock.try_lock().is_ok() {
                remove(&start);
            }
        }
        // Fails if another start of that worker uses it.
        _ = std::fs::remove_dir(&worker);
    }
}

fn subfolders(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let wanted = entries.filter(|entry| entry.file_name().to_str().is_some_and(&wanted));
    let folders = wanted.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
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
    fn what_a_killed_worker_left_is_removed_and_nothing_of_a_living_one() {
        let base = tempfile::tempdir().expect("a folder");
        let killed = run_folder(base.path(), 1);
        std::mem::forget(killed.private().expect("made"));
        let (left, lock) = (killed.own.clone(), killed._lock.try_clone().expect("once more"));
        std::mem::forget(killed); // its folder stays, and its lock until the line below
        let living = run_folder(base.path(), 2);
        let private = living.private().expect("made");
        let stranger = base.path().join("longshore-worker-x/notes");
        std::fs::create_dir_all(&stranger).expect("made");
        living.leftovers()();
        assert!(left.exists());
        lock.unlock().expect("ours");
        living.leftovers()();
        assert!(!left.exists() && private.path().exists() && stranger.exists());
    }
}
