//! Environments of containers: values, and secrets by reference.

use std::collections::BTreeMap;

use longshore_core::fleet::{Fleet, SecretSource};
use longshore_core::settings::{Address, RedisSettings, Settings};
use serde_json::{Value, json};

use super::control::ADMIN_TOKEN;
use super::keda::TOKEN as KEDA_TOKEN;
use super::read::{DATABASE, REDIS};
use super::{Problem, Scene};

/// A variable with a value that is to be taken as it is.
pub(super) fn value(name: &str, text: &str) -> Value {
    json!({ "name": name, "value": literal(text) })
}

pub(super) fn field(name: &str, path: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } })
}

pub(super) fn secret(name: &str, secret: &str, key: &str) -> Value {
    json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": secret, "key": key } } })
}

pub(super) fn optional_secret(name: &str, from: &str, key: &str) -> Value {
    let mut variable = secret(name, from, key);
    variable["valueFrom"]["secretKeyRef"]["optional"] = true.into();
    variable
}

/// A release may have written a value there, when the variable had one, and a field that nobody else writes stays: beside it no
/// Secret is taken. An empty one is none.
fn without_value(mut variable: Value) -> Value {
    variable["value"] = "".into();
    variable
}

/// Kubernetes replaces `$(NAME)` in commands and environments, and takes `$$` for `$`.
pub(super) fn literal(text: &str) -> String {
    if text.contains("$(") || text.contains("$$") { text.replace('$', "$$") } else { text.to_owned() }
}

/// What [`literal`] was given.
pub(in crate::kubernetes) fn unescaped(text: &str) -> String {
    if text.contains("$$") { text.replace("$$", "$") } else { text.to_owned() }
}

/// What the control plane's settings take from the environment, in order of name.
///
/// Errors: what they take from files, which a pod does not have.
pub(super) fn of_plane(scene: &Scene<'_>) -> Result<Vec<Value>, Vec<Problem>> {
    let (settings, kubernetes) = (scene.settings, &scene.settings.kubernetes);
    let (mut variables, mut problems) = (BTreeMap::new(), Vec::new());
    for (key, source) in sources(settings) {
        match source {
            SecretSource::Env(name) => drop(variables.insert(name, key)),
            // An overlay may mount it.
            SecretSource::File(_) if kubernetes.overlay.is_some() => {}
            SecretSource::File(_) => problems.push(Problem::new(
                key,
                format!(
                    "comes from a file, which the control plane's pod does not have: write {{ env = \"NAME\" }} and put \
                     the value into the Secret `{}` as NAME, or mount the file with `[kubernetes] overlay`",
                    kubernetes.secret
                ),
            )),
        }
    }
    problems.extend(files(settings).into_iter().filter(|_| kubernetes.overlay.is_none()));
    if !problems.is_empty() {
        return Err(problems);
    }
    let of_store = kubernetes.store_secret.as_ref().unwrap_or(&kubernetes.secret);
    let variable = |name: &&String| match name.as_str() {
        REDIS if !scene.request.declared.names_redis => optional_secret(name, of_store, name),
        DATABASE | REDIS => secret(name, of_store, name),
        _ => secret(name, &kubernetes.secret, name),
    };
    Ok(variables.keys().map(variable).collect())
}

/// Every secret that a control plane reads, by its key. A fleet's own are read by nobody but its workers' pods.
pub(super) fn sources(settings: &Settings) -> Vec<(String, &SecretSource)> {
    let mut sources = Vec::new();
    if let Some(shared) = &settings.store.shared {
        sources.extend(address("store.database", &shared.database));
        sources.extend(shared.database_password.iter().map(|it| ("store.database_password".into(), it)));
        sources.extend(shared.redis.iter().flat_map(of_redis));
    }
    sources.extend(settings.server.token.iter().map(|it| ("server.token".into(), it)));
    for provider in &settings.providers {
        sources.extend(provider.api_key.iter().map(|it| (format!("provider.{}.api_key", provider.name), it)));
    }
    for webhook in &settings.webhooks {
        sources.extend(webhook.secrets.iter().map(|it| (format!("webhook.{}.secret", webhook.name), it)));
    }
    sources
}

fn of_redis(redis: &RedisSettings) -> Vec<(String, &SecretSource)> {
    let addresses = redis.addresses.iter().filter_map(|it| address("store.redis", it));
    let cache = redis.cache.iter().filter_map(|it| address("store.redis_cache", it));
    let password = redis.password.iter().map(|it| ("store.redis_password".into(), it));
    addresses.chain(cache).chain(password).collect()
}

fn address<'a>(key: &str, address: &'a Address) -> Option<(String, &'a SecretSource)> {
    match address {
        Address::Given(_) => None,
        Address::Secret(source) => Some((key.to_owned(), source)),
    }
}

/// Files that are no secrets, and that a pod does not have either.
fn files(settings: &Settings) -> Vec<Problem> {
    let mount =
        "is a file, which the control plane's pod does not have: mount it with `[kubernetes] overlay`";
    let shared = settings.store.shared.as_ref();
    let redis_ca = shared.and_then(|shared| shared.redis.as_ref()?.ca.as_ref());
    let redis_ca = redis_ca.map(|_| Problem::new("store.redis_ca", mount));
    redis_ca.into_iter().collect()
}

/// Whether a key of the Secret that agents' secrets are in is one that is for the control plane alone.
fn longshores_own(scene: &Scene<'_>, key: &str) -> bool {
    let is = |source: &SecretSource| matches!(source, SecretSource::Env(name) if name == key);
    let store_is_elsewhere = scene.settings.kubernetes.store_secret.is_some();
    let of_plane = sources(scene.settings).into_iter().any(|(path, source)| match path.split('.').next() {
        Some("server") => is(source),
        // Of the store its addresses alone are in a Secret of their own.
        Some("store") => is(source) && !(store_is_elsewhere && [DATABASE, REDIS].contains(&key)),
        _ => false,
    });
    of_plane || [ADMIN_TOKEN, KEDA_TOKEN].contains(&key)
}

/// What a fleet gives its agents.
///
/// Errors: secrets from files.
pub(super) fn of_agent(scene: &Scene<'_>, fleet: &Fleet) -> Result<Vec<Value>, Vec<Problem>> {
    let from = &scene.settings.kubernetes.secret;
    let mut problems = Vec::new();
    let mut variables: Vec<Value> = fleet.env.iter().map(|(name, text)| value(name, text)).collect();
    for (name, source) in &fleet.secrets {
        match source {
            SecretSource::Env(key) if longshores_own(scene, key) => problems.push(Problem::new(
                format!("fleet.{}.secrets.{name}", fleet.name),
                format!(
                    "`{key}` of the Secret `{from}` is longshore's own and opens all of it: give agents a value of their own, \
                     under another key"
                ),
            )),
            SecretSource::Env(key) => variables.push(without_value(secret(name, from, key))),
            SecretSource::File(_) => problems.push(Problem::new(
                format!("fleet.{}.secrets.{name}", fleet.name),
                format!(
                    "comes from a file, which pods do not have: write {{ env = \"{name}\" }} and put the value into the \
                     Secret `{from}` as {name}"
                ),
            )),
        }
    }
    if problems.is_empty() { Ok(variables) } else { Err(problems) }
}
