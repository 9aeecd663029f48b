//! What a worker of platform `process` is started with, and where its output is.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use longshore_core::errors::chain;
use longshore_core::fleet::Fleet;
use longshore_core::id::WorkerId;
use longshore_platform::process::WorkerSpec;

use super::secrets;
use crate::app::App;
use crate::start::write_token;

/// What of our own environment a worker gets: enough to run programs, nothing secret.
const PASSED_ON: [&str; 21] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TERM",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
];

/// Errors: in words, since nothing but a person can do something about them.
pub fn spec(app: &App, program: &Path, fleet: &Fleet, id: &WorkerId) -> Result<WorkerSpec, String> {
    let dir = &app.state_dir;
    let absolute =
        fs::canonicalize(dir).map_err(|error| format!("could not use `{}`: {error}", dir.display()))?;
    for folder in ["logs", "tmp"].map(|name| absolute.join(name)) {
        fs::create_dir_all(&folder)
            .map_err(|error| format!("could not create `{}`: {error}", folder.display()))?;
    }
    let mut args: Vec<_> =
        ["worker", "--id", id.as_str(), "--probe-addr", "127.0.0.1:0", "--agent-port", "0", "--"]
            .map(Into::into)
            .to_vec();
    args.extend(fleet.command.iter().map(Into::into));
    Ok(WorkerSpec {
        worker_id: id.to_string(),
        program: program.to_owned(),
        args,
        env: environment(app, fleet, id, &absolute)?,
        env_clear: true,
        working_dir: PathBuf::from(&fleet.working_dir),
        log_file: log_file(&absolute, id),
        files: longshore_api::files::given(),
    })
}

fn environment(
    app: &App,
    fleet: &Fleet,
    id: &WorkerId,
    dir: &Path,
) -> Result<Vec<(OsString, OsString)>, String> {
    let passed = PASSED_ON.iter().filter_map(|name| Some(((*name).into(), std::env::var_os(name)?)));
    let mut env: Vec<_> = passed.collect();
    env.extend(fleet.env.iter().map(|(name, value)| (name.into(), value.into())));
    env.extend(secrets(fleet)?.into_iter().map(|(name, value)| (name.into(), value.into())));
    let log = std::env::var_os("LONGSHORE_LOG").map(|log| ("LONGSHORE_LOG".into(), log));
    env.extend(log);
    // On the store's disk, where what a killed worker leaves behind is found and removed.
    env.push(("TMPDIR".into(), dir.join("tmp").into()));
    env.push(("LONGSHORE_WORKER_ID".into(), id.as_str().into()));
    env.push(("LONGSHORE_FLEET".into(), fleet.name.as_str().into()));
    env.push(("LONGSHORE_LINK".into(), app.links_to_start_with().join(",").into()));
    let trust = app.link_trust.as_ref();
    env.extend(trust.map(|trust| ("LONGSHORE_LINK_CA".into(), trust.to_string().into())));
    // The fleet may have been declared at another replica.
    let token = write_token(app, dir, &fleet.name).map_err(|error| chain(&error))?;
    env.push(("LONGSHORE_WORKER_TOKEN_FILE".into(), token.into()));
    Ok(env)
}

fn log_file(dir: &Path, id: &WorkerId) -> PathBuf {
    dir.join("logs").join(format!("{id}.log"))
}

/// The last thing that a worker said, for people; short. Reads the end of its log only.
pub fn last_line(dir: &Path, id: &WorkerId) -> Option<String> {
    const END: u64 = 4096;
    let mut bytes = Vec::new();
    let read = fs::File::open(log_file(dir, id)).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(END)))?;
        file.take(END).read_to_end(&mut bytes)
    });
    read.ok()?;
    super::last_line_of(&String::from_utf8_lossy(&bytes))
}
