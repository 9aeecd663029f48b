//! Declarations of fleets that were read a moment ago: each submission and each LLM call needs one, and they hardly ever change.

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

#[cfg(test)]
mod tests {
    use longshore_core::fleet::Fleet;
    use longshore_core::time::Timestamp;

    use super::*;

    async fn declare(store: &Store, command: &str) {
        let name = FleetName::new("a").expect("valid");
        let fleet = Fleet::new(name, vec![command.into()], "/".into());
        store.put_fleets(vec![fleet], Timestamp(1)).await.expect("written");
    }

    #[tokio::test]
    async fn a_declaration_here_counts_at_once_and_what_is_not_there_is_not_kept() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&longshore_store::OpenOptions::new(dir.path())).expect("opened");
        let (lately, name) = (Lately::default(), FleetName::new("a").expect("valid"));
        let command = async || {
            let fleet = lately.read(&store, &name).await.expect("read");
            fleet.map(|fleet| fleet.declaration.command[0].clone())
        };
        assert_eq!(command().await, None);
        declare(&store, "one").await;
        assert_eq!(command().await.as_deref(), Some("one"));
        declare(&store, "two").await;
        lately.forget();
        assert_eq!(command().await.as_deref(), Some("two"));
    }
}
