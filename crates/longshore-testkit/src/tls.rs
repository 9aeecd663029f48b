//! A certificate authority for one server, and that server's certificate.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::programs::Unprivileged;

/// Files of a server that shows a certificate.
///
/// The certificate is for `localhost`, and not for 127.0.0.1: a client that compares names refuses the address, one that
/// only looks for the authority does not.
#[derive(Debug, Clone)]
pub struct Files {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// The name in the certificate.
pub const HOST: &str = "localhost";

impl Files {
    /// Makes them in `folder`; the key belongs to the user of the server.
    pub fn make(folder: &Path, user: Option<Unprivileged>) -> Files {
        let files = Files {
            authority: folder.join("ca.pem"),
            certificate: folder.join("server.pem"),
            key: folder.join("server.key"),
        };
        let (authority, certificate, key) = made().expect("ring makes keys");
        let parts = [(&files.authority, authority), (&files.certificate, certificate), (&files.key, key)];
        for (path, text) in parts {
            fs::write(path, text).expect("the folder is ours");
            if let Some(user) = user {
                user.own(path);
            }
        }
        // Postgres refuses a key that others may read.
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        files
    }
}

/// Authority, certificate and key, as PEM.
fn made() -> Result<(String, String, String), rcgen::Error> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, "longshore test authority");
    let authority_key = KeyPair::generate()?;
    let authority_pem = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec![HOST.to_owned()])?.signed_by(&key, &issuer)?;
    Ok((authority_pem, certificate.pem(), key.serialize_pem()))
}
