//! Whether a certificate was signed by one of the API server's authorities, and whose it is.

use std::sync::Arc;
use std::time::Duration;

use longshore_core::time::Timestamp;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_cert::certificate::Version;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode, Encode, Tag, Tagged};
use x509_cert::name::Name;
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_cert::{Certificate, der};

use crate::tls::provider;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Those that sign certificates of the API server.
pub struct Authorities {
    verifier: Arc<dyn ClientCertVerifier>,
    /// The same, for certificates that the verifier does not read.
    roots: Vec<Certificate>,
}

impl Authorities {
    /// Reads certificates in PEM.
    pub fn read(pem: &str) -> Result<Authorities, String> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        let all = all.map_err(|error| format!("the authorities are not certificates in PEM: {error}"))?;
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(all.iter().cloned());
        let built = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider()).build();
        let verifier = built.map_err(|error| format!("none of the authorities can be used: {error}"))?;
        let roots = all.iter().filter_map(|der| Certificate::from_der(der).ok()).collect();
        Ok(Authorities { verifier, roots })
    }

    /// The common name in a certificate that one of them signed; it comes with what is between them. Errors: why it is not
    /// believed.
    pub fn verify(&self, shown: &[CertificateDer<'_>], now: Timestamp) -> Result<String, String> {
        let (own, between) = shown.split_first().ok_or("no certificate was shown")?;
        let unreadable = |error: der::Error| format!("the certificate cannot be read: {error}");
        let read = Certificate::from_der(own).map_err(unreadable)?;
        let since = Duration::from_millis(u64::try_from(now.0).unwrap_or(0));
        match read.tbs_certificate.version {
            Version::V1 => self.verify_old(&read, since)?,
            _ => {
                let verified =
                    self.verifier.verify_client_cert(own, between, UnixTime::since_unix_epoch(since));
                verified.map_err(|error| error.to_string())?;
            }
        }
        Ok(common_name(&read.tbs_certificate.subject).unwrap_or_default())
    }

    /// Certificates of version 1, as `openssl x509 -req` makes them: they say nothing but whose they are and for how long, so
    /// an authority has to have signed them itself.
    fn verify_old(&self, read: &Certificate, since: Duration) -> Result<(), String> {
        let content = &read.tbs_certificate;
        let (from, to) = (content.validity.not_before, content.validity.not_after);
        if !(from.to_unix_duration()..=to.to_unix_duration()).contains(&since) {
            return Err("the certificate is not valid at this time".into());
        }
        let mut signers = self.roots.iter().filter(|root| root.tbs_certificate.subject == content.issuer);
        match signers.any(|root| is_signed(read, root).unwrap_or(false)) {
            true => Ok(()),
            false => Err("the certificate is of an authority that is not the API server's".into()),
        }
    }
}

fn is_signed(read: &Certificate, by: &Certificate) -> der::Result<bool> {
    let key = &by.tbs_certificate.subject_public_key_info;
    let (of_key, of_signature) = (bare(&key.algorithm)?, bare(&read.signature_algorithm)?);
    let message = read.tbs_certificate.to_der()?;
    let algorithms = provider().signature_verification_algorithms.all;
    let mut fitting = algorithms.iter().filter(|it| {
        it.public_key_alg_id().as_ref() == of_key && it.signature_alg_id().as_ref() == of_signature
    });
    let (key, signature) = (key.subject_public_key.raw_bytes(), read.signature.raw_bytes());
    Ok(fitting.any(|algorithm| algorithm.verify_signature(key, &message, signature).is_ok()))
}

/// What is inside the sequence: as rustls names algorithms.
fn bare(algorithm: &AlgorithmIdentifierOwned) -> der::Result<Vec<u8>> {
    let mut inside = algorithm.oid.to_der()?;
    if let Some(parameters) = &algorithm.parameters {
        inside.extend(parameters.to_der()?);
    }
    Ok(inside)
}

/// The last one, as the API server's own library reads it.
fn common_name(subject: &Name) -> Option<String> {
    let parts = subject.0.iter().flat_map(|part| part.0.iter());
    let last = parts.rev().find(|part| part.oid == COMMON_NAME)?;
    let text = matches!(last.value.tag(), Tag::Utf8String | Tag::PrintableString | Tag::Ia5String);
    let bytes = Some(last.value.value()).filter(|_| text)?;
    String::from_utf8(bytes.to_vec()).ok()
}
