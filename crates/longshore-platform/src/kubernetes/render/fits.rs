//! What settings may be and Kubernetes' objects may not: said here with its key, not by the API server with an object's.

use std::collections::BTreeSet;

use longshore_core::fleet::{Fleet, SecretSource};

use super::harden::seconds;
use super::{Problem, Scene, env};

/// Of a field that counts seconds.
const MOST: u64 = i32::MAX as u64;

/// What is wrong with what all objects are made from.
pub(super) fn plane(scene: &Scene<'_>) -> Vec<Problem> {
    let sources = env::sources(scene.settings).into_iter();
    let keys = sources.flat_map(|(path, source)| match source {
        SecretSource::Env(name) => variable(&path, name).or_else(|| key(&path, name)),
        SecretSource::File(_) => None,
    });
    keys.chain(twice(scene)).collect()
}

/// What is wrong with a fleet.
pub(super) fn fleet(scene: &Scene<'_>, fleet: &Fleet) -> Vec<Problem> {
    let at = |path: &str| format!("fleet.{}.{path}", fleet.name);
    let values = fleet.env.keys().filter_map(|name| variable(&at("env"), name));
    let secrets = fleet.secrets.iter().flat_map(|(name, source)| {
        let of = match source {
            SecretSource::Env(wanted) => key(&at(&format!("secrets.{name}")), wanted),
            SecretSource::File(_) => None,
        };
        variable(&at("secrets"), name).into_iter().chain(of)
    });
    let (rollout, probe) = (&fleet.rollout, &fleet.probe);
    let counted = [
        ("rollout.hold", rollout.hold_ms),
        ("rollout.deadline", rollout.deadline_ms),
        ("probe.interval", probe.interval_ms),
        ("probe.timeout", probe.timeout_ms),
        ("probe.startup", probe.startup_ms),
        ("drain.timeout", fleet.drain.timeout_ms),
    ];
    let long = counted.into_iter().filter(|(_, ms)| seconds(*ms) >= MOST).map(|(key, _)| {
        Problem::new(at(key), format!("is longer than Kubernetes can count, {} days", MOST / 86_400))
    });
    values.chain(secrets).chain(long).chain(twice(scene)).collect()
}

/// Newer clusters take other names as well; the manifests are for older ones, too.
fn variable(path: &str, name: &str) -> Option<Problem> {
    let fits = name.chars().all(is_plain) && !name.starts_with(|c: char| c.is_ascii_digit());
    (!fits || name.is_empty() || is_folder(name)).then(|| {
        let problem =
            "is no variable's name in Kubernetes: letters, digits, `_`, `-` and `.`, no digit first";
        Problem::new(path, format!("`{}` {problem}", shown(name)))
    })
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// Of a Secret.
fn key(path: &str, key: &str) -> Option<Problem> {
    let fits = (1..=253).contains(&key.len()) && key.chars().all(is_plain) && !is_folder(key);
    (!fits).then(|| {
        let problem = "can be no key of a Secret: up to 253 letters, digits, `_`, `-` and `.`";
        Problem::new(path, format!("`{}` {problem}", shown(key)))
    })
}

/// Names of folders, and what begins like the one above.
fn is_folder(name: &str) -> bool {
    name == "." || name.starts_with("..")
}

fn shown(name: &str) -> String {
    name.chars().take(60).flat_map(char::escape_debug).collect()
}

fn twice(scene: &Scene<'_>) -> Option<Problem> {
    let mut seen = BTreeSet::new();
    let again = scene.settings.kubernetes.image_pull_secrets.iter().find(|name| !seen.insert(*name))?;
    Some(Problem::new("kubernetes.image_pull_secrets", format!("`{again}` is there twice: once is enough")))
}
