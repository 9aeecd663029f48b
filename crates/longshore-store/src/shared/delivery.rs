//! The messages that webhooks are owed: written with the end of a task, sent by the leader, kept for a while.
//!
//! Whoever sends one holds it meanwhile. So a leader that was replaced, and finishes what it began, is not overtaken by the
//! next one; what a killed one had under way is sent again when its time is over.

use longshore_core::time::Timestamp;
use longshore_core::webhook::WebhookName;
use tokio_postgres::Row;

use super::Shared;
use super::column::{count, count_option, get, get_option, int};
use super::connection::Connection;
use super::fault::DbError;
use super::replica::epoch;
use super::sql::args;
use crate::error::StoreError;
use crate::model::{DeliveryFilter, DeliveryRecord, Epoch, Redeliver, Tried};
use crate::signals::Topic;

/// The most rows that one statement forgets or makes due.
const MOST: i64 = 10_000;

/// Owes each webhook a message about those rows of `ended` that it wants to know of; $13 is the time of their end.
macro_rules! owe {
    () => {
        "INSERT INTO @delivery (webhook, task, fleet, tenant, ended_as, at, state, since, next_at)
         SELECT w.name, ended.id, ended.fleet, ended.tenant, ended.state, $13, 'pending', $13, $13
         FROM ended JOIN @webhook AS w ON w.active AND w.disabled IS NULL AND ended.state = ANY(w.states)
            AND (w.fleets = '{}' OR ended.fleet = ANY(w.fleets))"
    };
}
pub(super) use owe;

macro_rules! columns {
    () => {
        "SELECT seq, webhook, task, fleet, ended_as, at, state, since, next_at, tries, tried_at, status, error FROM @delivery "
    };
}

const DUE: &str = concat!(
    columns!(),
    "WHERE webhook = $1 AND state = 'pending' AND next_at <= $2 AND (held_until IS NULL OR held_until <= $2)
     ORDER BY next_at, seq LIMIT $3"
);

/// In one order, so that no two wait crosswise. Rows are looked up one by one, here and below: how many there are Postgres
/// guesses as a part of the table, and would read all of it.
const HOLD: &str = "UPDATE @delivery SET held_until = $3 WHERE seq = ANY(ARRAY(
        SELECT seq FROM @delivery WHERE seq = ANY($1) AND state = 'pending' AND (held_until IS NULL OR held_until <= $2)
            AND EXISTS (SELECT 1 FROM @leader WHERE epoch = $4)
        ORDER BY seq FOR UPDATE))
     RETURNING seq";

/// Those that were held by one that was killed are found when they are looked for.
const NEXT: &str =
    "SELECT next_at FROM @delivery WHERE webhook = $1 AND state = 'pending' AND held_until IS NULL
     ORDER BY next_at, seq LIMIT 1";

/// Switches its webhook off as well, if the receiver says that it is gone.
const TRIED: &str = "WITH tried AS (
        UPDATE @delivery SET state = $2, next_at = $3, held_until = NULL, tries = tries + 1, tried_at = $4, status = $5,
            error = $6, ended_at = CASE WHEN $3::bigint IS NULL THEN $4::bigint END
        WHERE seq = $1 AND state = 'pending' RETURNING webhook)
     UPDATE @webhook AS w SET disabled = $7::text, disabled_at = $4
     FROM tried WHERE w.name = tried.webhook AND $7::text IS NOT NULL AND w.disabled IS NULL";

// Said so that only an index of a webhook's own rows has them in this order, not that of all rows.
const NEWEST: &str = concat!(
    columns!(),
    "WHERE webhook >= $1 AND (webhook, seq) < ($1, $2) ORDER BY webhook DESC, seq DESC LIMIT $3"
);
const NEWEST_IN: &str = concat!(
    columns!(),
    "WHERE (webhook, state) >= ($1, $4) AND (webhook, state, seq) < ($1, $4, $2)
     ORDER BY webhook DESC, state DESC, seq DESC LIMIT $3"
);

macro_rules! again {
    () => {
        "UPDATE @delivery SET state = 'pending', since = $2, next_at = $2, tries = 0, ended_at = NULL "
    };
}

const ONE_AGAIN: &str = concat!(again!(), "WHERE webhook = $1 AND task = $3");
const FAILED_AGAIN: &str = concat!(
    again!(),
    "WHERE seq = ANY(ARRAY(SELECT seq FROM @delivery WHERE (webhook, state) >= ($1, 'failed') AND (webhook, state) <= ($1, 'failed')
        ORDER BY webhook, state, seq LIMIT $3 FOR UPDATE))"
);

/// Passes over what somebody else is about to change.
const FORGET_ENDED: &str = "DELETE FROM @delivery WHERE seq = ANY(ARRAY(
        SELECT seq FROM @delivery WHERE ended_at < $1 ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED))";

/// What a webhook that is no longer declared was owed for as long. Of each the oldest: who forgets every minute must not go
/// through all that is kept.
const FORGET_UNWANTED: &str = "DELETE FROM @delivery WHERE state = 'pending' AND seq = ANY(ARRAY(
        SELECT d.seq FROM @webhook AS w, LATERAL (
            SELECT seq, at FROM @delivery WHERE (webhook, state) >= (w.name, 'pending') AND (webhook, state) <= (w.name, 'pending')
            ORDER BY webhook, state, seq LIMIT $2) AS d
        WHERE NOT w.active AND d.at < $1))";

