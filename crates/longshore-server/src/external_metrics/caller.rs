//! Who asks: the API server's front proxy shows its certificate, and names the caller in headers.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName};
use longshore_core::time::Timestamp;
use longshore_platform::kubernetes::aggregation::{RequestHeader, User};

use super::chain::Authorities;
use super::peer::Peer;

/// Who may pass callers on, and in which headers.
pub struct FrontProxy {
    authorities: Authorities,
    told: RequestHeader,
}

/// Why a request is not believed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    #[error("only the API server is answered, which shows a certificate: ask through it")]
    NoCertificate,
    #[error("the certificate is not the API server's: {0}")]
    NotItsCertificate(String),
    #[error("the certificate is of `{0}`, which may not pass on what others ask")]
    NotItsName(String),
    #[error("the API server did not say whose request this is: header `{0}` is missing")]
    NoUser(String),
}

impl FrontProxy {
    pub fn new(told: RequestHeader) -> Result<FrontProxy, String> {
        Ok(FrontProxy { authorities: Authorities::read(&told.authorities)?, told })
    }

    /// Whether this is what it was made of.
    pub fn is_of(&self, told: &RequestHeader) -> bool {
        self.told == *told
    }

    /// The caller that the API server names, if it is the API server.
    pub fn caller(&self, peer: &Peer, headers: &HeaderMap, now: Timestamp) -> Result<User, Stranger> {
        if peer.0.is_empty() {
            return Err(Stranger::NoCertificate);
        }
        let name = self.authorities.verify(&peer.0, now).map_err(Stranger::NotItsCertificate)?;
        if !self.told.names.is_empty() && !self.told.names.contains(&name) {
            return Err(Stranger::NotItsName(name));
        }
        self.user(headers)
    }

    fn user(&self, headers: &HeaderMap) -> Result<User, Stranger> {
        let first =
            |names: &[String]| names.iter().flat_map(|name| texts(headers, name)).find(|it| !it.is_empty());
        let name = first(&self.told.user)
            .ok_or_else(|| Stranger::NoUser(self.told.user.first().cloned().unwrap_or_default()))?;
        let groups = self.told.group.iter().flat_map(|name| texts(headers, name)).collect();
        Ok(User { name, uid: first(&self.told.uid), groups, extra: self.extra(headers) })
    }

    fn extra(&self, headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in self.told.extra.iter().map(|prefix| prefix.to_ascii_lowercase()) {
            let named = |name: &HeaderName| Some(unescape(name.as_str().strip_prefix(prefix.as_str())?));
            for (name, value) in headers {
                let Some(key) = named(name).filter(|key| !key.is_empty()) else { continue };
                extra.entry(key).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
            }
        }
        extra
    }
}

