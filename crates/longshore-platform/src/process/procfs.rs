//! Reads `/proc`: which processes there are, whose they are, and what they carry.
//!
//! A process may end between two reads, so every answer about one is optional. Never signals anything.

use std::io::{self, ErrorKind};

use nix::libc;

/// The state of this machine's processes could not be read, so nothing is known about the worker.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    #[error("could not read `{path}`")]
    Read { path: String, source: io::Error },
    #[error("could not open process {pid}")]
    Open { pid: u32, source: io::Error },
    #[error("could not watch process {pid}")]
    Watch { pid: u32, source: io::Error },
    #[error("`/proc` hides processes; mount it without `hidepid` (systemd: without `ProtectProc=`)")]
    Hidden,
    #[error("`/proc` belongs to another pid namespace; mount one for this namespace")]
    OtherNamespace,
}

impl ProcError {
    pub(super) fn read(path: impl Into<String>, source: io::Error) -> Self {
        Self::Read { path: path.into(), source }
    }
}

/// The fields of `/proc/PID/stat` that identify and relate processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub state: u8,
    pub parent: u32,
    pub session: u32,
    pub threads: i64,
    pub start_time: u64,
}

impl Stat {
    /// Reads one line of proc_pid_stat(5). `None`: not such a line.
    pub fn parse(line: &[u8]) -> Option<Self> {
        // The name stands in parentheses and may itself hold any byte: only the last `)` ends it.
        let name_end = line.iter().rposition(|&byte| byte == b')')?;
        let rest = std::str::from_utf8(&line[name_end + 1..]).ok()?;
        // The manual counts fields from 1; `rest` begins with field 3.
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Self {
            state: *field(3)?.as_bytes().first()?,
            parent: field(4)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            threads: field(20)?.parse().ok()?,
            start_time: field(22)?.parse().ok()?,
        })
    }

    /// Whether nothing of the process runs any more, reaped or not.
    ///
    /// A process whose first thread has ended shows `Z` as well while its other threads run on.
    pub fn ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x') && self.threads <= 1
    }
}

/// Refuses a `/proc` that would make living workers look dead.
pub(super) fn shows_every_process() -> Result<(), ProcError> {
    let own = std::fs::read_link("/proc/self").map_err(|source| ProcError::read("/proc/self", source))?;
    if own.to_str() != Some(&std::process::id().to_string()) {
        return Err(ProcError::OtherNamespace);
    }
    // With `hidepid`, an undumpable worker is hidden even from its own user; so is PID 1, which always exists.
    match stat(1) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(ProcError::Hidden),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(ProcError::Hidden),
        Err(source) => Err(ProcError::read("/proc/1/stat", source)),
    }
}

/// Every process of this pid namespace. Ones that start meanwhile may be missing.
pub(super) fn pids() -> Result<Vec<u32>, ProcError> {
    let broken = |source| ProcError::read("/proc", source);
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc").map_err(broken)? {
        let name = entry.map_err(broken)?.file_name();
        pids.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(pids)
}

/// `None`: there is no such process.
pub(super) fn stat(pid: u32) -> io::Result<Option<Stat>> {
    let Some(line) = read(pid, "stat")? else { return Ok(None) };
    let stat = Stat::parse(&line).ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "unknown format"))?;
    Ok(Some(stat))
}

/// Like [`stat`], with the path in the error.
pub(super) fn known_stat(pid: u32) -> Result<Option<Stat>, ProcError> {
    stat(pid).map_err(|source| ProcError::read(format!("/proc/{pid}/stat"), source))
}

/// Arguments separated by NUL. `None`: ended, a kernel thread, or not ours to see.
pub(super) fn command_line(pid: u32) -> Option<Vec<u8>> {
    read(pid, "cmdline").ok().flatten().filter(|bytes| !bytes.is_empty())
}

/// `NAME=value` separated by NUL. `None`: ended, undumpable, another user's, or in the middle of an exec.
pub(super) fn environment(pid: u32) -> Option<Vec<u8>> {
    read(pid, "environ").ok().flatten().filter(|bytes| !bytes.is_empty())
}

/// The real user id. Not the owner of `/proc/PID`, which is root for an undumpable process.
pub(super) fn user(pid: u32) -> Option<u32> {
    let status = read(pid, "status").ok().flatten()?;
    let ids = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    std::str::from_utf8(ids).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

fn read(pid: u32, file: &str) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(format!("/proc/{pid}/{file}")) {
        Ok(bytes) => Ok(Some(bytes)),
        // ENOENT before the file is opened, ESRCH after.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, state: char, threads: i64) -> Stat {
        let line = format!(
            "812 ({name}) {state} 77 812 800 0 -1 4194560 98 0 0 0 1 2 0 0 20 0 {threads} 0 3210045 2646016 211 \
             18446744073709551615 1 1 0 0 0 0 0 0 65536 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
        );
        let stat = Stat::parse(line.as_bytes()).unwrap_or_else(|| panic!("not read: {line}"));
        assert_eq!((stat.parent, stat.session, stat.start_time), (77, 800, 3_210_045), "{line}");
        stat
    }

    #[test]
    fn a_name_may_hold_anything() {
        for name in
            ["sh", "", "tmux: server", "a) R 1 1 (b", "(sd-pam)", "two\nlines) Z 9", ")))", "a b c d e f g"]
        {
            assert_eq!(check(name, 'S', 1).state, b'S');
        }
    }

    #[test]
    fn a_name_that_is_not_utf8_is_read() {
        let mut line = b"5 (\xff\xfe) R 1 5 5".to_vec();
        line.extend(b" 0".repeat(12).iter());
        line.extend(b" 0 1 0 42 0");
        assert_eq!(Stat::parse(&line).map(|stat| stat.start_time), Some(42));
    }

    #[test]
    fn a_zombie_has_ended_unless_other_threads_run_on() {
        assert!(check("a", 'Z', 1).ended());
        assert!(check("a", 'X', 0).ended());
        assert!(!check("a", 'Z', 3).ended());
        for state in ['R', 'S', 'D', 'T', 't', 'I'] {
            assert!(!check("a", state, 1).ended(), "{state}");
        }
    }

    #[test]
    fn a_line_that_was_cut_is_refused() {
        for line in [
            "",
            "12",
            "12 (sh",
            "12 (sh)",
            "12 (sh) S 1 2 3",
            "12 (sh) S x 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9",
        ] {
            assert_eq!(Stat::parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn this_very_process_is_read() {
        let own = stat(std::process::id()).expect("readable").expect("alive");
        assert!(!own.ended());
        assert_eq!(own.parent, std::os::unix::process::parent_id());
        assert_eq!(user(std::process::id()), Some(nix::unistd::getuid().as_raw()));
        assert!(pids().expect("readable").contains(&std::process::id()));
    }
}
