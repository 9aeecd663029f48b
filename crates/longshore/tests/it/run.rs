//! Runs the binary to its end, as a shell would.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::plane::binary;

/// What a command left behind.
#[derive(Debug)]
pub struct Ran {
    pub status: i32,
    pub out: String,
    pub err: String,
}

/// The binary in this folder, with nothing of longshore's in its environment.
pub fn command(dir: &Path) -> Command {
    let mut command = Command::new(binary());
    command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"LONGSHORE_"))
    {
        command.env_remove(name);
    }
    command
}

pub fn run(dir: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
    let output = command(dir).args(args).output().expect("the binary runs");
    ran(output)
}

/// The same with a text on standard input.
pub fn run_with(dir: &Path, args: &[&str], input: &str) -> Ran {
    feed(command(dir).args(args), input)
}

/// Runs any command with a text on standard input.
pub fn feed(command: &mut Command, input: &str) -> Ran {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut stdin = child.stdin.take().expect("it was asked for");
    // It may end without reading.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    ran(child.wait_with_output().expect("it is our child"))
}

pub fn ran(output: std::process::Output) -> Ran {
    Ran {
        status: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
