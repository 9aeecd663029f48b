//! Where Redis is, and how to log in.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ::redis::{ConnectionAddr, IntoConnectionInfo};

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) topology: Topology,
    /// The server, some of a cluster's nodes (or its configuration endpoint), or the sentinels.
    pub(crate) nodes: Vec<Node>,
    /// Encrypted, and the server's certificate and name are checked.
    pub(crate) tls: bool,
    /// Certificates (PEM) that are trusted beside the system's.
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) login: Login,
    pub(crate) database: u16,
    /// Begins every key and channel. Has no braces: they choose a cluster's slot.
    pub(crate) prefix: String,
    /// Of one command, with its answer.
    pub(crate) timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    Single,
    Cluster,
    /// The login of the sentinels is often none, whatever the master's is.
    Sentinel {
        master: String,
        login: Login,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) host: String,
    pub(crate) port: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Login {
    /// None: the user `default`.
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Password>,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Password {
    Given(String),
    /// Read anew for each connection, so that it may rotate.
    File(PathBuf),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Password::Given(_) => f.write_str("[redacted]"),
            Password::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionsError {
    #[error("no address of redis is given: name at least one, such as redis://cache:6379")]
    NoAddress,
    // The address is not repeated: it may hold a password.
    #[error("address {nth} of redis is not valid: expected redis://HOST:PORT or rediss://HOST:PORT")]
    Address { nth: usize },
    #[error("address {nth} of redis turns off the check of certificates: give a CA file instead")]
    Insecure { nth: usize },
    #[error("the addresses of redis differ in scheme, user, password or database: they must agree")]
    Differ,
    #[error("a redis cluster has only database 0")]
    DatabaseOfCluster,
    #[error(
        "the key prefix `{0}` of redis is not valid: expected at most 64 of letters, digits and . _ : / -"
    )]
    Prefix(String),
}

pub(crate) const DEFAULT_PREFIX: &str = "longshore:";
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_millis(500);

impl Options {
    /// Reads addresses of one topology; everything else has its default and can be set after.
    ///
    /// Shape: `redis[s]://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]`; for sentinels, user, password and database are the
    /// master's.
    pub(crate) fn parse(topology: Topology, addresses: &[&str]) -> Result<Options, OptionsError> {
        let parsed: Vec<Address> = addresses
            .iter()
            .enumerate()
            .map(|(n, text)| Address::parse(n + 1, text))
            .collect::<Result<_, _>>()?;
        let first = parsed.first().ok_or(OptionsError::NoAddress)?.clone();
        if parsed.iter().any(|address| !address.agrees(&first)) {
            return Err(OptionsError::Differ);
        }
        if topology == Topology::Cluster && first.database != 0 {
            return Err(OptionsError::DatabaseOfCluster);
        }
        Ok(Options {
            topology,
            nodes: parsed.into_iter().map(|address| address.node).collect(),
            tls: first.tls,
            ca_file: None,
            login: first.login,
            database: first.database,
            prefix: DEFAULT_PREFIX.to_owned(),
            timeout: DEFAULT_TIMEOUT,
        })
    }

    pub(crate) fn with_prefix(mut self, prefix: &str) -> Result<Options, OptionsError> {
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '/' | '-');
        if prefix.len() > 64 || !prefix.chars().all(valid) {
            return Err(OptionsError::Prefix(prefix.chars().take(64).collect()));
        }
        prefix.clone_into(&mut self.prefix);
        Ok(self)
    }
}

#[derive(Clone, PartialEq)]
struct Address {
    node: Node,
    tls: bool,
    login: Login,
    database: u16,
}

impl Address {
    fn parse(nth: usize, text: &str) -> Result<Address, OptionsError> {
        let wrong = || OptionsError::Address { nth };
        let info = text.into_connection_info().map_err(|_| wrong())?;
        let (host, port, tls) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (host, port, false),
            ConnectionAddr::TcpTls { insecure: true, .. } => return Err(OptionsError::Insecure { nth }),
            ConnectionAddr::TcpTls { host, port, .. } => (host, port, true),
            _ => return Err(wrong()),
        };
        let settings = info.redis_settings();
        let password = settings.password().map(|text| Password::Given(text.to_owned()));
        Ok(Address {
            node: Node { host: host.clone(), port: *port },
            tls,
            login: Login { user: settings.username().map(str::to_owned), password },
            database: u16::try_from(settings.db()).map_err(|_| wrong())?,
        })
    }

    fn agrees(&self, other: &Address) -> bool {
        (self.tls, &self.login, self.database) == (other.tls, &other.login, other.database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(addresses: &[&str], expected: &str) {
        let seen = match Options::parse(Topology::Single, addresses) {
            Ok(Options { nodes, tls, login, database, .. }) => {
                let nodes: Vec<_> = nodes.iter().map(|node| format!("{}:{}", node.host, node.port)).collect();
                format!("{} tls={tls} {:?} {:?} db={database}", nodes.join(","), login.user, login.password)
            }
            Err(error) => error.to_string(),
        };
        assert!(seen.contains(expected), "{addresses:?}: {seen}");
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        check(&["redis://cache"], "cache:6379 tls=false None None db=0");
        check(&["rediss://cache:1/3"], "cache:1 tls=true None None db=3");
        check(&["redis://me:a%40b@x"], "x:6379 tls=false Some(\"me\") Some([redacted])");
        check(&["redis://a:1", "redis://b:2"], "a:1,b:2");
        check(&["redis://[::1]:7"], "::1:7");
    }

    #[test]
    fn addresses_that_cannot_be_meant_are_refused_without_their_password() {
        check(&[], "no address");
        check(&["http://secret@x"], "address 1");
        check(&["redis://a", "unix:///x"], "address 2");
        check(&["rediss://x/#insecure"], "turns off the check");
        check(&["redis://a", "rediss://b"], "differ");
        let cluster = Options::parse(Topology::Cluster, &["redis://a/1"]);
        assert_eq!(cluster.map(drop), Err(OptionsError::DatabaseOfCluster));
    }

    #[test]
    fn a_prefix_cannot_choose_a_slot() {
        let options = || Options::parse(Topology::Single, &["redis://a"]).expect("valid");
        assert_eq!(options().with_prefix("prod/eu:").expect("valid").prefix, "prod/eu:");
        assert!(options().with_prefix("{a}").is_err());
        assert!(options().with_prefix(&"x".repeat(65)).is_err());
    }
}
