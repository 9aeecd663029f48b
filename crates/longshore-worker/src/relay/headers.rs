//! Which headers go on, and what they say of the task.

use hyper::HeaderMap;
use hyper::header::{self, HeaderName, HeaderValue};
use longshore_core::id::TaskId;

/// Meant for one connection, RFC 9110 section 7.6.1; hyper writes its own.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What an agent's request loses: credentials that are not the gateway's business, and what would change the answer's form.
const NOT_FOR_THE_GATEWAY: [HeaderName; 9] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::ACCEPT_ENCODING,
    header::COOKIE,
    header::AUTHORIZATION,
    header::EXPECT,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    API_KEY,
];

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// The key in `baggage` (W3C) that names a task.
const BAGGAGE_TASK: &str = "longshore.task";

/// Leaves what goes to the control plane. Names of longshore's own cannot come from an agent.
pub fn for_the_gateway(headers: &mut HeaderMap) {
    drop_hop_by_hop(headers);
    NOT_FOR_THE_GATEWAY.iter().for_each(|name| drop(headers.remove(name)));
    let ours: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("longshore-")).cloned().collect();
    ours.iter().for_each(|name| drop(headers.remove(name)));
}

/// A provider's headers as an agent gets them; those that no HTTP message can carry are left out.
pub fn for_the_agent(from: &[(String, String)]) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(from.len());
    for (name, value) in from {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    drop_hop_by_hop(&mut headers);
    headers
}

/// The length that a head promises, if it promises one.
pub fn length(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = values.next()?.to_str().ok()?.parse().ok()?;
    values.next().is_none().then_some(length)
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    if let Some(named) = headers.remove(header::CONNECTION) {
        let names = named.to_str().unwrap_or("").split(',').filter_map(|name| name.trim().parse().ok());
        names.for_each(|name: HeaderName| drop(headers.remove(name)));
    }
    HOP_BY_HOP.iter().for_each(|name| drop(headers.remove(name)));
}

/// What a request shows of its task.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Keys, `Authorization: Bearer` first: SDKs may send both, one of them a remnant.
    pub keys: Vec<String>,
    pub task: Option<TaskId>,
}

impl Shown {
    pub fn by(headers: &HeaderMap) -> Shown {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        let bearer = text(header::AUTHORIZATION).and_then(|value| value.split_once(' '));
        let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let keys = bearer.map(|(_, key)| key.trim()).into_iter().chain(text(API_KEY));
        let baggage = headers.get_all(BAGGAGE).iter().filter_map(|value| value.to_str().ok());
        Shown { keys: keys.map(str::to_owned).collect(), task: baggage.filter_map(task_in).next() }
    }
}

fn task_in(baggage: &str) -> Option<TaskId> {
    let members = baggage.split(',').filter_map(|member| member.split(';').next()?.split_once('='));
    let mut named = members.filter(|(key, _)| key.trim() == BAGGAGE_TASK);
    named.find_map(|(_, value)| value.trim().parse().ok().map(TaskId))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(from: &[(&str, &str)]) -> HeaderMap {
        from.iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn credentials_and_what_belongs_to_the_connection_stay_here() {
        let mut sent = headers(&[
            ("authorization", "Bearer a"),
            ("x-api-key", "b"),
            ("cookie", "c"),
            ("host", "d"),
            ("connection", "keep-alive, x-mine"),
            ("x-mine", "e"),
            ("accept-encoding", "gzip"),
            ("proxy-authorization", "f"),
            ("longshore-task-token", "g"),
            ("anthropic-version", "2023-06-01"),
            ("x-stainless-retry-count", "1"),
        ]);
        for_the_gateway(&mut sent);
        assert_eq!(sent, headers(&[("anthropic-version", "2023-06-01"), ("x-stainless-retry-count", "1")]));
    }

    #[test]
    fn a_length_counts_when_it_is_one() {
        for (given, expected) in [(&["12"][..], Some(12)), (&[], None), (&["x"], None), (&["1", "2"], None)] {
            let from: Vec<_> = given.iter().map(|value| ("content-length".into(), (*value).into())).collect();
            assert_eq!(length(&for_the_agent(&from)), expected, "{given:?}");
        }
    }

    fn check(from: &[(&str, &str)], keys: &[&str], task: Option<u128>) {
        let expected = Shown {
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            task: task.map(|n| TaskId(uuid::Uuid::from_u128(n))),
        };
        assert_eq!(Shown::by(&headers(from)), expected, "{from:?}");
    }

    #[test]
    fn keys_and_baggage_are_found() {
        check(&[], &[], None);
        check(&[("authorization", "bearer  t ")], &["t"], None);
        check(&[("authorization", "Basic eA=="), ("x-api-key", "t")], &["t"], None);
        check(&[("x-api-key", "a"), ("authorization", "Bearer b")], &["b", "a"], None);
        let baggage = "user=7, longshore.task = 00000000-0000-0000-0000-000000000009 ;p=1";
        check(&[("baggage", baggage)], &[], Some(9));
        check(&[("baggage", "longshore.task=nonsense")], &[], None);
    }
}
