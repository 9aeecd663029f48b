//! One provider as calls are sent to it: its address, its key, its connections.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use longshore_core::provider::{Kind, Provider};

pub struct Upstream {
    pub declared: Provider,
    key: Option<HeaderValue>,
    http: reqwest::Client,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("provider", &self.declared.name).finish_non_exhaustive()
    }
}

/// Why a provider cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("the key of provider `{provider}` holds characters that a header cannot carry")]
    Key { provider: String },
    #[error("could not set up an HTTP client for provider `{provider}`")]
    Client { provider: String, source: reqwest::Error },
}

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// Headers of the agent that end here: they speak of the connection to the relay, or carry longshore's own secrets.
const NOT_SENT: [HeaderName; 12] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::ACCEPT_ENCODING,
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    header::EXPECT,
];

/// Where clients put their key, besides `Authorization`: the agent's is its task's token. The second is Azure's, the third
/// Gemini's.
const KEYS: [&str; 3] = ["x-api-key", "api-key", "x-goog-api-key"];

impl Upstream {
    /// `key` is the secret itself.
    pub fn new(declared: Provider, key: Option<&str>) -> Result<Upstream, UpstreamError> {
        let provider = || declared.name.to_string();
        let header = |key: &str| {
            let text = match declared.kind {
                Kind::OpenAi => format!("Bearer {key}"),
                Kind::Anthropic => key.to_owned(),
            };
            let mut value =
                HeaderValue::try_from(text).map_err(|_| UpstreamError::Key { provider: provider() })?;
            value.set_sensitive(true);
            Ok(value)
        };
        let key = key.map(header).transpose()?;
        let builder = || {
            let builder = reqwest::Client::builder()
                .connect_timeout(CONNECT)
                .tcp_nodelay(true)
                .pool_max_idle_per_host(512)
                .pool_idle_timeout(Duration::from_secs(60))
                // A redirect would carry the key, and the agent's words, to somewhere nobody declared.
                .redirect(reqwest::redirect::Policy::none());
            if is_local(&declared.base_url) { builder.no_proxy() } else { builder }
        };
        let http = longshore_api::tls::outward(builder)
            .map_err(|source| UpstreamError::Client { provider: provider(), source })?;
        Ok(Upstream { declared, key, http })
    }

    /// Sends a request; resolves when the answer's head is there.
    pub async fn send(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> reqwest::Result<reqwest::Response> {
        let mut sent = HeaderMap::with_capacity(headers.len() + 2);
        for (name, value) in headers {
            if !is_kept_here(name) {
                sent.append(name, value.clone());
            }
        }
        sent.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(key) = &self.key {
            let name = match self.declared.kind {
                Kind::OpenAi => header::AUTHORIZATION,
                Kind::Anthropic => HeaderName::from_static("x-api-key"),
            };
            sent.insert(name, key.clone());
        }
        let request = self.http.request(method.clone(), url(&self.declared, path)).headers(sent);
        let request = if body.is_empty() { request } else { request.body(body) };
        request.send().await.map_err(reqwest::Error::without_url)
    }

    /// Whether the provider can be reached at all: any answer counts, and nothing is inferred.
    pub async fn reach(&self, patience: Duration) -> Result<(), String> {
        let asked = self.http.get(&self.declared.base_url).timeout(patience).send().await;
        match asked {
            Ok(_) => Ok(()),
            Err(error) if error.is_timeout() => Err(format!("no answer within {} s", patience.as_secs_f64())),
            Err(error) => Err(longshore_core::errors::chain(&error.without_url())),
        }
    }
}

/// The agent's base URL ends in `/v1` for OpenAI's kind, as the declared one does; for Anthropic's neither does.
fn url(declared: &Provider, path: &str) -> String {
    let base = &declared.base_url;
    let versioned = declared.kind == Kind::OpenAi || base.ends_with("/v1");
    let path = if versioned { path.strip_prefix("/v1").unwrap_or(path) } else { path };
    format!("{base}{path}")
}

/// Whether a path is sent as it is written. One with `.` or `..` in it, however spelt, would be resolved on the way: past
/// the declared address, with the provider's key, or to a call that is journaled under another name.
pub fn is_plain(path: &str) -> bool {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let dots = |part: &str| matches!(part.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    !path.split(['/', '\\']).any(dots)
}

fn is_kept_here(name: &HeaderName) -> bool {
    NOT_SENT.contains(name)
        || KEYS.contains(&name.as_str())
        || matches!(name.as_str(), "baggage" | "keep-alive" | "proxy-connection")
        || name.as_str().starts_with("longshore-")
}

/// An address of this machine: no proxy leads there.
fn is_local(base_url: &str) -> bool {
    let host = reqwest::Url::parse(base_url).ok().and_then(|url| url.host_str().map(str::to_owned));
    let Some(host) = host else { return false };
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_core::provider::ProviderName;

    fn check(kind: Kind, base: &str, path: &str, expected: &str) {
        let name = ProviderName::new("p").expect("valid");
        let declared = Provider::new(name, kind, base.into());
        assert_eq!(url(&declared, path), expected);
    }

    #[test]
    fn paths_of_agents_meet_the_declared_address() {
        let openai = |base, path, expected| check(Kind::OpenAi, base, path, expected);
        openai("https://a/v1", "/v1/chat/completions", "https://a/v1/chat/completions");
        openai("https://a/api/v3", "/v1/models?x=1", "https://a/api/v3/models?x=1");
        check(Kind::Anthropic, "https://b", "/v1/messages", "https://b/v1/messages");
        check(Kind::Anthropic, "https://b/v1", "/v1/messages", "https://b/v1/messages");
    }

    #[test]
    fn no_path_leads_out_of_the_declared_address() {
        for path in ["/v1/models", "/v1/models/a.b..c", "/v1/files?path=../x", "/", "/v1/%2e%2e%2e/x"] {
            assert!(is_plain(path), "{path}");
        }
        for path in ["/v1/../admin", "/..", "/v1/%2E./x", "/v1/.%2e", "/v1/./chat/completions", "/v1\\..\\x"]
        {
            assert!(!is_plain(path), "{path}");
        }
    }

    #[test]
    fn secrets_and_hops_end_here() {
        let ours = ["authorization", "longshore-task-token", "host", "baggage", "connection"];
        for name in ours.into_iter().chain(KEYS) {
            assert!(is_kept_here(&HeaderName::from_static(name)), "{name}");
        }
        for name in ["anthropic-version", "openai-beta", "x-stainless-lang", "user-agent", "content-type"] {
            assert!(!is_kept_here(&HeaderName::from_static(name)), "{name}");
        }
    }

    #[test]
    fn addresses_of_this_machine_are_known() {
        for (url, local) in [
            ("http://127.0.0.1:1/v1", true),
            ("http://[::1]:1", true),
            ("http://localhost/v1", true),
            ("https://a.b/v1", false),
        ] {
            assert_eq!(is_local(url), local, "{url}");
        }
    }
}
