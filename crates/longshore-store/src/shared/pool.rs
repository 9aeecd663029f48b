//! Connections: made with care, checked, kept, and thrown away when in doubt.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

use super::connection::Connection;
use super::fault::{DbError, words};
use super::sql::Names;

/// How long a connection may take to be made, and a command may wait for one.
const CONNECT: Duration = Duration::from_secs(5);

/// How the database is reached.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub config: tokio_postgres::Config,
    /// Read anew for each connection: it may be rotated.
    pub password_file: Option<PathBuf>,
    /// Beside the machine's own.
    pub ca_file: Option<PathBuf>,
    /// Behind a pooler that gives each transaction another connection.
    pub pooled: bool,
}

pub(super) struct Manager {
    way: Way,
    tls: Option<MakeRustlsConnect>,
    names: Arc<Names>,
}

pub(super) type Pool = managed::Pool<Manager>;

pub(super) fn pool(way: Way, names: Arc<Names>, size: usize) -> Result<Pool, DbError> {
    let tls = match way.config.get_ssl_mode() {
        SslMode::Disable => None,
        _ => Some(tls(way.ca_file.as_deref())?),
    };
    let manager = Manager { way, tls, names };
    Pool::builder(manager)
        // A claim looks up histories while it still has its own.
        .max_size(size.max(2))
        .runtime(deadpool::Runtime::Tokio1)
        .wait_timeout(Some(CONNECT))
        .create_timeout(Some(CONNECT))
        .build()
        .map_err(|error| DbError::Pool(error.to_string()))
}

/// How often is looked for one of our own when the database has no more to give.
const LOOK: Duration = Duration::from_millis(50);

/// A connection, within [`CONNECT`] or not at all.
pub(super) async fn take(pool: &Pool) -> Result<managed::Object<Manager>, DbError> {
    let begin = Instant::now();
    loop {
        match get(pool).await {
            // Others of ours may come back meanwhile: the database gives fewer than we may have, but not none.
            Err(error) if error.is_crowded() && begin.elapsed() < CONNECT => tokio::time::sleep(LOOK).await,
            taken => return taken,
        }
    }
}

async fn get(pool: &Pool) -> Result<managed::Object<Manager>, DbError> {
    pool.get().await.map_err(|error| match error {
        managed::PoolError::Backend(error) => error,
        managed::PoolError::Closed => DbError::Closed,
        other => DbError::Pool(words(&other)),
    })
}

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = DbError;

    async fn create(&self) -> Result<Connection, DbError> {
        let mut config = self.way.config.clone();
        if let Some(file) = &self.way.password_file {
            let password = tokio::fs::read_to_string(file).await.map_err(|error| {
                DbError::Pool(format!("could not read the password from `{}`: {error}", file.display()))
            })?;
            config.password(password.trim_end_matches(['\r', '\n']));
        }
        let client = match &self.tls {
            Some(tls) => {
                let (client, connection) = config.connect(tls.clone()).await?;
                tokio::spawn(drive(connection));
                client
            }
            None => {
                let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
                tokio::spawn(drive(connection));
                client
            }
        };
        let connection = Connection::new(client, Arc::clone(&self.names), !self.way.pooled);
        connection.limit().await?;
        Ok(connection)
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<DbError> {
        if connection.is_usable() {
            Ok(())
        } else {
            Err(RecycleError::message("it was left in a transaction"))
        }
    }
}

async fn drive<S, T>(connection: tokio_postgres::Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    if let Err(error) = connection.await {
        // Whoever uses it is told by its own error.
        debug!(error = words(&error), "a connection to the database ended");
    }
}

/// Certificates are always verified, and the name in them.
fn tls(ca_file: Option<&std::path::Path>) -> Result<MakeRustlsConnect, DbError> {
    let mut roots = rustls::RootCertStore::empty();
    // A container from scratch has none; the given file may be all there is.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = ca_file {
        let bad = |error: &dyn std::fmt::Display| {
            DbError::Pool(format!("could not read certificates from `{}`: {error}", file.display()))
        };
        let found = CertificateDer::pem_file_iter(file).map_err(|error| bad(&error))?;
        for certificate in found {
            let certificate = certificate.map_err(|error| bad(&error))?;
            roots.add(certificate).map_err(|error| bad(&error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| DbError::Pool(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}
