//! Reads `[provider.NAME]`.

use std::collections::BTreeMap;

use super::section::{Section, text_of};
use super::tree::{Node, Value};
use crate::provider::{Kind, Limit, Pico, Price, Provider, ProviderName, parse_price};

const URL: &str = "an http or https address such as \"https://api.openai.com/v1\"";
const PRICE: &str = "a price per million tokens such as \"0.25\"";

/// Reads all providers, in order of name.
pub(super) fn read_providers(root: &mut Section<'_>, base_dir: &str) -> Vec<Provider> {
    let Some(mut providers) = root.section("provider") else { return Vec::new() };
    let named = providers.drain();
    named.into_iter().filter_map(|(name, node)| read_named(&mut providers, &name, node, base_dir)).collect()
}

fn read_named(providers: &mut Section<'_>, name: &str, node: Node, base_dir: &str) -> Option<Provider> {
    let key_place = node.key_place.clone();
    let provider_name =
        ProviderName::new(name).map_err(|error| providers.error_in(key_place, name, error.to_string())).ok();
    let section =
        providers.open(name, node, "a table such as [provider.openai] with the provider's keys in it")?;
    // The keys of a provider with a bad name are checked all the same.
    let provider = read_provider(section, provider_name.clone().unwrap_or_else(stand_in), base_dir);
    provider_name.map(|_| provider)
}

fn stand_in() -> ProviderName {
    ProviderName::new("x").expect("one letter is a provider name")
}

fn read_provider(mut section: Section<'_>, name: ProviderName, base_dir: &str) -> Provider {
    let base_url = read_base_url(&mut section).unwrap_or_default();
    let kinds = [("openai", Kind::OpenAi), ("anthropic", Kind::Anthropic)];
    let kind = section.choice("kind", &kinds, &[]).unwrap_or_else(|| default_kind(&name, &base_url));
    let mut provider = Provider::new(name, kind, base_url);
    check_version(&mut section, &provider);
    provider.api_key = section.secret("api_key", base_dir);
    provider.timeout_ms = section.duration("timeout").unwrap_or(provider.timeout_ms);
    provider.idle_ms = section.duration("idle_timeout").unwrap_or(provider.idle_ms);
    provider.retries = section.whole("retries", 0..=20).unwrap_or(provider.retries);
    provider.usage_in_streams = section.boolean("usage_in_streams").unwrap_or(provider.usage_in_streams);
    provider.ignore = read_ignore(&mut section);
    provider.limits = read_by_model(&mut section, "limits", read_limit);
    provider.prices = read_by_model(&mut section, "prices", read_price);
    if let Some(currency) = section.text("currency", "a currency such as \"USD\"") {
        if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
            section.error(
                "currency",
                "expected the three capital letters of a currency, such as \"USD\"".into(),
            );
        }
        provider.currency = currency;
    }
    section.finish();
    provider
}

fn read_base_url(section: &mut Section<'_>) -> Option<String> {
    let Some(given) = section.text("base_url", URL) else {
        if !section.was_given("base_url") {
            section.error("base_url", format!("missing: it says where to call; expected {URL}"));
        }
        return None;
    };
    let url = given.trim_end_matches('/');
    if let Err(problem) = check_url(url) {
        section.error("base_url", problem);
        return None;
    }
    Some(url.to_owned())
}

/// The address is never shown: it may hold a password or a key.
fn check_url(url: &str) -> Result<(), String> {
    if url.contains(['?', '#']) {
        return Err("expected an address without `?` and `#`: what is asked for is added to it".into());
    }
    split_host(url, URL).map(drop)
}

