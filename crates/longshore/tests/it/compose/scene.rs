//! A compose project of one test, and images with the names that its file asks for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use longshore_testkit::skip;

use crate::docker::scene::{Engine, engine};
use crate::plane::Plane;

pub struct Project {
    pub engine: Engine,
    pub dir: tempfile::TempDir,
    pub name: String,
    pub images: Vec<String>,
    env: Vec<(String, String)>,
}

/// The project, or none after [`skip`].
pub fn project(name: &str) -> Option<Project> {
    let engine = engine(name)?;
    let mut version = Command::new("docker-compose");
    version.arg("version").stdout(Stdio::null()).stderr(Stdio::null());
    if !version.status().is_ok_and(|status| status.success()) {
        skip("docker-compose is not installed");
        return None;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    // docker-compose leaves everything but letters and digits out.
    let name = engine.fleet.replace('-', "");
    Some(Project { engine, dir, name, images: Vec::new(), env: Vec::new() })
}

impl Project {
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.env.push((name.into(), value.into()));
    }

    pub fn write(&self, file: &str, text: &str) {
        fs::write(self.dir.path().join(file), text).expect("the folder is writable");
    }

    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir.path().join(file)).unwrap_or_default()
    }

    pub fn get(&self, name: &str) -> &str {
        let found = self.env.iter().rev().find(|(key, _)| key == name);
        &found.expect("it was set").1
    }

    /// What `docker-compose` prints, which must succeed.
    pub fn compose(&self, args: &[&str]) -> String {
        let mut tries = 0;
        loop {
            match self.try_compose(args) {
                Ok(said) => return said,
                // It lists containers first and looks at each then, and one may have been removed in between.
                Err(said) if said.contains("No such container") && tries < 5 => tries += 1,
                Err(said) => panic!("docker-compose {args:?}: {said}"),
            }
        }
    }

    pub fn try_compose(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new("docker-compose")
            .current_dir(self.dir.path())
            .env("DOCKER_HOST", self.engine.host())
            .env("COMPOSE_PROJECT_NAME", &self.name)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("docker-compose runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stdout) + &text(&output.stderr)),
        }
    }

    /// Replicas of a service that `docker-compose ps` lists, running or not: ids, sorted.
    pub fn listed(&self, service: &str) -> Vec<String> {
        // It lists one-off containers as well.
        let label = |name: &str, value: &str| format!("label=com.docker.compose.{name}={value}");
        let (project, one_off) = (label("project", &self.name), label("oneoff", "True"));
        let others =
            self.engine.docker(&["ps", "-aq", "--no-trunc", "--filter", &project, "--filter", &one_off]);
        let listed = self.compose(&["ps", "-q", service]);
        let replicas = listed.lines().filter(|id| !others.contains(id));
        let mut ids: Vec<String> = replicas.map(str::to_owned).collect();
        ids.sort();
        ids
    }

    /// Names of all containers of the project, however they came to be; sorted.
    pub fn names(&self) -> Vec<String> {
        let filter = format!("label=com.docker.compose.project={}", self.name);
        let listed = self.engine.docker(&["ps", "-a", "--filter", &filter, "--format", "{{.Names}}"]);
        let mut names: Vec<String> = listed.lines().map(str::to_owned).collect();
        names.sort();
        names
    }

    /// What a control plane's file says whose only fleet is the service `agent` of this project.
    pub fn toml(&self, fleet_keys: &str) -> String {
        format!(
            "[docker]\nhost = \"{}\"\nproject = \"{}\"\n[fleet.{}]\nplatform = \"compose\"\nservice = \"agent\"\n{fleet_keys}\n",
            self.engine.host(),
            self.name,
            self.engine.fleet,
        )
    }

    /// Such a control plane on the host.
    pub async fn plane(&self, fleet_keys: &str) -> Plane {
        self.plane_of(&self.toml(fleet_keys)).await
    }

    pub async fn plane_of(&self, toml: &str) -> Plane {
        Plane::start_with(toml, &[("LONGSHORE__SERVER__LINK", "0.0.0.0:0")]).await
    }

    /// The file of a project whose agents find a control plane on the host.
    pub fn declare(&self, plane: &Plane, image: &str, script: &str) {
        let port = plane.addresses.link.rsplit(':').next().expect("a port");
        let fleet = &self.engine.fleet;
        let token = fs::read_to_string(plane.dir().join(".longshore/tokens").join(fleet)).expect("a token");
        let script = serde_json::to_string(&script.replace('$', "$$")).expect("text");
        self.write(
            "docker-compose.yml",
            &format!(
                "version: \"3.8\"\nservices:\n  agent:\n    image: {image}\n    command: [\"sh\", \"-c\", {script}]\n    \
                 scale: 2\n    restart: always\n    stop_grace_period: 30s\n    \
                 extra_hosts: {{ host: host-gateway }}\n    environment:\n      LONGSHORE_LINK: http://host:{port}\n      \
                 LONGSHORE_FLEET: {fleet}\n      LONGSHORE_WORKER_TOKEN: {token}\n      LONGSHORE_PROBE_ADDR: 0.0.0.0:7119\n"
            ),
        );
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.try_compose(&["logs", "--no-color", "--tail", "25"]);
            println!("{}", logs.unwrap_or_else(|said| said));
        }
        // All of them, whatever docker-compose knows of.
        let filter = format!("label=com.docker.compose.project={}", self.name);
        for id in self.engine.try_docker(&["ps", "-aq", "--filter", &filter]).unwrap_or_default().lines() {
            let _ = self.engine.try_docker(&["rm", "-f", "-v", id]);
        }
        let _ = self.try_compose(&["down", "-v", "-t", "0", "--remove-orphans"]);
        let _ = self.engine.try_docker(&["network", "rm", &format!("{}_default", self.name)]);
        for image in &self.images {
            let _ = self.engine.try_docker(&["rmi", "-f", image]);
        }
    }
}

/// A root file system of these programs and the libraries that they are linked with, where they are on this machine.
pub fn root_of(programs: &[&Path]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for program in programs {
        put(dir.path(), program);
        for library in libraries(program) {
            put(dir.path(), &library);
        }
    }
    dir
}

fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().expect("ldd runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(PathBuf::from).collect()
}

pub fn put(root: &Path, file: &Path) {
    let target = root.join(file.strip_prefix("/").expect("an absolute path"));
    if !target.exists() {
        fs::create_dir_all(target.parent().expect("a folder")).expect("the folder is writable");
        fs::copy(file, &target).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}
