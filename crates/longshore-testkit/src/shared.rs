//! The servers that all tests share, and what happens to a test that finds none.

use std::env;

/// Addresses of the servers that `./dev` started. Their data is shared by all tests: take a schema, a database or a key
/// prefix of your own.
#[derive(Debug, Clone)]
pub struct Shared {
    /// `postgres://longshore@127.0.0.1:PORT/postgres`, a superuser without a password; fsync is on.
    pub postgres: String,
    /// The same database through PgBouncer in transaction mode.
    pub pgbouncer: String,
    /// `redis://127.0.0.1:PORT`
    pub redis: String,
}

/// The shared servers, or none after [`skip`].
pub fn shared() -> Option<Shared> {
    let found = Shared {
        postgres: variable("LONGSHORE_TEST_POSTGRES")?,
        pgbouncer: variable("LONGSHORE_TEST_PGBOUNCER")?,
        redis: variable("LONGSHORE_TEST_REDIS")?,
    };
    Some(found)
}

fn variable(name: &str) -> Option<String> {
    let value = env::var(name).ok().filter(|value| !value.is_empty());
    if value.is_none() {
        skip(&format!("{name} is not set; `./dev with-services COMMAND` sets it"));
    }
    value
}

/// Says that this test is left out; the caller returns then. Where all tests must run this is a panic.
///
/// The line goes to standard output in the form that `./dev test` counts.
pub fn skip(why: &str) {
    assert_ne!(env::var("LONGSHORE_TEST_REQUIRE").as_deref(), Ok("all"), "this test would be skipped: {why}");
    println!("SKIPPED: {why}");
}
