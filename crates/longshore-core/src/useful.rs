//! How many workers a provider's rate limit can feed: more of them would only wait for each other.

use serde::{Deserialize, Serialize};

use crate::fleet::Fleet;
use crate::provider::{ANY_MODEL, Limit, Provider};

/// What a task of a fleet uses of its provider while it runs, in a minute; declared, not measured. What is 0 is not counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LlmUse {
    /// The model whose limit counts; `*`: what holds for any.
    #[serde(default = "any_model")]
    pub model: String,
    pub requests_per_minute: f64,
    pub tokens_per_minute: f64,
}

fn any_model() -> String {
    ANY_MODEL.into()
}

/// The most workers that a limit can feed, and whose limit that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Useful {
    pub workers: u32,
    pub provider: String,
    /// As the limit was declared.
    pub model: String,
}

/// The bound for a fleet, by the tightest limit among its providers; none: it declares no use, or nothing limits it.
///
/// Shape: at least 1, since fewer would feed nobody.
pub fn most(fleet: &Fleet, providers: &[Provider]) -> Option<Useful> {
    let used = fleet.llm_use.as_ref()?;
    let of_fleet = providers.iter().filter(|it| fleet.providers.iter().any(|name| *name == it.name.as_str()));
    let bounds = of_fleet.filter_map(|provider| {
        let (model, limit) = provider.limit_for(&used.model)?;
        let workers = feeds(limit, used, fleet.concurrency)?;
        Some(Useful { workers, provider: provider.name.to_string(), model: model.to_owned() })
    });
    bounds.min_by_key(|bound| bound.workers)
}

fn feeds(limit: &Limit, used: &LlmUse, concurrency: u32) -> Option<u32> {
    let slots = f64::from(concurrency.max(1));
    let by = |limit: Option<u64>, used: f64| {
        limit.filter(|_| used > 0.0).map(|limit| limit as f64 / (used * slots))
    };
    let by_requests = by(limit.requests_per_minute, used.requests_per_minute);
    let by_tokens = by(limit.tokens_per_minute, used.tokens_per_minute);
    let fewest = match (by_requests, by_tokens) {
        (Some(requests), Some(tokens)) => requests.min(tokens),
        (one, other) => one.or(other)?,
    };
    // A cast saturates.
    Some((fewest.floor() as u32).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::FleetName;
    use crate::provider::{Kind, ProviderName};

    fn check(limit: (Option<u64>, Option<u64>), used: (f64, f64), concurrency: u32, expected: Option<u32>) {
        let mut fleet = Fleet::new(FleetName::new("a").expect("valid"), vec!["x".into()], "/".into());
        fleet.providers = vec!["openai".into()];
        fleet.concurrency = concurrency;
        let (requests_per_minute, tokens_per_minute) = used;
        fleet.llm_use = Some(LlmUse { model: "gpt-5-mini".into(), requests_per_minute, tokens_per_minute });
        let name = ProviderName::new("openai").expect("valid");
        let mut openai = Provider::new(name, Kind::OpenAi, "https://x/v1".into());
        let (requests_per_minute, tokens_per_minute) = limit;
        openai.limits.insert("gpt-5".into(), Limit { requests_per_minute, tokens_per_minute });
        let found = most(&fleet, &[openai.clone()]);
        assert_eq!(found.as_ref().map(|bound| bound.workers), expected, "{limit:?} {used:?}");
        assert!(
            found.is_none_or(|bound| (bound.provider.as_str(), bound.model.as_str()) == ("openai", "gpt-5"))
        );
        fleet.llm_use = None;
        assert_eq!(most(&fleet, &[openai]), None);
    }

    #[test]
    fn the_tighter_limit_counts_for_every_slot_of_a_worker() {
        check((Some(500), None), (12.0, 0.0), 1, Some(41));
        check((Some(500), None), (12.0, 0.0), 8, Some(5));
        check((Some(500), Some(200_000)), (12.0, 20_000.0), 1, Some(10));
        check((None, Some(200_000)), (12.0, 20_000.0), 1, Some(10));
    }

    #[test]
    fn what_is_not_limited_or_not_used_bounds_nothing_and_one_worker_is_always_of_use() {
        check((None, Some(200_000)), (12.0, 0.0), 1, None);
        check((Some(500), None), (0.0, 1.0), 1, None);
        check((Some(5), None), (600.0, 0.0), 8, Some(1));
        check((Some(u64::MAX), None), (0.001, 0.0), 1, Some(u32::MAX));
    }
}
