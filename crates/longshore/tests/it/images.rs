//! `longshore image`: builds and checks on a real engine, which LONGSHORE_TEST_DOCKER names (`unix:///…/docker.sock`).
//!
//! No image is pulled: the base is made from scratch, with the binary under test, a shell and the libraries that they load.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::plane::{binary, skip};
use crate::run::{Ran, command, ran, run};

/// An engine and what a test makes on it.
struct Engine {
    address: String,
    /// Beginning of the names of its images.
    name: String,
    folder: tempfile::TempDir,
}

impl Engine {
    fn find(test: &str) -> Option<Engine> {
        let Some(address) = std::env::var("LONGSHORE_TEST_DOCKER").ok().filter(|address| !address.is_empty())
        else {
            skip("LONGSHORE_TEST_DOCKER is not set");
            return None;
        };
        let name = format!("longshore-test-{test}-{}", std::process::id());
        let engine = Engine { address, name, folder: tempfile::tempdir().expect("a folder") };
        engine.make_base();
        Some(engine)
    }

    fn docker(&self, args: &[&str]) -> String {
        let mut docker = Command::new("docker");
        let output = docker.args(args).env("DOCKER_HOST", &self.address).output().expect("docker runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn longshore(&self, dir: &Path, args: &[&str]) -> Ran {
        ran(command(dir).args(args).env("DOCKER_HOST", &self.address).output().expect("the binary runs"))
    }

    fn base(&self) -> String {
        format!("{}-base:1", self.name)
    }

    fn make_base(&self) {
        let folder = self.folder.path().join("base");
        let longshore = folder.join("root/usr/local/bin/longshore");
        copy(Path::new(binary()), &longshore);
        // A debug build is mostly what debuggers read; where there is no `strip` the test takes longer.
        let _ = Command::new("strip").arg(&longshore).status();
        for program in ["sh", "sleep", "cat"] {
            copy(&on_path(program), &folder.join("root/bin").join(program));
        }
        let text = "FROM scratch\nLABEL longshore.test=image\nCOPY root/ /\nENV PATH=/usr/local/bin:/bin\n";
        fs::write(folder.join("Dockerfile"), text).expect("written");
        self.build(&self.base(), &folder);
    }

    /// An image of an agent that is a shell script, with these lines after it.
    fn agent(&self, name: &str, script: &str, lines: &str) -> String {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join("agent.sh"), script).expect("written");
        let text = format!("FROM {}\nWORKDIR /agent\nCOPY agent.sh .\n{lines}\n", self.base());
        fs::write(folder.join("Dockerfile"), text).expect("written");
        let tag = format!("{}-{name}:1", self.name);
        self.build(&tag, &folder);
        tag
    }

    /// Another test may be removing what the cache names just now.
    fn build(&self, tag: &str, folder: &Path) {
        self.docker(&["build", "--quiet", "--no-cache", "--tag", tag, &folder.display().to_string()]);
    }

    fn check(&self, image: &str, more: &[&str]) -> (i32, Value) {
        let mut args = vec!["image", "check", image, "--json"];
        args.extend(more);
        let ran = self.longshore(self.folder.path(), &args);
        let report = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("a report: {ran:?}"));
        (ran.status, report)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let docker = |args: &[&str]| {
            let output = Command::new("docker").args(args).env("DOCKER_HOST", &self.address).output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let listed = docker(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]).unwrap_or_default();
        for image in listed.lines().filter(|image| image.starts_with(&self.name)) {
            docker(&["image", "rm", "--force", image]);
        }
    }
}

fn on_path(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").expect("a PATH");
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("no {program}"))
}

/// With the libraries that it loads, each at its own place below `root`.
fn copy(program: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("a folder")).expect("made");
    fs::copy(program, to).expect("copied");
    let root = to.ancestors().find(|folder| folder.ends_with("root")).expect("it is in root");
    let listed = Command::new("ldd").arg(program).output().expect("ldd runs");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        let place = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(place.parent().expect("a folder")).expect("made");
        fs::copy(library, place).expect("copied");
    }
}

const WORKER: &str = "USER 10001\n\
    HEALTHCHECK CMD [\"/usr/local/bin/longshore\", \"probe\", \"live\"]\n\
    ENTRYPOINT [\"/usr/local/bin/longshore\", \"worker\", \"--\"]\n\
    CMD [\"sh\", \"agent.sh\"]";

fn codes(report: &Value, place: &str) -> Vec<String> {
    let findings = report["findings"].as_array().expect("findings").iter();
    let there = findings.filter(|finding| finding["where"]["in"] == place);
    there.map(|finding| finding["code"].as_str().expect("a code").to_owned()).collect()
}

