//! Runs an image as the platform will (read-only, without capabilities, without a way out) and says whether it keeps the
//! contract. Twice: the second time with a writable root, since what is written there is seen only where it can be.
//!
//! Beside it stands a stand-in for the control plane, on the address that this machine has in a network made for the run:
//! so the engine has to be on this machine. Whoever runs it calls [`clear()`] afterwards, whatever happened.

mod clear;
mod link;
mod verdict;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore_core::fleet::Protocol;
use longshore_core::json::Json;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::engine::{Engine, EngineError, LABEL, State};
use crate::finding::Finding;
use link::{FLEET, Offer, StandIn};

pub use clear::{Left, clear, sweep};
pub use verdict::judge;

/// What is run and how.
#[derive(Clone, Debug)]
pub struct Trial {
    pub image: String,
    /// From [`name`]: what the run makes is called so, and removed by [`clear()`].
    pub name: String,
    /// longshore is its first process: it has probes, takes tasks, drains.
    pub worker: bool,
    /// The image declares a HEALTHCHECK: its command, as the engine has it.
    pub healthcheck: Option<Vec<String>>,
    pub protocol: Protocol,
    /// The agent's command, where the image's ENTRYPOINT does not name it.
    pub command: Vec<String>,
    pub input: Json,
    /// `NAME=value`, as the fleet's `env` would set them.
    pub env: Vec<String>,
    /// Until it has registered and is ready.
    pub start_within: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("could not listen on {gateway}, this machine's address in the engine's network")]
    Elsewhere { gateway: String, source: std::io::Error },
}

/// What was seen of a running image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// Its first process was a worker, so that probes, tasks and drain were looked at.
    pub worker: bool,
    pub registered: bool,
    pub ready_after_ms: Option<u64>,
    pub live: Option<bool>,
    pub ready: Option<bool>,
    /// `healthy`, `unhealthy`, `starting`; absent without HEALTHCHECK.
    pub health: Option<String>,
    /// The first process's user.
    pub uid: Option<u64>,
    pub tasks_given: u32,
    pub tasks_succeeded: u32,
    pub tasks_failed: u32,
    pub failure: Option<String>,
    /// SIGTERM came while a task was under way.
    pub in_flight_at_stop: bool,
    pub handed_over: u32,
    /// It ended before it was told to; its status.
    pub died: Option<i64>,
    pub stopped_after_ms: Option<u64>,
    pub exit_status: Option<i64>,
    pub oom_killed: bool,
    pub log_lines: usize,
    /// The first line on standard output that is not JSON, cut.
    pub not_json: Option<String>,
    pub zombies: Vec<String>,
    /// Whether an orphan was made, to see that it is reaped.
    pub orphan_tried: bool,
    /// Written outside of tmpfs where the root was writable.
    pub writes: Vec<String>,
    /// The end of what it said, if it did not start.
    pub last_words: String,
}

/// Prints the names of dead processes, by the shell alone. A name may hold parentheses; the state follows the last one.
const DEAD: &str = "for stat in /proc/[0-9]*/stat; do \
    read -r line <$stat && case \"${line##*) }\" in Z*) name=${line#*\\(}; echo \"${name%)*}\";; esac; \
    done 2>/dev/null; exit 0";

/// How long a stop may take: drain, kill grace, and as much again for a slow machine.
pub const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Runs the image and judges what was seen. What it made is still there.
pub async fn prove(engine: &Engine, trial: &Trial) -> Result<(Proof, Vec<Finding>), ProveError> {
    let stage = Stage { engine, trial, name: trial.name.clone() };
    let proof = stage.play().await?;
    let findings = judge(&proof, trial);
    Ok((proof, findings))
}

/// A name for one run, unlike that of any other.
pub fn name() -> String {
    format!("longshore-check-{}", &Uuid::new_v4().simple().to_string()[..12])
}

fn container(name: &str, which: &str) -> String {
    format!("{name}-{which}")
}

