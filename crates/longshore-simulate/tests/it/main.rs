//! The simulated provider over real sockets, asked by a plain HTTP client.

mod bill;
mod client;
mod control;
mod determinism;
mod faults;
mod formats;
mod limits;
mod pace;
mod rest;