impl Shared {
    pub(crate) async fn due_deliveries(
        &self,
        webhook: WebhookName,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        let args = args![webhook.as_str(), now.0, int(limit as u64)];
        let rows = self.core().run(async |it| it.query(DUE, args).await).await?;
        Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
    }

    pub(crate) async fn hold_deliveries(
        &self,
        deliveries: Vec<u64>,
        of: Epoch,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<u64>, StoreError> {
        let numbers: Vec<i64> = deliveries.into_iter().map(int).collect();
        let args = args![numbers, now.0, until.0, epoch(of)];
        let rows = self.core().run(async |it| it.query(HOLD, args).await).await?;
        let mut held = rows.iter().map(|row| count(row, 0)).collect::<Result<Vec<_>, _>>()?;
        held.sort_unstable();
        Ok(held)
    }

    pub(crate) async fn next_delivery(&self, webhook: WebhookName) -> Result<Option<Timestamp>, StoreError> {
        let row = self.core().run(async |it| it.query_opt(NEXT, args![webhook.as_str()]).await).await?;
        Ok(row.as_ref().map(|row| get(row, 0)).transpose()?)
    }

    /// Need not wait for the disk: a try that is forgotten is made again, which a receiver has to expect.
    pub(crate) async fn delivery_tried(&self, tried: Tried) -> Result<(), StoreError> {
        let (state, next_at) = tried.leads_to();
        let next_at = next_at.map(|at| at.0);
        let (status, error) =
            (tried.status.map(i64::from), tried.error.as_ref().map(|it| it.replace('\0', "")));
        let done = self.core().run(async |it| {
            let args =
                args![int(tried.seq), state.as_str(), next_at, tried.at.0, status, error, tried.disables()];
            it.ready(&[TRIED]).await?;
            futures_util::try_join!(it.begin_unsynced(), it.execute(TRIED, args), it.commit())?;
            Ok(())
        });
        Ok(done.await?)
    }

    pub(crate) async fn deliveries(
        &self,
        filter: DeliveryFilter,
        limit: usize,
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        let (before, limit) = (filter.before.map_or(i64::MAX, int), int(limit as u64));
        let webhook = filter.webhook.as_str();
        let rows = self.core().run(async |it| match filter.state {
            None => it.query(NEWEST, args![webhook, before, limit]).await,
            Some(state) => it.query(NEWEST_IN, args![webhook, before, limit, state.as_str()]).await,
        });
        Ok(rows.await?.iter().map(read).collect::<Result<_, _>>()?)
    }

    pub(crate) async fn redeliver(
        &self,
        webhook: WebhookName,
        which: Redeliver,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        let webhook = webhook.as_str();
        let changed = self.core().run(async |it| match which {
            Redeliver::One(task) => it.execute(ONE_AGAIN, args![webhook, now.0, task.0]).await,
            Redeliver::Failed => it.execute(FAILED_AGAIN, args![webhook, now.0, MOST]).await,
        });
        let changed = changed.await?;
        self.core().fire([Topic::Webhooks].into());
        Ok(changed as usize)
    }

    pub(crate) async fn forget_deliveries(&self, before: Timestamp) -> Result<usize, StoreError> {
        let forgotten = self.core().run(async |it| {
            // Whether this outlives a power cut does not matter: it would be done again.
            it.begin_unsynced().await?;
            let ended = it.execute(FORGET_ENDED, args![before.0, MOST]).await?;
            let unwanted = it.execute(FORGET_UNWANTED, args![before.0, MOST]).await?;
            it.commit().await?;
            Ok(ended + unwanted)
        });
        Ok(forgotten.await? as usize)
    }
}

const ERASE: [&str; 2] = [
    "DELETE FROM @delivery WHERE seq = ANY(ARRAY(
        SELECT seq FROM @delivery WHERE tenant = $1 ORDER BY seq LIMIT $2 FOR UPDATE))",
    "DELETE FROM @delivery WHERE seq = ANY(ARRAY(
        SELECT seq FROM @delivery WHERE tenant >= $1 AND tenant <= $1 AND tenant <> 'default'
        ORDER BY tenant, seq LIMIT $2 FOR UPDATE))",
];

/// Deletes some of what was to be told about a tenant's tasks; false: none is left.
pub(super) async fn erase(connection: &Connection, tenant: &str) -> Result<bool, DbError> {
    let gone = connection.execute(super::erase::pick(ERASE, tenant), args![tenant, MOST]).await?;
    Ok(gone == MOST as u64)
}

fn read(row: &Row) -> Result<DeliveryRecord, DbError> {
    Ok(DeliveryRecord {
        seq: count(row, 0)?,
        webhook: get(row, 1)?,
        task: get(row, 2)?,
        fleet: get(row, 3)?,
        ended_as: get(row, 4)?,
        at: get(row, 5)?,
        state: get(row, 6)?,
        since: get(row, 7)?,
        next_at: get_option(row, 8)?,
        tries: count(row, 9)?,
        tried_at: get_option(row, 10)?,
        status: count_option(row, 11)?,
        error: row.try_get(12)?,
    })
}
