//! In which form a client takes its answer.

use http::HeaderMap;
use http::header::ACCEPT;

/// Whether JSON is accepted as it stands: not made into another kind by a parameter `as`, nor ruled out by `q=0`.
pub fn takes_plain_json(headers: &HeaderMap) -> bool {
    let mut ranges = headers
        .get_all(ACCEPT)
        .iter()
        .flat_map(|value| value.to_str().unwrap_or_default().split(','))
        .map(str::trim)
        .filter(|range| !range.is_empty())
        .peekable();
    ranges.peek().is_none() || ranges.any(is_plain_json)
}

fn is_plain_json(range: &str) -> bool {
    let mut parts = range.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let changes = |parameter: &str| match parameter.split_once('=') {
        Some((name, value)) => match name.trim().to_ascii_lowercase().as_str() {
            "as" => true,
            "q" => value.trim().parse() == Ok(0.0),
            _ => false,
        },
        None => false,
    };
    matches!(kind.as_str(), "application/json" | "application/*" | "*/*") && !parts.any(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(accept: &str) -> bool {
        takes_plain_json(&HeaderMap::from_iter([(ACCEPT, accept.parse().expect("a value"))]))
    }

    #[test]
    fn whoever_takes_another_kind_alone_is_no_reader_of_plain_json() {
        assert!(
            takes_plain_json(&HeaderMap::new()) && takes("") && takes("*/*") && takes("application/json")
        );
        assert!(takes("application/vnd.kubernetes.protobuf, */*"), "what autoscalers send");
        let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
        assert!(!takes(aggregated), "what API servers of 1.27 send first");
        assert!(takes(&format!("{aggregated},application/json")));
        assert!(takes("application/json;v=v1") && takes("Application/JSON; charset=utf-8"));
        assert!(!takes("application/vnd.kubernetes.protobuf") && !takes("text/html"));
        assert!(!takes("application/json;q=0") && !takes("application/json; q=0.0"));
    }
}
