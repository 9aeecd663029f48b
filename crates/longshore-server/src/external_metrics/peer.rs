//! What a client showed in its handshake.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};

use crate::tls::provider;

/// The certificates of a connection's other end, its own first. It has the key of that one; who it is, they do not prove
/// before they are verified. None: it showed none.
#[derive(Clone, Default)]
pub struct Peer(pub Arc<[CertificateDer<'static>]>);

impl Peer {
    pub fn of(stream: &TlsStream<TcpStream>) -> Peer {
        let (_, session) = stream.get_ref();
        Peer(session.peer_certificates().map(|shown| shown.to_vec().into()).unwrap_or_default())
    }
}

/// Takes whatever certificate a client has, if the client has its key.
#[derive(Debug)]
pub struct AnyCertificate(WebPkiSupportedAlgorithms);

impl AnyCertificate {
    pub fn new() -> AnyCertificate {
        AnyCertificate(provider().signature_verification_algorithms)
    }
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken here".into()))
    }

    // By the bare key: rustls reads no certificates of version 1, which some clusters' front proxies have.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = Certificate::from_der(certificate)
            .and_then(|it| it.tbs_certificate.subject_public_key_info.to_der())
            .map_err(|_| CertificateError::BadEncoding)?;
        verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(key), signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
