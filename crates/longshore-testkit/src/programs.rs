//! Where the servers' programs are, and as whom they run.

use std::env;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User};

use crate::shared::skip;

/// The path of a program, or none after [`skip`].
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian keeps pgbouncer where only root's PATH leads.
    let found = env::split_paths(&path).chain(["/usr/sbin".into()]).map(|folder| folder.join(name));
    let found = found.into_iter().find(|program| program.is_file());
    if found.is_none() {
        skip(&format!("no {name}; `./dev setup` installs it"));
    }
    found
}

/// The folder of Postgres' programs, or none after [`skip`].
///
/// Debian has one per version, away from the PATH; the newest is taken.
pub fn postgres() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("initdb").is_file())
        .max_by_key(|bin| major(bin));
    newest.or_else(|| Some(find("initdb")?.parent()?.to_owned()))
}

fn major(bin: &Path) -> u32 {
    let version = bin.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    version.and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// As whom a server runs that refuses root: none if we are not root.
#[derive(Debug, Clone, Copy)]
pub struct Unprivileged(Option<(Uid, Gid)>);

impl Unprivileged {
    /// None after [`skip`]: we are root, and the user that Debian's package makes is not there.
    pub fn find() -> Option<Unprivileged> {
        if !Uid::effective().is_root() {
            return Some(Unprivileged(None));
        }
        let user = User::from_name("postgres").expect("the list of users can be read");
        let Some(user) = user else {
            skip("no user `postgres`, as whom the server would run");
            return None;
        };
        Some(Unprivileged(Some((user.uid, user.gid))))
    }

    pub fn ids(self) -> Option<(Uid, Gid)> {
        self.0
    }

    /// Gives a file or a folder to that user.
    pub fn own(self, path: &Path) {
        if let Some((uid, gid)) = self.0 {
            chown(path, Some(uid.as_raw()), Some(gid.as_raw())).expect("root may give files away");
        }
    }
}
