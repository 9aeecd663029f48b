//! A real Docker engine for one test: its images, its containers, and what has to be gone afterwards.
//!
//! Images are made from nothing: busybox for a shell, the binary under test and the libraries that it is linked with.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use longshore_testkit::skip;

use crate::plane::{PATIENCE, Plane, binary};

/// Carried by all that tests make, so that a person can remove what a killed one left behind.
const LABEL: &str = "longshore.test";

pub struct Engine {
    host: String,
    /// The fleet's name in this test, on an engine that others use too.
    pub fleet: String,
    images: Vec<String>,
}

/// The engine, or none after [`skip`].
pub fn engine(name: &str) -> Option<Engine> {
    let host = std::env::var("LONGSHORE_TEST_DOCKER").ok().filter(|host| !host.is_empty());
    let Some(host) = host else {
        skip(
            "LONGSHORE_TEST_DOCKER is not set: the address of a Docker engine such as unix:///var/run/docker.sock",
        );
        return None;
    };
    if !Path::new(BUSYBOX).exists() {
        skip("busybox-static is not installed");
        return None;
    }
    Some(Engine { host, fleet: format!("{name}-{}", std::process::id()), images: Vec::new() })
}

const BUSYBOX: &str = "/bin/busybox";

impl Engine {
    /// What a control plane's file begins with.
    pub fn settings(&self, fleet_keys: &str) -> String {
        format!(
            "[docker]\nhost = \"{}\"\n[fleet.{}]\nplatform = \"docker\"\n\
             resources = {{ cpu = 0.01, memory = \"32Mi\", memory_limit = \"256Mi\" }}\n{fleet_keys}\n",
            self.host, self.fleet
        )
    }

    /// Starts a control plane with this one fleet.
    pub async fn plane(&self, fleet_keys: &str) -> Plane {
        Plane::start(&self.settings(fleet_keys)).await
    }

    /// The same for an engine at another address.
    pub fn elsewhere(&self, host: &str) -> Engine {
        Engine { host: host.to_owned(), fleet: self.fleet.clone(), images: Vec::new() }
    }

