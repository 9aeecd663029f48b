//! TLS of the API and of the worker link: the certificate in use, and its replacement while connections go on.

mod authority;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use longshore_api::tls::Trust;
use longshore_core::errors::chain;
use longshore_core::settings;
use longshore_core::time::Timestamp;
use longshore_store::{Store, StoreError};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::{Accept, TlsAcceptor};
use tracing::{info, warn};

use crate::app::now;
pub use authority::{Authority, Leaf};

/// How often files are looked at, and whether a certificate is due.
pub const LOOK: Duration = Duration::from_secs(5);

/// So many looks in a row that could not read the files are one too many: a minute is longer than any exchange.
const UNREAD: u32 = 12;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("could not read `{path}`")]
    Read { path: String, source: std::io::Error },
    #[error("`{path}` is not {what} in PEM: {why}")]
    Pem { path: String, what: &'static str, why: String },
    #[error(
        "the certificate in `{cert}` and the key in `{key}` do not belong together or cannot be used: {why}"
    )]
    Pair { cert: String, key: String, why: String },
    #[error("could not make a certificate: {0}")]
    Make(String),
    #[error("the store failed at the authority of certificates")]
    Store(#[from] StoreError),
}

/// The TLS side of the listeners.
pub struct Tls {
    source: Source,
    current: Arc<Current>,
    config: Arc<ServerConfig>,
    trust: Trust,
}

enum Source {
    Files { cert: String, key: String, seen: (Vec<u8>, Vec<u8>), unread: Unread },
    Authority { authority: Box<Authority>, names: Vec<String>, addresses: Vec<IpAddr>, renew_at: Timestamp },
}

/// Files that cannot be read again.
#[derive(Default)]
struct Unread {
    looks: u32,
    /// Why, as it was said last.
    said: Option<String>,
}

impl Unread {
    /// Takes why this look could not read them, and returns whether to say it: once they stay so, and when it is
    /// something else.
    fn again(&mut self, why: &str) -> bool {
        self.looks = self.looks.saturating_add(1);
        if self.looks < UNREAD || self.said.as_deref() == Some(why) {
            return false;
        }
        self.said = Some(why.to_owned());
        true
    }
}

/// The certificate that new connections get.
pub struct Current(RwLock<Arc<CertifiedKey>>);

impl Current {
    pub fn new(first: CertifiedKey) -> Current {
        Current(RwLock::new(Arc::new(first)))
    }

    pub fn get(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().expect("no holder panics"))
    }

    pub fn replace(&self, next: CertifiedKey) {
        *self.0.write().expect("no holder panics") = Arc::new(next);
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

impl Tls {
    /// `names`: by which clients call this process, beside its own. `None`: connections are plain.
    pub async fn start(
        settings: &settings::Tls,
        store: &Store,
        listeners: &[SocketAddr],
        names: Vec<String>,
    ) -> Result<Option<Tls>, TlsError> {
        match settings {
            settings::Tls::Off => Ok(None),
            settings::Tls::Files { cert, key } => Tls::of_files(cert, key).await.map(Some),
            settings::Tls::Auto => {
                let authority = Authority::of(store, now()).await?;
                Tls::of_authority(authority, listeners, names).map(Some)
            }
        }
    }

    async fn of_files(cert: &str, key: &str) -> Result<Tls, TlsError> {
        let seen = read_both(cert, key).await?;
        let first = parse((cert, &seen.0), (key, &seen.1))?;
        // Workers of this machine read the file themselves: it changes, and so does what they trust.
        let trust = Trust::File(cert.into());
        let (cert, key, unread) = (cert.into(), key.into(), Unread::default());
        Ok(Tls::new(Source::Files { cert, key, seen, unread }, first, trust))
    }

    fn of_authority(
        authority: Authority,
        listeners: &[SocketAddr],
        names: Vec<String>,
    ) -> Result<Tls, TlsError> {
        let ips = listeners.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified());
        let addresses: Vec<IpAddr> = ips.collect();
        let (first, renew_at) = authority.issue_own(&names, &addresses, now())?;
        let trust = Trust::Fingerprint(authority.fingerprint());
        Ok(Tls::new(
            Source::Authority { authority: Box::new(authority), names, addresses, renew_at },
            first,
            trust,
        ))
    }

    fn new(source: Source, first: CertifiedKey, trust: Trust) -> Tls {
        let current = Arc::new(Current::new(first));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Tls { source, current, config: Arc::new(config), trust }
    }

    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// What clients on this machine hold the certificate against.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The authority's certificate in PEM, for clients elsewhere; `None` for given files.
    pub fn authority(&self) -> Option<&str> {
        match &self.source {
            Source::Authority { authority, .. } => Some(authority.certificate()),
            Source::Files { .. } => None,
        }
    }

    /// Replaces the certificate when its files changed or its time comes. One that cannot be used is said once, as are
    /// files that stay unreadable, and the one before it stays.
    pub async fn look(&mut self, now: Timestamp) {
        let next = match &mut self.source {
            Source::Files { cert, key, seen, unread } => match read_both(cert, key).await {
                Ok(read) => {
                    if std::mem::take(unread).said.is_some() {
                        info!("the TLS files can be read again");
                    }
                    if read == *seen {
                        return;
                    }
                    let parsed = parse((cert, &read.0), (key, &read.1));
                    *seen = read;
                    parsed
                }
                // Between two names of an exchange there may be nothing for a moment.
                Err(error) => {
                    let why = chain(&error);
                    if unread.again(&why) {
                        warn!(
                            error = why,
                            "the TLS files cannot be read for a minute; the certificate in use stays until it ends"
                        );
                    }
                    return;
                }
            },
            Source::Authority { renew_at, .. } if now < *renew_at => return,
            Source::Authority { authority, names, addresses, renew_at } => {
                authority.issue_own(names, addresses, now).map(|(next, at)| {
                    *renew_at = at;
                    next
                })
            }
        };
        match next {
            Ok(next) => {
                self.current.replace(next);
                info!("TLS certificate is replaced");
            }
            Err(error) => {
                warn!(error = %chain(&error), "the new TLS certificate cannot be used; the old one stays")
            }
        }
    }
}

/// The server's side of a handshake.
pub fn handshake(config: &Arc<ServerConfig>, stream: TcpStream) -> Accept<TcpStream> {
    TlsAcceptor::from(Arc::clone(config)).accept(stream)
}

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

async fn read_both(cert: &str, key: &str) -> Result<(Vec<u8>, Vec<u8>), TlsError> {
    let read = async |path: &str| {
        let read = tokio::fs::read(Path::new(path)).await;
        read.map_err(|source| TlsError::Read { path: path.to_owned(), source })
    };
    Ok((read(cert).await?, read(key).await?))
}

fn parse(cert: (&str, &[u8]), key: (&str, &[u8])) -> Result<CertifiedKey, TlsError> {
    let wrong = |path: &str, what, why: String| TlsError::Pem { path: path.to_owned(), what, why };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert.1).collect();
    let certificates = certificates.map_err(|error| wrong(cert.0, "a certificate", error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong(cert.0, "a certificate", "there is none in it".into()));
    }
    // The error could not hold a part of the key: it names sections only.
    let private = PrivateKeyDer::from_pem_slice(key.1)
        .map_err(|error| wrong(key.0, "a private key", error.to_string()))?;
    CertifiedKey::from_der(certificates, private, &provider()).map_err(|error| TlsError::Pair {
        cert: cert.0.to_owned(),
        key: key.0.to_owned(),
        why: error.to_string(),
    })
}
