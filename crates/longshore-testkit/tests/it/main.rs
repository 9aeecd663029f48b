//! Tests of the kit itself, on the servers that it starts.

mod bouncer;
mod life;
mod postgres;
mod redis;
mod redis_groups;
mod tls;
