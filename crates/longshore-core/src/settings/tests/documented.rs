//! What the documentation shows is what the code reads.

use super::*;

const PAGE: &str = include_str!("../../../../../docs/configuration.md");

#[test]
fn the_documented_file_is_read_without_a_word_and_shows_the_defaults() {
    let (_, rest) = PAGE.split_once("```toml\n").expect("the page shows a file");
    let (sample, _) = rest.split_once("\n```").expect("the block ends");
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
    assert_eq!(documented.fleets[0].providers, ["openai"], "as if the line were left out");
    assert_eq!(documented.fleets[0].retention, crate::retention::Policy::default());
    assert_eq!(documented.server.conversations_ms, ServerSettings::default().conversations_ms);
}
