//! Declarations of fleets that were read a moment ago: each submission and each LLM call needs one, and they hardly ever change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use longshore_core::id::FleetName;
use longshore_store::{FleetRecord, Store, StoreError};

use crate::app::ReadAt;

/// How long another replica's new declaration may go unnoticed.
const KNOWN_FOR: Duration = Duration::from_secs(1);

/// A fleet as it was read.
#[derive(Clone)]
struct Declared {
    record: Arc<FleetRecord>,
    /// The providers that its workers may call, in the order of its declaration; then those of the release that still runs.
    providers: Arc<[String]>,
}

#[derive(Default)]
pub struct Lately(Mutex<Known>);

#[derive(Default)]
struct Known {
    fleets: HashMap<FleetName, ReadAt<Declared>>,
    /// Grows with each declaration, so that what was read before it is not kept after it.
    declared: u64,
}

impl Lately {
    pub async fn read(
        &self,
        store: &Store,
        name: &FleetName,
    ) -> Result<Option<Arc<FleetRecord>>, StoreError> {
        Ok(self.declared(store, name).await?.map(|declared| declared.record))
    }

    /// While one release takes the place of another, workers of both make calls.
    pub async fn providers(
        &self,
        store: &Store,
        name: &FleetName,
    ) -> Result<Option<Arc<[String]>>, StoreError> {
        Ok(self.declared(store, name).await?.map(|declared| declared.providers))
    }

    /// What is not there is asked for each time: it may be declared any moment.
    async fn declared(&self, store: &Store, name: &FleetName) -> Result<Option<Declared>, StoreError> {
        let declarations = {
            let known = self.0.lock().expect("no holder panics");
            match known.fleets.get(name) {
                Some((at, fleet)) if at.elapsed() < KNOWN_FOR => return Ok(Some(fleet.clone())),
                _ => known.declared,
            }
        };
        let at = Instant::now();
        let Some(record) = store.fleet(name.clone()).await? else { return Ok(None) };
        let mut providers = record.declaration.providers.clone();
        if let Some(release) = store.release(name.clone(), record.release).await? {
            let more = release.declaration.providers.into_iter().filter(|name| !providers.contains(name));
            providers.extend(more.collect::<Vec<_>>());
        }
        let declared = Declared { record: Arc::new(record), providers: providers.into() };
        let mut known = self.0.lock().expect("no holder panics");
        if known.declared == declarations {
            known.fleets.insert(name.clone(), (at, declared.clone()));
        }
        Ok(Some(declared))
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
