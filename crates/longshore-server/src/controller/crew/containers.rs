//! Looks after the containers of this installation: finds those of an earlier control plane, ends what nobody knows.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use futures_util::StreamExt;
use longshore_core::errors::chain;
use longshore_core::fleet::Platform as Declared;
use longshore_platform::Platform;
use longshore_platform::docker::{DockerPlatform, Promised};
use longshore_store::{Epoch, FleetRecord, WorkerFilter, WorkerRecord};
use tokio::time::timeout;
use tracing::{info, warn};

use super::{Crew, TURNS, docker};
use crate::app::App;
use crate::controller::sleep_or_stop;

/// How often all is looked through once it was.
const LOOK: Duration = Duration::from_secs(15);

/// How soon it is looked again while something is in the way, or nothing is there to look at.
const SOON: Duration = Duration::from_secs(1);

/// How long one removal may take: no worker is started meanwhile. The engine itself gives a process ten seconds to die.
pub const REMOVAL: Duration = Duration::from_secs(12);

/// The controller's loop; it acts only while this replica leads and something of its fleets runs on Docker.
pub async fn run(app: App, crew: Crew) -> &'static str {
    let mut wait = Duration::ZERO;
    while !sleep_or_stop(&app, wait).await {
        wait = match app.epoch() {
            Some(epoch) => look(&app, &crew, epoch).await,
            None => SOON,
        };
    }
    "containers"
}

async fn look(app: &App, crew: &Crew, epoch: Epoch) -> Duration {
    // None is planned meanwhile: it has a record and no container yet.
    let gate = crew.0.gate.lock().await;
    let read = async {
        let fleets = app.store.fleets().await?;
        Ok::<_, longshore_store::StoreError>((fleets, app.store.workers(WorkerFilter::default()).await?))
    };
    let (fleets, records) = match read.await {
        Ok(read) => read,
        Err(error) => {
            warn!(error = %chain(&error), "containers could not be looked through; it is tried again");
            return SOON;
        }
    };
    let declared = fleets.iter().filter(|record| record.declaration.platform == Declared::Docker);
    let active: Vec<&FleetRecord> = declared.filter(|record| record.active).collect();
    let records: Vec<WorkerRecord> =
        records.into_iter().filter(|record| record.platform.starts_with(docker::PLACE)).collect();
    // What a leader before this one may have left: looked for once.
    let once = fleets.iter().any(|record| record.declaration.platform == Declared::Docker);
    let looked = !once || crew.0.docker.adopted();
    if active.is_empty() && records.is_empty() && looked && !crew.0.docker.leaves_something() {
        crew.0.docker.has_adopted(epoch);
        return SOON;
    }
    match look_through(crew, &active, &records).await {
        Ok(tidied) => {
            if !crew.0.docker.adopted() {
                app.look_again.notify_one();
            }
            crew.0.docker.has_adopted(epoch);
            crew.0.docker.has_left(tidied && active.is_empty() && records.is_empty());
            drop(gate);
            LOOK
        }
        Err(why) => {
            for fleet in active {
                crew.0.starts.hold(app, (&fleet.name, fleet.release), why.clone());
            }
            SOON
        }
    }
}

/// Returns whether nothing is left of workers and fleets that are no more. Errors: what is in the way, for people.
async fn look_through(
    crew: &Crew,
    active: &[&FleetRecord],
    records: &[WorkerRecord],
) -> Result<bool, String> {
    let docker = crew.0.docker.meet().await.map_err(|error| chain(&error))?;
    let place = crew.0.docker.place().ok_or("no Docker engine has answered")?;
    let platform = Platform::Docker(docker.clone());
    let here = records.iter().filter(|record| record.platform == place);
    for record in here.filter(|record| !crew.is_starting(&record.id) && !crew.has(&record.id)) {
        crew.adopt_one(&platform, record).await.map_err(|error| chain(&error))?;
    }
    // Those of a fleet that is declared no more have to hear that they are to drain.
    let fleets = active.iter().map(|record| &record.name).chain(records.iter().map(|record| &record.fleet));
    let names: Vec<_> = fleets.collect::<BTreeSet<_>>().into_iter().collect();
    crew.0.docker.open_doors(&docker, &names).await?;
    let removed = remove_orphans(crew, &docker, records).await?;
    let keep = docker::networks(&docker, &names);
    Ok(crew.0.docker.tidy(&docker, &keep).await? && removed)
}

/// Containers of workers that have ended for the store, or that it never heard of. Returns whether none is left: one that the
/// engine cannot remove is said, looked at again, and nobody else waits for it.
async fn remove_orphans(
    crew: &Crew,
    docker: &DockerPlatform,
    records: &[WorkerRecord],
) -> Result<bool, String> {
    let known: HashSet<&str> = records.iter().map(|record| record.id.as_str()).collect();
    let there = docker.own_workers().await.map_err(|error| chain(&error))?;
    let watched: HashSet<String> = crew.members().into_iter().map(|(id, _)| id.to_string()).collect();
    let is_orphan = |it: &Promised| !known.contains(it.worker.as_str()) && !watched.contains(&it.worker);
    let orphans: Vec<_> = there.into_iter().filter(is_orphan).map(|it| remove(docker.clone(), it)).collect();
    let removed = futures_util::stream::iter(orphans).buffer_unordered(TURNS);
    let stay: Vec<_> = removed.filter_map(std::future::ready).collect().await;
    Ok(crew.0.docker.orphans_stay(stay))
}

/// Returns the worker and why, if its container stays.
async fn remove(docker: DockerPlatform, it: Promised) -> Option<(String, String)> {
    // By its id: whoever made it may have given it another name.
    let why = match timeout(REMOVAL, docker.remove(&it.worker, Some(&it.identity))).await {
        Ok(Ok(())) => {
            info!(worker = it.worker, "container of a worker that is no more is removed");
            return None;
        }
        Ok(Err(error)) => chain(&error),
        Err(_) => "the Docker engine does not answer in time".into(),
    };
    Some((it.worker, why))
}
