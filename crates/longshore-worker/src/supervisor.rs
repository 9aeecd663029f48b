//! Runs a worker from its first word to its last.
//!
//! Independent loops (claims, heartbeats, events, endings) share the ledger, the outbox and the health; this one starts
//! them, waits for a reason to end, and sees to the end.

mod claims;
mod drain;
mod heartbeats;
mod link;
mod senders;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use longshore_api::files;
use longshore_api::link::{self as wire, DrainOrder, Outcome, Register, Registered};
use longshore_api::link_client::LinkClient;
use longshore_api::serve::{Room, Shares};
use longshore_core::fleet::{DrainMode, Protocol};
use longshore_core::id::{Held, WorkerId};
use longshore_core::task::Interruption;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info};
use uuid::Uuid;

use crate::attempt::{Attempt, Stop, Why};
use crate::environment::Environment;
use crate::error::WorkerError;
use crate::exec::{self, Setting};
use crate::folder::RunFolder;
use crate::health::{AgentState, Health};
use crate::http::{HttpAgent, Probing};
use crate::ledger::Ledger;
use crate::memory::OomCounter;
use crate::metrics::Metrics;
use crate::options::{Exit, Options};
use crate::outbox::{Outbox, Speaker};
use crate::process::{self, Host, Left, Mark};
use crate::relay::{Closed, Relay, Setup};
use crate::signals::{Family, StopSignals};
use crate::{command, probes, verdict};
use drain::Parts;
use link::Link;

/// What the loops share.
pub struct Worker {
    link: Link,
    relay: Arc<Relay>,
    ledger: Arc<Ledger>,
    outbox: Arc<Outbox>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    setting: Arc<Setting>,
    http: Option<Arc<HttpAgent>>,
    concurrency: u32,
    /// How long the control plane may hold a heartbeat.
    heartbeat: Duration,
    cut_off: Duration,
    stays: Option<Duration>,
    draining: watch::Sender<bool>,
    ordered: watch::Sender<Option<DrainOrder>>,
}

/// Runs a worker until it is told to end or has to.
///
/// Installs handlers for SIGTERM, SIGINT, SIGCHLD and the signals that it passes on, and makes this process undumpable
/// and a subreaper: nothing else in this process may start children. Returns `Ok` after a drain.
/// Errors: see [`WorkerError`]; the agents are stopped by then.
pub async fn run(options: Options) -> Result<Exit, WorkerError> {
    // Before anything else: a SIGTERM from here on is a drain, not a death.
    let mut signals = StopSignals::listen().map_err(WorkerError::Process)?;
    let host = process::host().map_err(WorkerError::Process)?;
    let files = Shares::of(files::raise().map_err(WorkerError::Process)?);
    let family = Family::listen().map_err(WorkerError::Process)?;
    if !options.command.is_empty() {
        command::check(&options.command, &options.fleet)?;
    }
    let (health, metrics) = (Arc::new(Health::default()), Arc::new(Metrics::default()));
    let mut background = JoinSet::new();
    background.spawn(family.serve(host));
    let probe_addr = match options.probe_addr {
        Some(addr) => {
            let listener = probes::bind(addr).await?;
            let bound = listener.local_addr().map_err(|source| WorkerError::Listen { addr, source })?;
            let shown = probes::Probes { health: Arc::clone(&health), metrics: Arc::clone(&metrics) };
            background.spawn(probes::serve(listener, Room::of_short_answers("probes", files.few), shown));
            Some(bound.to_string())
        }
        None => None,
    };
    let register = first_word(&options, probe_addr);
    let client = LinkClient::new(
        &options.links,
        options.token.reveal(),
        register.worker.as_str(),
        options.ca.as_ref(),
    );
    let client = client.map_err(WorkerError::Link)?;
    let folders = RunFolder::create(&options.run_dir, &register.worker, register.nonce)?;
    info!(worker = %register.worker, fleet = %register.fleet, probes = register.probe_addr, "worker starts");
    let link = Link::new(client, register, Arc::clone(&health), Arc::clone(&metrics));
    let registered = tokio::select! {
        registered = enter(&link, &health) => registered?,
        // Nothing was claimed yet.
        _ = signals.next() => return Ok(Exit { code: 0 }),
    };
    tokio::task::spawn_blocking(folders.leftovers());
    let setup = Setup {
        client: link.client.clone(),
        metrics: Arc::clone(&metrics),
        times: options.relay,
        providers: registered.providers.clone(),
        concurrency: concurrency(&options, &registered),
        kill_grace: Duration::from_millis(registered.kill_grace_ms),
    };
    let (relay, listener) = Relay::bind(setup).await?;
    background.spawn(Arc::clone(&relay).serve(listener, Relay::room(files.many)));
    let worker = Arc::new(Worker::new(link, relay, &options, &registered, host, folders)?);
    live(worker, &registered, &mut signals, background).await
}

