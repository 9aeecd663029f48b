//! An authority of certificates that longshore makes for itself: kept in the store, so that all replicas have the same, and
//! pinned by workers.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use longshore_api::tls::{CONTROL_PLANE, fingerprint};
use longshore_core::time::Timestamp;
use longshore_store::Store;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::{TlsError, provider};

/// Where the store keeps it: its certificate and its key in PEM, one after the other.
const KEPT: &str = "tls_ca";

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Clocks of clients may be behind.
const SLACK: Duration = DAY;

const AUTHORITY_LASTS: Duration = DAY.saturating_mul(3650);
const LEAF_LASTS: Duration = DAY.saturating_mul(30);

/// Well before its end: a control plane may be asleep for some days.
const LEAF_RENEWED: Duration = DAY.saturating_mul(20);

/// What a certificate is for.
pub struct Leaf<'a> {
    pub names: &'a [String],
    pub addresses: &'a [IpAddr],
    pub lasts: Duration,
}

/// Prints without its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Authority {
    /// The store's, made if there is none. Of replicas that start at once all get the same.
    pub async fn of(store: &Store, now: Timestamp) -> Result<Authority, TlsError> {
        let kept = match store.meta_get(KEPT.into()).await? {
            Some(kept) => kept,
            None => store.meta_first(KEPT.into(), make(now)?).await?,
        };
        Authority::read(&kept)
    }

    fn read(kept: &str) -> Result<Authority, TlsError> {
        let wrong =
            |why: &dyn fmt::Display| TlsError::Make(format!("the store's authority is damaged: {why}"));
        let certificate = CertificateDer::from_pem_slice(kept.as_bytes()).map_err(|error| wrong(&error))?;
        let at = kept.find("-----BEGIN PRIVATE KEY").ok_or_else(|| wrong(&"its key is missing"))?;
        let (pem, key) = kept.split_at(at);
        // The error is not passed on: it is about secret text.
        let key = KeyPair::from_pem(key).map_err(|_| wrong(&"its key cannot be read"))?;
        // All that a certificate takes from its issuer are the name and the key.
        let issuer = Issuer::new(params(Timestamp::default())?, key);
        Ok(Authority { issuer, certificate, pem: pem.to_owned() })
    }

    /// In PEM.
    pub fn certificate(&self) -> &str {
        &self.pem
    }

    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.certificate)
    }

    /// A certificate of this replica, which clients call by these names as well, and when to make the next one.
    pub fn issue_own(
        &self,
        called: &[String],
        addresses: &[IpAddr],
        now: Timestamp,
    ) -> Result<(CertifiedKey, Timestamp), TlsError> {
        let mut names = vec![CONTROL_PLANE.to_owned(), "localhost".to_owned()];
        names.extend(host_name());
        names.extend(called.iter().cloned());
        let own = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let mut all: Vec<IpAddr> = own.into_iter().chain(addresses.iter().copied()).collect();
        all.sort();
        all.dedup();
        let issued = self.issue(&Leaf { names: &names, addresses: &all, lasts: LEAF_LASTS }, now)?;
        Ok((issued, now.after(LEAF_RENEWED)))
    }

    /// A certificate with a key of its own.
    pub fn issue(&self, wanted: &Leaf<'_>, now: Timestamp) -> Result<CertifiedKey, TlsError> {
        let key = KeyPair::generate().map_err(failed)?;
        let leaf = leaf(wanted, now)?.signed_by(&key, &self.issuer).map_err(failed)?;
        // The authority is sent along for those that know only its fingerprint.
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let certified = CertifiedKey::from_der(chain, private, &provider());
        certified.map_err(|error| TlsError::Make(error.to_string()))
    }
}

fn failed(error: rcgen::Error) -> TlsError {
    TlsError::Make(error.to_string())
}

fn make(now: Timestamp) -> Result<String, TlsError> {
    let key = KeyPair::generate().map_err(failed)?;
    let certificate: Certificate = params(now)?.self_signed(&key).map_err(failed)?;
    Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
}

/// Its name must never change: certificates of later versions still have to name the issuer that is pinned.
fn params(now: Timestamp) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, "longshore authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lasting(params, now, AUTHORITY_LASTS)
}

fn leaf(wanted: &Leaf<'_>, now: Timestamp) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::new(wanted.names).map_err(failed)?;
    params.subject_alt_names.extend(wanted.addresses.iter().copied().map(SanType::IpAddress));
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, CONTROL_PLANE);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    lasting(params, now, wanted.lasts)
}

fn lasting(
    mut params: CertificateParams,
    now: Timestamp,
    length: Duration,
) -> Result<CertificateParams, TlsError> {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let at = |time: Timestamp| epoch + Duration::from_millis(u64::try_from(time.0).unwrap_or(0));
    params.not_before = at(now.before(SLACK));
    params.not_after = at(now.after(length));
    Ok(params)
}

/// This machine's name, if a certificate can carry it.
fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_ascii_lowercase();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let good = !name.is_empty() && name != "localhost" && name.len() < 254 && name.chars().all(fits);
    good.then_some(name)
}
