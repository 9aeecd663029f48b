//! What probes, claims and heartbeats have to know of this worker's state.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longshore_api::link::{Condition, WorkerState};
use serde::Serialize;
use tokio::time::Instant;

use crate::memory;

/// The control plane is reachable if it answered within this time.
const ANSWER: Duration = Duration::from_secs(15);

/// The supervisor's loop turns each second; it hangs when it has not for this long.
const TURN: Duration = Duration::from_secs(10);

/// Failed restarts of an http agent after which the container should be replaced.
const FAILED_STARTS: u32 = 3;

pub struct Health {
    inner: Mutex<Inner>,
}

struct Inner {
    agent: AgentState,
    failed_starts: u32,
    unclean: Option<String>,
    answered: Option<Instant>,
    draining: bool,
    /// What the control plane cannot do without; empty texts for fine.
    dependencies: BTreeMap<String, String>,
    /// What it goes on without: shown, and no reason to take no tasks.
    notes: BTreeMap<String, String>,
    turned: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentState {
    Starting,
    Up,
    Down(String),
}

/// One check of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub ok: bool,
    pub detail: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    pub ready: bool,
    pub checks: BTreeMap<String, Check>,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            inner: Mutex::new(Inner {
                agent: AgentState::Starting,
                failed_starts: 0,
                unclean: None,
                answered: None,
                draining: false,
                dependencies: BTreeMap::new(),
                notes: BTreeMap::new(),
                turned: Instant::now(),
            }),
        }
    }
}

impl Health {
    /// Returns whether that is news.
    pub fn agent(&self, state: AgentState) -> bool {
        let mut inner = self.lock();
        match state {
            AgentState::Up => inner.failed_starts = 0,
            AgentState::Starting | AgentState::Down(_) => {}
        }
        std::mem::replace(&mut inner.agent, state.clone()) != state
    }

    pub fn agent_did_not_start(&self) {
        self.lock().failed_starts += 1;
    }

    /// Something of an earlier task lives on, for ever: nothing may begin beside it.
    pub fn unclean(&self, why: String) {
        self.lock().unclean = Some(why);
    }

    pub fn is_unclean(&self) -> bool {
        self.lock().unclean.is_some()
    }

    /// The control plane answered.
    pub fn answered(&self) {
        self.lock().answered = Some(Instant::now());
    }

    /// It answered a heartbeat, and said how what it depends on is.
    pub fn told(&self, dependencies: BTreeMap<String, String>, notes: BTreeMap<String, String>) {
        let mut inner = self.lock();
        inner.answered = Some(Instant::now());
        (inner.dependencies, inner.notes) = (dependencies, notes);
    }

    pub fn drain(&self) {
        self.lock().draining = true;
    }

    pub fn draining(&self) -> bool {
        self.lock().draining
    }

    pub fn turn(&self) {
        self.lock().turned = Instant::now();
    }

    /// `Err` says why the container should be replaced.
    pub fn alive(&self) -> Result<(), String> {
        let inner = self.lock();
        if inner.turned.elapsed() > TURN {
            return Err(format!("the supervisor has not turned for {} s", inner.turned.elapsed().as_secs()));
        }
        if let Some(why) = &inner.unclean {
            return Err(why.clone());
        }
        if inner.failed_starts >= FAILED_STARTS {
            return Err(format!("the agent did not start {} times in a row", inner.failed_starts));
        }
        Ok(())
    }

    pub fn readiness(&self) -> Readiness {
        let inner = self.lock();
        let noted =
            inner.notes.iter().map(|(name, detail)| (name, Check { ok: true, detail: detail.clone() }));
        let needed = inner.dependencies.iter().map(|(name, wrong)| (name, check(wrong.clone())));
        let mut checks: BTreeMap<String, Check> =
            noted.chain(needed).map(|(name, check)| (name.clone(), check)).collect();
        checks.insert("control_plane".into(), check(inner.control_plane()));
        checks.insert("agent".into(), check(inner.agent()));
        let draining = if inner.draining { "the worker takes no more tasks".into() } else { String::new() };
        checks.insert("draining".into(), check(draining));
        Readiness { ready: checks.values().all(|check| check.ok), checks }
    }

    pub fn condition(&self) -> Condition {
        let readiness = self.readiness();
        let inner = self.lock();
        let state = match () {
            () if inner.draining => WorkerState::Draining,
            () if readiness.ready => WorkerState::Ready,
            () if inner.agent == AgentState::Starting => WorkerState::Starting,
            () => WorkerState::NotReady,
        };
        let wrong = readiness.checks.iter().filter(|(_, check)| !check.ok);
        let reason: Vec<String> = wrong.map(|(name, check)| format!("{name}: {}", check.detail)).collect();
        Condition { state, reason: reason.join("; "), memory: memory::resident() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn control_plane(&self) -> String {
        match self.answered {
            None => "it has not answered yet".into(),
            Some(at) if at.elapsed() > ANSWER => format!("no answer for {} s", at.elapsed().as_secs()),
            Some(_) => String::new(),
        }
    }

    fn agent(&self) -> String {
        match (&self.unclean, &self.agent) {
            (Some(why), _) | (None, AgentState::Down(why)) => why.clone(),
            (None, AgentState::Starting) => "it does not answer yet".into(),
            (None, AgentState::Up) => String::new(),
        }
    }
}

/// Empty text: nothing is wrong.
fn check(wrong: String) -> Check {
    Check { ok: wrong.is_empty(), detail: wrong }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_ready_when_every_check_is() {
        let health = Health::default();
        assert_eq!(health.condition().state, WorkerState::Starting);
        health.agent(AgentState::Up);
        assert_eq!(health.condition().state, WorkerState::NotReady);
        let named = |name: &str, why: &str| BTreeMap::from([(name.to_owned(), why.to_owned())]);
        health.told(named("llm", ""), BTreeMap::new());
        assert!(health.readiness().ready && health.condition().reason.is_empty());
        health.told(named("llm", "no route"), BTreeMap::new());
        assert_eq!(health.condition().reason, "llm: no route");
        health.told(named("llm", ""), named("redis", "away"));
        assert_eq!((health.condition().state, &*health.condition().reason), (WorkerState::Ready, ""));
        assert_eq!(health.readiness().checks["redis"], Check { ok: true, detail: "away".into() });
        health.drain();
        assert_eq!(health.condition().state, WorkerState::Draining);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_control_plane_and_a_hanging_loop_are_seen() {
        let health = Health::default();
        health.agent(AgentState::Up);
        health.answered();
        tokio::time::advance(Duration::from_secs(16)).await;
        assert!(!health.readiness().checks["control_plane"].ok);
        assert!(health.alive().is_err());
        health.turn();
        assert!(health.alive().is_ok());
    }

    #[test]
    fn what_a_task_left_and_cannot_be_ended_asks_for_a_new_container() {
        let health = Health::default();
        health.agent(AgentState::Up);
        health.answered();
        assert!(health.readiness().ready && health.alive().is_ok());
        health.unclean("2 processes".into());
        health.agent(AgentState::Up);
        assert!(health.alive().is_err());
        assert_eq!(health.condition().reason, "agent: 2 processes");
    }

    #[test]
    fn three_failed_starts_in_a_row_ask_for_a_new_container() {
        let health = Health::default();
        (0..2).for_each(|_| health.agent_did_not_start());
        health.agent(AgentState::Up);
        (0..2).for_each(|_| health.agent_did_not_start());
        assert!(health.alive().is_ok());
        health.agent_did_not_start();
        assert!(health.alive().is_err());
    }
}
