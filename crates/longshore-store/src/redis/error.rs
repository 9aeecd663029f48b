//! What can go wrong with a command, and whether it may have been carried out all the same.

use ::redis::{ErrorKind, ServerErrorKind};

#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum RedisError {
    /// Nothing was sent.
    #[error("redis is not reachable: {why}")]
    Down { why: String },
    /// It may have been carried out, or may still be.
    #[error("redis did not answer in time")]
    TimedOut,
    /// It may have been carried out, or may still be.
    #[error("the connection to redis broke: {detail}")]
    Broken { detail: String },
    /// The server said no; nothing was done, and another connection may do better: it is loading, a replica now, or wants
    /// another password.
    #[error("redis cannot serve now: {detail}")]
    Unfit { detail: String },
    /// The server said no; nothing was done.
    #[error("redis refused a command: {detail}")]
    Refused { detail: String },
    #[error("redis does not know a script yet")]
    UnknownScript,
    /// Carried out, but the answer has another form than it should.
    #[error("redis answered something unexpected: {detail}")]
    Unexpected { detail: String },
}

impl RedisError {
    pub(super) fn from_driver(error: ::redis::RedisError) -> RedisError {
        let detail = error.to_string();
        if error.is_timeout() {
            return RedisError::TimedOut;
        }
        match error.kind() {
            ErrorKind::Server(kind) => from_server(kind, error.code(), detail),
            ErrorKind::AuthenticationFailed => RedisError::Unfit { detail },
            ErrorKind::UnexpectedReturnType => RedisError::Unexpected { detail },
            _ => match error.code() {
                // Codes that the driver has no name for.
                Some(code) if code.chars().all(|c| c.is_ascii_uppercase()) => from_code(code, detail),
                _ => RedisError::Broken { detail },
            },
        }
    }

    /// Is it certain that the command was not carried out, and will not be?
    pub(crate) fn surely_undone(&self) -> bool {
        !matches!(self, RedisError::TimedOut | RedisError::Broken { .. } | RedisError::Unexpected { .. })
    }
}

fn from_server(kind: ServerErrorKind, code: Option<&str>, detail: String) -> RedisError {
    match kind {
        ServerErrorKind::NoScript => RedisError::UnknownScript,
        ServerErrorKind::BusyLoading
        | ServerErrorKind::ClusterDown
        | ServerErrorKind::MasterDown
        | ServerErrorKind::ReadOnly
        | ServerErrorKind::Moved
        | ServerErrorKind::Ask
        | ServerErrorKind::TryAgain => RedisError::Unfit { detail },
        _ => from_code(code.unwrap_or_default(), detail),
    }
}

fn from_code(code: &str, detail: String) -> RedisError {
    match code {
        "NOAUTH" | "WRONGPASS" | "BUSY" | "NOREPLICAS" | "UNBLOCKED" => RedisError::Unfit { detail },
        _ => RedisError::Refused { detail },
    }
}
