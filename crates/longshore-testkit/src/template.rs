//! A data folder of Postgres that is made once and copied for each server: `initdb` takes a second, a copy a tenth.

use std::env;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};

use crate::process::run;
use crate::programs::Unprivileged;

/// Goes up when `initdb` below gets other arguments.
const EDITION: u32 = 1;

/// Makes `to` a data folder with the superuser `longshore`, which the user owns.
pub fn copy(bin: &Path, user: Unprivileged, to: &Path) {
    // `--archive` keeps the owner.
    run(Command::new("cp").args(["--archive", "--reflink=auto"]).arg(template(bin, user)).arg(to));
}

fn template(bin: &Path, user: Unprivileged) -> PathBuf {
    let version = run(Command::new(bin.join("postgres")).arg("--version"));
    let version: String = version.chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
    let owner = user.ids().map_or(0, |(uid, _)| uid.as_raw());
    let home = home();
    let path = home.join(format!("postgres-{version}-{EDITION}-{owner}"));
    if !path.is_dir() {
        // Each test is a process: many may find that there is none, and one should make it.
        let lock = File::create(home.join("lock")).expect("the folder is ours");
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).expect("a lock can be waited for");
        if !path.is_dir() {
            make(bin, user, &home, &path);
        }
    }
    path
}

fn make(bin: &Path, user: Unprivileged, home: &Path, path: &Path) {
    // Not in the target folder: root's may be where the user cannot go.
    let scratch = folder("template", user);
    let data = scratch.path().join("data");
    let mut command = Command::new(bin.join("initdb"));
    command.args(["--username=longshore", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]);
    command.arg("-D").arg(&data).current_dir(scratch.path());
    if let Some((uid, gid)) = user.ids() {
        command.uid(uid.as_raw()).gid(gid.as_raw());
    }
    run(&mut command);
    // Whole or not there: a copy that breaks off is no template.
    let whole = tempfile::tempdir_in(home).expect("the folder is ours");
    run(Command::new("cp").arg("--archive").arg(&data).arg(whole.path()));
    fs::rename(whole.path().join("data"), path).expect("both are in the same folder");
}

/// The target folder, found by the mark that cargo puts there, or a place among the temporary files.
fn home() -> PathBuf {
    let program = env::current_exe().expect("Linux says which program runs");
    let target = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    let home = target.map_or_else(temporary_home, |target| target.join("testkit"));
    fs::create_dir_all(&home).expect("the folder is ours");
    home
}

fn temporary_home() -> PathBuf {
    env::temp_dir().join(format!("longshore-testkit-{}", nix::unistd::Uid::effective()))
}

/// A temporary folder that the user owns.
pub fn folder(name: &str, user: Unprivileged) -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix(&format!("longshore-{name}-")).tempdir();
    let folder = folder.expect("temporary folders can be made");
    user.own(folder.path());
    folder
}
