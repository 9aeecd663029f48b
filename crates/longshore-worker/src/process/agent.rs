//! One running agent process: its group and its end.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Family;

/// Leads a process group. Dropping it kills the group: no agent outlives its owner.
pub struct Agent {
    pid: i32,
    family: Arc<Family>,
    exit: oneshot::Receiver<ExitStatus>,
    ended: Option<ExitStatus>,
    group_killed: bool,
}

/// Our ends of an agent's standard streams; those that were asked for.
#[derive(Default)]
pub struct Pipes {
    pub stdin: Option<pipe::Sender>,
    pub stdout: Option<pipe::Receiver>,
    pub stderr: Option<pipe::Receiver>,
}

impl Agent {
    pub(super) fn new(
        child: Child,
        exit: oneshot::Receiver<ExitStatus>,
        family: Arc<Family>,
    ) -> io::Result<(Agent, Pipes)> {
        let pid = child.id().cast_signed();
        let agent = Agent { pid, family, exit, ended: None, group_killed: false };
        let pipes = Pipes {
            stdin: child.stdin.map(OwnedFd::from).map(pipe::Sender::from_owned_fd).transpose()?,
            stdout: child.stdout.map(OwnedFd::from).map(pipe::Receiver::from_owned_fd).transpose()?,
            stderr: child.stderr.map(OwnedFd::from).map(pipe::Receiver::from_owned_fd).transpose()?,
        };
        Ok((agent, pipes))
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for the main process; what it started may live on. May be called again.
    pub async fn ended(&mut self) -> ExitStatus {
        if let Some(status) = self.ended {
            return status;
        }
        match (&mut self.exit).await {
            Ok(status) => *self.ended.insert(status),
            // The list of living children outlives every agent, and is only left by reaping.
            Err(_) => std::future::pending().await,
        }
    }

    /// Signals the group while its main process lives.
    pub fn signal(&self, signal: Signal) {
        self.family.signal(self.pid, signal);
    }

    /// Kills all that is left in the group.
    ///
    /// Once the main process is reaped and its group empty, the number could name another group. The kernel hands
    /// numbers out in turn, and this comes a second later at most; and it is done once.
    pub fn kill_group(&mut self) {
        if self.ended.is_none() {
            self.family.signal(self.pid, Signal::SIGKILL);
        } else if !self.group_killed {
            self.group_killed = true;
            _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }

    /// SIGTERM, `grace`, SIGKILL; returns when the main process has ended and its group is killed.
    pub async fn stop(&mut self, grace: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + grace;
        if tokio::time::timeout_at(deadline, self.ended()).await.is_err() {
            self.kill_group();
        }
        let status = self.ended().await;
        self.kill_group();
        status
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill_group();
        if self.ended.is_none() && !self.group_killed {
            // Reaped, but its status was never asked for.
            if self.exit.try_recv().is_ok() {
                _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
            }
        }
    }
}
