//! A Postgres for one test.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::process::{Plan, Process, run};
use crate::programs::{self, Unprivileged};
use crate::{port, template, tls};

/// What a Postgres should be like.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    tls: bool,
    password: Option<String>,
    settings: Vec<(String, String)>,
}

impl PostgresOptions {
    /// Connections are refused unless they use TLS; see [`Postgres::ca_file`].
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// The user `longshore` has to show this password (SCRAM).
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// A line of postgresql.conf. fsync is on unless this says otherwise.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it; none after [`crate::skip`] where it is not installed.
    pub fn start(self) -> Option<Postgres> {
        let bin = programs::postgres()?;
        let user = Unprivileged::find()?;
        Some(Postgres::make(bin, user, self))
    }
}

/// A Postgres that belongs to one test and ends with it. Its superuser is `longshore`.
pub struct Postgres {
    // Before the folder in which it works: fields are dropped in this order.
    process: Process,
    folder: TempDir,
    bin: PathBuf,
    port: u16,
    tls: Option<tls::Files>,
    password: Mutex<Option<String>>,
}

impl Postgres {
    /// One that trusts whoever connects, without TLS.
    pub fn start() -> Option<Postgres> {
        Postgres::options().start()
    }

    /// What can be chosen.
    pub fn options() -> PostgresOptions {
        PostgresOptions::default()
    }

    fn make(bin: PathBuf, user: Unprivileged, options: PostgresOptions) -> Postgres {
        let folder = template::folder("postgres", user);
        let data = folder.path().join("data");
        template::copy(&bin, user, &data);
        let tls = options.tls.then(|| tls::Files::make(folder.path(), Some(user)));
        if let Some(password) = &options.password {
            alone(&bin, &data, user, &alter_password(password));
        }
        let access = access(tls.is_some(), options.password.is_some());
        fs::write(data.join("pg_hba.conf"), access).expect("the folder is ours");
        let port = port::free();
        let plan = Plan {
            program: bin.join("postgres"),
            arguments: arguments(&data, port, tls.as_ref(), &options.settings),
            log: folder.path().join("log"),
            folder: data.clone(),
            user: Some(user),
            end: Signal::SIGINT,
        };
        let process = Process::start(plan, |id| is_ready(&data, id));
        Postgres { process, folder, bin, port, tls, password: Mutex::new(options.password) }
    }

    /// `postgres://longshore[:PASSWORD]@HOST:PORT/postgres`. HOST is `localhost` with TLS, as the certificate says, and
    /// 127.0.0.1 without. Passwords must need no escaping in a URL.
    pub fn url(&self) -> String {
        self.url_at(self.host())
    }

    /// The same under another name of this machine, such as one that the certificate does not have.
    pub fn url_at(&self, host: &str) -> String {
        let password = self.password.lock().expect("nobody panics here");
        let password = password.as_ref().map(|password| format!(":{password}")).unwrap_or_default();
        format!("postgres://longshore{password}@{host}:{}/postgres", self.port)
    }

    /// The port of 127.0.0.1 it listens on; stays the same when it is started again.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// With TLS, the certificate of the authority that signed the server's, as PEM.
    pub fn ca_file(&self) -> Option<&Path> {
        self.tls.as_ref().map(|files| files.authority.as_path())
    }

