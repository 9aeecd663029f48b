//! Posts a message to where it may go, and listens to the answer for a bounded time and length.
//!
//! Where a message may go is judged by the address that is connected to: the resolver of the client hands out only
//! addresses that passed, so a name that means another address at the next look changes nothing. Redirects are not
//! followed and proxies not used: both would lead past that.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use longshore_api::tls::outward;
use longshore_core::errors::chain;
use longshore_core::webhook::{Heard, Webhook, check_address};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Response, Url};
use tokio::time::{Instant, timeout_at};

/// From the first packet to the last byte that is read.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most that is read of an answer, so that its connection can be used again.
const MOST_READ: usize = 16 << 10;

/// The most that is kept of an answer that was no success, characters.
const MOST_KEPT: usize = 200;

/// What came of posting a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub heard: Heard,
    /// What was wrong, for people.
    pub error: Option<String>,
}

impl Sent {
    pub fn not(why: impl Into<String>) -> Sent {
        Sent { heard: Heard::Nothing, error: Some(why.into()) }
    }

    pub fn status(&self) -> Option<u16> {
        match self.heard {
            Heard::Status { code, .. } => Some(code),
            Heard::Nothing => None,
        }
    }
}

/// Clients for webhooks that may reach private addresses, and for those that may not.
pub struct Post {
    public: Client,
    any: Client,
}

impl Post {
    pub fn new() -> reqwest::Result<Post> {
        let builder = || {
            Client::builder()
                .user_agent(concat!("longshore/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .pool_max_idle_per_host(8)
                .pool_idle_timeout(Duration::from_secs(30))
        };
        Ok(Post { public: outward(|| builder().dns_resolver(PublicOnly))?, any: outward(builder)? })
    }

    pub async fn send(&self, webhook: &Webhook, headers: HeaderMap, body: Bytes) -> Sent {
        let url = match Url::parse(&webhook.url) {
            Ok(url) => url,
            Err(error) => return Sent::not(format!("its address cannot be read: {error}")),
        };
        let client = if webhook.allow_private { &self.any } else { &self.public };
        // Of an address that is written as numbers no resolver is asked.
        let literal = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
        if let Some(refused) =
            literal.filter(|_| !webhook.allow_private).and_then(|it| check_address(it).err())
        {
            return Sent::not(refused.to_string());
        }
        let json = HeaderValue::from_static("application/json");
        let request = client.post(url).headers(headers).header(header::CONTENT_TYPE, json).body(body);
        let end = Instant::now() + PATIENCE;
        match timeout_at(end, request.send()).await {
            Ok(Ok(response)) => heard(response, end).await,
            Ok(Err(error)) => Sent::not(chain(&error.without_url())),
            Err(_) => Sent::not(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }
}

async fn heard(response: Response, end: Instant) -> Sent {
    let (status, retry_after) = (response.status(), retry_after(response.headers()));
    let body = timeout_at(end, beginning(response)).await.unwrap_or_default();
    let heard = Heard::Status { code: status.as_u16(), retry_after };
    if status.is_success() {
        return Sent { heard, error: None };
    }
    let text: String = String::from_utf8_lossy(&body).chars().take(MOST_KEPT).collect();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let error = if text.is_empty() { status.to_string() } else { format!("{status}: {text}") };
    Sent { heard, error: Some(error) }
}

/// Reads as much of an answer as is looked at. An answer that breaks off was an answer all the same.
async fn beginning(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk[..chunk.len().min(MOST_READ - body.len())]);
        if body.len() == MOST_READ {
            break;
        }
    }
    body
}

/// In seconds; a date is not looked at.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// Resolves as the system does and keeps what is of the public internet.
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(public_only(found)?.into_iter()) as Addrs)
        })
    }
}

fn public_only(found: impl Iterator<Item = SocketAddr>) -> Result<Vec<SocketAddr>, std::io::Error> {
    let (mut public, mut refused) = (Vec::new(), None);
    for address in found {
        match check_address(address.ip()) {
            Ok(()) => public.push(address),
            Err(refusal) => refused = Some(refusal),
        }
    }
    match refused {
        Some(refusal) if public.is_empty() => Err(std::io::Error::other(refusal)),
        _ => Ok(public),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| SocketAddr::new(text.parse().expect(text), 0)).collect()
    }

    #[test]
    fn only_public_addresses_of_a_name_are_handed_out() {
        let mixed = addresses(&["10.0.0.1", "8.8.8.8", "::1", "::ffff:127.0.0.1"]);
        assert_eq!(public_only(mixed.into_iter()).expect("one is public"), addresses(&["8.8.8.8"]));
        let error = public_only(addresses(&["127.0.0.1"]).into_iter()).expect_err("none is").to_string();
        assert!(error.contains("loopback"), "{error}");
    }

    fn webhook(url: &str, allow_private: bool) -> Webhook {
        Webhook {
            name: longshore_core::webhook::WebhookName::new("a").expect("valid"),
            url: url.into(),
            secrets: Vec::new(),
            fleets: Vec::new(),
            states: Vec::new(),
            allow_private,
        }
    }

    fn post() -> Post {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Post::new().expect("a client")
    }

    #[tokio::test]
    async fn an_address_is_refused_however_it_is_written() {
        let post = post();
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.0.0.1/",
            "http://0177.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:a9fe:a9fe]/",
            "http://localhost/",
            "http://LOCALHOST/",
        ] {
            let sent = post.send(&webhook(url, false), HeaderMap::new(), Bytes::new()).await;
            let error = sent.error.unwrap_or_default();
            assert!(error.contains("not called without `allow_private = true`"), "{url}: {error}");
        }
    }

    #[tokio::test]
    async fn an_endless_answer_is_not_read_to_its_end() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("bound"));
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a caller");
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let head = "HTTP/1.1 500 No\r\ncontent-type: text/plain\r\n\r\n";
            stream.write_all(head.as_bytes()).await.expect("it listens");
            // Until nobody reads any more.
            while stream.write_all(&[b'x'; 1024]).await.is_ok() {}
        });
        let sent = post().send(&webhook(&url, true), HeaderMap::new(), Bytes::new()).await;
        server.await.expect("it was hung up on");
        assert_eq!(sent.status(), Some(500));
        assert!(sent.error.is_some_and(|error| error.ends_with("xxx") && error.len() < 300));
    }

    #[test]
    fn a_wish_for_a_longer_wait_is_read_in_seconds() {
        let asks = |text: &'static str| {
            retry_after(&HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(text))]))
        };
        assert_eq!(asks("120"), Some(Duration::from_secs(120)));
        assert_eq!(asks("Wed, 21 Oct 2026 07:28:00 GMT"), None);
        assert_eq!(asks("-1"), None);
    }
}
