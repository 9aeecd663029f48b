//! What a running control plane says about its fleets and workers.

use longshore_api::client::Client;
use longshore_api::fleet::{FleetStatus, Worker};
use longshore_api::link::WorkerState;

use super::Check;
use crate::output;

pub async fn check(client: &Client) -> Vec<Check> {
    let mut checks = Vec::new();
    match client.fleets().await {
        Ok(fleets) => checks.extend(fleets.items.iter().filter(|fleet| fleet.active).map(fleet)),
        Err(error) => checks.push(Check::fail(
            "fleet",
            error.to_string(),
            "is the token right? LONGSHORE_TOKEN holds it",
        )),
    }
    if let Ok(workers) = client.workers(None, false).await {
        checks.extend(workers.items.iter().filter_map(worker));
    }
    checks
}

fn fleet(fleet: &FleetStatus) -> Check {
    let name = &fleet.name;
    let (ready, min) = (fleet.workers.ready, fleet.declaration.scaling.min);
    match &fleet.trouble {
        Some(trouble) => Check::fail(
            "fleet",
            format!("{name}: {trouble}"),
            format!(
                "look at `longshore workers --all --fleet {name}` and the workers' logs in the store's folder"
            ),
        ),
        None if ready == 0 && fleet.runnable > 0 => Check::warn(
            "fleet",
            format!("{name}: {} tasks wait and no worker is ready", fleet.runnable),
            format!("`longshore scale {name} --explain` says what the scaler does about it"),
        ),
        None if ready < min && fleet.replicas.is_none() => Check::warn(
            "fleet",
            format!("{name}: {ready} of at least {min} workers are ready"),
            format!("`longshore workers --fleet {name}` says why"),
        ),
        None => {
            Check::ok("fleet", format!("{name}: {ready} workers ready, {} tasks queued", fleet.tasks.queued))
        }
    }
}

fn worker(worker: &Worker) -> Option<Check> {
    if worker.state != WorkerState::NotReady {
        return None;
    }
    let seen =
        worker.last_seen.map_or_else(|| "never seen".into(), |at| format!("seen {} ago", output::ago(at)));
    let reason = if worker.reason.is_empty() { "no reason given" } else { &worker.reason };
    let found = format!("{} of fleet {} is not ready: {reason} ({seen})", worker.id, worker.fleet);
    Some(Check::warn("worker", found, format!("`longshore workers drain {}` replaces it", worker.id)))
}
