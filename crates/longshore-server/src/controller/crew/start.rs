//! Starts workers: its id is saved first, so that a restart of ours can find each at any time.

use std::time::Duration;

use longshore_core::errors::chain;
use longshore_core::fleet;
use longshore_core::id::{FleetName, WorkerId};
use longshore_core::json::Json;
use longshore_core::rollout::Release;
use longshore_core::task::Interruption;
use longshore_platform::{Platform, Spec};
use longshore_store::{FleetRecord, PlannedWorker, StoreError};
use tracing::{error, warn};

use super::{Crew, Ground, docker, process};
use crate::app::now;

impl Crew {
    /// Whether a worker of this release may be started now: it needs somebody to register with, and starts must not have
    /// failed too often lately.
    pub fn may_start(&self, fleet: &FleetName, release: Release) -> bool {
        if self.0.app.links_to_start_with().is_empty() {
            let why = "no control plane with the role `link` is there, so workers could not register";
            self.0.app.trouble.lock().expect("no holder panics").insert(fleet.clone(), why.into());
            return false;
        }
        self.0.starts.allow(fleet, release)
    }

    /// What keeps workers of this release from being started now, if that is no fault of theirs.
    pub fn held(&self, fleet: &FleetName, release: Release) -> Option<String> {
        self.0.starts.held(fleet, release)
    }

    /// Which image a name stands for on the Docker host; `None`: there is none of this name.
    ///
    /// Errors: for people, why that cannot be told.
    pub async fn image_id(&self, name: &str) -> Result<Option<String>, String> {
        let platform = self.0.docker.platform().map_err(|error| chain(&error))?;
        let found = tokio::time::timeout(Duration::from_secs(5), platform.find_image(name)).await;
        let found = found.map_err(|_| "the Docker engine does not answer in time")?;
        Ok(found.map_err(|error| chain(&error))?.map(|facts| facts.id))
    }

    /// Starts one worker: its id is saved first, so that a restart of ours can find it at any time. A container comes up
    /// while others are started.
    pub async fn start(&self, record: &FleetRecord) -> Result<(), StoreError> {
        let gate = self.0.gate.lock().await;
        if self.is_closed() {
            return Ok(());
        }
        let fleet = &record.declaration;
        let at = (&fleet.name, record.release);
        let ground = match fleet.platform {
            fleet::Platform::Process => Ground::Process,
            fleet::Platform::Docker => {
                let starting = self.starting().clone();
                match self.0.docker.prepare(record, &starting).await {
                    Ok(ready) => Ground::Docker(ready),
                    Err(why) => {
                        self.0.starts.hold(&self.0.app, at, why);
                        return Ok(());
                    }
                }
            }
            fleet::Platform::Compose => match self.0.prepare_compose(record).await {
                Ok(ready) => Ground::Compose(ready),
                Err(why) => {
                    self.0.starts.hold(&self.0.app, at, why);
                    return Ok(());
                }
            },
            // Its Deployment starts them.
            fleet::Platform::Kubernetes | fleet::Platform::External => return Ok(()),
        };
        self.0.starts.let_go(&self.0.app, at);
        let id = self.next_id(&fleet.name).await?;
        let planned = PlannedWorker {
            id: id.clone(),
            fleet: fleet.name.clone(),
            release: record.release,
            platform: match &ground {
                Ground::Process => self.0.app.own_platform.clone(),
                Ground::Docker(ready) => ready.place.clone(),
                Ground::Compose(ready) => ready.place.clone(),
            },
        };
        // Not saved: another replica leads by now, or has made the very same plan.
        let Some(epoch) = self.0.app.epoch() else { return Ok(()) };
        if !self.0.app.store.plan_worker(planned, epoch, now()).await? {
            return Ok(());
        }
        let room = fleet.container.as_ref().map(docker::promised).unwrap_or_default();
        self.starting().insert(id.clone(), room);
        let begun = self.clone().start_planned(record.clone(), id, ground);
        // What failed before is tried by one at a time.
        if fleet.platform == fleet::Platform::Process || self.0.starts.have_failed(at.0, at.1) {
            return begun.await;
        }
        drop(gate);
        tokio::spawn(async move {
            if let Err(error) = begun.await {
                warn!(error = %chain(&error), "what became of a start could not be saved; it is looked at again");
            }
        });
        Ok(())
    }

    async fn start_planned(
        self,
        record: FleetRecord,
        id: WorkerId,
        ground: Ground,
    ) -> Result<(), StoreError> {
        let done = self.start_here(&record, &id, ground).await;
        self.starting().remove(&id);
        done
    }

    async fn start_here(
        &self,
        record: &FleetRecord,
        id: &WorkerId,
        ground: Ground,
    ) -> Result<(), StoreError> {
        let fleet = &record.declaration;
        let spec = match self.spec(record, id, &ground) {
            Ok(spec) => spec,
            Err(why) => return self.not_started(record, id, why).await,
        };
        let (platform, _turn) = match ground {
            Ground::Process => (self.0.process.clone(), None),
            Ground::Docker(ready) => (Platform::Docker(ready.platform), self.0.turns.acquire().await.ok()),
            Ground::Compose(ready) => (Platform::Compose(ready.platform), self.0.compose.turn().await),
        };
        match platform.start(spec).await {
            Ok(running) => {
                // Watched first: if its identity cannot be saved, a restart of ours still finds it by its id.
                let identity = Json::of(&running.identity());
                self.keep(id, (&fleet.name, record.release), running, fleet.probe);
                self.0.app.store.save_identity(id.clone(), identity, now()).await.map(drop)
            }
            Err(failed) => self.not_started(record, id, chain(&failed)).await,
        }
    }

    /// Workers that are being started.
    pub(super) fn starting(&self) -> std::sync::MutexGuard<'_, docker::Starting> {
        self.0.starting.lock().expect("no holder panics")
    }

    pub(super) fn is_starting(&self, worker: &WorkerId) -> bool {
        self.starting().contains_key(worker)
    }

    async fn not_started(&self, record: &FleetRecord, id: &WorkerId, why: String) -> Result<(), StoreError> {
        error!(worker = %id, fleet = %record.name, why, "worker could not be started");
        self.0.starts.failed(&self.0.app, (&record.name, record.release), why.clone(), Duration::ZERO);
        self.end(id, Interruption::WorkerEnded, why).await.map(drop)
    }

    /// Names follow from a counter in the store, so that a name is never given twice; and they name the installation,
    /// since what carries a dead worker's name is killed, and another installation may run on this machine.
    async fn next_id(&self, fleet: &FleetName) -> Result<WorkerId, StoreError> {
        let key = format!("ordinal:{fleet}");
        let last = self.0.app.store.meta_get(key.clone()).await?.and_then(|text| text.parse::<u64>().ok());
        let ordinal = last.unwrap_or(0) + 1;
        self.0.app.store.meta_put(key, ordinal.to_string()).await?;
        let name = format!("{fleet}-{}-{ordinal}", self.0.app.signer.installation());
        Ok(WorkerId::new(name).expect("a fleet's name, letters and a number make a worker id"))
    }

    fn spec(&self, record: &FleetRecord, id: &WorkerId, ground: &Ground) -> Result<Spec, String> {
        match ground {
            Ground::Process => {
                process::spec(&self.0.app, &self.0.program, &record.declaration, id).map(Spec::Process)
            }
            Ground::Docker(ready) => {
                self.0.docker.spec(record, id, ready).map(|spec| Spec::Docker(Box::new(spec)))
            }
            Ground::Compose(ready) => Ok(Spec::Compose(ready.spec(&record.name, id))),
        }
    }
}
