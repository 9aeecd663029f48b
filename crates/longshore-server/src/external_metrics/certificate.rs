//! The certificate that the API server is shown: made in memory for the Service's name, short-lived, and replaced long
//! before its end while connections go on.

use std::sync::Arc;
use std::time::Duration;

use longshore_core::kubernetes::METRICS;
use longshore_core::time::Timestamp;
use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;
use rustls::version::TLS13;
use tracing::info;

use super::peer::AnyCertificate;
use crate::tls::{Authority, Current, Leaf, TlsError, provider};

/// Half of it is left when it is replaced: the API server may have a clock of its own.
const LASTS: Duration = Duration::from_secs(24 * 3600);
const RENEWED: Duration = Duration::from_secs(12 * 3600);

pub struct Serving {
    authority: Authority,
    names: Vec<String>,
    current: Arc<Current>,
    renew_at: Timestamp,
}

impl Serving {
    pub fn new(authority: Authority, namespace: &str, now: Timestamp) -> Result<Serving, TlsError> {
        let service = format!("{METRICS}.{namespace}.svc");
        let names = vec![service.clone(), format!("{service}.cluster.local")];
        let first = authority.issue(&Leaf { names: &names, addresses: &[], lasts: LASTS }, now)?;
        let current = Arc::new(Current::new(first));
        Ok(Serving { authority, names, current, renew_at: now.after(RENEWED) })
    }

    /// Every client may show a certificate: whether it is the API server's is asked with each request, since its authority
    /// may be replaced.
    pub fn config(&self) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("ring speaks TLS 1.3")
            .with_client_cert_verifier(Arc::new(AnyCertificate::new()))
            .with_cert_resolver(Arc::clone(&self.current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// Replaces the certificate when its time comes.
    pub fn look(&mut self, now: Timestamp) -> Result<(), TlsError> {
        if now < self.renew_at {
            return Ok(());
        }
        let next = self.authority.issue(&Leaf { names: &self.names, addresses: &[], lasts: LASTS }, now)?;
        self.current.replace(next);
        self.renew_at = now.after(RENEWED);
        info!("certificate for external metrics is replaced");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use longshore_store::{OpenOptions, Store};
    use x509_cert::Certificate;
    use x509_cert::der::Decode;

    use super::*;
    use crate::app::now;

    #[tokio::test]
    async fn a_certificate_is_replaced_when_half_of_its_time_is_over() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(&OpenOptions::new(dir.path())).expect("a store");
        let begin = now();
        let authority = Authority::of(&store, begin).await.expect("made");
        let mut serving = Serving::new(authority, "agents", begin).expect("made");
        let shown = |serving: &Serving| serving.current.get().cert[0].clone();
        let first = shown(&serving);
        let end = |der: &[u8]| {
            let read = Certificate::from_der(der).expect("a certificate");
            read.tbs_certificate.validity.not_after.to_unix_duration()
        };
        let left = end(&first) - Duration::from_secs(begin.0 as u64 / 1000);
        assert_eq!(left, LASTS);
        serving.look(begin.after(RENEWED - Duration::from_secs(1))).expect("nothing to do");
        assert_eq!(shown(&serving), first);
        serving.look(begin.after(RENEWED)).expect("renewed");
        let second = shown(&serving);
        assert_eq!(end(&second) - end(&first), RENEWED);
        serving.look(begin.after(RENEWED + Duration::from_secs(60))).expect("nothing to do");
        assert_eq!(shown(&serving), second);
    }
}
