//! What an agent finds in its environment.
//!
//! The container's own, without anything of longshore's: its token, its addresses and its settings are not the agent's
//! business. One name comes back: the worker's id, by which a platform finds what a dead worker left behind.

use std::ffi::OsString;
use std::path::Path;

use longshore_api::link::ClaimedTask;
use longshore_core::id::WorkerId;

const OURS: &str = "LONGSHORE_";

/// The part that is the same for every agent process of this worker.
#[derive(Clone, Debug)]
pub struct Environment {
    shared: Vec<(OsString, OsString)>,
}

impl Environment {
    pub fn new(worker: &WorkerId, inherited: impl Iterator<Item = (OsString, OsString)>) -> Environment {
        let foreign =
            |(name, _): &(OsString, OsString)| !name.as_encoded_bytes().starts_with(OURS.as_bytes());
        let mut shared: Vec<_> = inherited.filter(foreign).collect();
        shared.push(pair("LONGSHORE_WORKER_ID", worker.as_str()));
        Environment { shared }
    }

    /// Sets a command's whole environment: `own` on top of what is shared.
    pub fn apply(&self, command: &mut std::process::Command, own: Vec<(OsString, OsString)>) {
        command.env_clear().envs(self.shared.iter().map(|(name, value)| (name, value))).envs(own);
    }
}

/// For one task: the place for the relay's address and the providers' base URLs.
pub fn of_task(task: &ClaimedTask) -> Vec<(OsString, OsString)> {
    let mut own = vec![
        pair("LONGSHORE_TASK_ID", &task.id.to_string()),
        pair("LONGSHORE_ATTEMPT", &task.attempt.to_string()),
        pair("LONGSHORE_TASK_TOKEN", &task.token),
    ];
    own.extend(
        task.conversation.iter().map(|history| pair("LONGSHORE_CONVERSATION_ID", history.id.as_str())),
    );
    own
}

/// For an http agent, which serves many tasks.
pub fn of_http_agent(port: u16) -> Vec<(OsString, OsString)> {
    vec![pair("PORT", &port.to_string())]
}

pub fn of_folder(folder: &Path) -> Vec<(OsString, OsString)> {
    let at = |name: &str, part: &str| (name.into(), folder.join(part).into_os_string());
    vec![at("HOME", "home"), at("TMPDIR", "tmp")]
}

fn pair(name: &str, value: &str) -> (OsString, OsString) {
    (name.into(), value.into())
}
