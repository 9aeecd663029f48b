//! Headers that tell how a client stands against its limits.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use longshore_core::time::Timestamp;

use super::error::Provider;
use crate::limit::Standing;

pub(crate) fn standing(headers: &mut HeaderMap, provider: Provider, standing: &Standing) {
    let reset_ms = millis(standing.reset);
    if let Some(limit) = standing.limits.requests {
        one(headers, provider, &["requests"], limit, standing.requests_used, reset_ms);
    }
    if let Some(limit) = standing.limits.tokens {
        let kinds: &[&str] = match provider {
            Provider::OpenAi => &["tokens"],
            Provider::Anthropic => &["tokens", "input-tokens", "output-tokens"],
        };
        one(headers, provider, kinds, limit, standing.tokens_used, reset_ms);
    }
}

fn one(headers: &mut HeaderMap, provider: Provider, kinds: &[&str], limit: u64, used: u64, reset_ms: u64) {
    let reset = match provider {
        Provider::OpenAi => go_duration(reset_ms),
        Provider::Anthropic => now().after(Duration::from_millis(reset_ms)).to_string(),
    };
    let values = [
        ("limit", limit.to_string()),
        ("remaining", limit.saturating_sub(used).to_string()),
        ("reset", reset),
    ];
    for kind in kinds {
        for (what, value) in &values {
            let name = match provider {
                Provider::OpenAi => format!("x-ratelimit-{what}-{kind}"),
                Provider::Anthropic => format!("anthropic-ratelimit-{kind}-{what}"),
            };
            put(headers, &name, value);
        }
    }
}

/// Whole seconds and milliseconds, rounded up: who waits so long is let in.
pub(crate) fn retry_after(headers: &mut HeaderMap, wait_ms: u64) {
    headers.insert(RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1000)));
    put(headers, "retry-after-ms", &wait_ms.to_string());
}

pub(crate) fn put(headers: &mut HeaderMap, name: &str, value: &str) {
    let name = HeaderName::from_bytes(name.as_bytes()).expect("names are written here, in lower case");
    let value = HeaderValue::from_str(value).expect("values are numbers, times and ids");
    headers.insert(name, value);
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// As OpenAI writes durations: `12ms`, `1s`, `6m0s`.
pub(crate) fn go_duration(ms: u64) -> String {
    let seconds = |ms: u64| match ms % 1000 {
        0 => format!("{}s", ms / 1000),
        rest => format!("{}.{}s", ms / 1000, format!("{rest:03}").trim_end_matches('0')),
    };
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => seconds(ms),
        _ => format!("{}m{}", ms / 60_000, seconds(ms % 60_000)),
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_does() {
        assert_eq!(
            [12, 1000, 1250, 360_000, 61_500].map(go_duration),
            ["12ms", "1s", "1.25s", "6m0s", "1m1.5s"]
        );
    }
}
