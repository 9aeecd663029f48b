//! There is one control plane, and it leads: the file's lock has seen to that.

use uuid::Uuid;

use super::Embedded;
use crate::error::StoreError;
use crate::model::{Epoch, Replica};
use longshore_core::time::Timestamp;

impl Embedded {
    pub(crate) async fn replica_seen(&self, it: Replica) -> Result<Vec<Replica>, StoreError> {
        Ok(vec![Replica { seen_ago_ms: 0, ..it }])
    }

    pub(crate) async fn replica_gone(&self, _id: Uuid) -> Result<(), StoreError> {
        Ok(())
    }

    pub(crate) async fn make_room(&self, _now: Timestamp) -> Result<(), StoreError> {
        Ok(())
    }

    pub(crate) async fn lead(&self, _me: Uuid) -> Result<Option<Epoch>, StoreError> {
        Ok(Some(Epoch(1)))
    }

    pub(crate) async fn resign(&self, _me: Uuid) -> Result<(), StoreError> {
        Ok(())
    }
}
