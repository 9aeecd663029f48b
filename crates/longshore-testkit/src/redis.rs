//! A Redis for one test, and those of which several make a whole.

pub mod cluster;
pub mod sentinel;

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::process::{Plan, Process, run};
use crate::{port, programs, tls};

/// What a Redis should be like.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    tls: bool,
    user: Option<User>,
    lines: String,
    memory_only: bool,
    sentinel: bool,
}

#[derive(Debug, Clone)]
struct User {
    name: String,
    password: String,
}

impl RedisOptions {
    /// Connections are refused unless they use TLS; see [`Redis::ca_file`].
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// The only user: `rules` are ACL rules, such as `~ls:* &ls:* +@all -@dangerous`. The default user is off.
    pub fn user(mut self, name: &str, password: &str, rules: &str) -> Self {
        self.user = Some(User { name: name.to_owned(), password: password.to_owned() });
        let _ = write!(self.lines, "user default off\nuser {name} on >{password} {rules}\n");
        self
    }

    /// Takes a command away, as services that run Redis for others do: `CONFIG` is then unknown.
    pub fn forbid(mut self, command: &str) -> Self {
        let _ = writeln!(self.lines, "rename-command {command} \"\"");
        self
    }

    /// Nothing is kept on disk: a restart loses all. Without this, all that was acknowledged outlives a kill.
    pub fn memory_only(mut self) -> Self {
        self.memory_only = true;
        self
    }

    /// A line of redis.conf.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        let _ = writeln!(self.lines, "{name} {value}");
        self
    }

    /// Starts it; none after [`crate::skip`] where it is not installed.
    pub fn start(self) -> Option<Redis> {
        let program = programs::find("redis-server")?;
        programs::find("redis-cli")?;
        let folder = tempfile::Builder::new().prefix("longshore-redis-").tempdir();
        let folder = folder.expect("temporary folders can be made");
        let port = port::free();
        let tls = self.tls.then(|| tls::Files::make(folder.path(), None));
        let conf = folder.path().join("redis.conf");
        fs::write(&conf, configuration(&self, port, tls.as_ref())).expect("the folder is ours");
        let mut arguments = vec![conf.display().to_string()];
        arguments.extend(self.sentinel.then(|| "--sentinel".to_owned()));
        let log = folder.path().join("log");
        let plan = Plan {
            program,
            arguments,
            log: log.clone(),
            folder: folder.path().to_owned(),
            user: None,
            end: Signal::SIGTERM,
        };
        let process = Process::start(plan, |_| is_ready(&log));
        Some(Redis { process, folder, port, tls, user: self.user })
    }
}

/// A Redis that belongs to one test and ends with it.
pub struct Redis {
    // Before the folder in which it works: fields are dropped in this order.
    process: Process,
    folder: TempDir,
    port: u16,
    tls: Option<tls::Files>,
    user: Option<User>,
}

impl Redis {
    /// One without TLS or users that writes all it acknowledges to a file.
    pub fn start() -> Option<Redis> {
        Redis::options().start()
    }

    /// What can be chosen.
    pub fn options() -> RedisOptions {
        RedisOptions::default()
    }

    /// `redis[s]://[USER:PASSWORD@]HOST:PORT`. HOST is `localhost` with TLS, as the certificate says, and 127.0.0.1
    /// without.
    pub fn url(&self) -> String {
        self.url_at(self.host())
    }

    /// The same under another name of this machine, such as one that the certificate does not have.
    pub fn url_at(&self, host: &str) -> String {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        let user = self.user.as_ref().map(|user| format!("{}:{}@", user.name, user.password));
        format!("{scheme}://{}{host}:{}", user.unwrap_or_default(), self.port)
    }

    /// The port of 127.0.0.1 it listens on; stays the same when it is started again.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// With TLS, the certificate of the authority that signed the server's, as PEM.
    pub fn ca_file(&self) -> Option<&Path> {
        self.tls.as_ref().map(|files| files.authority.as_path())
    }

    fn host(&self) -> &'static str {
        if self.tls.is_some() { tls::HOST } else { "127.0.0.1" }
    }

    /// Ends it without warning.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Asks it to end, and waits until it has.
    pub fn shut_down(&self) {
        self.process.shut_down();
    }

    /// Starts it after it was killed or shut down, on the same port with what its file holds, and waits until it answers.
    pub fn start_again(&self) {
        let log = self.folder.path().join("log");
        self.process.start_again(|_| is_ready(&log));
    }

    /// Ends it as asked and starts it again.
    pub fn restart(&self) {
        self.shut_down();
        self.start_again();
    }

    /// Stops it as it is: connections stay open and nothing answers.
    pub fn pause(&self) {
        self.process.stop_all();
    }

    /// Lets it go on after [`Redis::pause`].
    pub fn resume(&self) {
        self.process.continue_all();
    }

    /// What it has logged since its last start.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Runs a command with redis-cli and gives what it prints; an error answer is printed too. Panics if it cannot
    /// connect.
    pub fn cli(&self, command: &[&str]) -> String {
        let mut cli = Command::new("redis-cli");
        cli.args(["-h", self.host(), "-p", &self.port.to_string()]);
        if let Some(files) = &self.tls {
            cli.arg("--tls").arg("--cacert").arg(&files.authority);
        }
        if let Some(user) = &self.user {
            cli.args(["--user", &user.name]).env("REDISCLI_AUTH", &user.password);
        }
        run(cli.args(command))
    }
}

fn configuration(options: &RedisOptions, port: u16, tls: Option<&tls::Files>) -> String {
    let mut text = String::from("bind 127.0.0.1\nsave \"\"\n");
    match tls {
        None => drop(writeln!(text, "port {port}")),
        Some(tls::Files { authority, certificate, key }) => {
            let _ = writeln!(text, "port 0\ntls-port {port}\ntls-auth-clients no");
            let _ = writeln!(text, "tls-ca-cert-file {}", authority.display());
            let _ = writeln!(text, "tls-cert-file {}", certificate.display());
            let _ = writeln!(text, "tls-key-file {}", key.display());
        }
    }
    if !options.memory_only && !options.sentinel {
        text.push_str("appendonly yes\nappendfsync everysec\n");
    }
    text + &options.lines
}

/// Both are the last that it says of its start, after its file is read.
fn is_ready(log: &Path) -> bool {
    let said = fs::read(log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    said.contains("Ready to accept connections") || said.contains("Sentinel ID is ")
}
