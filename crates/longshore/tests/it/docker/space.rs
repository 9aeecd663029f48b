//! An engine whose disk is full, for real: one of our own, on a small file system in memory.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use longshore_testkit::skip;
use serde_json::json;

use super::scene::engine;
use super::{fleet_of, trouble};
use crate::plane::wait_for;
use crate::rollouts::check;

/// Room for the image of a worker, built for debugging, and a little more.
const SIZE: &str = "size=1g";

/// An engine that nothing else uses.
struct OwnEngine {
    child: Option<Child>,
    disk: PathBuf,
    dir: tempfile::TempDir,
}

impl OwnEngine {
    /// `None` after [`skip`]: only root can start an engine.
    async fn start() -> Option<OwnEngine> {
        if !nix::unistd::geteuid().is_root() || !Path::new("/usr/sbin/dockerd").exists() {
            skip("starting an engine of one's own needs root and dockerd");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("engine").tempdir_in("/tmp").expect("a temporary folder");
        let disk = dir.path().join("disk");
        fs::create_dir(&disk).expect("the folder is writable");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(&disk).status();
        let mut engine = OwnEngine { child: None, disk, dir };
        if !mounted.expect("mount runs").success() {
            skip("a file system in memory could not be mounted");
            return None;
        }
        let bridge = engine.bridge();
        if !ip(&["link", "add", &bridge, "type", "bridge"]) {
            skip("a bridge could not be made");
            return None;
        }
        assert!(ip(&["address", "add", "10.219.16.1/28", "dev", &bridge]), "a new bridge takes an address");
        let at = |name: &str| engine.dir.path().join(name);
        let log = File::create(at("log")).expect("the folder is writable");
        // The engine beside it keeps its rules, and its `docker0`, which an engine told to have no bridge would remove.
        let child = Command::new("/usr/sbin/dockerd")
            .arg("--data-root")
            .arg(&engine.disk)
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .arg("-H")
            .arg(engine.host())
            .args(["--bridge", &bridge, "--iptables=false", "--ip-forward=false", "--shutdown-timeout", "5"])
            .args(["--default-address-pool", "base=10.219.0.0/20,size=26"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be cloned"))
            .stderr(log)
            .spawn()
            .expect("dockerd runs");
        engine.child = Some(child);
        let host = engine.host();
        wait_for("the engine to answer", || {
            let ended = engine.child.as_mut().and_then(|child| child.try_wait().expect("our child"));
            assert!(
                ended.is_none(),
                "{}",
                fs::read_to_string(engine.dir.path().join("log")).unwrap_or_default()
            );
            let asked = Command::new("docker").env("DOCKER_HOST", &host).arg("version").output();
            asked.expect("docker runs").status.success().then_some(())
        })
        .await;
        Some(engine)
    }

    /// Names of interfaces have 15 letters.
    fn bridge(&self) -> String {
        format!("ls-{}", std::process::id())
    }

    fn host(&self) -> String {
        format!("unix://{}", self.dir.path().join("engine.sock").display())
    }

    fn ballast(&self) -> PathBuf {
        self.disk.join("ballast")
    }

    fn fill(&self) {
        let mut file = File::create(self.ballast()).expect("there is room for a name");
        for size in [1 << 20, 4096, 1] {
            let block = vec![0_u8; size];
            while file.write_all(&block).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("it is there");
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            crate::plane::signal(child.id(), nix::sys::signal::Signal::SIGTERM);
            let _ = child.wait();
        }
        ip(&["link", "delete", &self.bridge()]);
        // What an engine that ended leaves mounted below goes with it.
        let _ = Command::new("umount").arg("-l").arg(&self.disk).status();
    }
}

fn ip(words: &[&str]) -> bool {
    let done = Command::new("/usr/sbin/ip").args(words).stdout(Stdio::null()).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

#[tokio::test]
async fn a_full_disk_is_said_and_workers_come_when_there_is_room_again() {
    let Some(shared) = engine("space") else { return };
    let Some(own) = OwnEngine::start().await else { return };
    let mut engine = shared.elsewhere(&own.host());
    let image = engine.worker_image();
    let fleet = fleet_of(&image, "echo done", "").replace("max = 1", "max = 2");
    let plane = engine.plane(&fleet).await;
    let first = plane.crew(1).await[0].id.clone();
    own.fill();
    check(&plane, &["scale", &engine.fleet, "--replicas", "2"], 0);
    let said = trouble(&plane, &engine, "the Docker host is out of disk space").await;
    assert!(said.contains("no space left on device") && said.contains("docker system prune"), "{said}");
    let id = plane.submit(&engine.fleet, json!({})).await;
    assert_eq!(plane.result(id).await, json!("done"), "what runs goes on");
    own.make_room();
    let crew = plane.crew(2).await;
    assert!(crew.iter().any(|worker| worker.id == first), "{crew:?}");
    engine
        .eventually(&plane, "two containers, none half made", || {
            Some(()).filter(|()| engine.containers().len() == 2)
        })
        .await;
}
