//! The address of a database, as people write it.
//!
//! The words of libpq that our client does not know are taken out of it first: `sslmode=verify-full`, `sslrootcert`.

use std::path::PathBuf;
use std::str::FromStr;

use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

#[derive(Debug)]
pub(super) struct Address {
    pub config: Config,
    pub ca_file: Option<PathBuf>,
}

/// Reads `postgres://user:password@host:port/database?sslmode=verify-full&sslrootcert=FILE`.
///
/// With TLS the server's certificate and name are always verified. Returns what is wrong with it, without its secrets.
pub(super) fn read(url: &str) -> Result<Address, String> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err("it must begin with postgres://".into());
    }
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut kept, mut mode, mut ca_file) = (Vec::new(), None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslmode", value)) => mode = Some(ssl_mode(value)?),
            Some(("sslrootcert", value)) => ca_file = Some(PathBuf::from(decoded(value))),
            _ => kept.push(pair),
        }
    }
    let rest = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    let mut config =
        Config::from_str(&format!("{base}{rest}")).map_err(|error| longshore_core::errors::chain(&error))?;
    config.ssl_mode(mode.unwrap_or(SslMode::Prefer));
    if config.get_application_name().is_none() {
        config.application_name("longshore");
    }
    config.connect_timeout(std::time::Duration::from_secs(5));
    config.keepalives_idle(std::time::Duration::from_secs(15));
    config.tcp_user_timeout(std::time::Duration::from_secs(20));
    Ok(Address { config, ca_file })
}

fn ssl_mode(value: &str) -> Result<SslMode, String> {
    match value {
        "disable" => Ok(SslMode::Disable),
        "allow" | "prefer" => Ok(SslMode::Prefer),
        "require" | "verify-ca" | "verify-full" => Ok(SslMode::Require),
        other => Err(format!("sslmode `{other}` is not known: expected disable, prefer or verify-full")),
    }
}

fn decoded(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let hex = (byte == b'%').then(|| [rest.clone().next(), rest.clone().nth(1)]);
        let digit = |byte: Option<u8>| byte.and_then(|byte| (byte as char).to_digit(16));
        match hex.map(|[high, low]| (digit(high), digit(low))) {
            Some((Some(high), Some(low))) => {
                bytes.push((high * 16 + low) as u8);
                rest.nth(1);
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_libpq_are_understood() {
        let address = read(
            "postgres://u:p@db:5433/x?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem&application_name=a",
        )
        .expect("valid");
        assert_eq!(address.config.get_ssl_mode(), SslMode::Require);
        assert_eq!(address.ca_file.as_deref(), Some(std::path::Path::new("/etc/ca.pem")));
        assert_eq!(address.config.get_application_name(), Some("a"));
        assert_eq!(address.config.get_ports(), [5433]);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for url in [
            "mysql://u:secret@db/x",
            "postgres://u:secret@db:port/x",
            "postgres://u:secret@db/x?sslmode=maybe",
        ] {
            let error = read(url).expect_err("refused");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