    pub(crate) fn host(&self) -> &'static str {
        if self.tls.is_some() { tls::HOST } else { "127.0.0.1" }
    }

    pub(crate) fn current_password(&self) -> Option<String> {
        self.password.lock().expect("nobody panics here").clone()
    }

    /// Ends it and all of its backends without warning, as when the machine takes them.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// A fast shutdown: transactions are rolled back, clients are told.
    pub fn shut_down(&self) {
        self.process.shut_down();
    }

    /// Starts it after it was killed or shut down, on the same port with the same data, and waits until it answers.
    pub fn start_again(&self) {
        let data = self.data();
        self.process.start_again(|id| is_ready(&data, id));
    }

    /// A fast shutdown and a start.
    pub fn restart(&self) {
        self.shut_down();
        self.start_again();
    }

    /// Stops it and all of its backends as they are: connections stay open and nothing answers.
    pub fn pause(&self) {
        self.process.stop_all();
    }

    /// Lets it go on after [`Postgres::pause`].
    pub fn resume(&self) {
        self.process.continue_all();
    }

    /// The id of its first process, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// What it has logged since its last start.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Gives the user another password; open connections stay.
    pub fn set_password(&self, password: &str) {
        self.sql(&alter_password(password));
        *self.password.lock().expect("nobody panics here") = Some(password.to_owned());
    }

    /// Runs SQL with psql and gives its rows, unaligned, columns parted by `|`. Panics if it fails.
    pub fn sql(&self, sql: &str) -> String {
        let mut command = Command::new(self.bin.join("psql"));
        command.args(["--no-psqlrc", "--no-password", "--tuples-only", "--no-align", "--quiet"]);
        command.args(["--set=ON_ERROR_STOP=1", "--command", sql, &self.url()]);
        if let Some(authority) = self.ca_file() {
            command.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", authority);
        }
        run(&mut command)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Killed, it leaves a segment of System V's shared memory behind, of which a system has few.
        let segment = segment(&self.data());
        self.process.kill();
        if let Some(segment) = segment {
            let _ = Command::new("ipcrm").args(["--shmem-id", &segment]).stderr(Stdio::null()).status();
        }
    }
}

fn arguments(data: &Path, port: u16, tls: Option<&tls::Files>, more: &[(String, String)]) -> Vec<String> {
    let mut settings = vec![
        ("port".to_owned(), port.to_string()),
        ("listen_addresses".to_owned(), "127.0.0.1".to_owned()),
        ("unix_socket_directories".to_owned(), String::new()),
        ("fsync".to_owned(), "on".to_owned()),
        // Many servers at once on a small machine.
        ("shared_buffers".to_owned(), "32MB".to_owned()),
    ];
    if let Some(files) = tls {
        settings.push(("ssl".to_owned(), "on".to_owned()));
        settings.push(("ssl_cert_file".to_owned(), files.certificate.display().to_string()));
        settings.push(("ssl_key_file".to_owned(), files.key.display().to_string()));
    }
    settings.extend_from_slice(more);
    let settings =
        settings.into_iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]);
    ["-D".to_owned(), data.display().to_string()].into_iter().chain(settings).collect()
}

/// pg_hba.conf: one way in.
fn access(tls: bool, password: bool) -> String {
    let connection = if tls { "hostssl" } else { "host" };
    let method = if password { "scram-sha-256" } else { "trust" };
    format!("{connection} all all 127.0.0.1/32 {method}\n")
}

fn alter_password(password: &str) -> String {
    format!("ALTER ROLE longshore PASSWORD '{}'", password.replace('\'', "''"))
}

/// Runs one statement while no server runs.
fn alone(bin: &Path, data: &Path, user: Unprivileged, sql: &str) {
    let mut command = Command::new(bin.join("postgres"));
    command.arg("--single").arg("-D").arg(data).arg("postgres").current_dir(data);
    if let Some((uid, gid)) = user.ids() {
        command.uid(uid.as_raw()).gid(gid.as_raw());
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it was found");
    let mut input = child.stdin.take().expect("it was asked for");
    writeln!(input, "{sql}").expect("it reads what we write");
    drop(input);
    let output = child.wait_with_output().expect("it is our child");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !complaint.contains("ERROR"), "`{sql}` failed: {complaint}");
}

/// The eighth line of postmaster.pid, which is how pg_ctl knows it too. A killed server leaves its file behind: the first
/// line says whose it is.
fn is_ready(data: &Path, id: u32) -> bool {
    let is = |line, wanted: &str| line_of_pid_file(data, line).is_some_and(|line| line.trim() == wanted);
    is(0, &id.to_string()) && is(7, "ready")
}

/// The seventh: key and id.
fn segment(data: &Path) -> Option<String> {
    line_of_pid_file(data, 6)?.split_whitespace().nth(1).map(str::to_owned)
}

fn line_of_pid_file(data: &Path, line: usize) -> Option<String> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    text.lines().nth(line).map(str::to_owned)
}
