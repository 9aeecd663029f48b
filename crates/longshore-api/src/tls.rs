//! Whom clients trust: of a control plane, a pinned authority or what the machine trusts; of others, what the machine trusts.
//!
//! Who pins trusts the pinned certificates alone, and then asks for the address in the server's certificate or for
//! [`CONTROL_PLANE`]: replicas come and go by addresses that no certificate could list.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use reqwest::ClientBuilder;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

/// The name that every certificate of a control plane's own authority carries, whatever its address.
pub const CONTROL_PLANE: &str = "control-plane.longshore.internal";

/// How a pinned fingerprint is written: this and 64 hexadecimal digits.
pub const FINGERPRINT: &str = "sha256:";

/// What a client holds a server's certificate against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The SHA-256 of an authority's certificate, which the server sends along, or of the server's own.
    Fingerprint([u8; 32]),
    /// Certificates in PEM: authorities, or the server's own. Read at every connection, so they may be replaced.
    File(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error("expected the path of a PEM file, or `sha256:` and 64 hexadecimal digits")]
    Form,
}

impl FromStr for Trust {
    type Err = TrustError;

    fn from_str(text: &str) -> Result<Trust, TrustError> {
        match text.trim().strip_prefix(FINGERPRINT) {
            Some(digits) => unhex(digits).map(Trust::Fingerprint).ok_or(TrustError::Form),
            None if text.trim().is_empty() => Err(TrustError::Form),
            None => Ok(Trust::File(text.trim().into())),
        }
    }
}

/// As it is read back by [`Trust::from_str`].
impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trust::Fingerprint(digest) => {
                f.write_str(FINGERPRINT)?;
                digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Trust::File(path) => path.display().fmt(f),
        }
    }
}

fn unhex(digits: &str) -> Option<[u8; 32]> {
    // Fingerprints are often shown with colons.
    let digits: Vec<u8> = digits.bytes().filter(|byte| *byte != b':').collect();
    let value = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let bytes: Option<Vec<u8>> =
        digits.chunks(2).map(|pair| Some(value(pair[0])? << 4 | value(*pair.get(1)?)?)).collect();
    bytes?.try_into().ok()
}

/// The SHA-256 of a certificate.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate.as_ref()).into()
}

/// Builds a client whose connections trust only this; `None`: what the machine trusts.
///
/// A machine that trusts nobody, such as a slim image without authorities, has a client all the same: it reaches control
/// planes over plain HTTP, and says what is missing where one wants TLS.
pub(crate) fn client(
    make: impl Fn() -> ClientBuilder,
    trust: Option<&Trust>,
) -> Result<reqwest::Client, reqwest::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    match trust {
        Some(trust) => {
            let verifier = Pinned { trust: trust.clone(), provider: Arc::clone(&provider) };
            make().tls_backend_preconfigured(verified_by(verifier, provider)).build()
        }
        None => make().build().or_else(|_| {
            let hint = "pin the control plane's by LONGSHORE_LINK_CA or LONGSHORE_CA";
            nobody(make(), provider, hint)
        }),
    }
}

/// Builds a client for what is not a control plane: providers and webhooks. It trusts whom the machine trusts; where that
/// is nobody, plain HTTP works all the same.
pub fn outward(make: impl Fn() -> ClientBuilder) -> Result<reqwest::Client, reqwest::Error> {
    make().build().or_else(|_| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        nobody(
            make(),
            provider,
            "mount them at /etc/ssl/certs/ca-certificates.crt, or name a PEM file by SSL_CERT_FILE",
        )
    })
}

fn nobody(
    builder: ClientBuilder,
    provider: Arc<CryptoProvider>,
    hint: &'static str,
) -> Result<reqwest::Client, reqwest::Error> {
    let verifier = Nobody { provider: Arc::clone(&provider), hint };
    builder.tls_backend_preconfigured(verified_by(verifier, provider)).build()
}

fn verified_by(verifier: impl ServerCertVerifier + 'static, provider: Arc<CryptoProvider>) -> ClientConfig {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth()
}

/// Accepts no certificate, and says why.
#[derive(Debug)]
struct Nobody {
    provider: Arc<CryptoProvider>,
    hint: &'static str,
}

impl ServerCertVerifier for Nobody {
    fn verify_server_cert(
        &self,
        _server: &CertificateDer<'_>,
        _sent: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Err(Error::General(format!(
            "no authority of certificates is installed here (Debian's package is ca-certificates); {}",
            self.hint
        )))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, server, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, server, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts what leads to a pinned certificate.
#[derive(Debug)]
struct Pinned {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    /// The pinned certificates themselves.
    fn certificates(
        &self,
        server: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
    ) -> Result<Vec<CertificateDer<'static>>, Error> {
        match &self.trust {
            Trust::Fingerprint(digest) => {
                let all = std::iter::once(server).chain(sent);
                Ok(all
                    .filter(|one| fingerprint(one) == *digest)
                    .map(|one| one.clone().into_owned())
                    .collect())
            }
            Trust::File(path) => {
                let unreadable =
                    |why: &dyn fmt::Display| Error::General(format!("`{}`: {why}", path.display()));
                let text = std::fs::read(path).map_err(|error| unreadable(&error))?;
                let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
                let found = found.map_err(|error| unreadable(&error))?;
                if found.is_empty() { Err(unreadable(&"it holds no certificate")) } else { Ok(found) }
            }
        }
    }

    fn leads_to(
        &self,
        pinned: Vec<CertificateDer<'static>>,
        server: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(pinned);
        let unknown = |_| Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
                .build()
                .map_err(unknown)?;
        let verify = |name: &ServerName<'_>| verifier.verify_server_cert(server, sent, name, &[], now);
        let own = ServerName::try_from(CONTROL_PLANE).expect("a name");
        // The first error is about the address that was asked for, which is what people know.
        verify(name).or_else(|error| verify(&own).map_err(|_| error))
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = self.certificates(server, sent)?;
        // Pinned itself: nobody else has to vouch for it, whatever it says about names and times.
        if pinned.iter().any(|one| one.as_ref() == server.as_ref()) {
            return Ok(ServerCertVerified::assertion());
        }
        self.leads_to(pinned, server, sent, name, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, server, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, server, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_a_fingerprint_or_a_file_and_reads_back() {
        let hex = "0123456789abcdef".repeat(4);
        let print: Trust = format!("sha256:{hex}").parse().expect("valid");
        assert!(matches!(print, Trust::Fingerprint(digest) if digest[..2] == [0x01, 0x23]));
        let colons: Vec<String> =
            hex.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).into()).collect();
        assert_eq!(format!("sha256:{}", colons.join(":").to_uppercase()).parse(), Ok(print.clone()));
        assert_eq!(print.to_string().parse(), Ok(print));
        let file: Trust = " /run/ca.pem ".parse().expect("valid");
        assert_eq!(file, Trust::File("/run/ca.pem".into()));
        assert_eq!(file.to_string().parse(), Ok(file));
        for wrong in
            ["", "sha256:", "sha256:0123", &format!("sha256:{hex}0"), &format!("sha256:{}zz", &hex[2..])]
        {
            assert_eq!(wrong.parse::<Trust>(), Err(TrustError::Form), "{wrong}");
        }
    }
}
