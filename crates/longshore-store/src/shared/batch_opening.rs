//! Submissions that belong to a batch: the first one makes it, the last one closes it.
//!
//! Whether a batch takes tasks is first asked without a lock, since rows of batches are locked after all others; when they
//! are, it is asked again, and if it was changed meanwhile, the transaction is run once more.

use std::collections::{BTreeMap, HashMap};

use longshore_core::batch::BatchId;
use longshore_core::id::TenantName;
use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::changes::Changes;
use super::column::get;
use super::connection::Connection;
use super::fault::DbError;
use super::sql::args;
use super::submit::Submission;
use crate::model::{NewBatch, NewTask};

/// Batches that exist: whether they are open, and whose they are.
type Known = HashMap<BatchId, (bool, TenantName)>;

const KNOWN: &str = "SELECT id, open, tenant FROM @batch WHERE id = ANY($1)";

const MAKE: &str = "WITH made AS (
        INSERT INTO @batch (id, tenant, name, labels, open, created_at, last_event)
        SELECT id, tenant, name, labels, open, $6::bigint, 1
        FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::boolean[]) AS n (id, tenant, name, labels, open)
        ORDER BY id ON CONFLICT (id) DO NOTHING RETURNING id)
     INSERT INTO @batch_event (batch, seq, at, kind, data)
     SELECT id, 1, $6::bigint, 'created', data FROM made JOIN unnest($1::uuid[], $7::text[]) AS n (id, data) USING (id)";

const AGAIN: &str = "SELECT id, open, tenant FROM @batch WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

pub(super) async fn known(connection: &Connection, submissions: &[Submission]) -> Result<Known, DbError> {
    let ids: Vec<Uuid> =
        submissions.iter().filter_map(|it| it.batch.as_ref()).map(|batch| batch.id.0).collect();
    if ids.is_empty() {
        return Ok(Known::new());
    }
    read(connection, KNOWN, ids).await
}

async fn read(connection: &Connection, sql: &'static str, ids: Vec<Uuid>) -> Result<Known, DbError> {
    let rows = connection.query(sql, args![ids]).await?;
    rows.iter().map(|row| Ok((get(row, 0)?, (row.try_get(1)?, get(row, 2)?)))).collect()
}

/// What the submissions of one transaction do to their batches.
pub(super) struct Openings<'a> {
    known: Known,
    wanted: BTreeMap<BatchId, Opening<'a>>,
}

struct Opening<'a> {
    batch: &'a NewBatch,
    tenant: TenantName,
    made: bool,
    /// When it is made, or found.
    open: bool,
    close: bool,
}

impl<'a> Openings<'a> {
    pub(super) fn new(known: Known) -> Openings<'a> {
        Openings { known, wanted: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// The tenant of a batch that has one other than all of these tasks: its first task says whose it is.
    pub(super) fn other_tenant(&self, batch: BatchId, tasks: &[NewTask]) -> Option<TenantName> {
        let wanted = self.wanted.get(&batch).map(|it| &it.tenant);
        let known = self.known.get(&batch).map(|(_, tenant)| tenant);
        let tenant = wanted.or(known).or(tasks.first().map(|task| &task.tenant))?;
        tasks.iter().any(|task| task.tenant != *tenant).then(|| tenant.clone())
    }

    /// Makes the batch, or finds it still open; closes it when no more is to come. False: it takes no more.
    pub(super) fn open(&mut self, batch: &'a NewBatch, first: Option<&'a NewTask>) -> bool {
        let tenant = first.map(|task| task.tenant.clone()).unwrap_or_default();
        if let Some(opening) = self.wanted.get_mut(&batch.id) {
            if !opening.open || opening.close {
                return false;
            }
            opening.close = !batch.more;
            return true;
        }
        let opening = match self.known.get(&batch.id) {
            Some((false, _)) => return false,
            Some((true, whose)) => {
                let tenant = whose.clone();
                Opening { batch, tenant, made: false, open: true, close: !batch.more }
            }
            None => Opening { batch, tenant, made: true, open: batch.more, close: false },
        };
        self.wanted.insert(batch.id, opening);
        true
    }

    /// Makes and locks the batches; what else becomes of them is noted in `changes`.
    ///
    /// Errors: [`DbError::Raced`] when another transaction made or closed one meanwhile.
    pub(super) async fn enter(&self, connection: &Connection, changes: &mut Changes) -> Result<(), DbError> {
        connection.ready(&[MAKE, AGAIN]).await?;
        let ids: Vec<Uuid> = self.wanted.keys().map(|batch| batch.0).collect();
        let (_, found) =
            futures_util::try_join!(self.make(connection, changes.now), read(connection, AGAIN, ids))?;
        for (id, opening) in &self.wanted {
            // Whose it is follows from the first task that anybody put into it.
            let as_seen =
                |(open, tenant): &(bool, TenantName)| *open == opening.open && *tenant == opening.tenant;
            if !found.get(id).is_some_and(as_seen) {
                return Err(DbError::Raced);
            }
            changes.wake_batch(*id);
            changes.batches.touch(*id);
            if opening.close {
                changes.batches.close(*id);
            }
        }
        changes.batches.ready(connection).await
    }

    async fn make(&self, connection: &Connection, now: Timestamp) -> Result<(), DbError> {
        let made: Vec<&Opening<'_>> = self.wanted.values().filter(|it| it.made).collect();
        if made.is_empty() {
            return Ok(());
        }
        let labels: Vec<Json> = made.iter().map(|it| Json::of(&it.batch.labels)).collect();
        let created = |it: &&Opening<'_>| Json::of(&json!({ "name": it.batch.name, "open": it.open }));
        let created: Vec<Json> = made.iter().map(created).collect();
        connection
            .execute(
                MAKE,
                args![
                    made.iter().map(|it| it.batch.id.0).collect::<Vec<_>>(),
                    made.iter().map(|it| it.tenant.as_str()).collect::<Vec<_>>(),
                    made.iter().map(|it| it.batch.name.as_str()).collect::<Vec<_>>(),
                    labels.iter().map(Json::text).collect::<Vec<_>>(),
                    made.iter().map(|it| it.open).collect::<Vec<_>>(),
                    now.0,
                    created.iter().map(Json::text).collect::<Vec<_>>(),
                ],
            )
            .await
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(id: u128, more: bool) -> NewBatch {
        NewBatch { id: BatchId(Uuid::from_u128(id)), name: String::new(), labels: BTreeMap::new(), more }
    }

    #[test]
    fn a_batch_takes_submissions_until_one_of_them_closes_it() {
        let (open, last, late) = (batch(1, true), batch(1, false), batch(1, true));
        let (closed, known) = (batch(2, true), batch(3, false));
        let whose = TenantName::default;
        let found = [(closed.id, (false, whose())), (known.id, (true, whose()))].into();
        let mut openings = Openings::new(found);
        let taken: Vec<bool> =
            [&open, &last, &late, &closed, &known, &known].map(|it| openings.open(it, None)).into();
        assert_eq!(taken, [true, true, false, false, true, false]);
        let made: Vec<_> = openings.wanted.values().map(|it| (it.made, it.open, it.close)).collect();
        assert_eq!(made, [(true, true, true), (false, true, true)]);
    }
}
