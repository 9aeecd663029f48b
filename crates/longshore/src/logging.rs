//! Where log lines go, and which. The commands choose; nothing else here installs a subscriber.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::error::{Fault, Outcome};

const VARIABLE: &str = "LONGSHORE_LOG";

/// JSON lines on standard output: for `serve` and `worker`, whose output is collected by others.
pub fn json_to_stdout() -> Outcome<()> {
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .log_internal_errors(false)
        .with_env_filter(filter("info")?)
        .finish()
        .init();
    Ok(())
}

/// JSON lines into a file: for `demo`, whose screen shows something else.
pub fn json_to_file(file: std::fs::File) -> Outcome<()> {
    let lines = tracing_subscriber::fmt().json().flatten_event(true).log_internal_errors(false);
    lines.with_writer(std::sync::Mutex::new(file)).with_env_filter(filter("info")?).finish().init();
    Ok(())
}

/// For `up`: lines for people on a terminal, JSON lines elsewhere; on standard error, since standard output is for
/// what `up` itself says.
pub fn beside() -> Outcome<()> {
    let lines = tracing_subscriber::fmt().with_writer(io::stderr).log_internal_errors(false);
    if io::stderr().is_terminal() {
        lines.compact().with_target(false).with_env_filter(filter("warn")?).finish().init();
    } else {
        lines.json().flatten_event(true).with_env_filter(filter("info")?).finish().init();
    }
    Ok(())
}

/// For commands that ask and print: silent unless LONGSHORE_LOG says otherwise.
pub fn if_wanted() -> Outcome<()> {
    if std::env::var_os(VARIABLE).is_some() {
        let lines = tracing_subscriber::fmt().with_writer(io::stderr).log_internal_errors(false);
        lines.compact().with_env_filter(filter("off")?).finish().init();
    }
    Ok(())
}

fn filter(default: &str) -> Outcome<EnvFilter> {
    let given = std::env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty());
    EnvFilter::try_new(given.as_deref().unwrap_or(default)).map_err(|error| {
        Fault::usage(format!("{VARIABLE} is not a log filter"))
            .cause(&error)
            .hint("write a level (`info`) or levels by module (`warn,longshore_worker=debug`)")
    })
}