struct Stage<'a> {
    engine: &'a Engine,
    trial: &'a Trial,
    /// Of the network, and the beginning of the containers' names.
    name: String,
}

impl Stage<'_> {
    async fn play(&self) -> Result<Proof, ProveError> {
        self.engine.create_network(&self.name).await?;
        let (plane, link, serving) = self.stand_in().await?;
        let strict = self.strict(&plane, link).await;
        serving.abort();
        let mut proof = strict?;
        // One that did not start read-only shows by its writes what it misses.
        proof.writes = self.open().await?;
        Ok(proof)
    }

    fn container(&self, which: &str) -> String {
        container(&self.name, which)
    }

    fn offer(&self) -> Offer {
        Offer {
            protocol: self.trial.protocol,
            command: self.trial.command.clone(),
            input: self.trial.input.clone(),
            health_path: "/healthz".into(),
            startup: self.trial.start_within,
        }
    }

    async fn strict(&self, plane: &Arc<StandIn>, link: SocketAddr) -> Result<Proof, ProveError> {
        let name = self.container("strict");
        let begun = Instant::now();
        let mut proof = Proof { worker: self.trial.worker, ..Proof::default() };
        match self.engine.run(&name, body(self.trial, &self.name, link, &plane.token, true)).await {
            Ok(()) => {}
            // Its ENTRYPOINT is not there, or is no program: the image's fault, not the engine's.
            Err(EngineError::Refused { what, source }) if what.starts_with("start") => {
                proof.died = Some(127);
                proof.last_words = shortened(&source.to_string());
                return Ok(proof);
            }
            Err(error) => return Err(error.into()),
        }
        if self.trial.worker {
            self.await_ready(plane, &name, begun, &mut proof).await?;
        } else {
            sleep(Duration::from_secs(2)).await;
        }
        let state = self.engine.state(&name).await?;
        if state.running {
            self.look(plane, &name, &mut proof).await?;
            self.stop(plane, &name, &mut proof).await?;
        } else {
            proof.died = Some(state.exit_code);
            proof.oom_killed = state.oom_killed;
        }
        let seen = plane.seen();
        proof.registered = seen.registrations > 0;
        proof.tasks_given = seen.given;
        proof.tasks_succeeded = seen.succeeded;
        proof.tasks_failed = seen.failed.len() as u32;
        proof.failure = seen.failed.first().map(|reason| shortened(reason));
        proof.handed_over = seen.handed_over;
        let output = self.engine.output(&name).await?;
        (proof.log_lines, proof.not_json) = judge_lines(&output.out);
        proof.last_words = last_words(&output.err, &output.out);
        Ok(proof)
    }

    async fn await_ready(
        &self,
        plane: &StandIn,
        name: &str,
        begun: Instant,
        proof: &mut Proof,
    ) -> Result<(), ProveError> {
        while begun.elapsed() < self.trial.start_within {
            let state = self.engine.state(name).await?;
            if !state.running {
                return Ok(());
            }
            if plane.seen().registrations > 0
                && let Some(address) = &state.address
            {
                proof.live = Some(probe(address, "/livez").await);
                proof.ready = Some(probe(address, "/readyz").await);
                if proof.live == Some(true) && proof.ready == Some(true) {
                    proof.ready_after_ms = Some(begun.elapsed().as_millis() as u64);
                    return Ok(());
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
        // Nothing answered at all.
        proof.live = proof.live.or(Some(false));
        proof.ready = proof.ready.or(Some(false));
        Ok(())
    }

    /// User, health, orphans; meanwhile tasks go through it.
    async fn look(&self, plane: &StandIn, name: &str, proof: &mut Proof) -> Result<(), ProveError> {
        let processes = self.engine.processes(name).await.unwrap_or_default();
        proof.uid = processes.first().and_then(|[uid, ..]| uid.parse().ok());
        if self.trial.healthcheck.is_some() {
            proof.health = Some(self.health(name).await?);
        }
        if self.trial.worker {
            plane.until(Duration::from_secs(5), |seen| seen.succeeded > 0 || !seen.failed.is_empty()).await;
            // The shell ends at once and leaves its child to the first process.
            let orphan = self.engine.exec(name, &["/bin/sh", "-c", "sleep 0.2 & exit 0"]).await;
            proof.orphan_tried = matches!(orphan, Ok(Some(_)));
            if proof.orphan_tried {
                sleep(Duration::from_secs(1)).await;
            }
        }
        proof.zombies = self.zombies(name).await;
        Ok(())
    }

    /// Seen twice: one that is about to be reaped is none. Engines do not list dead processes, so a shell looks for them.
    async fn zombies(&self, name: &str) -> Vec<String> {
        let mut seen = Vec::new();
        for _ in 0..2 {
            let said = self.engine.exec(name, &["/bin/sh", "-c", DEAD]).await.ok().flatten();
            seen = said.unwrap_or_default().lines().map(str::to_owned).collect();
            if seen.is_empty() {
                return seen;
            }
            sleep(Duration::from_millis(500)).await;
        }
        seen
    }

    async fn health(&self, name: &str) -> Result<String, ProveError> {
        let begun = Instant::now();
        loop {
            let State { running, health, .. } = self.engine.state(name).await?;
            if !running || health != "starting" || begun.elapsed() > Duration::from_secs(20) {
                return Ok(health);
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn stop(&self, plane: &StandIn, name: &str, proof: &mut Proof) -> Result<(), ProveError> {
        if self.trial.worker {
            // One that has just begun, so that it is not over before the signal is there.
            let given = plane.seen().given;
            plane.until(Duration::from_secs(2), |seen| seen.given > given).await;
            proof.in_flight_at_stop = plane.seen().in_flight > 0;
        }
        let begun = Instant::now();
        self.engine.signal(name, "SIGTERM").await?;
        plane.close();
        loop {
            let state = self.engine.state(name).await?;
            if !state.running {
                proof.stopped_after_ms = Some(begun.elapsed().as_millis() as u64);
                proof.exit_status = Some(state.exit_code);
                proof.oom_killed = state.oom_killed;
                return Ok(());
            }
            if begun.elapsed() > STOP_WITHIN {
                self.engine.signal(name, "SIGKILL").await?;
                proof.exit_status = Some(137);
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Runs it once more with a writable root, and says where it wrote.
    async fn open(&self) -> Result<Vec<String>, ProveError> {
        let (plane, link, serving) = self.stand_in().await?;
        let seen = self.writes(&plane, link).await;
        serving.abort();
        Ok(seen?)
    }

    async fn writes(&self, plane: &StandIn, link: SocketAddr) -> Result<Vec<String>, EngineError> {
        let name = self.container("open");
        match self.engine.run(&name, body(self.trial, &self.name, link, &plane.token, false)).await {
            Ok(()) => {}
            // Told already by the first run.
            Err(EngineError::Refused { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
        plane.until(Duration::from_secs(5), |seen| seen.succeeded > 0 || !seen.failed.is_empty()).await;
        Ok(outside(self.engine.changes(&name).await?))
    }

    /// A control plane that only this run knows, on this machine's address in the run's network.
    async fn stand_in(&self) -> Result<(Arc<StandIn>, SocketAddr, JoinHandle<()>), ProveError> {
        let gateway = self.engine.gateway(&self.name).await?;
        let listener = TcpListener::bind((gateway.as_str(), 0)).await;
        let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (link, listener) = bound.map_err(|source| ProveError::Elsewhere { gateway, source })?;
        let plane = StandIn::new(self.offer());
        let serving = tokio::spawn(Arc::clone(&plane).serve(listener));
        Ok((plane, link, serving))
    }
}

/// The container as the docker platform makes it; the health check asks more often, so that nobody waits for it.
fn body(trial: &Trial, network: &str, link: SocketAddr, token: &str, read_only: bool) -> Value {
    let mut env = trial.env.clone();
    env.extend([
        format!("LONGSHORE_LINK=http://{link}"),
        format!("LONGSHORE_FLEET={FLEET}"),
        format!("LONGSHORE_WORKER_TOKEN={token}"),
        "LONGSHORE_PROBE_ADDR=0.0.0.0:7119".to_owned(),
    ]);
    let mut body = json!({
        "Image": trial.image,
        "Env": env,
        "Labels": {(LABEL): network},
        "HostConfig": {
            "NetworkMode": network,
            "ReadonlyRootfs": read_only,
            "Tmpfs": {"/tmp": "rw,nosuid,nodev,size=256m,mode=1777"},
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "PidsLimit": 512,
            "Memory": 2_i64 << 30,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "8m", "max-file": "1"}},
        },
    });
    if let Some(test) = &trial.healthcheck {
        let second = 1_000_000_000_i64;
        body["Healthcheck"] = json!({"Test": test, "Interval": second, "Timeout": 5 * second, "Retries": 3,
            "StartPeriod": trial.start_within.as_secs() as i64 * second});
    }
    body
}

/// Whether a probe says yes; HTTP/1.0, so that the answer ends with the connection.
async fn probe(address: &str, path: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect((address, 7119)).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(64 << 10).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(Duration::from_secs(3), ask).await;
    answer.is_ok_and(|answer| {
        answer.is_ok_and(|answer| answer.starts_with(b"HTTP/1.") && answer.get(9..12) == Some(b"200"))
    })
}

/// How many lines there are, and the first that is no JSON object.
fn judge_lines(out: &str) -> (usize, Option<String>) {
    let lines = || out.lines().filter(|line| !line.trim().is_empty());
    let is_json = |line: &str| serde_json::from_str::<serde_json::Map<String, Value>>(line).is_ok();
    let odd = lines().find(|line| !is_json(line));
    (lines().count(), odd.map(shortened))
}

/// Paths outside of what is memory, without the folders that only hold them.
fn outside(changes: Vec<String>) -> Vec<String> {
    const MEMORY: [&str; 5] = ["/tmp", "/dev", "/proc", "/sys", "/run"];
    let inside = |path: &str| {
        MEMORY.iter().any(|folder| {
            path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    let outside: Vec<String> = changes.into_iter().filter(|path| !inside(path)).collect();
    // The engine itself puts these in.
    const ENGINE: [&str; 4] = ["/etc", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];
    let holds = |path: &str| {
        outside.iter().any(|other| other.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')))
    };
    outside.iter().filter(|path| !holds(path) && !ENGINE.contains(&path.as_str())).cloned().collect()
}

/// What standard error ends with, else standard output; three lines at most.
fn last_words(err: &str, out: &str) -> String {
    let text = if err.trim().is_empty() { out } else { err };
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(3)..].join(" | ");
    shortened(&last)
}

/// Of an agent's output, so secrets are taken out and the length is bounded.
fn shortened(text: &str) -> String {
    let text = crate::secret::redacted(text.trim());
    if text.chars().count() <= 300 { text } else { text.chars().take(299).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_that_are_objects_are_json_lines() {
        assert_eq!(judge_lines("{\"a\":1}\n\n{}\n"), (2, None));
        assert_eq!(judge_lines("{\"a\":1}\nhello\n[1]\n"), (3, Some("hello".into())));
        assert_eq!(judge_lines(""), (0, None));
    }

    #[test]
    fn only_what_is_written_outside_of_memory_counts() {
        let changes = [
            "/tmp",
            "/tmp/x",
            "/root",
            "/root/.cache",   // lint: path-ok
            "/root/.cache/a", // lint: path-ok
            "/etc",
            "/etc/hosts",
            "/runner",
            "/agent",
            "/agent/x",
        ];
        let told = outside(changes.map(str::to_owned).to_vec());
        assert_eq!(told, ["/root/.cache/a", "/runner", "/agent/x"]); // lint: path-ok
    }
}
