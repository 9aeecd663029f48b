//! The http protocol: one long-lived agent process that serves many tasks.
//!
//! Keeps the process up: starts it, waits until it answers, asks after its health, restarts it with backoff. What
//! becomes of the tasks in flight when it ends is said by [`service`]; running one of them is [`run`]'s.

mod call;
mod run;
mod service;

use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use longshore_api::link::Registered;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::environment;
use crate::exec::Setting;
use crate::folder::Private;
use crate::health::{AgentState, Health};
use crate::ledger::Ledger;
use crate::log::{AgentLog, Source};
use crate::metrics::Metrics;
use crate::output::{Lines, Tail};
use crate::process::{Agent, Left, Mark, Pipes, Stay};
use crate::relay::Relay;
use crate::verdict::{self, End};
use service::{Service, ServiceEnd};

/// The first wait before a restart; each further one is twice as long.
const BACKOFF: Duration = Duration::from_millis(200);
const BACKOFF_CAP: Duration = Duration::from_secs(30);

/// An agent that lasted this long begins with a short wait again.
const HEALTHY: Duration = Duration::from_secs(60);

/// How long the last words of an agent that has ended may take to be read.
const LAST_WORDS: Duration = Duration::from_millis(200);

#[derive(Clone, Debug)]
pub struct Probing {
    pub health_path: String,
    pub interval: Duration,
    pub timeout: Duration,
    pub failures: u32,
    pub startup: Duration,
}

impl Probing {
    pub fn of(registered: &Registered) -> Probing {
        Probing {
            health_path: registered.health_path.clone(),
            interval: Duration::from_millis(registered.probe_interval_ms.max(1)),
            timeout: Duration::from_millis(registered.probe_timeout_ms.max(1)),
            failures: registered.probe_failures.max(1),
            startup: Duration::from_millis(registered.startup_ms),
        }
    }
}

pub struct HttpAgent {
    pub setting: Arc<Setting>,
    pub probing: Probing,
    /// `None`: a free one at each start.
    pub port: Option<u16>,
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
    pub ledger: Arc<Ledger>,
    pub relay: Arc<Relay>,
    /// The process that answers now.
    serving: watch::Sender<Option<Arc<Service>>>,
    shutdown: watch::Sender<Option<Duration>>,
}

/// A process that was started, whether it answers or not.
struct Running {
    agent: Agent,
    port: u16,
    tail: Arc<Mutex<Tail>>,
    reader: JoinHandle<()>,
    folder: Private,
    oom_kills: u64,
    /// Until what it started has ended, too.
    stay: Stay,
}

impl HttpAgent {
    pub fn new(
        setting: Arc<Setting>,
        probing: Probing,
        port: Option<u16>,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        ledger: Arc<Ledger>,
        relay: Arc<Relay>,
    ) -> HttpAgent {
        let (serving, shutdown) = (watch::Sender::new(None), watch::Sender::new(None));
        HttpAgent { setting, probing, port, health, metrics, ledger, relay, serving, shutdown }
    }

    /// Tells the agent to end, with this long from SIGTERM to SIGKILL; [`HttpAgent::keep`] returns then.
    pub fn shut_down(&self, grace: Duration) {
        self.shutdown.send_modify(|now| *now = Some(now.map_or(grace, |now| now.min(grace))));
    }

    /// Keeps an agent process up until it is told to end.
    pub async fn keep(self: Arc<Self>) {
        let mut backoff = BACKOFF;
        while self.shutdown.borrow().is_none() {
            let since = match self.start().await {
                Ok(running) => {
                    let since = Instant::now();
                    self.serve(running).await;
                    Some(since)
                }
                Err(why) => {
                    self.health.agent_did_not_start();
                    self.down(&why);
                    None
                }
            };
            if since.is_some_and(|since| since.elapsed() >= HEALTHY) {
                backoff = BACKOFF;
            }
            if self.shutdown.borrow().is_some() {
                return;
            }
            if self.health.is_unclean() {
                // Nothing may begin beside what is left: this worker is about to be replaced.
                self.told_to_end().await;
                return;
            }
            self.metrics.agent_restarts.inc();
            _ = tokio::time::timeout(backoff, self.told_to_end()).await;
            backoff = (backoff * 2).min(BACKOFF_CAP);
        }
    }

    async fn told_to_end(&self) -> Duration {
        let mut shutdown = self.shutdown.subscribe();
        let grace = shutdown.wait_for(Option::is_some).await.ok().and_then(|grace| *grace);
        grace.unwrap_or_default()
    }

    fn down(&self, why: &str) {
        if self.shutdown.borrow().is_none() {
            warn!(why, "agent is down");
        }
        self.serving.send_replace(None);
        if self.health.agent(AgentState::Down(why.to_owned())) {
            self.ledger.news.notify_one();
        }
    }

    /// Starts a process and waits until it answers.
    async fn start(&self) -> Result<Running, String> {
        let mut running = self.spawn().await?;
        let deadline = Instant::now() + self.probing.startup;
        let why = loop {
            let asked = call::alive(running.port, &self.probing.health_path, self.probing.timeout);
            tokio::select! {
                status = running.agent.ended() => {
                    let end = self.end(&mut running, status).await;
                    self.discard(running).await;
                    return Err(format!("it ended while it started: {}", verdict::of_exit(&end).message));
                }
                alive = asked => match alive {
                    Ok(()) => return Ok(running),
                    Err(why) if Instant::now() >= deadline => break why,
                    Err(_) => {}
                },
                grace = self.told_to_end() => {
                    running.agent.stop(grace).await;
                    self.discard(running).await;
                    return Err("the worker ends".into());
                }
            }
            // An agent that is slow to start is not slowed down further by being asked.
            let pause = tokio::time::sleep(Duration::from_millis(50));
            tokio::select! { () = pause => {}, _ = running.agent.ended() => {} }
        };
        running.agent.stop(self.setting.kill_grace).await;
        self.discard(running).await;
        Err(format!("it did not answer within {} s: {why}", self.probing.startup.as_secs_f64()))
    }

