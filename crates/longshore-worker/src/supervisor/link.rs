//! The link to the control plane with its rules: what an error means, when to ask again, when to give up.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longshore_api::link::{Register, Registered};
use longshore_api::link_client::{LinkClient, LinkError};
use longshore_api::problem::Problem;
use longshore_core::errors::chain;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::error::WorkerError;
use crate::health::Health;
use crate::metrics::Metrics;

/// Registering again is not asked for twice within this time, however many requests were told to.
const ONCE: Duration = Duration::from_millis(500);

/// So many reasons are said while a control plane is away.
const REASONS: usize = 20;

pub struct Link {
    pub client: LinkClient,
    pub register: Register,
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
    /// Why the control plane did not answer since it did last; each is said once.
    away: Mutex<BTreeSet<String>>,
    /// Who answered last.
    address: Mutex<Arc<str>>,
    registered: tokio::sync::Mutex<Instant>,
    fatal: Mutex<Option<WorkerError>>,
    failed: Notify,
}

/// What to do about an error.
enum Answer {
    Fatal(WorkerError),
    RegisterAgain,
    Wait,
    Refused(Box<Problem>),
}

impl Link {
    pub fn new(client: LinkClient, register: Register, health: Arc<Health>, metrics: Arc<Metrics>) -> Link {
        Link {
            address: Mutex::new(client.address()),
            client,
            register,
            health,
            metrics,
            away: Mutex::default(),
            registered: tokio::sync::Mutex::new(Instant::now()),
            fatal: Mutex::default(),
            failed: Notify::new(),
        }
    }

    /// Registers for the first time; waits for a control plane that is away.
    ///
    /// Errors: those that waiting cannot mend.
    pub async fn enter(&self) -> Result<Registered, WorkerError> {
        loop {
            let error = match self.client.register(&self.register).await {
                Ok(registered) => {
                    self.answered();
                    *self.registered.lock().await = Instant::now();
                    return Ok(registered);
                }
                Err(error) => error,
            };
            match self.meaning(&error) {
                Answer::Fatal(fatal) => return Err(fatal),
                Answer::Refused(source) if source.code == "unknown_fleet" => {
                    return Err(WorkerError::UnknownFleet { fleet: self.register.fleet.clone(), source });
                }
                Answer::Refused(source) => return Err(WorkerError::Refused { source }),
                Answer::RegisterAgain | Answer::Wait => self.wait(&error).await,
            }
        }
    }

    /// Does what an error asks for, which may take a while. Returns the problem if the request itself was refused, so
    /// that repeating it cannot help. Never returns if the worker has to end.
    pub async fn settle(&self, error: LinkError) -> Option<Box<Problem>> {
        match self.meaning(&error) {
            Answer::Refused(problem) if problem.code == "unknown_fleet" => self.wait(&error).await,
            Answer::Refused(problem) => return Some(problem),
            Answer::Wait => self.wait(&error).await,
            Answer::RegisterAgain => self.enter_again().await,
            Answer::Fatal(fatal) => {
                self.fail(fatal);
                std::future::pending::<()>().await;
            }
        }
        None
    }

    /// The control plane answered.
    pub fn answered(&self) {
        self.health.answered();
        let now = self.client.address();
        let before =
            std::mem::replace(&mut *self.address.lock().unwrap_or_else(PoisonError::into_inner), now.clone());
        if !std::mem::take(&mut *self.away()).is_empty() {
            info!(address = &*now, "control plane answers again");
        } else if before != now {
            info!(address = &*now, before = &*before, "control plane answers at another address");
        }
    }

    /// Ends the worker.
    pub fn fail(&self, error: WorkerError) {
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.failed.notify_one();
    }

    /// Waits for what ends the worker; for one caller.
    pub async fn failed(&self) -> WorkerError {
        loop {
            if let Some(error) = self.fatal.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return error;
            }
            self.failed.notified().await;
        }
    }

    /// Registers with the same nonce, which keeps the leases. Several requests may find out at once that it is due.
    async fn enter_again(&self) {
        let mut last = self.registered.lock().await;
        if last.elapsed() < ONCE {
            drop(last);
            return tokio::time::sleep(Duration::from_millis(100)).await;
        }
        loop {
            match self.client.register(&self.register).await {
                Ok(_) => {
                    info!("registered again");
                    self.answered();
                    *last = Instant::now();
                    return;
                }
                Err(error) => match self.meaning(&error) {
                    Answer::Fatal(fatal) => {
                        self.fail(fatal);
                        std::future::pending::<()>().await;
                    }
                    _ => self.wait(&error).await,
                },
            }
        }
    }

    async fn wait(&self, error: &LinkError) {
        let error = chain(error);
        let is_new = |away: &mut BTreeSet<String>| away.len() < REASONS && away.insert(error.clone());
        if is_new(&mut self.away()) {
            warn!(error, "control plane does not answer; trying again");
        } else {
            debug!(error, "control plane still does not answer");
        }
        // Spread out: all workers lose a control plane at the same moment.
        let pause = rand::random_range(200..2000);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    fn away(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meaning(&self, error: &LinkError) -> Answer {
        let Some(problem) = error.problem() else {
            self.metrics.link_error("unreachable");
            return Answer::Wait;
        };
        self.metrics.link_error(if problem.status >= 500 { "unavailable" } else { "refused" });
        let source = || Box::new(problem.clone());
        match (problem.status, &*problem.code) {
            (401, _) => {
                Answer::Fatal(WorkerError::BadToken { fleet: self.register.fleet.clone(), source: source() })
            }
            (426, _) => Answer::Fatal(WorkerError::LinkVersion { source: source() }),
            (_, "stale_nonce") => Answer::Fatal(WorkerError::Superseded { source: source() }),
            (_, "unknown_worker") => Answer::RegisterAgain,
            (408 | 421 | 425 | 429 | 500.., _) => Answer::Wait,
            _ => Answer::Refused(source()),
        }
    }
}
