//! Several control planes in containers: workers reach each of them, though only one has the engine's socket.

use std::fs;
use std::net::IpAddr;

use longshore_api::client::Client;
use longshore_api::rollout::Deploy;
use longshore_api::task::{Submit, Task};
use longshore_core::id::FleetName;
use longshore_core::json::Json;
use longshore_core::task::State;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::fleet_of;
use super::scene::{Engine, engine};
use crate::plane::{PATIENCE, pause};
use crate::room::Room;

/// A network with control planes in it, which reach the servers of the tests through its gateway.
struct Scene {
    engine: Engine,
    network: String,
    image: String,
    worker: String,
    toml: String,
    home: tempfile::TempDir,
    _room: Room,
}

impl Scene {
    async fn new() -> Option<Scene> {
        let mut engine = engine("planes")?;
        let room = Room::new()?;
        let network = format!("{}-net", engine.fleet);
        let label = format!("longshore.fleet={}", engine.fleet);
        engine.docker(&["network", "create", "--label", &label, &network]);
        let gateway = "{{(index .IPAM.Config 0).Gateway}}";
        let gateway = engine.docker(&["network", "inspect", "--format", gateway, &network]);
        let gateway: IpAddr = gateway.parse().expect("an address");
        let worker = engine.worker_image();
        let image = engine.derived("plane", &worker, "ENTRYPOINT [\"/longshore\"]");
        let fleet = engine.settings(&fleet_of(&worker, "echo done", ""));
        let fleet = fleet.replace(&engine.section(), "[docker]\nhost = \"unix:///engine.sock\"\n");
        let mut store = room.toml();
        for server in store.clone().split(['/', '@', '"']).filter(|part| part.starts_with("127.0.0.1:")) {
            let open = lead(gateway, server.to_owned()).await;
            store = store.replace(server, &open);
        }
        let server = "[server]\napi = \"0.0.0.0:7117\"\nlink = \"0.0.0.0:7118\"\nallow_insecure = true\n";
        let home = tempfile::tempdir().expect("a temporary folder");
        Some(Scene {
            engine,
            network,
            image,
            worker,
            toml: format!("{store}{server}{fleet}"),
            home,
            _room: room,
        })
    }

    fn name(&self, short: &str) -> String {
        format!("{}-{short}", self.engine.fleet)
    }

    /// Starts a control plane as a container of its own.
    fn start(&self, short: &str, roles: &str, more: &[&str]) {
        let name = self.name(short);
        let file = self.home.path().join("longshore.toml");
        fs::write(&file, &self.toml).expect("the folder is writable");
        let mount = format!("{}:/etc/longshore/longshore.toml:ro", file.display());
        let label = format!("longshore.fleet={}", self.engine.fleet);
        let url = format!("LONGSHORE__SERVER__LINK_URL=http://{name}:7118");
        let base =
            ["run", "-d", "--name", &name, "--network", &self.network, "--label", &label, "-v", &mount];
        let rest = [
            "-w",
            "/etc/longshore",
            "--tmpfs",
            "/tmp:mode=1777",
            "-e",
            "LONGSHORE__STORE__DIR=/tmp/state",
            "-e",
            &url,
        ];
        let roles = format!("LONGSHORE_ROLES={roles}");
        let last = ["-e", &roles, "-e", "LONGSHORE__STORE__MIGRATE=auto", &self.image, "serve"];
        self.engine.docker(&[&base[..], &rest, more, &last].concat());
    }

    /// What control planes read when they start again.
    fn declare_nothing(&self) {
        let (settings, _fleet) = self.toml.split_once("[fleet.").expect("a fleet");
        fs::write(self.home.path().join("longshore.toml"), settings).expect("the folder is writable");
    }

    /// The public API of a control plane, seen from the host.
    fn client(&self, short: &str) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let address = format!("{{{{(index .NetworkSettings.Networks {:?}).IPAddress}}}}", self.network);
        let address = self.engine.inspect(&self.name(short), &address);
        Client::new(&format!("http://{address}:7117"), None).expect("a client needs nothing that could fail")
    }

    async fn eventually<T>(&self, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            let logs = || {
                ["lead", "one", "two"]
                    .map(|it| self.engine.try_docker(&["logs", "--tail", "20", &self.name(it)]))
            };
            assert!(
                std::time::Instant::now() < end,
                "waited for {what}\n{:?}\n{}",
                logs(),
                self.engine.logs()
            );
            pause().await;
        }
    }

    /// Has a task done by asking this one.
    async fn does_a_task(&self, short: &str) {
        let client = self.client(short);
        let task = Submit::new(FleetName::new(&self.engine.fleet).expect("valid"), Json::of(&json!({})));
        let done = |task: Task| (task.state == State::Succeeded).then_some(());
        let id =
            self.eventually("a task to be taken", async || client.submit(&task, None).await.ok()).await.id;
        self.eventually("a task to be done", async || client.task(id).await.ok().and_then(done)).await;
    }
}

/// Listens at an address of the host and leads to a server on loopback; returns where.
async fn lead(at: IpAddr, server: String) -> String {
    let listener = TcpListener::bind((at, 0)).await.expect("the host's address in a network");
    let open = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let server = server.clone();
            tokio::spawn(async move {
                let Ok(mut server) = TcpStream::connect(server).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    open
}

// The way to the servers of the tests stays open while a command is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_reach_each_control_plane_in_a_container() {
    let Some(scene) = Scene::new().await else { return };
    let socket = format!("{}:/engine.sock", scene.engine.socket().display());
    scene.start("one", "api,link,gateway", &[]);
    scene.start("lead", "controllers", &["--user", "0", "-v", &socket]);
    scene.does_a_task("one").await;
    // One that comes later, when the worker runs already.
    scene.start("two", "api,link,gateway", &[]);
    let networks = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}";
    let of_fleet = |name: &str| name.starts_with("longshore-") && name.ends_with(&scene.engine.fleet);
    for short in ["one", "two", "lead"] {
        scene
            .eventually(&format!("`{short}` to be in the fleet's network"), async || {
                let joined = scene.engine.inspect(&scene.name(short), networks);
                joined.split(' ').any(of_fleet).then_some(())
            })
            .await;
    }
    // Whichever the worker asks: each is the only one for a while.
    scene.engine.docker(&["stop", "-t", "20", &scene.name("one")]);
    scene.does_a_task("two").await;
    scene.engine.docker(&["start", &scene.name("one")]);
    scene.engine.docker(&["kill", &scene.name("two")]);
    scene.does_a_task("one").await;
    assert_eq!(scene.engine.containers().len(), 4, "the same worker, and three control planes");
    // Whoever is asked to deploy has no engine; the leader has.
    let wish = Deploy { fleet: scene.engine.fleet.clone(), image: scene.worker.clone(), ..Deploy::default() };
    let deployed = scene.client("one").deploy(&wish).await.expect("it is answered");
    assert_eq!(deployed.outcome, "runs");
    // A fleet that is declared no more leaves no network behind, though control planes were in it.
    scene.declare_nothing();
    scene.engine.docker(&["restart", "-t", "20", &scene.name("lead")]);
    let networks = ["network", "ls", "--format", "{{.Name}}", "--filter", "name=longshore-"];
    scene
        .eventually("the network to go", async || {
            let there = scene.engine.docker(&networks);
            (!there.lines().any(of_fleet)).then_some(())
        })
        .await;
}
