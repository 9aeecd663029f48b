//! What the demo stands on: a temporary folder with its agent, a `longshore.toml`, the store and the logs.
//!
//! Nothing outside the folder is read or written, and nothing is left of it unless the demo failed or was asked to keep it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use longshore_core::fleet::Fleet;
use longshore_core::settings::{self, Settings};

use super::provider;
use crate::error::{Fault, Outcome};

/// Part of the program, so that the installed binary has it, too.
const AGENT: &str = include_str!("agent.py");

pub const FLEET: &str = "demo";
pub const MIN: u32 = 2;
pub const MAX: u32 = 8;

/// How the file says which release of the agent it declares, and how that becomes the next one.
const RELEASES: [&str; 2] = [r#"RELEASE = "1""#, r#"RELEASE = "2""#];

pub struct Stage {
    dir: PathBuf,
    python: PathBuf,
    keep: bool,
}

impl Stage {
    /// Makes the folder and writes what is needed into it; `provider` is the base URL of the LLM's API.
    pub fn set(provider: &str, quick: bool, keep: bool) -> Outcome<Stage> {
        let python = find_python()?;
        let name = format!("longshore-demo-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        // Absolute, because workers and agents run elsewhere.
        let dir = std::path::absolute(std::env::temp_dir())?.join(name);
        let stage = Stage { dir, python, keep };
        DirBuilder::new().mode(0o700).create(&stage.dir).map_err(|error| stage.unusable(&error))?;
        stage.fill(provider, quick).map_err(|error| stage.unusable(&error))?;
        Ok(stage)
    }

    fn fill(&self, provider: &str, quick: bool) -> std::io::Result<()> {
        fs::write(self.agent(), AGENT)?;
        fs::write(self.key(), provider::KEY)?;
        fs::write(self.config(), self.toml(provider, quick))
    }

    fn unusable(&self, error: &std::io::Error) -> Fault {
        Fault::new(format!("could not use the temporary folder `{}`", self.dir.display()))
            .cause(error)
            .hint("TMPDIR names another place for it")
    }

    /// As somebody would write it by hand, so that it can be read as an example.
    fn toml(&self, provider: &str, quick: bool) -> String {
        let quoted = |path: &Path| serde_json::Value::from(path.to_string_lossy()).to_string();
        let (wait, after, hold) = if quick { ("1s", "2s", "100ms") } else { ("3s", "5s", "300ms") };
        let [release, _] = RELEASES;
        format!(
            r#"[store]
dir = "state"

[server]
api = "127.0.0.1:0"
link = "127.0.0.1:0"
probes = "127.0.0.1:0"
fleets = "api"

[provider.{name}]
base_url = "{provider}"
api_key = {{ file = {key} }}

[provider.{name}.prices]
"{model}" = {{ input = "{input}", cached_input = "{cached}", output = "{output}" }}

[fleet.{FLEET}]
command = [{python}, "-S", {agent}]
protocol = "exec"
concurrency = 1
kill_grace = "2s"
env = {{ MODEL = "{model}", {release} }}
task = {{ timeout = "60s", max_attempts = 3 }}
scaling = {{ min = {MIN}, max = {MAX}, scale_up_wait = "{wait}", scale_down_after = "{after}" }}
drain = {{ timeout = "20s", mode = "wait" }}
rollout = {{ batch = 2, hold = "{hold}", ready = "30s", deadline = "60s", canary = {{ cost = 5.0, latency = 5.0 }} }}
probe = {{ interval = "2s" }}
"#,
            python = quoted(&self.python),
            agent = quoted(&self.agent()),
            key = quoted(&self.key()),
            name = provider::NAME,
            model = provider::MODEL,
            input = provider::INPUT,
            cached = provider::CACHED,
            output = provider::OUTPUT,
        )
    }

    /// The settings, read the way `longshore up` reads them, but without the environment's overrides.
    pub fn settings(&self) -> Outcome<Settings> {
        let text = fs::read_to_string(self.config())?;
        let parsed = settings::parse(&text, "longshore.toml", &[], &self.dir.to_string_lossy());
        let refused = |errors: Vec<settings::SettingsError>| {
            Fault::new("the demo's own configuration is not valid")
                .details(errors.iter().map(ToString::to_string))
        };
        parsed.map(|(settings, _)| settings).map_err(refused)
    }

    /// Changes the file as its owner would, to declare the next release of the agent, and reads what it declares then.
    pub fn next_release(&self) -> Outcome<Vec<Fleet>> {
        let [old, new] = RELEASES;
        let text = fs::read_to_string(self.config())?.replace(old, new);
        fs::write(self.config(), text)?;
        Ok(self.settings()?.fleets)
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("longshore.log")
    }

    pub fn open_log(&self) -> Outcome<File> {
        File::create(self.log()).map_err(|error| self.unusable(&error))
    }

    /// Names no other file of this machine: whoever runs it belongs to this demo.
    pub fn agent(&self) -> PathBuf {
        self.dir.join("agent.py")
    }

    /// The provider's key, for the gateway alone.
    fn key(&self) -> PathBuf {
        self.dir.join("provider.key")
    }

    /// What starts an agent.
    pub fn command(&self) -> Vec<OsString> {
        // Without site-packages Python starts in half the time.
        vec![self.python.clone().into(), "-S".into(), self.agent().into()]
    }

    fn config(&self) -> PathBuf {
        self.dir.join("longshore.toml")
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn keeps(&self) -> bool {
        self.keep
    }

    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// The interpreter itself: what PATH has may be a wrapper that is slower than the agent.
fn find_python() -> Outcome<PathBuf> {
    let hint = "install Python 3, or put python3 into PATH; agents in other languages need no Python";
    let asked = Command::new("python3").args(["-S", "-c", "import sys; print(sys.executable)"]).output();
    let answer = asked.map_err(|error| {
        Fault::new("python3 was not found: the demo's agent is written in Python").cause(&error).hint(hint)
    })?;
    let path = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
    match answer.status.success() && Path::new(&path).is_absolute() {
        true => Ok(PathBuf::from(path)),
        false => {
            let said = String::from_utf8_lossy(&answer.stderr);
            let said = said.lines().last().unwrap_or("it said nothing").to_owned();
            Err(Fault::new(format!("python3 does not run ({})", answer.status)).details([said]).hint(hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROVIDER: &str = "http://127.0.0.1:9/v1";

    fn stage(dir: &str) -> Stage {
        // Kept, or its drop would remove a folder that it did not make.
        Stage { dir: PathBuf::from(dir), python: PathBuf::from("/usr/bin/python3"), keep: true }
    }

    #[test]
    fn the_configuration_is_one_that_up_would_take() {
        for quick in [false, true] {
            let stage = stage("/tmp/a \"b\"\\c");
            let toml = stage.toml(PROVIDER, quick);
            let (settings, warnings) = settings::parse(&toml, "demo", &[], "/tmp").expect(&toml);
            assert_eq!(warnings, []);
            let fleet = &settings.fleets[0];
            assert_eq!((fleet.scaling.min, fleet.scaling.max, fleet.concurrency), (MIN, MAX, 1));
            let command: Vec<OsString> = fleet.command.iter().map(OsString::from).collect();
            assert_eq!(command, stage.command());
            assert_eq!(fleet.providers, [provider::NAME]);
        }
    }

    #[test]
    fn the_next_release_differs_in_its_environment_alone_and_takes_the_place_of_the_first() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let stage = stage(&dir.path().to_string_lossy());
        stage.fill(PROVIDER, true).expect("written");
        let first = stage.settings().expect("valid").fleets.remove(0);
        let mut next = stage.next_release().expect("valid").remove(0);
        assert_eq!((first.env["RELEASE"].as_str(), next.env["RELEASE"].as_str()), ("1", "2"));
        assert_eq!((next.rollout.batch, next.rollout.surge), (2, 2));
        assert_eq!(stage.settings().expect("valid").fleets[0], next);
        next.env.clone_from(&first.env);
        assert_eq!(next, first);
    }

    #[test]
    fn a_draining_worker_outlasts_the_longest_task() {
        let toml = stage("/tmp/x").toml(PROVIDER, false);
        let (settings, _) = settings::parse(&toml, "demo", &[], "/tmp").expect("valid");
        let fleet = &settings.fleets[0];
        let wait = longshore_core::drain::handover_after(
            fleet.drain.timeout_ms,
            fleet.kill_grace_ms,
            fleet.drain.mode,
        );
        let longest = super::super::trace::read(super::super::trace::BURST, 1).expect("shipped");
        let longest = longest.iter().map(|arrival| arrival.work_ms).max().expect("not empty");
        assert!(wait.as_millis() as u64 > longest + 2_000, "{wait:?} for {longest} ms");
    }
}