/// Registers, while the loop counts as turning: to wait for a control plane is not to hang.
async fn enter(link: &Link, health: &Health) -> Result<Registered, WorkerError> {
    let turn = async {
        loop {
            health.turn();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        registered = link.enter() => registered,
        never = turn => never,
    }
}

/// From the registration to the end.
async fn live(
    worker: Arc<Worker>,
    registered: &Registered,
    signals: &mut StopSignals,
    mut background: JoinSet<()>,
) -> Result<Exit, WorkerError> {
    let http = worker.http.as_ref().map(|agent| tokio::spawn(Arc::clone(agent).keep()));
    if http.is_none() {
        worker.health.agent(AgentState::Up);
    }
    info!(protocol = ?registered.protocol, concurrency = worker.concurrency, "worker registered");
    let claims = tokio::spawn(claims::run(Arc::clone(&worker)));
    let heartbeats = background.spawn(heartbeats::run(Arc::clone(&worker)));
    background.spawn(senders::events(Arc::clone(&worker)));
    background.spawn(senders::endings(Arc::clone(&worker)));
    background.spawn(turn(Arc::clone(&worker)));
    let parts = Parts { claims, heartbeats, http };
    let order = tokio::select! {
        name = signals.next() => {
            info!(signal = name, "told to end");
            DrainOrder { mode: registered.drain_mode, timeout_ms: registered.drain_timeout_ms }
        }
        order = worker.drain_ordered() => order,
        error = worker.link.failed() => {
            let error = abort(&worker, error, parts).await;
            worker.setting.folders.clear();
            return Err(error);
        }
    };
    let ended = drain::drain(&worker, order, signals, parts).await;
    worker.setting.folders.clear();
    if let Some(stay) = worker.stays
        && ended.is_ok()
        && !signals.told()
    {
        info!("worker has drained, and stays until it is stopped");
        if tokio::time::timeout(stay, signals.next()).await.is_err() {
            info!(
                after_s = stay.as_secs(),
                "nobody has removed it; it ends, to be started again as a new worker"
            );
        }
    }
    ended
}

async fn turn(worker: Arc<Worker>) {
    loop {
        worker.health.turn();
        // Where nobody acts upon that it is not alive any more, it ends by itself.
        if worker.health.is_unclean() {
            let timeout_ms = worker.setting.kill_grace.as_millis() as u64;
            worker.order_drain(DrainOrder { mode: DrainMode::Handover, timeout_ms });
        }
        worker.metrics.in_flight.set(worker.ledger.running() as i64);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Stops all agents without a word: there is nobody to tell, or nobody who would listen.
async fn abort(worker: &Arc<Worker>, error: WorkerError, mut parts: Parts) -> WorkerError {
    worker.begin_drain();
    parts.claims.abort();
    let grace = match error {
        WorkerError::CutOff { .. } => worker.setting.kill_grace,
        // Somebody else may run the same tasks by now.
        _ => Duration::ZERO,
    };
    error!(%error, running = worker.ledger.running(), "worker has to end; agents are stopped");
    worker.ledger.stop_all(Stop { why: Why::Lost, grace });
    let patience = grace + Duration::from_secs(3);
    _ = tokio::time::timeout(patience, worker.ledger.idle()).await;
    if let (Some(agent), Some(keeper)) = (&worker.http, &mut parts.http) {
        agent.shut_down(grace);
        _ = tokio::time::timeout(patience, keeper).await;
    }
    error
}

fn first_word(options: &Options, probe_addr: Option<String>) -> Register {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
    let host = host.filter(|name| !name.is_empty());
    let container = host.as_deref().filter(|_| std::process::id() == 1).and_then(container_id);
    let suffix = format!("{:08x}", rand::random::<u32>());
    let named = WorkerId::new(format!("{}-{suffix}", host.as_deref().unwrap_or("worker")));
    let by_chance =
        || named.or_else(|_| WorkerId::new(format!("worker-{suffix}"))).expect("letters, digits and -");
    Register {
        link_version: wire::VERSION,
        worker: options.worker.clone().or(container).unwrap_or_else(by_chance),
        nonce: Uuid::new_v4(),
        fleet: options.fleet.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        pid: Some(std::process::id()),
        host,
        probe_addr,
        concurrency: options.concurrency,
    }
}

/// The first process of a container goes by the container's id, which Docker makes the host's name: so one that is started
/// again in place is known as the same worker, and its tasks are given back at once.
fn container_id(host: &str) -> Option<WorkerId> {
    let is_id = host.len() == 12 && host.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
    is_id.then(|| WorkerId::new(host).ok())?
}

fn concurrency(options: &Options, registered: &Registered) -> u32 {
    options.concurrency.unwrap_or(registered.concurrency).max(1)
}

/// An attempt that failed on an answer that longshore broke off has not failed by its agent's doing.
fn after_a_break(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Failed(failure) => {
            info!(
                code = failure.code,
                message = failure.message,
                "failure follows a broken answer: interrupted"
            );
            Outcome::Interrupted(Interruption::CallBroken)
        }
        other => other,
    }
}

/// Whether the agent ended the attempt, or may go on without noticing its end.
fn closed(outcome: Option<&Outcome>) -> Closed {
    match outcome {
        None | Some(Outcome::Interrupted(Interruption::Cancelled)) => Closed::Stopped,
        Some(Outcome::Failed(failure)) if failure.code == verdict::TIMEOUT => Closed::Stopped,
        _ => Closed::ByItsAgent,
    }
}

impl Worker {
    fn new(
        link: Link,
        relay: Arc<Relay>,
        options: &Options,
        registered: &Registered,
        host: &'static Host,
        folders: RunFolder,
    ) -> Result<Worker, WorkerError> {
        let given = !options.command.is_empty();
        let command = if given { options.command.clone() } else { registered.command.clone() };
        command::check(&command, &options.fleet)?;
        let setting = Arc::new(Setting {
            host,
            fleet: options.fleet.clone(),
            command,
            environment: Environment::new(&link.register.worker, std::env::vars_os()),
            folders,
            oom: OomCounter::of_this_process(),
            result_limit: usize::try_from(registered.result_limit).unwrap_or(usize::MAX / 4),
            kill_grace: Duration::from_millis(registered.kill_grace_ms),
            addresses: Arc::clone(&relay.addresses),
        });
        let ledger = Arc::new(Ledger::default());
        // What the store gave under earlier numbers of this nonce never arrived here.
        ledger.abandon_claim(registered.last_claim);
        let (health, metrics) = (Arc::clone(&link.health), Arc::clone(&link.metrics));
        let agent = || {
            let port = options.agent_port.filter(|port| *port != 0);
            let (health, metrics, ledger) = (Arc::clone(&health), Arc::clone(&metrics), Arc::clone(&ledger));
            let probing = Probing::of(registered);
            HttpAgent::new(Arc::clone(&setting), probing, port, health, metrics, ledger, Arc::clone(&relay))
        };
        let http = (registered.protocol == Protocol::Http).then(|| Arc::new(agent()));
        Ok(Worker {
            http,
            concurrency: concurrency(options, registered),
            heartbeat: Duration::from_millis(registered.heartbeat_ms.max(1)),
            cut_off: options.cut_off,
            stays: options.stays,
            draining: watch::Sender::new(false),
            ordered: watch::Sender::new(None),
            outbox: Arc::default(),
            link,
            relay,
            ledger,
            health,
            metrics,
            setting,
        })
    }

    fn id(&self) -> &WorkerId {
        &self.link.register.worker
    }

    fn nonce(&self) -> Uuid {
        self.link.register.nonce
    }

    /// Runs one attempt in the background; its ending goes to the outbox.
    fn start(self: &Arc<Self>, attempt: Attempt) {
        let worker = Arc::clone(self);
        tokio::spawn(async move {
            let held = attempt.held();
            let speaker = worker.outbox.open(held);
            worker.relay.register.open(held, &attempt.task.token, speaker.clone());
            let mark = Mark::of(&attempt.task);
            let run = AssertUnwindSafe(worker.run_agent(attempt, speaker)).catch_unwind();
            let outcome = match run.await {
                Ok(outcome) => outcome,
                Err(_) => {
                    // A bug of this program, not of the agent: another worker may have more luck.
                    error!(task = %held.task, "running the attempt panicked");
                    if worker.http.is_none() {
                        worker.cleared(worker.setting.host.enter().leave(&mark).await);
                    }
                    Some(Outcome::Interrupted(Interruption::HandedOver))
                }
            };
            let broken = worker.relay.register.close(held, closed(outcome.as_ref()));
            worker.end(held, if broken { outcome.map(after_a_break) } else { outcome });
        });
    }

    async fn run_agent(&self, attempt: Attempt, speaker: Speaker) -> Option<Outcome> {
        // Boxed, so that each waiting task takes what its own protocol needs and no more.
        match &self.http {
            Some(agent) => Box::pin(agent.run(attempt, speaker)).await,
            None => {
                let ran = Box::pin(exec::run(&self.setting, attempt, speaker)).await;
                self.cleared(ran.cleared);
                ran.outcome
            }
        }
    }

    /// Where a task's processes cannot be ended no other task may begin: then this worker does.
    fn cleared(&self, cleared: Result<(), Left>) {
        if let Err(left) = cleared {
            error!(%left, "worker has to end: no other task may run beside them");
            self.health.unclean(left.to_string());
        }
    }

    fn end(&self, held: Held, outcome: Option<Outcome>) {
        self.metrics.ended(outcome.as_ref());
        match outcome {
            Some(outcome) => {
                self.outbox.close(held, outcome);
                self.ledger.ending(held);
            }
            None => {
                self.outbox.discard(held);
                self.ledger.forget(held);
            }
        }
        self.metrics.in_flight.set(self.ledger.running() as i64);
    }

    fn hand_over_unstarted(&self, attempt: Attempt) {
        self.end(attempt.held(), Some(Outcome::Interrupted(Interruption::HandedOver)));
    }

    fn begin_drain(&self) {
        self.health.drain();
        self.draining.send_replace(true);
        self.ledger.news.notify_one();
    }

    /// Returns once the worker drains.
    async fn drained(&self) {
        // The sender is in `self`, so it cannot have gone.
        _ = self.draining.subscribe().wait_for(|draining| *draining).await;
    }

    fn order_drain(&self, order: DrainOrder) {
        self.ordered.send_if_modified(|now| now.replace(order) != Some(order));
    }

    async fn drain_ordered(&self) -> DrainOrder {
        let mut ordered = self.ordered.subscribe();
        let order = ordered.wait_for(Option::is_some).await.ok().and_then(|order| *order);
        info!(?order, "control plane orders a drain");
        order.unwrap_or(DrainOrder { mode: DrainMode::Handover, timeout_ms: 0 })
    }

    async fn told_to_hand_over(&self) {
        let handover =
            |order: &Option<DrainOrder>| order.is_some_and(|order| order.mode == DrainMode::Handover);
        _ = self.ordered.subscribe().wait_for(handover).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_id_of_a_container_names_a_worker() {
        let named = |host: &str| container_id(host).map(|id| id.to_string());
        assert_eq!(named("0a1b2c3d4e5f").as_deref(), Some("0a1b2c3d4e5f"));
        for host in ["crane", "0a1b2c3d4e5", "0a1b2c3d4e5f6", "0A1B2C3D4E5F", "agent-7f9c-xk2p"] {
            assert_eq!(named(host), None, "{host}");
        }
    }
}
