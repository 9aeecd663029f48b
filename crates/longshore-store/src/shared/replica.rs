//! Replicas of the control plane: which are there, and which one leads.
//!
//! All times are the database's own, so that no replica's clock matters.

use longshore_core::time::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::Shared;
use super::column::{count, get, int};
use super::fault::DbError;
use super::partition;
use super::sql::args;
use crate::error::StoreError;
use crate::model::{Epoch, Replica};

const SEEN: &str = "INSERT INTO @replica (id, name, roles, address, version, started_at, seen_at)
     VALUES ($1, $2, $3, $4, $5, clock_timestamp(), clock_timestamp())
     ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp(), roles = excluded.roles";

/// Those that were seen lately, the oldest first.
const ALIVE: &str = "SELECT id, name, roles, address, version,
        greatest(0, extract(epoch FROM clock_timestamp() - seen_at) * 1000)::bigint
     FROM @replica WHERE seen_at > clock_timestamp() - interval '5 seconds' ORDER BY started_at, id";

const FORGET: &str = "DELETE FROM @replica WHERE id = $1 OR seen_at < clock_timestamp() - interval '1 hour'";

/// Whoever leads goes on; another takes over when it has not been heard of for three seconds.
const LEAD: &str = "UPDATE @leader SET holder = $1, epoch = epoch + CASE WHEN holder = $1 THEN 0 ELSE 1 END,
        until = clock_timestamp() + interval '3 seconds'
     WHERE holder = $1 OR holder IS NULL OR until < clock_timestamp() RETURNING epoch";

const RESIGN: &str = "UPDATE @leader SET holder = NULL WHERE holder = $1";

impl Shared {
    pub(crate) async fn replica_seen(&self, it: Replica) -> Result<Vec<Replica>, StoreError> {
        let (roles, link) = (it.roles.join(","), it.link.clone().unwrap_or_default());
        let rows = self.core().run(async |connection| {
            connection.execute(SEEN, args![it.id, it.name, roles, link, it.version]).await?;
            connection.query(ALIVE, args![]).await
        });
        Ok(rows.await?.iter().map(read).collect::<Result<_, _>>()?)
    }

    pub(crate) async fn replica_gone(&self, id: Uuid) -> Result<(), StoreError> {
        self.core().run(async |it| it.execute(FORGET, args![id]).await).await?;
        Ok(())
    }

    pub(crate) async fn make_room(&self, now: Timestamp) -> Result<(), StoreError> {
        let core = self.core();
        Ok(core.run(async |it| partition::ensure(&it, &core.names, now).await).await?)
    }

    pub(crate) async fn lead(&self, me: Uuid) -> Result<Option<Epoch>, StoreError> {
        let row = self.core().run(async |it| it.query_opt(LEAD, args![me]).await).await?;
        Ok(row.map(|row| count(&row, 0).map(Epoch)).transpose()?)
    }

    pub(crate) async fn resign(&self, me: Uuid) -> Result<(), StoreError> {
        self.core().run(async |it| it.execute(RESIGN, args![me]).await).await?;
        Ok(())
    }
}

fn read(row: &Row) -> Result<Replica, DbError> {
    let (roles, link): (String, String) = (get(row, 2)?, get(row, 3)?);
    Ok(Replica {
        id: get(row, 0)?,
        name: get(row, 1)?,
        roles: roles.split(',').map(str::to_owned).collect(),
        link: (!link.is_empty()).then_some(link),
        version: get(row, 4)?,
        seen_ago_ms: count(row, 5)?,
    })
}

/// An epoch as a column.
pub(super) fn epoch(epoch: Epoch) -> i64 {
    int(epoch.0)
}
