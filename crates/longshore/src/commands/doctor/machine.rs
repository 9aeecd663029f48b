//! What can be seen on this machine without a control plane: commands, ports, the store's folder.
//!
//! Opens no database and takes no lock for longer than a look.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use longshore_api::client::Client;
use longshore_api::tls::Trust;
use longshore_core::fleet::{Fleet, Platform};
use longshore_core::settings::{Settings, Tls};
use tokio::time::timeout;

use super::Check;

/// Whether each fleet's command can be found as its workers would find it.
pub fn commands(settings: &Settings) -> Vec<Check> {
    let here = settings.fleets.iter().filter(|fleet| fleet.platform == Platform::Process);
    here.map(command).collect()
}

fn command(fleet: &Fleet) -> Check {
    let dir = Path::new(&fleet.working_dir);
    if !dir.is_dir() {
        let found = format!("fleet {}: its folder `{}` does not exist", fleet.name, dir.display());
        return Check::fail("command", found, "make it, or correct `working_dir`");
    }
    let Some(program) = fleet.command.first() else {
        return Check::fail(
            "command",
            format!("fleet {} has no command", fleet.name),
            "add `command = [\"…\"]`",
        );
    };
    // A worker's PATH is ours with the fleet's own on top.
    let path = fleet.env.get("PATH").map(Into::into).or_else(|| std::env::var_os("PATH")).unwrap_or_default();
    match find(program, dir, &path) {
        Some(file) => Check::ok("command", format!("fleet {}: {}", fleet.name, file.display())),
        None => Check::fail(
            "command",
            format!("fleet {}: there is no program `{program}`", fleet.name),
            if program.contains('/') {
                "build or install it; the path begins at `working_dir`"
            } else {
                "install it, or add its folder to PATH"
            },
        ),
    }
}

fn find(program: &str, dir: &Path, path: &std::ffi::OsStr) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(dir.join(program)).filter(|file| executable(file));
    }
    std::env::split_paths(path).map(|folder| dir.join(folder).join(program)).find(|file| executable(file))
}

fn executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Whether each listener's port is free, or served by longshore.
pub async fn ports(settings: &Settings) -> Vec<Check> {
    let server = &settings.server;
    let mut checks = Vec::new();
    for (name, addr) in [("api", server.api), ("link", server.link), ("probes", server.probes)] {
        if addr.port() != 0 {
            checks.push(port(name, addr, served(settings).await));
        }
    }
    checks
}

fn port(name: &str, addr: SocketAddr, served: bool) -> Check {
    match TcpListener::bind(addr) {
        Ok(_) => Check::ok("port", format!("{addr} is free for {name}")),
        Err(error) if error.kind() == ErrorKind::AddrInUse && served => {
            Check::ok("port", format!("{addr} is served by a running control plane ({name})"))
        }
        Err(error) if error.kind() == ErrorKind::AddrInUse => Check::fail(
            "port",
            format!("{addr} is taken by another program"),
            format!("stop it, or give another address as `[server] {name}`"),
        ),
        Err(error) => Check::fail(
            "port",
            format!("cannot listen on {addr}: {error}"),
            format!("give an address of this machine as `[server] {name}`"),
        ),
    }
}

/// Whether a control plane answers at its API; one that wants a token is one as well.
async fn served(settings: &Settings) -> bool {
    let (base, trust) = own(settings);
    let Ok(client) = Client::trusting(&base, None, trust.as_ref()) else { return false };
    match timeout(Duration::from_secs(3), client.about()).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => error.problem().is_some(),
        Err(_) => false,
    }
}

/// Where the control plane of these settings answers on this machine, and whom to trust there.
pub fn own(settings: &Settings) -> (String, Option<Trust>) {
    let (scheme, trust) = match &settings.server.tls {
        Tls::Off => ("http", None),
        Tls::Auto => ("https", Some(Trust::File(Path::new(&settings.store.dir).join("ca.pem")))),
        Tls::Files { cert, .. } => ("https", Some(Trust::File(cert.into()))),
    };
    (format!("{scheme}://{}", reachable(settings.server.api)), trust)
}

