//! What is declared about an LLM provider: where it is, how much of it may be used, and what that costs.
//!
//! Calls nothing and knows no key: a key stays the name of its source until the gateway sends a request.

mod price;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::fleet::SecretSource;
use crate::id::{IdError, is_label, name_type, shorten};

pub use price::{Pico, Price, PriceError, Tokens, cost_nano, parse_price, show_money, show_price};

name_type!(
    /// Names a provider: a DNS label of at most 40 characters, as it stands in the gateway's addresses.
    ProviderName,
    "provider name",
    "1 to 40 of a-z, 0-9 and -, beginning with a letter and not ending with -",
    is_label
);

/// Whose wire format a provider speaks: how a key is sent, and how an error looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    #[serde(rename = "openai")]
    OpenAi,
    #[serde(rename = "anthropic")]
    Anthropic,
}

/// Everything declared about one provider, defaults filled in. All times in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provider {
    pub name: ProviderName,
    pub kind: Kind,
    /// Without a slash at its end.
    pub base_url: String,
    /// None: calls are sent without a key.
    pub api_key: Option<SecretSource>,
    /// Until the head of an answer is there.
    pub timeout_ms: u64,
    /// Between two chunks of an answer.
    pub idle_ms: u64,
    /// After errors other than rate limits, which are waited for.
    pub retries: u32,
    /// Usage is asked for in streams, and taken out again where the agent did not ask.
    pub usage_in_streams: bool,
    /// Top-level JSON fields that are no part of a request's identity: they may differ when a call is replayed.
    pub ignore: Vec<String>,
    /// By model, or `*`; models that share a key share its limit.
    pub limits: BTreeMap<String, Limit>,
    /// By model, or `*`.
    pub prices: BTreeMap<String, Price>,
    /// Of the prices.
    pub currency: String,
}

/// How much of a provider may be used in any minute. What is not declared is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    pub requests_per_minute: Option<u64>,
    pub tokens_per_minute: Option<u64>,
}

/// The key that stands for every model.
pub const ANY_MODEL: &str = "*";

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::OpenAi => "openai",
            Kind::Anthropic => "anthropic",
        }
    }

    /// The variables that the gateway sets for an agent, where SDKs look for their address and key.
    pub fn variables(self) -> [&'static str; 2] {
        match self {
            Kind::OpenAi => ["OPENAI_BASE_URL", "OPENAI_API_KEY"],
            Kind::Anthropic => ["ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"],
        }
    }
}

impl Provider {
    /// A provider of which only the name, the kind and the address are declared.
    pub fn new(name: ProviderName, kind: Kind, base_url: String) -> Provider {
        Provider {
            name,
            kind,
            base_url,
            api_key: None,
            timeout_ms: 10 * 60_000,
            idle_ms: 2 * 60_000,
            retries: 4,
            usage_in_streams: true,
            ignore: Vec::new(),
            limits: BTreeMap::new(),
            prices: BTreeMap::new(),
            currency: "USD".into(),
        }
    }

    /// The limit that holds for `model`, with the key that it was declared under.
    ///
    /// Shape: the model's own key; else the longest key that `model` continues with `-`, so that `gpt-5-mini` covers
    /// `gpt-5-mini-2026-08-07`; else `*`.
    pub fn limit_for(&self, model: &str) -> Option<(&str, &Limit)> {
        covering(&self.limits, model)
    }

    /// The price that holds for `model`; found as [`Provider::limit_for`] finds a limit.
    pub fn price_for(&self, model: &str) -> Option<&Price> {
        covering(&self.prices, model).map(|(_, price)| price)
    }
}

fn covering<'a, T>(by_model: &'a BTreeMap<String, T>, model: &str) -> Option<(&'a str, &'a T)> {
    let before_dashes = model.rmatch_indices('-').map(|(at, _)| &model[..at]);
    let candidates = std::iter::once(model).chain(before_dashes).chain([ANY_MODEL]);
    let mut found = candidates.filter_map(|name| by_model.get_key_value(name));
    found.next().map(|(key, value)| (key.as_str(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(models: &[&str]) -> Provider {
        let name = ProviderName::new("openai").expect("valid");
        let mut provider = Provider::new(name, Kind::OpenAi, "https://api.openai.com/v1".into());
        for (n, model) in (1..).zip(models) {
            let limit = Limit { requests_per_minute: Some(n), tokens_per_minute: None };
            provider.limits.insert(model.to_string(), limit);
            provider.prices.insert(model.to_string(), Price { input: n, cached_input: n, output: n });
        }
        provider
    }

    fn check(models: &[&str], model: &str, expected: Option<&str>) {
        let provider = provider(models);
        let found = provider.limit_for(model);
        assert_eq!(found.map(|(key, _)| key), expected, "{model:?} of {models:?}");
        assert_eq!(found.map(|(_, limit)| limit), expected.map(|key| &provider.limits[key]));
        assert_eq!(provider.price_for(model), expected.map(|key| &provider.prices[key]));
    }

    #[test]
    fn a_model_is_covered_by_its_own_key_then_its_family_then_the_star() {
        let all = ["*", "gpt-5", "gpt-5-mini", "gpt-5-mini-2026-08-07"];
        check(&all, "gpt-5-mini-2026-08-07", Some("gpt-5-mini-2026-08-07"));
        check(&all, "gpt-5-mini-2026-09-01", Some("gpt-5-mini"));
        check(&all, "gpt-5-mini", Some("gpt-5-mini"));
        check(&all, "gpt-5-nano", Some("gpt-5"));
        check(&all, "gpt-5-", Some("gpt-5"));
        check(&all, "gpt-4", Some("*"));
    }

    #[test]
    fn a_key_covers_no_name_that_merely_begins_like_it() {
        check(&["gpt-5"], "gpt-5.1", None);
        check(&["gpt-5"], "gpt-50", None);
        check(&["gpt-5-mini"], "gpt-5", None);
        check(&[], "gpt-5", None);
        check(&["*"], "", Some("*"));
        check(&["größe"], "größe-2", Some("größe"));
    }

    #[test]
    fn provider_names_follow_the_rule_of_fleet_names() {
        assert!(ProviderName::new("azure-eu-2").is_ok());
        let error = ProviderName::new("Open_AI").expect_err("upper case is refused").to_string();
        assert!(error.starts_with("provider name `Open_AI` is not valid"), "{error}");
    }

    #[test]
    fn a_provider_survives_json() {
        let mut provider = provider(&["*"]);
        provider.api_key = Some(SecretSource::Env("OPENAI_API_KEY".into()));
        let text = serde_json::to_string(&provider).expect("serialises");
        assert!(text.contains(r#""kind":"openai""#), "{text}");
        assert_eq!(serde_json::from_str::<Provider>(&text).expect("reads back"), provider);
    }
}
