//! Reads secrets from where they are declared to be, when they are needed.

use std::io;

use longshore_core::fleet::SecretSource;

/// The secret's value. Errors name the source, never the value.
pub fn read(source: &SecretSource) -> io::Result<String> {
    match source {
        SecretSource::Env(name) => std::env::var(name).map_err(|_| {
            io::Error::new(io::ErrorKind::NotFound, format!("the environment has no variable `{name}`"))
        }),
        SecretSource::File(path) => {
            std::fs::read_to_string(path).map(|text| text.trim_end_matches('\n').to_owned())
        }
    }
}

/// Where a secret comes from, in words.
pub fn name(source: &SecretSource) -> String {
    match source {
        SecretSource::Env(name) => format!("the environment variable `{name}`"),
        SecretSource::File(path) => format!("the file `{path}`"),
    }
}
