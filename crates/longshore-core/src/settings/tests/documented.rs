//! What the documentation shows is what the code reads.

use super::*;
use crate::json::Json;
use crate::schedule::Schedule;
use crate::webhook::Webhook;

const PAGE: &str = include_str!("../../../../../docs/configuration.md");

fn sample() -> &'static str {
    let (_, rest) = PAGE.split_once("```toml\n").expect("the page shows a file");
    rest.split_once("\n```").expect("the block ends").0
}

#[test]
fn the_documented_file_is_read_without_a_word_and_shows_the_defaults() {
    let sample = sample();
    assert_eq!(warnings(sample, &[]), "");
    let documented = good(sample, &[]);
    let smallest = good("[provider.openai]\nbase_url = \"https://api.openai.com/v1\"\n", &[]);
    let ([shown], [bare]) = (&documented.providers[..], &smallest.providers[..]) else {
        panic!("one provider each: {documented}")
    };
    assert!(shown.limits.len() > 1 && !shown.prices.is_empty() && shown.api_key.is_some());
    let without_choices = Provider {
        api_key: None,
        limits: Default::default(),
        prices: Default::default(),
        ignore: Vec::new(),
        ..shown.clone()
    };
    assert_eq!(&without_choices, bare, "the page's values are the defaults");
    let [tenant] = &documented.tenants[..] else { panic!("one tenant: {documented}") };
    assert_eq!(
        *tenant,
        crate::tenant::Tenant::new(tenant.name.clone()),
        "the page's values are the defaults"
    );
    assert_eq!(documented.fleets[0].task, TaskDefaults::default());
    assert_eq!(documented.fleets[0].providers, ["openai"], "as if the line were left out");
    assert_eq!(documented.fleets[0].retention, crate::retention::Policy::default());
    assert_eq!(documented.server.conversations_ms, ServerSettings::default().conversations_ms);
}

#[test]
fn the_documented_containers_are_read_without_a_word_and_show_the_defaults() {
    let (_, rest) = PAGE.split_once("## Containers").expect("the page has a section");
    let (_, rest) = rest.split_once("```toml\n").expect("it shows a file");
    let (sample, _) = rest.split_once("\n```").expect("the block ends");
    assert_eq!(warnings(sample, &[]), "");
    let smallest = "[fleet.research]\nplatform = \"docker\"\nimage = \"registry.internal/research:1.4\"\n";
    assert_eq!(only_fleet(sample, &[]).container, only_fleet(smallest, &[]).container);
    let uncommented: String = sample
        .lines()
        .map(|line| line.strip_prefix("# ").unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    assert_eq!(
        (good(&uncommented, &[]).docker.cpu, only_fleet(&uncommented, &[]).working_dir),
        (Some(8000), "/app".into())
    );
}

#[test]
fn what_the_page_leaves_out_can_be_written() {
    let (_, rest) = PAGE.split_once("[tenant.acme]").expect("the page shows a tenant");
    let (sample, _) = rest.split_once("\n```").expect("the block ends");
    let uncommented: String = sample
        .lines()
        .map(|line| line.strip_prefix("# ").unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    let settings = good(&format!("[tenant.acme]{}", uncommented.replace("[\"openai\"]", "[]")), &[]);
    let fleet = &settings.fleets[0];
    assert!(settings.tenants[0].max_running.is_some());
    assert!(fleet.max_running.is_some() && fleet.rate.is_some() && fleet.tenants.max_running.is_some());
    assert!(fleet.task.total_timeout_ms.is_some());
}

#[test]
fn the_documented_schedule_and_webhook_show_the_defaults() {
    let documented = good(sample(), &[]);
    let smallest = format!(
        "{MINIMAL}[schedule.nightly]\nfleet = \"research\"\ncron = \"30 2 * * mon-fri\"\n\
         [webhook.backend]\nurl = \"https://example.com/hooks\"\nsecret = {{ env = \"WEBHOOK_SECRET\" }}\n"
    );
    let smallest = good(&smallest, &[]);
    let shown = documented.schedules[0].clone();
    assert!(shown.conversation.is_some() && !shown.labels.is_empty() && shown.input != Json::null());
    let without_choices =
        Schedule { conversation: None, labels: Default::default(), input: Json::null(), ..shown };
    assert_eq!([without_choices], smallest.schedules[..]);
    let without_choices = Webhook { fleets: Vec::new(), ..documented.webhooks[0].clone() };
    assert_eq!([without_choices], smallest.webhooks[..]);
}
