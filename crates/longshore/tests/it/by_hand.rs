//! `longshore worker` as somebody starts it who runs workers himself: for fleets of platform `external`.
//!
//! Dropping it kills the worker and everything that carries its id.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use longshore_api::fleet::Worker;
use longshore_api::link::WorkerState;
use nix::sys::signal::Signal;

use crate::plane::{Plane, binary, carriers, signal, wait_for};

pub struct ByHand {
    child: Child,
    pub id: String,
    log: PathBuf,
}

/// The command line and environment of a worker of this fleet.
fn command(plane: &Plane, fleet: &str, id: &str, under: &[&str]) -> Command {
    let words: Vec<&str> = under.iter().copied().chain([binary(), "worker", "--id", id]).collect();
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .env("LONGSHORE_FLEET", fleet)
        .env("LONGSHORE_LINK", &plane.addresses.link)
        .env("LONGSHORE_WORKER_TOKEN_FILE", plane.dir().join(".longshore/tokens").join(fleet))
        .env("LONGSHORE_PROBE_ADDR", "127.0.0.1:0")
        .env("TMPDIR", plane.dir())
        .stdin(Stdio::null());
    command
}

impl ByHand {
    /// Starts a worker and waits until it is ready.
    pub async fn ready(plane: &Plane, fleet: &str, change: impl FnOnce(&mut Command)) -> ByHand {
        let worker = ByHand::start(plane, fleet, &[], change);
        worker.reaches(plane, WorkerState::Ready).await;
        worker
    }

    /// Starts a worker, possibly under another command; `change` comes last, so it may add arguments.
    pub fn start(plane: &Plane, fleet: &str, under: &[&str], change: impl FnOnce(&mut Command)) -> ByHand {
        let id = format!("{fleet}-{}", uuid::Uuid::new_v4().simple());
        ByHand::start_as(plane, fleet, &id, under, change)
    }

    pub fn start_as(
        plane: &Plane,
        fleet: &str,
        id: &str,
        under: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> ByHand {
        let log = plane.dir().join(format!("by-hand-{}.log", uuid::Uuid::new_v4().simple()));
        let output = fs::File::create(&log).expect("the folder is writable");
        let mut command = command(plane, fleet, id, under);
        command.stdout(output.try_clone().expect("a file can be cloned")).stderr(output);
        change(&mut command);
        ByHand { child: command.spawn().expect("the binary runs"), id: id.to_owned(), log }
    }

    pub async fn reaches(&self, plane: &Plane, state: WorkerState) -> Worker {
        let what = format!("{} to be {state:?}\n{}", self.id, self.log());
        let is = |worker: &&Worker| worker.id == self.id && worker.state == state;
        let workers = plane.workers_when(&what, |workers| workers.iter().any(|worker| is(&worker))).await;
        workers.into_iter().find(|worker| is(&worker)).expect("just waited for it")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, which: Signal) {
        signal(self.child.id(), which);
    }

    pub async fn exit(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the worker to end", || child.try_wait().expect("our child")).await
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let ids = HashSet::from([self.id.clone()]);
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            let left = carriers(&ids);
            if left.is_empty() {
                return;
            }
            left.iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
