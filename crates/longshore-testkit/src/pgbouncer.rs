//! A PgBouncer before a [`Postgres`].

use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, TcpStream};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::postgres::Postgres;
use crate::process::{Plan, Process};
use crate::programs::{self, Unprivileged};
use crate::{port, template};

/// What a PgBouncer should be like.
#[derive(Debug, Clone, Default)]
pub struct PgBouncerOptions {
    settings: Vec<(String, String)>,
}

impl PgBouncerOptions {
    /// A line of pgbouncer.ini. The mode is `transaction` unless this says otherwise.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it; none after [`crate::skip`] where it is not installed.
    pub fn start(self, postgres: &Postgres) -> Option<PgBouncer> {
        let program = programs::find("pgbouncer")?;
        let user = Unprivileged::find()?;
        let folder = template::folder("pgbouncer", user);
        let port = port::free();
        let ini = folder.path().join("pgbouncer.ini");
        fs::write(&ini, configuration(postgres, port, &self.settings)).expect("the folder is ours");
        user.own(&ini);
        let plan = Plan {
            program,
            arguments: vec![ini.display().to_string()],
            log: folder.path().join("log"),
            folder: folder.path().to_owned(),
            user: Some(user),
            end: Signal::SIGTERM,
        };
        let process = Process::start(plan, |_| listens(port));
        Some(PgBouncer { process, _folder: folder, port })
    }
}

/// A PgBouncer that belongs to one test and ends with it. It lets in whoever connects, without a password or TLS; to
/// Postgres it speaks as `longshore`, with what that Postgres asks for at the time this is started.
pub struct PgBouncer {
    process: Process,
    _folder: TempDir,
    port: u16,
}

impl PgBouncer {
    /// One in transaction mode.
    pub fn start(postgres: &Postgres) -> Option<PgBouncer> {
        PgBouncer::options().start(postgres)
    }

    /// What can be chosen.
    pub fn options() -> PgBouncerOptions {
        PgBouncerOptions::default()
    }

    /// `postgres://longshore@127.0.0.1:PORT/postgres`
    pub fn url(&self) -> String {
        format!("postgres://longshore@127.0.0.1:{}/postgres", self.port)
    }

    /// Ends it without warning.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Starts it after it was killed, on the same port.
    pub fn start_again(&self) {
        self.process.start_again(|_| listens(self.port));
    }

    /// Stops it as it is: connections stay open and nothing answers.
    pub fn pause(&self) {
        self.process.stop_all();
    }

    /// Lets it go on after [`PgBouncer::pause`].
    pub fn resume(&self) {
        self.process.continue_all();
    }

    /// What it has logged since its last start.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

fn configuration(postgres: &Postgres, port: u16, more: &[(String, String)]) -> String {
    let mut text =
        format!("[databases]\n* = host={} port={} user=longshore", postgres.host(), postgres.port());
    if let Some(password) = postgres.current_password() {
        let _ = write!(text, " password={password}");
    }
    let _ = write!(text, "\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n");
    text.push_str("auth_type = any\npool_mode = transaction\n");
    if let Some(authority) = postgres.ca_file() {
        let _ =
            writeln!(text, "server_tls_sslmode = verify-full\nserver_tls_ca_file = {}", authority.display());
    }
    for (name, value) in more {
        let _ = writeln!(text, "{name} = {value}");
    }
    text
}

fn listens(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}
