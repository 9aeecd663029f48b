//! Starts a worker's process so that it outlives us.
//!
//! Owns the state it begins in: session, signals, descriptors, log file, and its id where later scans look for it. Never
//! waits for it, and leaves no process when it fails. No parent-death signal here: that is for a worker's agents.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{AccessFlags, access, setsid};

/// The variable that carries the worker's id to everything the worker starts.
pub const WORKER_ID_VARIABLE: &str = "LONGSHORE_WORKER_ID";

/// The argument before the worker's id on its command line.
pub(super) const ID_ARGUMENT: &str = "--id";

/// What to start. `args` hold the pair `--id`, `worker_id`; [`WORKER_ID_VARIABLE`] is added to `env`.
#[derive(Clone, Debug)]
pub struct WorkerSpec {
    pub worker_id: String,
    /// The `longshore` binary.
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// Added to the environment of this process, or the whole of it with `env_clear`.
    pub env: Vec<(OsString, OsString)>,
    pub env_clear: bool,
    pub working_dir: PathBuf,
    /// Standard output and standard error are appended to it; mode 0600.
    pub log_file: PathBuf,
    /// Its limit of open files, soft and hard, if not that of this process.
    pub files: Option<(u64, u64)>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("could not run `{path}`")]
    Program { path: PathBuf, source: io::Error },
    #[error("could not use the working folder `{path}`")]
    WorkingDir { path: PathBuf, source: io::Error },
    #[error("could not write to the log file `{path}`")]
    LogFile { path: PathBuf, source: io::Error },
    #[error("worker `{worker_id}` cannot be found again: its arguments lack `--id {worker_id}`")]
    NoId { worker_id: String },
    #[error("could not start another process for worker `{worker_id}`")]
    NoProcess { worker_id: String, source: io::Error },
    #[error("could not watch worker `{worker_id}`, process {pid}, so it was killed")]
    Watch { worker_id: String, pid: u32, source: io::Error },
}

/// Returns once the program has been executed.
pub(super) fn spawn(spec: &WorkerSpec) -> Result<Child, StartError> {
    check_id(spec)?;
    // Checked here because a failed chdir and a failed exec come back as the same errors.
    let dir = usable(&spec.working_dir.join("")) // ends in `/`, so a file is refused
        .map_err(|source| StartError::WorkingDir { path: spec.working_dir.clone(), source })?;
    let program =
        usable(&spec.program).map_err(|source| StartError::Program { path: spec.program.clone(), source })?;
    let mut command = command(spec, &program, &dir)
        .map_err(|source| StartError::LogFile { path: spec.log_file.clone(), source })?;
    command.spawn().map_err(|source| spawn_error(spec, source))
}

fn check_id(spec: &WorkerSpec) -> Result<(), StartError> {
    let arguments = spec.args.iter().map(|argument| argument.as_encoded_bytes());
    match super::find::id_argument(arguments) {
        Some(id) if id == spec.worker_id.as_bytes() && !id.is_empty() => Ok(()),
        _ => Err(StartError::NoId { worker_id: spec.worker_id.clone() }),
    }
}

/// The path as it stands here: a relative one must not change its meaning in the worker's folder.
fn usable(path: &Path) -> io::Result<PathBuf> {
    access(path, AccessFlags::X_OK)?;
    std::path::absolute(path)
}

fn command(spec: &WorkerSpec, program: &Path, dir: &Path) -> io::Result<Command> {
    let log = open_log(&spec.log_file)?;
    let mut command = Command::new(program);
    if spec.env_clear {
        command.env_clear();
    }
    command
        .args(&spec.args)
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .env(WORKER_ID_VARIABLE, OsStr::new(&spec.worker_id))
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let files = spec.files;
    // SAFETY: `detach` makes system calls only: it neither allocates nor takes a lock that another thread may hold.
    unsafe { command.pre_exec(move || detach(files)) };
    Ok(command)
}

fn open_log(path: &Path) -> io::Result<File> {
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let found = log.metadata()?;
    // A log holds what agents print. A device such as /dev/null stays as it is.
    if found.is_file() && found.permissions().mode() & 0o077 != 0 {
        log.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(log)
}

/// Runs in the new process, before exec.
fn detach(files: Option<(u64, u64)>) -> io::Result<()> {
    setsid()?;
    if let Some((soft, hard)) = files {
        // With more than that it works as well.
        _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
    }
    default_signals()?;
    close_on_exec();
    Ok(())
}

/// A worker must not inherit what the shell or service manager that started us ignores: an ignored SIGCHLD would take
/// its agents' exit statuses from it, a blocked SIGTERM its drain.
fn default_signals() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default action runs no code of ours.
        unsafe { sigaction(signal, &default) }?;
    }
    SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// A descriptor that we inherited, such as a pipe's end, would be held open for as long as the worker lives.
fn close_on_exec() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: marks descriptors and closes none, so the pipe on which a failed exec is reported stays usable.
    let marked = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC as libc::c_uint,
        )
    };
    if marked != 0 {
        // Linux before 5.11. What a parent leaves open by mistake has a low number.
        for fd in FIRST as libc::c_int..1024 {
            // SAFETY: as above; a number that is not open is an error without effect.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
}

fn spawn_error(spec: &WorkerSpec, source: io::Error) -> StartError {
    match source.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => {
            StartError::NoProcess { worker_id: spec.worker_id.clone(), source }
        }
        _ => StartError::Program { path: spec.program.clone(), source },
    }
}
