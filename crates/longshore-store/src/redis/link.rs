//! Opens connections: to a server, a cluster, or the master that sentinels name.

use std::sync::Once;
use std::time::Duration;

use ::redis::aio::{MultiplexedConnection, PubSub};
use ::redis::cluster::ClusterClientBuilder;
use ::redis::cluster_async::ClusterConnection;
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, RedisResult, TlsCertificates, Value, cmd,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::error::RedisError;
use super::options::{Login, Node, Options, Password, Topology};

/// A live connection; commands share it.
#[derive(Clone)]
pub(super) enum Link {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// Until a connection is made, logged in and answers.
pub(super) const OPENING: Duration = Duration::from_secs(3);

/// How often a cluster's command follows a moved slot or a broken node; the time-out holds over all of it.
const CLUSTER_RETRIES: u32 = 3;

/// The driver takes the process's own TLS provider; the binary installs the same one.
pub(super) fn install_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error says that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

impl Link {
    pub(super) async fn open(options: &Options) -> Result<Link, RedisError> {
        let mut link = match &options.topology {
            Topology::Cluster => Link::Cluster(cluster(options).await?),
            Topology::Single | Topology::Sentinel { .. } => Link::One(one(options).await?),
        };
        link.ping().await?;
        Ok(link)
    }

    pub(super) async fn query(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Link::One(connection) => command.query_async(connection).await,
            Link::Cluster(connection) => command.query_async(connection).await,
        }
    }

    /// In a cluster, every master has to answer: with one of them away, some keys are.
    pub(super) async fn ping(&mut self) -> Result<(), RedisError> {
        self.query(&cmd("PING")).await.map(drop).map_err(RedisError::from_driver)
    }
}

/// A connection of its own for a subscription.
pub(super) async fn subscription(options: &Options) -> Result<PubSub, RedisError> {
    let opening = async {
        let mut last = RedisError::Down { why: "no address".into() };
        for client in clients(options).await? {
            match client.get_async_pubsub().await {
                Ok(pubsub) => return Ok(pubsub),
                Err(error) => last = RedisError::from_driver(error),
            }
        }
        Err(last)
    };
    tokio::time::timeout(OPENING, opening).await.unwrap_or(Err(RedisError::TimedOut))
}

async fn one(options: &Options) -> Result<MultiplexedConnection, RedisError> {
    let mut last = RedisError::Down { why: "no address".into() };
    for client in clients(options).await? {
        match client.get_multiplexed_async_connection_with_config(&config()).await {
            Ok(connection) => return Ok(connection),
            Err(error) => last = RedisError::from_driver(error),
        }
    }
    Err(last)
}

fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(OPENING))
        // Whoever asks brings a time-out.
        .set_response_timeout(None)
        // Commands wait in it together, so that one write carries many.
        .set_pipeline_buffer_size(1_024)
}

async fn cluster(options: &Options) -> Result<ClusterConnection, RedisError> {
    let nodes = infos(options, &options.nodes, &options.login, 0)?;
    let mut builder = ClusterClientBuilder::new(nodes)
        .use_protocol(ProtocolVersion::RESP2)
        .retries(CLUSTER_RETRIES)
        .connection_timeout(OPENING)
        .response_timeout(options.timeout)
        .overall_response_timeout(Some(options.timeout));
    if options.tls {
        builder = builder.certs(certificates(options)?);
    }
    let client = builder.build().map_err(RedisError::from_driver)?;
    client.get_async_connection().await.map_err(RedisError::from_driver)
}

/// Clients of servers that will do, best first: any node of a cluster passes messages on to all.
async fn clients(options: &Options) -> Result<Vec<Client>, RedisError> {
    let infos = match &options.topology {
        Topology::Single | Topology::Cluster => {
            infos(options, &options.nodes, &options.login, options.database)?
        }
        Topology::Sentinel { master, login } => vec![find_master(options, master, login).await?],
    };
    infos.into_iter().map(|info| client(options, info)).collect()
}

fn client(options: &Options, info: ConnectionInfo) -> Result<Client, RedisError> {
    match options.tls {
        true => Client::build_with_tls(info, certificates(options)?),
        false => Client::open(info),
    }
    .map_err(RedisError::from_driver)
}