fn texts<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = String> + 'a {
    let values = headers.get_all(name).iter();
    values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// `%2f` and the like in names of headers, which cannot carry every letter.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.filter(|_| *first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::app::now;
    use crate::external_metrics::tests::Signer;

    impl Signer {
        fn peer(&self, params: CertificateParams) -> Peer {
            let key = KeyPair::generate().expect("made");
            let signed = params.signed_by(&key, &self.issuer).expect("signed");
            Peer([signed.der().clone()].into())
        }

        fn proxy(&self, names: &[&str]) -> FrontProxy {
            FrontProxy::new(told(&self.pem, names)).expect("an authority")
        }
    }

    fn named(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    fn client(name: &str) -> CertificateParams {
        let mut params = named(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params
    }

    fn told(authorities: &str, names: &[&str]) -> RequestHeader {
        RequestHeader {
            authorities: authorities.to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            user: vec!["X-Remote-User".into()],
            uid: vec!["X-Remote-Uid".into()],
            group: vec!["X-Remote-Group".into()],
            extra: vec!["X-Remote-Extra-".into()],
        }
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let parsed = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"))
        };
        pairs.iter().map(parsed).fold(HeaderMap::new(), |mut all, (name, value)| {
            all.append(name, value);
            all
        })
    }

    fn as_someone() -> HeaderMap {
        headers(&[("x-remote-user", "someone")])
    }

    #[test]
    fn only_the_api_servers_certificate_and_name_are_believed() {
        let (signer, other) = (Signer::new(), Signer::new());
        let proxy = signer.proxy(&["front-proxy-client", "aggregator"]);
        let ask = |peer: &Peer| proxy.caller(peer, &as_someone(), now());
        assert_eq!(ask(&signer.peer(client("aggregator"))).expect("its own").name, "someone");
        assert_eq!(ask(&Peer::default()), Err(Stranger::NoCertificate));
        assert_eq!(ask(&signer.peer(client("kubelet"))), Err(Stranger::NotItsName("kubelet".into())));
        let foreign = ask(&other.peer(client("aggregator")));
        assert!(matches!(foreign, Err(Stranger::NotItsCertificate(_))), "{foreign:?}");
        let mut server = named("aggregator");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        assert!(matches!(ask(&signer.peer(server)), Err(Stranger::NotItsCertificate(_))), "for servers only");
        let mut over = client("aggregator");
        over.not_after = rcgen::date_time_ymd(2020, 1, 1);
        assert!(matches!(ask(&signer.peer(over)), Err(Stranger::NotItsCertificate(_))), "expired");
        assert!(signer.proxy(&[]).caller(&signer.peer(client("any")), &as_someone(), now()).is_ok());
    }

    const OLD: &str = include_str!("testdata/version1.pem");

    #[test]
    fn a_certificate_of_version_1_is_believed_for_as_long_as_it_is_valid() {
        let all: Vec<_> =
            CertificateDer::pem_slice_iter(OLD.as_bytes()).collect::<Result<_, _>>().expect("certificates");
        let authority = OLD.split_inclusive("-----END CERTIFICATE-----\n").next().expect("the first");
        let proxy = FrontProxy::new(told(authority, &["front-proxy-client"])).expect("an authority");
        let ask = |peer: &Peer, year: i64| {
            proxy
                .caller(peer, &as_someone(), Timestamp((year - 1970) * 365 * 86_400_000))
                .map(|user| user.name)
        };
        let peer = Peer([all[1].clone()].into());
        assert_eq!(ask(&peer, 2030), Ok("someone".into()));
        assert!(matches!(ask(&peer, 2020), Err(Stranger::NotItsCertificate(_))));
        assert!(matches!(ask(&peer, 2130), Err(Stranger::NotItsCertificate(_))));
        // One bit of the name, and one of the signature.
        for at in [all[1].len() / 4, all[1].len() - 1] {
            let mut changed = all[1].to_vec();
            changed[at] ^= 1;
            let changed = Peer([CertificateDer::from(changed)].into());
            assert!(matches!(ask(&changed, 2030), Err(Stranger::NotItsCertificate(_))), "{at}");
        }
        let (own, other) = (Signer::new(), Peer([all[1].clone()].into()));
        assert!(own.proxy(&[]).caller(&other, &as_someone(), Timestamp(1_900_000_000_000)).is_err());
    }

    #[test]
    fn the_caller_is_whom_the_headers_name() {
        let signer = Signer::new();
        let proxy = signer.proxy(&[]);
        let given = headers(&[
            ("x-remote-user", "system:serviceaccount:kube-system:horizontal-pod-autoscaler"),
            ("x-remote-uid", "7"),
            ("x-remote-group", "system:authenticated"),
            ("x-remote-group", "system:serviceaccounts"),
            ("x-remote-extra-scopes", "a"),
            ("x-remote-extra-scopes", "b"),
            ("x-remote-extra-example.org%2fpod", "c"),
            ("x-forwarded-user", "root"),
        ]);
        let user = proxy.user(&given).expect("named");
        assert!(user.name.ends_with("horizontal-pod-autoscaler") && user.uid.as_deref() == Some("7"));
        assert_eq!(user.groups, ["system:authenticated", "system:serviceaccounts"]);
        assert_eq!(user.extra["scopes"], ["a", "b"]);
        assert_eq!(user.extra["example.org/pod"], ["c"]);
        assert_eq!(
            proxy.user(&headers(&[("x-remote-user", "")])),
            Err(Stranger::NoUser("X-Remote-User".into()))
        );
        assert!(proxy.user(&headers(&[("x-remote-group", "system:masters")])).is_err());
        assert_eq!(unescape("100%"), "100%");
    }

    #[test]
    fn authorities_that_are_none_are_said() {
        assert!(FrontProxy::new(told("nonsense", &[])).is_err());
        let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        assert!(FrontProxy::new(told(broken, &[])).is_err());
    }
}
