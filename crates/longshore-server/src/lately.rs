//! Declarations of fleets that were read a moment ago: each submission needs one, and they hardly ever change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use longshore_core::id::FleetName;
use longshore_store::{FleetRecord, Store, StoreError};

use crate::app::ReadAt;

/// How long another replica's new declaration may go unnoticed.
const KNOWN_FOR: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Lately(Mutex<Known>);

#[derive(Default)]
struct Known {
    fleets: HashMap<FleetName, ReadAt<Arc<FleetRecord>>>,
    /// Grows with each declaration, so that what was read before it is not kept after it.
    declared: u64,
}

impl Lately {
    /// What is not there is asked for each time: it may be declared any moment.
    pub async fn read(
        &self,
        store: &Store,
        name: &FleetName,
    ) -> Result<Option<Arc<FleetRecord>>, StoreError> {
        let declared = {
            let known = self.0.lock().expect("no holder panics");
            match known.fleets.get(name) {
                Some((at, fleet)) if at.elapsed() < KNOWN_FOR => return Ok(Some(Arc::clone(fleet))),
                _ => known.declared,
            }
        };
        let at = Instant::now();
        let Some(fleet) = store.fleet(name.clone()).await?.map(Arc::new) else { return Ok(None) };
        let mut known = self.0.lock().expect("no holder panics");
        if known.declared == declared {
            known.fleets.insert(name.clone(), (at, Arc::clone(&fleet)));
        }
        Ok(Some(fleet))
    }

    pub fn forget(&self) {
        let mut known = self.0.lock().expect("no holder panics");
        known.fleets.clear();
        known.declared += 1;
    }
}