/// Asks one sentinel after the other, and takes only an answer that the master itself confirms.
async fn find_master(options: &Options, name: &str, login: &Login) -> Result<ConnectionInfo, RedisError> {
    let mut last = RedisError::Down { why: "no sentinel is given".into() };
    for sentinel in infos(options, &options.nodes, login, 0)? {
        match ask_sentinel(options, sentinel, name).await {
            Ok(info) => return Ok(info),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn ask_sentinel(
    options: &Options,
    sentinel: ConnectionInfo,
    name: &str,
) -> Result<ConnectionInfo, RedisError> {
    let mut question = cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let (host, port) = ask::<Option<(String, u16)>>(options, sentinel, &question)
        .await?
        .ok_or_else(|| RedisError::Unfit { detail: format!("the sentinels know no master `{name}`") })?;
    let info = info(&Node { host, port }, options.tls, &credentials(&options.login)?, options.database)?;
    // Sentinels learn late: what they name may be a replica by now.
    let role: Vec<Value> = ask(options, info.clone(), &cmd("ROLE")).await?;
    match role.first() {
        Some(Value::BulkString(role)) if role == b"master" => Ok(info),
        _ => {
            Err(RedisError::Unfit { detail: format!("what the sentinels name as `{name}` is not a master") })
        }
    }
}

async fn ask<T: ::redis::FromRedisValue>(
    options: &Options,
    info: ConnectionInfo,
    question: &Cmd,
) -> Result<T, RedisError> {
    // Short: the next sentinel may know better.
    let config =
        config().set_connection_timeout(Some(options.timeout)).set_response_timeout(Some(options.timeout));
    let client = client(options, info)?;
    let connection = client.get_multiplexed_async_connection_with_config(&config).await;
    let mut connection = connection.map_err(RedisError::from_driver)?;
    question.query_async(&mut connection).await.map_err(RedisError::from_driver)
}

fn infos(
    options: &Options,
    nodes: &[Node],
    login: &Login,
    database: u16,
) -> Result<Vec<ConnectionInfo>, RedisError> {
    let credentials = credentials(login)?;
    nodes.iter().map(|node| info(node, options.tls, &credentials, database)).collect()
}

fn info(
    node: &Node,
    tls: bool,
    (user, password): &(Option<String>, Option<String>),
    database: u16,
) -> Result<ConnectionInfo, RedisError> {
    let Node { host, port } = node.clone();
    let address = match tls {
        true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        false => ConnectionAddr::Tcp(host, port),
    };
    let mut settings = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP2)
        .set_skip_set_lib_name()
        .set_db(i64::from(database));
    if let Some(user) = user {
        settings = settings.set_username(user);
    }
    if let Some(password) = password {
        settings = settings.set_password(password);
    }
    let info = address.into_connection_info().map_err(RedisError::from_driver)?;
    Ok(info.set_redis_settings(settings))
}

/// Small and local, so it is read where it stands.
fn credentials(login: &Login) -> Result<(Option<String>, Option<String>), RedisError> {
    let password = match &login.password {
        None => None,
        Some(Password::Given(text)) => Some(text.clone()),
        Some(Password::File(path)) => {
            let text = std::fs::read_to_string(path).map_err(|error| RedisError::Down {
                why: format!("the password file {} cannot be read: {error}", path.display()),
            })?;
            Some(text.trim_end_matches(['\r', '\n']).to_owned())
        }
    };
    Ok((login.user.clone(), password))
}

/// The system's certificates and those of the CA file, as the one PEM text that the driver takes.
fn certificates(options: &Options) -> Result<TlsCertificates, RedisError> {
    let Some(path) = &options.ca_file else {
        return Ok(TlsCertificates { client_tls: None, root_cert: None });
    };
    let wrong = |why: String| RedisError::Down { why: format!("the CA file {} {why}", path.display()) };
    let extra = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if extra.is_empty() {
        return Err(wrong("holds no certificate".into()));
    }
    // The driver refuses them all for one that it cannot use, and some systems have such.
    let usable = |certificate: &CertificateDer<'_>| {
        RootCertStore::empty().add(certificate.clone().into_owned()).is_ok()
    };
    let system = rustls_native_certs::load_native_certs().certs.into_iter().filter(usable);
    let root_cert = system.chain(extra).flat_map(|certificate| pem(&certificate).into_bytes()).collect();
    Ok(TlsCertificates { client_tls: None, root_cert: Some(root_cert) })
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
