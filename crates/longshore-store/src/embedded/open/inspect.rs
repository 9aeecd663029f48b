//! Looks at a file before SQLite does, and with SQLite before anything is written.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::OpenError;
use crate::embedded::migrate::APPLICATION_ID;

/// Below this size every page is checked at each start.
const ALWAYS_CHECKED: u64 = 256 << 20;

pub(super) enum Found {
    Nothing,
    Ours,
}

/// Reads the header by itself: SQLite would already recover and lock.
///
/// Source: "Database File Format", section 1.3, sqlite.org.
pub(super) fn look(path: &Path, known: u32) -> Result<Found, OpenError> {
    let mut header = Vec::with_capacity(100);
    match File::open(path) {
        Ok(file) => file.take(100).read_to_end(&mut header),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => Err(error),
    }
    .map_err(|error| OpenError::io("read", path, error))?;
    let path = path.to_owned();
    if header.is_empty() {
        return Ok(Found::Nothing);
    }
    if header.len() < 100 || !header.starts_with(b"SQLite format 3\0") {
        return Err(OpenError::NotADatabase { path });
    }
    let (version, application) = (number(&header, 60), number(&header, 68));
    if application != APPLICATION_ID {
        Err(OpenError::Foreign { path })
    } else if version > known {
        Err(OpenError::Newer { path, found: version, known })
    } else {
        Ok(Found::Ours)
    }
}

fn number(header: &[u8], at: usize) -> u32 {
    header[at..at + 4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// SQLite would fall back to reading only, and fail later.
pub(super) fn may_write(path: &Path) -> Result<(), OpenError> {
    let open = std::fs::OpenOptions::new().read(true).write(true).open(path);
    open.map(drop).map_err(|error| OpenError::io("write to", path, error))
}

/// Whether the last process ended without closing the store.
pub(super) fn has_log(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    std::fs::metadata(PathBuf::from(log)).is_ok_and(|log| log.len() > 0)
}

/// Checks the pages, when that is quick or called for.
pub(super) fn check(connection: &Connection, path: &Path, unclean: bool) -> Result<(), OpenError> {
    let size = std::fs::metadata(path).map_or(0, |file| file.len());
    if size >= ALWAYS_CHECKED && !unclean {
        return Ok(());
    }
    let verdict: Result<String, _> = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
    match verdict {
        Ok(verdict) if verdict == "ok" => Ok(()),
        Ok(detail) => Err(OpenError::Corrupt { path: path.to_owned(), detail: detail.replace('\n', " ") }),
        Err(error) => Err(OpenError::sqlite("check", path, error)),
    }
}
