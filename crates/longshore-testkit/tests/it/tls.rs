//! Both servers show a certificate that a client can check to the end: its authority and its name.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use longshore_testkit::{Postgres, Redis};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::NoTls;
use tokio_postgres::config::{Config, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

#[tokio::test]
async fn postgres_is_believed_by_its_name_and_its_authority_only() {
    let Some(postgres) = Postgres::options().tls().start() else { return };
    assert_eq!(postgres.sql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"), "t");
    let ours = postgres.ca_file().unwrap();
    assert!(connects(&postgres.url(), Some(ours)).await);
    assert!(!connects(&postgres.url_at("127.0.0.1"), Some(ours)).await, "another name");
    assert!(!connects(&postgres.url(), None).await, "nobody vouches");
    assert!(tokio_postgres::connect(&postgres.url(), NoTls).await.is_err(), "without TLS");
}

#[tokio::test]
async fn redis_is_believed_by_its_name_and_its_authority_only() {
    let Some(server) = Redis::options().tls().start() else { return };
    let ours = fs::read(server.ca_file().unwrap()).unwrap();
    assert_eq!(server.cli(&["PING"]), "PONG");
    assert!(redis_answers(&server.url(), Some(ours.clone())).await);
    assert!(!redis_answers(&server.url_at("127.0.0.1"), Some(ours)).await, "another name");
    assert!(!redis_answers(&server.url(), None).await, "nobody vouches");
}

async fn connects(url: &str, authority: Option<&Path>) -> bool {
    let mut config: Config = url.parse().unwrap();
    let connected = config.ssl_mode(SslMode::Require).connect(tls(authority)).await;
    let Ok((client, connection)) = connected else { return false };
    tokio::spawn(connection);
    client.simple_query("SELECT 1").await.is_ok()
}

fn tls(authority: Option<&Path>) -> MakeRustlsConnect {
    let mut roots = RootCertStore::empty();
    if let Some(path) = authority {
        roots.add(CertificateDer::from_pem_file(path).unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    MakeRustlsConnect::new(config.with_root_certificates(roots).with_no_client_auth())
}

async fn redis_answers(url: &str, root_cert: Option<Vec<u8>>) -> bool {
    // The provider of this process: the client asks for it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certificates = redis::TlsCertificates { client_tls: None, root_cert };
    let client = redis::Client::build_with_tls(url, certificates).unwrap();
    let Ok(mut connection) = client.get_multiplexed_async_connection().await else { return false };
    redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
}