/// An address that a process of this machine can connect to.
pub fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// Whether the embedded store's folder can be used, and whether somebody uses it now.
pub fn store(settings: &Settings) -> Vec<Check> {
    let dir = Path::new(&settings.store.dir);
    let mut checks = vec![folder(dir)];
    checks.extend(holder(dir));
    checks.extend(database(&dir.join("longshore.db")));
    checks
}

fn folder(dir: &Path) -> Check {
    let shown = dir.display();
    match fs::metadata(dir) {
        Ok(found) if !found.is_dir() => Check::fail(
            "store",
            format!("`{shown}` is not a folder"),
            "move it away, or change `[store] dir`",
        ),
        Ok(_) => match writable(dir) {
            Ok(()) => Check::ok("store", format!("`{shown}` can be written")),
            Err(error) => Check::fail("store", format!("`{shown}` cannot be written: {error}"), WRITABLE),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let above = dir.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(Path::new("/"));
            match writable(above) {
                Ok(()) => Check::ok("store", format!("`{shown}` will be made at the first start")),
                Err(error) => Check::fail("store", format!("`{shown}` cannot be made: {error}"), WRITABLE),
            }
        }
        Err(error) => Check::fail("store", format!("`{shown}` cannot be looked at: {error}"), WRITABLE),
    }
}

const WRITABLE: &str =
    "give this user the right to write there and the disk some room, or change `[store] dir`";

/// Tried, since permissions alone know nothing of read-only and full disks.
fn writable(dir: &Path) -> std::io::Result<()> {
    let probe = dir.join(format!(".longshore-doctor-{}", std::process::id()));
    fs::write(&probe, b"x")?;
    fs::remove_file(&probe)
}

fn holder(dir: &Path) -> Option<Check> {
    let path = dir.join("lock");
    let lock = File::open(&path).ok()?;
    match lock.try_lock_shared() {
        Ok(()) => None,
        Err(TryLockError::WouldBlock) => {
            let pid = fs::read_to_string(&path).unwrap_or_default();
            Some(Check::ok(
                "store",
                format!("in use by process {}", if pid.trim().is_empty() { "?" } else { pid.trim() }),
            ))
        }
        Err(TryLockError::Error(error)) => Some(Check::warn(
            "store",
            format!("cannot tell whether it is in use: {error}"),
            "put it on a local disk",
        )),
    }
}

fn database(path: &Path) -> Option<Check> {
    let mut head = [0; 16];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Ok(()) if head == *b"SQLite format 3\0" => None,
        // Before its first page was written.
        Err(_) if path.metadata().is_ok_and(|found| found.len() == 0) => None,
        _ => Some(Check::fail(
            "store",
            format!("`{}` is not a longshore store, or is damaged", path.display()),
            "move it away, or restore a copy of it",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::Level;

    #[test]
    fn a_file_in_place_of_the_database_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("longshore.db");
        assert!(database(&path).is_none());
        fs::write(&path, b"this is certainly no database").expect("written");
        assert_eq!(database(&path).map(|check| check.level), Some(Level::Fail));
    }

    #[test]
    fn a_lock_that_is_held_is_seen_and_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        fs::write(&path, "4711\n").expect("written");
        assert!(holder(folder.path()).is_none());
        let held = File::open(&path).expect("opened");
        held.lock().expect("nobody else holds it");
        assert!(holder(folder.path()).is_some_and(|check| check.found.contains("4711")));
    }

    #[test]
    fn a_taken_port_is_a_failure_unless_longshore_serves_it() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = taken.local_addr().expect("bound");
        assert_eq!(port("api", addr, false).level, Level::Fail);
        assert_eq!(port("api", addr, true).level, Level::Ok);
    }
}
