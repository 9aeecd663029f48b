//! Real servers for tests: those that `./dev` started for all, and those that a test starts for itself to kill, stop and
//! start again.
//!
//! Used by tests and benches only. What is not installed skips the test, with a line that `./dev test` counts; where all
//! must run (`LONGSHORE_TEST_REQUIRE=all`) it fails it. Anything else that goes wrong is a panic: a test cannot go on.
//!
//! A server of one's own takes a port and a folder of its own and ends with its value, or with the test's process,
//! however that ends. All calls block; they take milliseconds, a first start of Postgres a second.

mod pgbouncer;
pub mod port;
mod postgres;
mod process;
mod programs;
mod redis;
mod shared;
mod template;
mod tls;

pub use pgbouncer::{PgBouncer, PgBouncerOptions};
pub use postgres::{Postgres, PostgresOptions};
pub use redis::cluster::RedisCluster;
pub use redis::sentinel::RedisSentinel;
pub use redis::{Redis, RedisOptions};
pub use shared::{Shared, shared, skip};
