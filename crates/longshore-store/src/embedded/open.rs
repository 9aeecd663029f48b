//! Opens the store, or says why not. A refusal leaves every byte of the file as it was.

mod create;
mod inspect;

use std::fmt;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::unistd::AccessFlags;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::fault::{self, Fault};
use super::lock::Lock;
use super::reader::Readers;
use super::writer::{FatalHook, Writer};
use super::{Embedded, Open, connection, migrate};
use crate::signals::Signals;
use inspect::Found;

/// The store's file within its folder.
const FILE: &str = "longshore.db";

/// How to open a store.
#[derive(Clone)]
pub struct OpenOptions {
    /// Made, for its owner only, if it is not there.
    pub dir: PathBuf,
    max_pages: Option<u32>,
    migrations: Vec<&'static str>,
    fatal: FatalHook,
}

impl OpenOptions {
    pub fn new(dir: impl Into<PathBuf>) -> OpenOptions {
        OpenOptions {
            dir: dir.into(),
            max_pages: None,
            migrations: migrate::MIGRATIONS.to_vec(),
            fatal: Arc::new(abort),
        }
    }

    /// Calls this instead of ending the process when the disk failed to keep what was written. For tests.
    #[doc(hidden)]
    pub fn on_fatal(mut self, hook: impl Fn(&str) + Send + Sync + 'static) -> OpenOptions {
        self.fatal = Arc::new(hook);
        self
    }

    /// Lets the file grow to so many pages of 4 KiB, then behaves as on a full disk. For tests.
    #[doc(hidden)]
    pub fn max_pages(mut self, pages: u32) -> OpenOptions {
        self.max_pages = Some(pages);
        self
    }

    /// Pretends that this version of longshore had one more migration. For tests.
    #[doc(hidden)]
    pub fn with_migration(mut self, sql: &'static str) -> OpenOptions {
        self.migrations.push(sql);
        self
    }
}

impl fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenOptions").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// Ends the process at once: anything done after a failed sync could be an acknowledgement of lost data.
fn abort(why: &str) {
    eprintln!("error: the disk failed to keep what was written to the store ({why}); ending at once");
    std::process::abort();
}

/// Why a store was not opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("`{}` is not a folder: give the store a folder of its own", path.display())]
    NotAFolder { path: PathBuf },
    #[error(
        "the store in `{}` is in use by {holder}: stop it first, or use another folder", dir.display()
    )]
    InUse { dir: PathBuf, holder: String },
    #[error("`{}` cannot be written: give the user that runs longshore write access", path.display())]
    ReadOnly { path: PathBuf, source: io::Error },
    #[error("the disk that holds `{}` is full: make room, then start again", path.display())]
    Full { path: PathBuf },
    #[error(
        "`{}` was written by a newer longshore (schema {found}, this version knows up to {known}): \
         use that version, or a newer one", path.display()
    )]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("`{}` is the database of another application: use another folder", path.display())]
    Foreign { path: PathBuf },
    #[error("`{}` is not a database: move it away, or restore a copy", path.display())]
    NotADatabase { path: PathBuf },
    #[error("`{}` is damaged ({detail}): restore a copy, or move it away to start empty", path.display())]
    Corrupt { path: PathBuf, detail: String },
    #[error("could not {what} `{}`", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("could not {what} `{}`", path.display())]
    Sqlite { what: &'static str, path: PathBuf, source: rusqlite::Error },
}

impl OpenError {
    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> OpenError {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                OpenError::ReadOnly { path, source }
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => OpenError::Full { path },
            io::ErrorKind::NotADirectory => OpenError::NotAFolder { path },
            _ => OpenError::Io { what, path, source },
        }
    }

    /// A new file must not get the log of a lost one: SQLite would replay it.
    fn orphaned_log(path: &Path) -> OpenError {
        let detail = "it is missing or empty, but its log, which may hold tasks, is there".to_owned();
        OpenError::Corrupt { path: path.to_owned(), detail }
    }

    pub(super) fn sqlite(what: &'static str, path: &Path, source: rusqlite::Error) -> OpenError {
        let path = path.to_owned();
        match fault::of(&source) {
            Fault::Full => OpenError::Full { path },
            Fault::Corrupt => OpenError::Corrupt { path, detail: source.to_string() },
            Fault::Sync | Fault::Other => OpenError::Sqlite { what, path, source },
        }
    }
}

impl Embedded {
    pub(crate) fn open(options: &OpenOptions) -> Result<Embedded, OpenError> {
        ensure_folder(&options.dir)?;
        let lock = Lock::take(&options.dir)?;
        let path = options.dir.join(FILE);
        let known = u32::try_from(options.migrations.len()).unwrap_or(u32::MAX);
        match inspect::look(&path, known)? {
            Found::Nothing if inspect::has_log(&path) => return Err(OpenError::orphaned_log(&path)),
            Found::Nothing => create::create(&path, &options.migrations)?,
            Found::Ours => inspect::may_write(&path)?,
        }
        let connection = connect(&path, options)?;
        let signals = Signals::default();
        let started = |error| OpenError::io("start the threads of", &path, error);
        let writer =
            Writer::start(connection, signals.clone(), Arc::clone(&options.fatal)).map_err(started)?;
        let readers = Readers::start(&path).map_err(started)?;
        Ok(Embedded { open: Arc::new(Open { readers, writer, signals, lock: Mutex::new(Some(lock)) }) })
    }
}

fn ensure_folder(dir: &Path) -> Result<(), OpenError> {
    match std::fs::metadata(dir) {
        Ok(found) if !found.is_dir() => return Err(OpenError::NotAFolder { path: dir.to_owned() }),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| OpenError::io("make the folder", dir, error))?,
        Err(error) => return Err(OpenError::io("look at", dir, error)),
    }
    // SQLite needs to make files beside the database.
    nix::unistd::access(dir, AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|errno| OpenError::io("write to", dir, errno.into()))
}

/// Connects, checks and migrates; on a refusal the log is left as it is, too.
fn connect(path: &Path, options: &OpenOptions) -> Result<Connection, OpenError> {
    let failed = |error| OpenError::sqlite("open", path, error);
    let unclean = inspect::has_log(path);
    let mut connection = connection::writing(path).map_err(failed)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
    inspect::check(&connection, path, unclean)?;
    migrate::forward(&mut connection, path, &options.migrations)?;
    if let Some(pages) = options.max_pages {
        connection.pragma_update(None, "max_page_count", pages).map_err(failed)?;
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(failed)?;
    Ok(connection)
}