    /// Something that a test has made an image of, to be removed after it.
    pub fn owns(&mut self, image: &str) {
        self.images.push(image.to_owned());
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// The output of `docker`, which must succeed.
    pub fn docker(&self, args: &[&str]) -> String {
        let done = self.try_docker(args);
        done.unwrap_or_else(|said| panic!("docker {args:?}: {said}"))
    }

    pub fn try_docker(&self, args: &[&str]) -> Result<String, String> {
        let output =
            Command::new("docker").env("DOCKER_HOST", &self.host).args(args).output().expect("docker runs");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// An image with a shell and longshore, whose entrypoint is `longshore worker --`.
    pub fn worker_image(&mut self) -> String {
        let entrypoint = "ENTRYPOINT [\"/longshore\",\"worker\",\"--\"]";
        self.image("worker", &[root_with_longshore()], &[entrypoint])
    }

    /// An image with nothing but a shell.
    pub fn plain_image(&mut self, changes: &[&str]) -> String {
        self.image("plain", &[root()], changes)
    }

    /// An image that adds these lines to another one.
    pub fn derived(&mut self, kind: &str, from: &str, lines: &str) -> String {
        let name = format!("longshore-test/{}-{kind}:1", self.fleet);
        let mut build = Command::new("docker")
            .env("DOCKER_HOST", &self.host)
            .env("DOCKER_BUILDKIT", "0")
            .args(["build", "-q", "-t", &name, "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("docker runs");
        let mut input = build.stdin.take().expect("piped");
        input.write_all(format!("FROM {from}\n{lines}\n").as_bytes()).expect("docker reads it");
        drop(input);
        assert!(build.wait().expect("it ends").success(), "docker build");
        self.images.push(name.clone());
        name
    }

    /// An image that says it is for another kind of machine than the engine's: an archive as `docker save` writes it.
    pub fn foreign_image(&mut self) -> String {
        let name = format!("longshore-test/{}-foreign:1", self.fleet);
        let machine = match self.docker(&["info", "--format", "{{.Architecture}}"]).as_str() {
            "aarch64" => "amd64",
            _ => "arm64",
        };
        let dir = tempfile::tempdir().expect("a temporary folder");
        let run = |program: &str, args: &[&str]| {
            let done = Command::new(program).current_dir(dir.path()).args(args).output().expect("it runs");
            assert!(done.status.success(), "{program} {args:?}: {done:?}");
            String::from_utf8_lossy(&done.stdout).into_owned()
        };
        let write = |file: &str, value: serde_json::Value| {
            fs::write(dir.path().join(file), value.to_string()).expect("the folder is writable");
        };
        run("tar", &["-c", "-f", "layer.tar", "-C", &root().display().to_string(), "."]);
        let sum = run("sha256sum", &["layer.tar"]);
        let layer = format!("sha256:{}", sum.split_whitespace().next().expect("a sum"));
        let config = serde_json::json!({ "Entrypoint": ["/longshore", "worker", "--"], "Labels": { LABEL: self.fleet } });
        write(
            "config.json",
            serde_json::json!({ "architecture": machine, "os": "linux", "config": config,
                "rootfs": { "type": "layers", "diff_ids": [layer] } }),
        );
        write(
            "manifest.json",
            serde_json::json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]),
        );
        run("tar", &["-c", "-f", "image.tar", "manifest.json", "config.json", "layer.tar"]);
        self.docker(&["load", "-q", "-i", &dir.path().join("image.tar").display().to_string()]);
        self.images.push(name.clone());
        name
    }

    /// Where the engine listens.
    pub fn socket(&self) -> PathBuf {
        PathBuf::from(self.host.strip_prefix("unix://").expect("tests speak to an engine on this machine"))
    }

    /// What a control plane's file says of the engine alone.
    pub fn section(&self) -> String {
        format!("[docker]\nhost = \"{}\"\n", self.host)
    }

    pub fn image(&mut self, kind: &str, roots: &[&Path], changes: &[&str]) -> String {
        let name = format!("longshore-test/{}-{kind}:1", self.fleet);
        let mut args = vec!["import".to_owned()];
        let label = format!("LABEL {LABEL}={}", self.fleet);
        let user = "USER 65532:65532";
        for change in changes.iter().copied().chain([label.as_str(), user]) {
            args.extend(["--change".to_owned(), change.to_owned()]);
        }
        args.extend(["-".to_owned(), name.clone()]);
        let mut import = Command::new("docker")
            .env("DOCKER_HOST", &self.host)
            .args(&args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("docker runs");
        let tar = Command::new("tar").arg("-c").arg("-C").arg(roots[0]).arg(".").output().expect("tar runs");
        let mut input = import.stdin.take().expect("piped");
        input.write_all(&tar.stdout).expect("docker reads it");
        drop(input);
        assert!(import.wait().expect("it ends").success(), "docker import");
        self.images.push(name.clone());
        name
    }

    /// Ids of the fleet's containers, running or not.
    pub fn containers(&self) -> Vec<String> {
        let filter = format!("label=longshore.fleet={}", self.fleet);
        let listed = self.docker(&["ps", "-aq", "--no-trunc", "--filter", &filter]);
        listed.lines().map(str::to_owned).collect()
    }

    /// One value of a container, by a template of `docker inspect`.
    pub fn inspect(&self, container: &str, template: &str) -> String {
        self.docker(&["inspect", "--format", template, container])
    }

    pub async fn eventually<T>(&self, plane: &Plane, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            assert!(Instant::now() < end, "waited for {what}\n{}\n{}", plane.worker_logs(), self.logs());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// What the fleet's containers printed, for a test that fails.
    pub fn logs(&self) -> String {
        let log = |id: &String| self.try_docker(&["logs", "--tail", "15", id]).unwrap_or_default();
        self.containers().iter().map(log).collect::<Vec<_>>().join("\n---\n")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let filter = format!("label=longshore.fleet={}", self.fleet);
        for id in self.try_docker(&["ps", "-aq", "--filter", &filter]).unwrap_or_default().lines() {
            let _ = self.try_docker(&["rm", "-f", "-v", id]);
        }
        for id in self.try_docker(&["network", "ls", "-q", "--filter", &filter]).unwrap_or_default().lines() {
            let _ = self.try_docker(&["network", "rm", id]);
        }
        for image in &self.images {
            let _ = self.try_docker(&["rmi", "-f", image]);
        }
    }
}

/// A folder that all tests of one build share: made once, beside what was built.
fn once(name: &str, fill: impl FnOnce(&Path)) -> PathBuf {
    let shared = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let place = shared.join(name);
    if !place.exists() {
        let dir = tempfile::tempdir_in(shared).expect("the build's folder is writable");
        let made = dir.path().join("root");
        fs::create_dir(&made).expect("the folder is writable");
        fill(&made);
        // Another test may have been faster.
        let _ = fs::rename(&made, &place);
    }
    place
}

/// A root file system with a shell.
fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        once("root-with-busybox", |dir| {
            for folder in ["bin", "tmp", "etc", "proc", "sys", "dev"] {
                fs::create_dir(dir.join(folder)).expect("the folder is writable");
            }
            // What is mounted there takes over how open the folder of the image is.
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
            fs::set_permissions(dir.join("tmp"), open).expect("it is ours");
            fs::copy(BUSYBOX, dir.join("bin/busybox")).expect("busybox is there");
            for tool in ["sh", "sleep", "cat", "env", "echo", "awk", "wget", "touch", "tail", "kill", "id"] {
                std::os::unix::fs::symlink("busybox", dir.join("bin").join(tool)).expect("a link");
            }
        })
    })
}

/// The same with the binary under test and the libraries that it is linked with.
fn root_with_longshore() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let built = fs::metadata(binary()).and_then(|data| data.modified()).expect("the binary under test");
        let built = built.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos();
        let name = format!("root-of-{built}");
        forget_older(&name);
        once(&name, |dir| {
            let copied =
                Command::new("cp").arg("-a").arg(format!("{}/.", root().display())).arg(dir).status();
            assert!(copied.expect("cp runs").success());
            fs::copy(binary(), dir.join("longshore")).expect("the binary under test");
            for library in libraries() {
                let target = dir.join(library.strip_prefix("/").expect("an absolute path"));
                fs::create_dir_all(target.parent().expect("a folder")).expect("the folder is writable");
                fs::copy(&library, &target).expect("a library");
            }
        })
    })
}

/// Removes what was made for binaries that are built no more.
fn forget_older(name: &str) {
    for entry in fs::read_dir(env!("CARGO_TARGET_TMPDIR")).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let other = file.to_str().is_some_and(|file| file.starts_with("root-of-") && file != name);
        if other {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// What `ldd` says that the binary under test needs; nothing of a static one.
fn libraries() -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(binary()).output().expect("ldd runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(PathBuf::from).collect()
}

/// A longshore that needs no libraries, for tests that inject it.
pub fn static_binary() -> Option<String> {
    let path = std::env::var("LONGSHORE_TEST_STATIC").ok().filter(|path| Path::new(path).exists());
    if path.is_none() {
        skip("LONGSHORE_TEST_STATIC is not set: a longshore built with `-C target-feature=+crt-static`");
    }
    path
}
