//! The longshore binary: arguments, configuration, wiring, output for people, exit statuses.
//!
//! Decides nothing about tasks or fleets: the control plane and the worker do, and `longshore_core` for both.

mod cli;
mod commands;
mod config_file;
mod demo;
mod error;
mod exit;
mod logging;
mod names;
mod output;
mod pin;
mod remote;
mod signals;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;

fn main() -> ExitCode {
    names::settle();
    let cli = Cli::parse();
    // Everything that speaks TLS uses this one; a second call is the only way to fail, and there is none.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exit = commands::run(cli.command).unwrap_or_else(|fault| {
        let _ = std::io::stderr().write_all(fault.text().as_bytes());
        fault.status()
    });
    exit.into()
}
