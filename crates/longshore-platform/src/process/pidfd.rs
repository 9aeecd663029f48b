//! A hold on one process that outlasts its number: a signal through it cannot hit another process.
//!
//! The only place with raw pidfd system calls. Never opens a process that its caller has not identified.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::procfs;
use super::running::WorkerEnd;

#[derive(Debug)]
pub(super) struct PidFd(OwnedFd);

impl PidFd {
    /// `None`: there is no such process.
    pub fn open(pid: u32) -> io::Result<Option<Self>> {
        // SAFETY: takes two integers and returns a new descriptor or -1; the kernel sets close-on-exec.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
        if fd >= 0 {
            // SAFETY: the kernel just gave us this descriptor, and nobody else has it. It fits: descriptors are ints.
            return Ok(Some(Self(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })));
        }
        match io::Error::last_os_error() {
            // ESRCH: no such number. The others: it is a thread's by now, as older and newer kernels say it.
            error if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL | libc::ENOENT)) => {
                Ok(None)
            }
            error => Err(error),
        }
    }

    /// Opens the process that has this number and began at this time. `None`: it is gone, or the number is another's.
    pub fn open_exactly(pid: u32, start_time: u64) -> io::Result<Option<Self>> {
        let Some(pidfd) = Self::open(pid)? else { return Ok(None) };
        // Only now: what `pidfd` holds existed before this check, so if the times agree it is the process meant.
        let same = procfs::stat(pid)?.is_some_and(|stat| stat.start_time == start_time);
        Ok(same.then_some(pidfd))
    }

    /// Errors: `ESRCH` if it has ended and was reaped, `EPERM` if it is another user's.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open for as long as `self`; a null siginfo is allowed and means "as kill(2)".
        let sent = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.as_raw_fd(), signal as i32, no_info, 0)
        };
        if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Whether the process has ended, all its threads included, reaped or not.
    pub fn has_ended(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
    }

    /// Reaps the process if it is our child and has ended. `None`: it runs.
    pub fn reap(&self) -> io::Result<Option<WorkerEnd>> {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let options = libc::WEXITED | libc::WNOHANG;
        // SAFETY: `info` is valid for writes of one siginfo_t.
        let done = unsafe {
            libc::waitid(libc::P_PIDFD, self.as_raw_fd() as libc::id_t, info.as_mut_ptr(), options)
        };
        if done != 0 {
            return match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ECHILD) => Ok(Some(WorkerEnd::Gone)),
                error => Err(error),
            };
        }
        // SAFETY: zeroed is a valid siginfo_t, and waitid filled it in or left it so.
        let info = unsafe { info.assume_init() };
        // SAFETY: waitid fills in the fields of SIGCHLD; they are zero when nothing has ended.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        Ok(match (pid, info.si_code) {
            (0, _) => None,
            (_, libc::CLD_EXITED) => Some(WorkerEnd::Exited(status)),
            _ => Some(WorkerEnd::Signaled(status)),
        })
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_opened_only_if_it_began_when_it_should() {
        let pid = std::process::id();
        let began = procfs::stat(pid).expect("readable").expect("alive").start_time;
        let opened = |start_time| PidFd::open_exactly(pid, start_time).expect("an answer").is_some();
        assert_eq!([began, began - 1, began + 1].map(opened), [true, false, false]);
    }

    #[test]
    fn a_thread_or_an_unused_number_is_no_process() {
        let thread = std::thread::spawn(|| {
            let id = nix::unistd::gettid().as_raw() as u32;
            PidFd::open(id).expect("an answer").is_none()
                && PidFd::open(u32::from(u16::MAX) << 8).expect("one").is_none()
        });
        assert!(thread.join().expect("no panic"));
    }

    #[test]
    fn reaping_what_is_not_our_child_tells_that() {
        let parent = PidFd::open(std::os::unix::process::parent_id()).expect("an answer").expect("alive");
        assert!(!parent.has_ended().expect("an answer"));
        assert_eq!(parent.reap().expect("an answer"), Some(WorkerEnd::Gone));
    }
}