#[test]
fn an_image_is_read_and_proven_by_running_it() {
    let Some(engine) = Engine::find("check") else { return };
    let all: [fn(&Engine); 5] = [good, long, writes, deaf, gone];
    // Each waits for most of its time.
    std::thread::scope(|scope| {
        for prove in all {
            let engine = &engine;
            scope.spawn(move || prove(engine));
        }
    });
    let left = engine.docker(&["ps", "--all", "--quiet", "--filter", "label=longshore.check"]);
    assert_eq!(left, "", "containers were left");
    assert_eq!(
        engine.docker(&["network", "ls", "--quiet", "--filter", "label=longshore.check"]),
        "",
        "a network was left"
    );
}

fn good(engine: &Engine) {
    let image = engine.agent("good", "cat >/dev/null; sleep 0.3; echo done\n", WORKER);
    let (status, report) = engine.check(&image, &["--budget", "2000Mi"]);
    assert_eq!((status, codes(&report, "run")), (0, vec![]), "{report:#}");
    let proof = &report["proof"];
    let seen = |key: &str| proof[key].clone();
    assert_eq!(
        (seen("live"), seen("ready"), seen("health"), seen("uid")),
        (json!(true), json!(true), json!("healthy"), json!(10001))
    );
    assert_eq!(
        (seen("exit_status"), seen("in_flight_at_stop"), seen("orphan_tried")),
        (json!(0), json!(true), json!(true)),
        "{proof:#}"
    );
    assert!(
        proof["tasks_succeeded"].as_u64() > Some(0) && proof["log_lines"].as_u64() > Some(0),
        "{proof:#}"
    );
}

/// Longer than any drain: it is handed over, and the worker ends with 0 all the same.
fn long(engine: &Engine) {
    let image = engine.agent("long", "cat >/dev/null; sleep 100\n", WORKER);
    let (status, report) = engine.check(&image, &["--budget", "2000Mi"]);
    assert_eq!((status, codes(&report, "run")), (0, vec![]), "{report:#}");
    assert_eq!(report["proof"]["handed_over"], json!(1), "{report:#}");
}

fn writes(engine: &Engine) {
    let lines = format!("COPY --chown=10001 agent.sh /agent/state\n{WORKER}");
    let script = "cat >/dev/null; echo x >/agent/state || exit 1; sleep 0.2; echo done\n";
    let image = engine.agent("writes", script, &lines);
    let (status, report) = engine.check(&image, &["--budget", "2000Mi"]);
    assert_eq!(
        (status, codes(&report, "run")),
        (1, vec!["writes_outside".into(), "trial_task_failed".into()]),
        "{report:#}"
    );
}

/// A first process that hears no SIGTERM and buries nobody: the shell's child leaves it an orphan.
fn deaf(engine: &Engine) {
    let lines = "ENTRYPOINT [\"/bin/sh\", \"-c\", \"(sleep 0.1 & exec sleep 0.2) & exec sleep 100\"]";
    let image = engine.agent("deaf", "", lines);
    let (status, report) = engine.check(&image, &["--budget", "2000Mi"]);
    assert_eq!(
        (status, codes(&report, "run")),
        (1, vec!["runs_as_root".into(), "stop_too_slow".into(), "zombies".into()]),
        "{report:#}"
    );
}

fn gone(engine: &Engine) {
    let image = engine.agent("gone", "", "USER 10001\nENTRYPOINT [\"/no/such/program\"]");
    let (status, report) = engine.check(&image, &["--budget", "2000Mi"]);
    assert_eq!((status, codes(&report, "run")), (1, vec!["does_not_start".into()]), "{report:#}");
}

#[test]
fn a_deleted_secret_and_what_was_built_in_are_found_on_an_engine() {
    let Some(engine) = Engine::find("read") else { return };
    // Drawn once, and put together here so that no scanner stops at it.
    let key = format!("gsk_{}", "q7Rk2ZpV9xTb4LmW8cYd1NfGs6HjUe3AoKiXuM5EvBt0QzPrDyCn");
    let script = format!("KEY='{key}'\necho \"$KEY gpt\"\n");
    let lines = format!("ENV MODEL=gpt-5-mini\nRUN [\"/bin/sh\", \"-c\", \": >agent.sh\"]\n{WORKER}");
    let image = engine.agent("secret", &script, &lines);
    let (status, report) = engine.check(&image, &["--no-run", "--budget", "2000Mi"]);
    assert_eq!(
        (status, codes(&report, "layer"), codes(&report, "env")),
        (1, vec!["secret_in_file".into()], vec!["model_in_env".into()]),
        "{report:#}"
    );
    let secret = report["findings"]
        .as_array()
        .expect("findings")
        .iter()
        .find(|found| found["code"] == "secret_in_file");
    let place = &secret.expect("found")["where"];
    assert_eq!((&place["path"], &place["line"]), (&json!("/agent/agent.sh"), &json!(1)));
    assert!(place["deleted_in"].as_u64() > place["layer"].as_u64(), "{place}");
    assert!(!report.to_string().contains(&key[10..30]), "the secret is never shown");

    // The same from a file, without an engine.
    let archive = engine.folder.path().join("image.tar");
    engine.docker(&["save", "--output", &archive.display().to_string(), &image]);
    let path = archive.display().to_string();
    let ran = run(
        engine.folder.path(),
        [
            "image",
            "check",
            "--archive",
            &path,
            "--allow",
            "secret_in_file",
            "--allow",
            "model_in_env:gpt-*",
            "--budget",
            "2000Mi",
        ],
    );
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.out.contains("2 allowed"), "{ran:?}");
    let bytes = fs::read(&archive).expect("saved");
    fs::write(&archive, &bytes[..bytes.len() / 2]).expect("cut");
    let ran = run(engine.folder.path(), ["image", "check", "--archive", &path]);
    assert!(
        ran.status == 1
            && ran.err.contains("error: could not read the archive\n  cause: the archive breaks off"),
        "{ran:?}"
    );
}

