//! `[webhook.NAME]`.

use super::*;
use crate::fleet::SecretSource;
use crate::task::State;
use crate::webhook::Webhook;

fn with(webhook: &str) -> String {
    format!("{MINIMAL}[webhook.backend]\n{webhook}")
}

fn only(webhook: &str) -> Webhook {
    let [webhook] = <[Webhook; 1]>::try_from(good(&with(webhook), &[]).webhooks).expect("one webhook");
    webhook
}

fn refused(text: &str, expected: &str) {
    let seen = complaints(&with(text), &[]);
    assert!(seen.contains(expected), "{text}: {seen}");
}

const SECRET: &str = "secret = { env = \"S\" }\n";

#[test]
fn everything_that_is_declared_is_read_and_printed_so_that_it_is_read_again() {
    let text = r#"
        url = "https://example.com:8443/hooks"
        secret = [{ env = "NEW" }, { file = "old.txt" }]
        fleets = ["research"]
        states = ["failed"]
        allow_private = true
    "#;
    let webhook = only(text);
    let secrets = [SecretSource::Env("NEW".into()), SecretSource::File("/srv/agents/old.txt".into())];
    assert_eq!(webhook.secrets, secrets);
    assert_eq!((webhook.fleets.len(), &webhook.states[..]), (1, &[State::Failed][..]));
    assert!(webhook.allow_private);
    let printed = good(&with(text), &[]).to_string();
    assert_eq!(good(&printed, &[]).webhooks, [webhook], "{printed}");
}

#[test]
fn a_token_in_the_query_is_never_printed() {
    let text = format!("url = \"https://example.com/hooks?token=hunter2\"\n{SECRET}");
    assert_eq!(only(&text).url, "https://example.com/hooks?token=hunter2");
    let printed = good(&with(&text), &[]).to_string();
    assert!(printed.contains("https://example.com/hooks?…") && !printed.contains("hunter2"), "{printed}");
    let seen = complaints(&with(&format!("url = \"ftp://example.com/?token=hunter2\"\n{SECRET}")), &[]);
    assert!(!seen.contains("hunter2"), "{seen}");
}

#[test]
fn what_is_wrong_with_a_webhook_is_said_at_its_key() {
    let url = "url = \"https://example.com/\"\n";
    refused(SECRET, "webhook.backend.url: missing");
    refused(url, "webhook.backend.secret: missing");
    refused(&format!("{url}secret = \"whsec_abc\""), "{ env = \"NAME\" }");
    refused(&format!("{url}secret = []"), "expected 1 to 4 secrets");
    refused(&format!("url = \"example.com\"\n{SECRET}"), "expected an https address");
    refused(&format!("url = \"https://u:p@example.com/\"\n{SECRET}"), "without a user or password");
    refused(&format!("url = \"http://169.254.169.254/latest\"\n{SECRET}"), "link-local");
    refused(&format!("url = \"https://[::1]/\"\n{SECRET}"), "loopback");
    refused(&format!("{url}{SECRET}fleets = [\"other\"]"), "there is no fleet `other`");
    refused(&format!("{url}{SECRET}fleets = []"), "leave it out to mean all");
    refused(&format!("{url}{SECRET}states = [\"running\"]"), "expected an array of \"succeeded\"");
    refused(&format!("{url}{SECRET}states = [\"failed\", \"failed\"]"), "listed twice");
}

#[test]
fn a_message_in_the_clear_is_warned_about() {
    let seen = warnings(&with(&format!("url = \"http://example.com/\"\n{SECRET}")), &[]);
    assert!(seen.contains("can be read on its way"), "{seen}");
}