    async fn spawn(&self) -> Result<Running, String> {
        let port = free_port(self.port).map_err(|error| match self.port {
            Some(port) => format!("port {port} for the agent is not free: {error}"),
            None => format!("no free port for the agent: {error}"),
        })?;
        let folder =
            self.setting.folders.private().map_err(|error| format!("no temporary folder: {error}"))?;
        let mut command = self.setting.command();
        command.stdin(std::process::Stdio::null());
        let mut own = environment::of_http_agent(port);
        own.extend(environment::of_names(self.setting.addresses.of_process()));
        own.extend(environment::of_folder(folder.path()));
        self.setting.environment.apply(&mut command, own);
        let (oom_kills, stay) = (self.setting.oom.kills(), self.setting.host.enter());
        let spawned = self.setting.host.spawn(command).await;
        let (agent, pipes) =
            spawned.map_err(|error| verdict::spawn_failed(&self.setting.command[0], &error).message)?;
        info!(pid = agent.pid(), port, "agent started");
        let tail = Arc::new(Mutex::new(Tail::default()));
        let log = AgentLog::new(Source::Process { pid: agent.pid() });
        let reader = tokio::spawn(read(pipes, Arc::clone(&tail), log));
        Ok(Running { agent, port, tail, reader, folder, oom_kills, stay })
    }

    /// Offers a process that answers to tasks until it ends, by itself or not.
    async fn serve(&self, mut running: Running) {
        // Only what happens from here on is this process's doing.
        let overstayed = self.relay.register.overstayed();
        let service = Arc::new(Service::new(running.port));
        self.serving.send_replace(Some(Arc::clone(&service)));
        if self.health.agent(AgentState::Up) {
            self.ledger.news.notify_one();
            self.ledger.freed.notify_one();
        }
        tokio::select! {
            status = running.agent.ended() => {
                let end = self.end(&mut running, status).await;
                let failure = verdict::of_exit(&end);
                self.down(&failure.message);
                service.end(ServiceEnd::Crashed(failure));
            }
            why = self.sick(running.port) => {
                self.down(&format!("its health check failed {} times: {why}", self.probing.failures));
                service.end(ServiceEnd::Restarted);
                running.agent.stop(self.setting.kill_grace).await;
            }
            () = overstayed => {
                self.down("it still worked on a task that was stopped before, so it is restarted");
                service.end(ServiceEnd::Restarted);
                running.agent.stop(self.setting.kill_grace).await;
            }
            grace = self.told_to_end() => {
                self.down("the worker ends");
                service.end(ServiceEnd::Restarted);
                running.agent.stop(grace).await;
            }
        }
        self.discard(running).await;
    }

    /// Waits until the agent has failed so many health checks in a row; returns what the last one said.
    async fn sick(&self, port: u16) -> String {
        let mut failures = 0;
        loop {
            tokio::time::sleep(self.probing.interval).await;
            match call::alive(port, &self.probing.health_path, self.probing.timeout).await {
                Ok(()) => failures = 0,
                Err(why) => {
                    failures += 1;
                    warn!(failures, why, "agent failed its health check");
                    if failures >= self.probing.failures {
                        return why;
                    }
                }
            }
        }
    }

    async fn discard(&self, running: Running) {
        if let Err(left) = running.discard().await {
            error!(%left, "worker has to end: no other agent may run beside them");
            self.health.unclean(left.to_string());
        }
    }

    /// Collects what is known of a process that has ended, and kills what it left.
    async fn end(&self, running: &mut Running, status: ExitStatus) -> End {
        _ = tokio::time::timeout(LAST_WORDS, &mut running.reader).await;
        running.agent.kill_group();
        let last_words = running.tail.lock().unwrap_or_else(PoisonError::into_inner).text();
        End { status, out_of_memory: self.setting.oom.kills() > running.oom_kills, last_words }
    }
}

impl Running {
    /// Ends what is left of a process that has ended, whatever became of its group: all of its tasks are over.
    async fn discard(self) -> Result<(), Left> {
        self.reader.abort();
        drop(self.agent);
        let cleared = self.stay.leave(&Mark::of_folder(self.folder.path())).await;
        self.folder.discard().await;
        cleared
    }
}

/// Another program on the agent's port would answer in its place.
fn free_port(wanted: Option<u16>) -> std::io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted.unwrap_or(0)))?;
    Ok(listener.local_addr()?.port())
}

async fn read(pipes: Pipes, tail: Arc<Mutex<Tail>>, log: AgentLog) {
    let log = Mutex::new(log);
    let errors = read_lines(pipes.stderr, "stderr", &log, Some(&tail));
    tokio::join!(read_lines(pipes.stdout, "stdout", &log, None), errors);
}

async fn read_lines(
    stream: Option<pipe::Receiver>,
    name: &'static str,
    log: &Mutex<AgentLog>,
    tail: Option<&Mutex<Tail>>,
) {
    let Some(mut stream) = stream else { return };
    let mut lines = Lines::default();
    let mut tell = |line: &[u8]| log.lock().unwrap_or_else(PoisonError::into_inner).line(name, line);
    let mut buffer = vec![0; 8 << 10];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => {
                if let Some(tail) = tail {
                    tail.lock().unwrap_or_else(PoisonError::into_inner).push(&buffer[..n]);
                }
                lines.push(&buffer[..n], &mut tell);
            }
        }
    }
    lines.finish(&mut tell);
}
