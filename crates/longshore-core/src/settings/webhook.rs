//! Reads `[webhook.NAME]`.

use super::named::{known_fleet, read_all};
use super::provider::split_host;
use super::section::Section;
use super::tree::Value;
use crate::fleet::{Fleet, SecretSource};
use crate::id::FleetName;
use crate::task::State;
use crate::webhook::{STATES, Webhook, WebhookName, check_address};

const URL: &str = "an https address such as \"https://example.com/hooks\"";
const SECRET: &str = "{ env = \"NAME\" } or { file = \"PATH\" }, or an array of them";
const LISTED_STATES: &str = "an array of \"succeeded\", \"failed\" and \"cancelled\"";

/// Reads all webhooks, in order of name; `fleets` are those that are declared, if that is known here.
pub(super) fn read_webhooks(
    root: &mut Section<'_>,
    fleets: Option<&[Fleet]>,
    base_dir: &str,
) -> Vec<Webhook> {
    let expected = "a table such as [webhook.backend] with the webhook's keys in it";
    read_all(root, "webhook", expected, WebhookName::new, |section, name| {
        read_webhook(section, name, fleets, base_dir)
    })
}

fn read_webhook(
    mut section: Section<'_>,
    name: WebhookName,
    fleets: Option<&[Fleet]>,
    base_dir: &str,
) -> Option<Webhook> {
    let allow_private = section.boolean("allow_private").unwrap_or(false);
    let url = read_url(&mut section, allow_private);
    let secrets = read_secrets(&mut section, base_dir);
    let fleets = read_fleets(&mut section, fleets);
    let states = read_states(&mut section);
    section.finish();
    Some(Webhook { name, url: url?, secrets, fleets, states, allow_private })
}

/// The address is never shown: its query may hold a token.
fn read_url(section: &mut Section<'_>, allow_private: bool) -> Option<String> {
    let Some(url) = section.text("url", URL) else {
        if !section.was_given("url") {
            section.error("url", format!("missing: it says whom to tell; expected {URL}"));
        }
        return None;
    };
    let (address, _) = url.split_once('?').unwrap_or((&url, ""));
    let host = match split_host(address, URL) {
        Ok(host) => host,
        Err(problem) => {
            section.error("url", problem);
            return None;
        }
    };
    let refused = host.trim_matches(['[', ']']).parse().ok().and_then(|address| check_address(address).err());
    if let Some(refused) = refused.filter(|_| !allow_private) {
        section.error("url", refused.to_string());
    }
    if url.starts_with("http://") && !allow_private {
        section.warn("url", "is not https: what is sent can be read on its way");
    }
    Some(url)
}

fn read_secrets(section: &mut Section<'_>, base_dir: &str) -> Vec<SecretSource> {
    let Some(node) = section.take("secret") else {
        section.error("secret", format!("missing: messages are signed with it; expected {SECRET}"));
        return Vec::new();
    };
    let place = node.place.clone();
    let nodes = match node.value {
        Value::Array(items) => items,
        _ => vec![node],
    };
    if !(1..=4).contains(&nodes.len()) {
        section.error_in(place, "secret", "expected 1 to 4 secrets: all of them sign".into());
    }
    nodes.into_iter().filter_map(|node| section.secret_in("secret", node, base_dir)).collect()
}

fn read_fleets(section: &mut Section<'_>, declared: Option<&[Fleet]>) -> Vec<FleetName> {
    let listed = section.texts("fleets", "an array of names such as fleets = [\"research\"]");
    if listed.as_ref().is_some_and(Vec::is_empty) {
        section.error("fleets", "empty: leave it out to mean all".into());
    }
    let mut fleets = Vec::new();
    for (given, place) in listed.unwrap_or_default() {
        match known_fleet(&given, declared) {
            Ok(name) if fleets.contains(&name) => {
                section.error_in(place, "fleets", format!("`{name}` is listed twice"));
            }
            Ok(name) => fleets.push(name),
            Err(problem) => section.error_in(place, "fleets", problem),
        }
    }
    fleets
}

fn read_states(section: &mut Section<'_>) -> Vec<State> {
    let Some(listed) = section.texts("states", LISTED_STATES) else { return STATES.to_vec() };
    if listed.is_empty() {
        section.error("states", format!("empty: expected {LISTED_STATES}, or nothing for all three"));
    }
    let mut states = Vec::new();
    for (given, place) in listed {
        match STATES.into_iter().find(|state| state.as_str() == given) {
            Some(state) if states.contains(&state) => {
                section.error_in(place, "states", format!("`{given}` is listed twice"));
            }
            Some(state) => states.push(state),
            None => {
                let shown: String = given.chars().take(40).collect();
                section.error_in(place, "states", format!("expected {LISTED_STATES}, found {shown:?}"));
            }
        }
    }
    states
}
