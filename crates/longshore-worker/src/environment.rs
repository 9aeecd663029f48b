//! What an agent finds in its environment.
//!
//! The container's own, without anything of longshore's: its token, its addresses and its settings are not the agent's
//! business. One name comes back: the worker's id, by which a platform finds what a dead worker left behind.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use longshore_api::link::ClaimedTask;
use longshore_core::id::WorkerId;

const OURS: &str = "LONGSHORE_";

/// Variables that send programs through a proxy; also written in capitals.
const PROXIES: [&str; 3] = ["http_proxy", "https_proxy", "all_proxy"];
const NO_PROXY: [&str; 2] = ["no_proxy", "NO_PROXY"];
const LOOPBACK: [&str; 2] = ["127.0.0.1", "localhost"];

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
        spare_loopback(&mut shared);
        shared.push(pair("LONGSHORE_WORKER_ID", worker.as_str()));
        Environment { shared }
    }

    /// Sets a command's whole environment: `own` on top of what is shared.
    pub fn apply(&self, command: &mut std::process::Command, own: Vec<(OsString, OsString)>) {
        command.env_clear().envs(self.shared.iter().map(|(name, value)| (name, value))).envs(own);
    }
}

/// With a proxy about, keeps clients from sending it what is meant for the relay.
fn spare_loopback(variables: &mut Vec<(OsString, OsString)>) {
    let value = |variables: &[(OsString, OsString)], name: &str| {
        let found = variables.iter().find(|(known, _)| known == name);
        found.and_then(|(_, value)| value.to_str()).filter(|value| !value.is_empty()).map(str::to_owned)
    };
    let proxied = PROXIES.iter().any(|name| {
        value(variables, name).is_some() || value(variables, &name.to_ascii_uppercase()).is_some()
    });
    if !proxied {
        return;
    }
    // Which of the two a program reads differs, and so may what is in them.
    let found = NO_PROXY.map(|name| value(variables, name));
    let wanted: Vec<String> =
        [0, 1].map(|at| with_loopback(found[at].as_ref().or(found[1 - at].as_ref()))).into();
    variables.retain(|(name, _)| !NO_PROXY.iter().any(|known| name == known));
    variables.extend(NO_PROXY.iter().zip(&wanted).map(|(name, value)| pair(name, value)));
}

fn with_loopback(found: Option<&String>) -> String {
    let mut hosts: Vec<&str> = found.map_or(Vec::new(), |found| found.split(',').map(str::trim).collect());
    hosts.retain(|host| !host.is_empty());
    let missing = LOOPBACK.iter().filter(|host| !hosts.contains(host) && !hosts.contains(&"*")).copied();
    let missing: Vec<&str> = missing.collect();
    hosts.extend(missing);
    hosts.join(",")
}

/// For one task, besides where its calls go.
pub fn of_task(task: &ClaimedTask) -> Vec<(OsString, OsString)> {
    let mut own: Vec<_> = of_attempt(task).map(|(name, value)| pair(name, &value)).into();
    own.push(pair("LONGSHORE_TASK_TOKEN", &task.token));
    own.extend(
        task.conversation.iter().map(|history| pair("LONGSHORE_CONVERSATION_ID", history.id.as_str())),
    );
    own
}

/// What an attempt is known by.
pub fn of_attempt(task: &ClaimedTask) -> [(&'static str, String); 2] {
    [("LONGSHORE_TASK_ID", task.id.to_string()), ("LONGSHORE_ATTEMPT", task.attempt.to_string())]
}

/// For an http agent, which serves many tasks.
pub fn of_http_agent(port: u16) -> Vec<(OsString, OsString)> {
    vec![pair("PORT", &port.to_string())]
}

/// Variables that are known as text.
pub fn of_names(variables: BTreeMap<String, String>) -> impl Iterator<Item = (OsString, OsString)> {
    variables.into_iter().map(|(name, value)| (name.into(), value.into()))
}

pub fn of_folder(folder: &Path) -> Vec<(OsString, OsString)> {
    let at = |name: &str, part: &str| (name.into(), folder.join(part).into_os_string());
    vec![at("HOME", "home"), at("TMPDIR", "tmp")]
}

fn pair(name: &str, value: &str) -> (OsString, OsString) {
    (name.into(), value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(inherited: &[(&str, &str)], expected: &[(&str, &str)]) {
        let worker = WorkerId::new("w-1").expect("a name");
        let environment = Environment::new(&worker, inherited.iter().map(|(name, value)| pair(name, value)));
        let text = |text: &OsString| text.to_str().expect("text").to_owned();
        let shared = environment.shared.iter().map(|(name, value)| (text(name), text(value)));
        let shared: BTreeMap<String, String> =
            shared.filter(|(name, _)| name != "LONGSHORE_WORKER_ID").collect();
        let expected = expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        assert_eq!(shared, expected.collect(), "{inherited:?}");
    }

    #[test]
    fn longshores_own_variables_are_not_passed_on() {
        check(&[("PATH", "/bin"), ("LONGSHORE_WORKER_TOKEN", "x")], &[("PATH", "/bin")]);
    }

    #[test]
    fn a_proxy_is_kept_away_from_the_relay() {
        let loopback = "127.0.0.1,localhost";
        check(&[("no_proxy", "a")], &[("no_proxy", "a")]);
        check(&[("HTTPS_PROXY", "")], &[("HTTPS_PROXY", "")]);
        check(
            &[("HTTPS_PROXY", "p")],
            &[("HTTPS_PROXY", "p"), ("NO_PROXY", loopback), ("no_proxy", loopback)],
        );
        check(
            &[("http_proxy", "p"), ("NO_PROXY", "a, localhost")],
            &[
                ("http_proxy", "p"),
                ("NO_PROXY", "a,localhost,127.0.0.1"),
                ("no_proxy", "a,localhost,127.0.0.1"),
            ],
        );
        check(
            &[("all_proxy", "p"), ("no_proxy", "*")],
            &[("all_proxy", "p"), ("NO_PROXY", "*"), ("no_proxy", "*")],
        );
    }
}