/// The host of an http or https address without a query; what is wrong with any other, of which `expected` is an
/// example.
pub(super) fn split_host<'a>(url: &'a str, expected: &str) -> Result<&'a str, String> {
    let scheme = url.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"));
    let (_, rest) = scheme.ok_or_else(|| format!("expected {expected}"))?;
    if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("an address holds no spaces".into());
    }
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        return Err("expected an address without a user or password: a secret has a key of its own".into());
    }
    let (host, port) = split_port(authority);
    if !is_host(host) {
        return Err(format!("has no host name: expected {expected}"));
    }
    match port.map(str::parse::<u16>) {
        None | Some(Ok(1..)) => Ok(host),
        Some(_) => Err("the port of an address is a number from 1 to 65535".into()),
    }
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        // The colons of `[::1]` are its own.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            host.starts_with(|c: char| c.is_alphanumeric())
                && host.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))
        }
    }
}

fn default_kind(name: &ProviderName, base_url: &str) -> Kind {
    let authority = base_url.split("://").nth(1).and_then(|rest| rest.split('/').next());
    let host = authority.map(|authority| split_port(authority).0.to_ascii_lowercase()).unwrap_or_default();
    let of_anthropic = host == "anthropic.com" || host.ends_with(".anthropic.com");
    if name.as_str() == "anthropic" || of_anthropic { Kind::Anthropic } else { Kind::OpenAi }
}

/// SDKs of this kind add `/chat/completions` and the like to an address that names the version itself.
fn check_version(section: &mut Section<'_>, provider: &Provider) {
    let last = provider.base_url.rsplit('/').next().unwrap_or_default();
    let digits = last.strip_prefix('v').unwrap_or_default();
    let has_version = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if provider.kind == Kind::OpenAi && !provider.base_url.is_empty() && !has_version {
        section.warn("base_url", "does not end in /v1, as the SDKs of agents expect of an `openai` provider");
    }
}

fn read_ignore(section: &mut Section<'_>) -> Vec<String> {
    let fields = section.texts("ignore", "an array of field names such as ignore = [\"user\"]");
    fields.unwrap_or_default().into_iter().map(|(field, _)| field).collect()
}

fn read_by_model<T>(
    section: &mut Section<'_>,
    key: &'static str,
    read: fn(Section<'_>) -> T,
) -> BTreeMap<String, T> {
    let Some(mut models) = section.section(key) else { return BTreeMap::new() };
    let mut by_model = BTreeMap::new();
    for (model, node) in models.drain() {
        if model.is_empty() {
            models.error_in(node.key_place, &model, "expected the name of a model, or \"*\" for all".into());
        } else if let Some(one) = models.open(&model, node, "a table of one model") {
            by_model.insert(model, read(one));
        }
    }
    by_model
}

fn read_limit(mut section: Section<'_>) -> Limit {
    let keys = ["requests_per_minute", "tokens_per_minute"];
    let [requests_per_minute, tokens_per_minute] = keys.map(|key| section.count(key));
    if !keys.iter().any(|key| section.was_given(key)) {
        let problem = "expected `requests_per_minute`, `tokens_per_minute` or both";
        section.error_here(problem.into());
    }
    section.finish();
    Limit { requests_per_minute, tokens_per_minute }
}

fn read_price(mut section: Section<'_>) -> Price {
    let input = needed(&mut section, "input");
    let cached_input = price(&mut section, "cached_input").unwrap_or(input);
    let output = needed(&mut section, "output");
    section.finish();
    Price { input, cached_input, output }
}

fn needed(section: &mut Section<'_>, key: &'static str) -> Pico {
    let found = price(section, key);
    if !section.was_given(key) {
        section.error(key, format!("missing: expected {PRICE}"));
    }
    found.unwrap_or_default()
}

fn price(section: &mut Section<'_>, key: &'static str) -> Option<Pico> {
    let node = section.take(key)?;
    let text = match &node.value {
        // The shortest decimals that mean the number are those that were written.
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        _ => None,
    };
    let Some(text) = text_of(&node).or(text) else {
        section.error(key, format!("expected {PRICE}, found {}", node.value.kind()));
        return None;
    };
    match parse_price(&text) {
        Ok(pico) => Some(pico),
        Err(error) => {
            section.error(key, format!("expected {PRICE}, found {}: {error}", node.value.shown()));
            None
        }
    }
}
