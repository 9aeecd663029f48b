//! Tasks whose deadline has passed: ended where they wait, stopped where they run.

use longshore_core::id::TaskId;
use longshore_core::json::Json;
use longshore_core::task::{self, AtDeadline};
use longshore_core::time::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::Shared;
use super::changes::Changes;
use super::live::Live;
use super::sql::args;
use super::{ending, lock};
use crate::error::StoreError;

const PASSED: &str =
    "SELECT id FROM @live WHERE deadline_at <= $1 AND NOT expired ORDER BY deadline_at LIMIT $2";

impl Shared {
    /// Gives up at most `most` tasks; returns those that ended here. The others end with their attempts.
    pub(super) async fn give_up(&self, most: i64, now: Timestamp) -> Result<Vec<TaskId>, StoreError> {
        let core = self.core();
        let ended = core.run(async |it| {
            let rows = it.query(PASSED, args![now.0, most]).await?;
            let ids = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<Uuid>, _>>()?;
            if ids.is_empty() {
                return Ok(Vec::new());
            }
            it.begin().await?;
            let mut changes = Changes::new(now);
            let mut rows: Vec<Live> = lock::tasks(&it, &mut changes, &ids).await?.into_values().collect();
            // One that was running may have ended meanwhile, or begun: what counts is how it stands now.
            rows.retain(|row| !row.expired);
            rows.sort_by_key(|row| row.id);
            rows.iter_mut().for_each(|row| expire(&mut changes, row));
            let ended = rows.iter().filter(|row| row.state.is_terminal()).map(|row| row.id).collect();
            ending::leave_all(&it, &mut changes, rows).await?;
            core.commit(&it, changes).await?;
            Ok(ended)
        });
        Ok(ended.await?)
    }
}

fn expire(changes: &mut Changes, row: &mut Live) {
    row.expired = true;
    match task::at_deadline(row.state) {
        AtDeadline::Nothing => {}
        AtDeadline::Stop => {
            let data = json!({ "deadline_at": row.deadline_at });
            row.event(changes, "deadline_passed", &Json::of(&data));
            if let Some(lease) = &row.lease {
                changes.wake_worker(&lease.worker);
            }
        }
        AtDeadline::Fail => ending::fail(changes, row, task::deadline_exceeded()),
    }
}
