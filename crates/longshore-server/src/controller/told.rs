//! What the leader has to tell people of a fleet, for the replicas that people ask.

use std::collections::{BTreeSet, HashMap};

use longshore_core::id::FleetName;
use longshore_store::StoreError;
use serde::{Deserialize, Serialize};

use crate::app::App;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Why its workers do not come up, or nobody scales it.
    pub trouble: Option<String>,
    /// What else there is to know of it.
    pub notes: Vec<String>,
}

/// What was written last; a new leader writes all of it again.
pub type Written = HashMap<FleetName, Told>;

fn key(fleet: &FleetName) -> String {
    format!("told:{fleet}")
}

fn here(app: &App, fleet: &FleetName) -> Told {
    let mut told = Told {
        trouble: app.trouble.lock().expect("no holder panics").get(fleet).cloned(),
        notes: app.notes.lock().expect("no holder panics").get(fleet).cloned().unwrap_or_default(),
    };
    let scaling = app.scaling_trouble.lock().expect("no holder panics").get(fleet).cloned();
    match told.trouble {
        None => told.trouble = scaling,
        Some(_) => told.notes.extend(scaling),
    }
    told
}

/// Writes down what changed.
pub async fn publish(app: &App, written: &mut Written) -> Result<(), StoreError> {
    let mut fleets: BTreeSet<FleetName> = written.keys().cloned().collect();
    if fleets.is_empty() {
        // What the leader before wrote may be over.
        fleets.extend(app.store.fleets().await?.into_iter().map(|record| record.name));
    }
    fleets.extend(app.trouble.lock().expect("no holder panics").keys().cloned());
    fleets.extend(app.scaling_trouble.lock().expect("no holder panics").keys().cloned());
    fleets.extend(app.notes.lock().expect("no holder panics").keys().cloned());
    for fleet in fleets {
        let told = here(app, &fleet);
        if written.get(&fleet) != Some(&told) {
            let text = serde_json::to_string(&told).expect("plain data");
            app.store.meta_put(key(&fleet), text).await?;
            written.insert(fleet, told);
        }
    }
    Ok(())
}

/// What there is to tell: known here if this replica leads, else as the leader wrote it down.
pub async fn of(app: &App, fleet: &FleetName) -> Result<Told, StoreError> {
    if app.epoch().is_some() {
        return Ok(here(app, fleet));
    }
    let text = app.store.meta_get(key(fleet)).await?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}
