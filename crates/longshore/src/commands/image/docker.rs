//! Runs the `docker` command: it knows contexts, logins, BuildKit and .dockerignore better than anybody else could.

use std::ffi::OsStr;
use std::io;
use std::process::{Command, Stdio};

use crate::error::{Fault, Outcome};

/// Runs it; what it prints goes to standard error, so that standard output is for the answer.
pub fn run(args: &[impl AsRef<OsStr>]) -> Outcome<()> {
    let verb = args.first().map(|arg| arg.as_ref().to_string_lossy().into_owned()).unwrap_or_default();
    let status = Command::new("docker").args(args).stdin(Stdio::null()).stdout(io::stderr()).status();
    let status = status.map_err(|error| missing(&error))?;
    if status.success() {
        return Ok(());
    }
    Err(Fault::new(format!("`docker {verb}` failed with {status}")))
}

/// What it prints, without the line's end; `None` if it failed.
pub fn ask(args: &[&str]) -> Outcome<Option<String>> {
    let output = Command::new("docker").args(args).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.map_err(|error| missing(&error))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(output.status.success().then_some(text))
}

fn missing(error: &io::Error) -> Fault {
    Fault::new("could not run `docker`")
        .cause(error)
        .hint("install the Docker client; DOCKER_HOST names an engine that is not on this machine")
}

/// `unix:///var/run/docker.sock` unless the environment says otherwise.
pub fn address() -> String {
    let given = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    given.unwrap_or_else(|| longshore_image::engine::DEFAULT_ADDRESS.to_owned())
}