#[test]
fn a_build_can_be_traced_to_its_commit() {
    let Some(engine) = Engine::find("build") else { return };
    let dir = engine.folder.path().join("agent");
    fs::create_dir_all(&dir).expect("made");
    fs::write(
        dir.join("Dockerfile"),
        format!("FROM {}\nARG REVISION\nCOPY agent.sh /agent/\n{WORKER}\n", engine.base()),
    )
    .expect("written");
    fs::write(dir.join("agent.sh"), "echo hi\n").expect("written");
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(&dir).args(["-c", "user.name=t", "-c", "user.email=t@example.org"]).args(args);
        let output = git.output().expect("git runs");
        assert!(output.status.success(), "{args:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "agent"]);
    git(&["tag", "v1.4.2"]);
    let commit = git(&["rev-parse", "HEAD"]);
    let repository = format!("{}-built", engine.name);
    let build = |more: &[&str]| {
        let mut args = vec!["image", "build", "--json", "--repository", &repository];
        args.extend(more);
        engine.longshore(&dir, &args)
    };
    let ran = build(&[]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let told: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(
        told["tags"],
        json!([format!("{repository}:1.4.2"), format!("{repository}:1.4.2-g{}", &commit[..12])])
    );
    let inspect = |tag: &str| {
        engine.docker(&[
            "image",
            "inspect",
            "--format",
            "{{json .Config.Labels}}",
            &format!("{repository}:{tag}"),
        ])
    };
    let labels: Value = serde_json::from_str(&inspect("1.4.2")).expect("JSON");
    assert_eq!(labels["org.opencontainers.image.revision"], json!(commit));
    assert_eq!(labels["org.opencontainers.image.version"], json!("1.4.2"));

    fs::write(dir.join("new"), "x").expect("written");
    let ran = build(&["--clean"]);
    assert!(ran.status == 1 && ran.err.contains("no commit has"), "{ran:?}");
    let ran = build(&[]);
    assert!(ran.status == 0 && ran.err.contains("tags and labels say `dirty`"), "{ran:?}");
    let labels: Value = serde_json::from_str(&inspect("1.4.2-dirty")).expect("JSON");
    assert_eq!(labels["longshore.dirty"], json!("true"));
    let (_, report) = engine.check(&format!("{repository}:1.4.2-dirty"), &["--no-run"]);
    assert_eq!(codes(&report, "label"), ["dirty_tree"], "{report:#}");
}

#[test]
fn what_cannot_be_checked_or_built_says_why() {
    let dir = tempfile::tempdir().expect("a folder");
    let ran = run(dir.path(), ["image", "build"]);
    assert!(
        ran.status == 1
            && ran.err.contains("could not read `./Dockerfile`")
            && ran.err.contains("longshore init"),
        "{ran:?}"
    );
    let ran = run(dir.path(), ["image", "check"]);
    assert_eq!(ran.status, 2, "{ran:?}");
    let ran = run(dir.path(), ["image", "check", "x", "--allow", "no_such_code"]);
    assert!(ran.status == 2 && ran.err.contains("no code of a finding"), "{ran:?}");
    let no_engine = |address: &str| {
        let output = command(dir.path()).args(["image", "check", "x"]).env("DOCKER_HOST", address).output();
        crate::run::ran(output.expect("the binary runs"))
    };
    let told = no_engine("unix:///no/such/docker.sock");
    assert!(
        told.status == 5
            && told.err.contains("could not reach the Docker engine at unix:///no/such/docker.sock"),
        "{told:?}"
    );
    let told = no_engine("ssh://host");
    assert!(told.status == 1 && told.err.contains("is no address of a Docker engine"), "{told:?}");
    fs::write(dir.path().join("x.tar"), "hello").expect("written");
    let told = run(dir.path(), ["image", "check", "--archive", "x.tar"]);
    assert!(told.status == 1 && told.err.contains("docker save IMAGE"), "{told:?}");
}

#[test]
fn an_image_that_the_engine_does_not_have_is_named() {
    let Some(engine) = Engine::find("missing") else { return };
    let ran = engine.longshore(engine.folder.path(), &["image", "check", "no-such-image:1"]);
    assert!(ran.status == 1 && ran.err.contains("the engine has no image `no-such-image:1`"), "{ran:?}");
}
