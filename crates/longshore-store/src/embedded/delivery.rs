//! The messages that webhooks are owed: written with the end of a task, tried by the control plane, kept for a while.

use longshore_core::id::{FleetName, TaskId};
use longshore_core::task::State;
use longshore_core::time::Timestamp;
use longshore_core::webhook::WebhookName;
use rusqlite::types::Value;
use rusqlite::{Row, params, params_from_iter};

use super::column::{count, get, get_option, id, int};
use super::writer::Write;
use super::{Embedded, webhook};
use crate::error::StoreError;
use crate::model::{DeliveryFilter, DeliveryRecord, Epoch, Redeliver, Tried};

/// The most rows that one command forgets or makes due, so that other commands need not wait for long.
const MOST: i64 = 10_000;

impl Embedded {
    pub(crate) async fn due_deliveries(
        &self,
        webhook: WebhookName,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        self.read(move |connection| {
            let select = format!(
                "SELECT {COLUMNS} FROM delivery WHERE webhook = ?1 AND state = 'pending' AND next_at <= ?2
                 ORDER BY next_at, seq LIMIT ?3"
            );
            let mut select = connection.prepare_cached(&select)?;
            let rows = select.query_map(params![webhook.as_str(), now.0, int(limit as u64)], read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// One process sends, and it knows what it has under way.
    pub(crate) async fn hold_deliveries(
        &self,
        deliveries: Vec<u64>,
        _of: Epoch,
        _now: Timestamp,
        _until: Timestamp,
    ) -> Result<Vec<u64>, StoreError> {
        Ok(deliveries)
    }

    pub(crate) async fn next_delivery(&self, webhook: WebhookName) -> Result<Option<Timestamp>, StoreError> {
        self.read(move |connection| {
            let select = "SELECT min(next_at) FROM delivery WHERE webhook = ?1 AND state = 'pending'";
            Ok(connection.prepare_cached(select)?.query_row([webhook.as_str()], |row| get_option(row, 0))?)
        })
        .await
    }

    /// Need not wait for the disk: a try that is forgotten is made again, which a receiver has to expect.
    pub(crate) async fn delivery_tried(&self, tried: Tried) -> Result<(), StoreError> {
        self.write_soon(move |write| Ok(note(write, &tried)?)).await
    }

    pub(crate) async fn deliveries(
        &self,
        filter: DeliveryFilter,
        limit: usize,
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        self.read(move |connection| {
            let (mut conditions, mut values) = (String::new(), Vec::new());
            values.push(Value::Text(filter.webhook.to_string()));
            if let Some(state) = filter.state {
                conditions.push_str(&format!(" AND state = '{}'", state.as_str()));
            }
            if let Some(before) = filter.before {
                conditions.push_str(" AND seq < ?");
                values.push(Value::Integer(int(before)));
            }
            values.push(Value::Integer(int(limit as u64)));
            let select = format!(
                "SELECT {COLUMNS} FROM delivery WHERE webhook = ?{conditions} ORDER BY seq DESC LIMIT ?"
            );
            let mut select = connection.prepare_cached(&select)?;
            let rows = select.query_map(params_from_iter(values), read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(crate) async fn redeliver(
        &self,
        webhook: WebhookName,
        which: Redeliver,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        self.write(move |write| Ok(redeliver(write, &webhook, which, now)?)).await
    }

    pub(crate) async fn forget_deliveries(&self, before: Timestamp) -> Result<usize, StoreError> {
        self.write(move |write| Ok(forget(write, before)?)).await
    }
}

const COLUMNS: &str =
    "seq, webhook, task, fleet, ended_as, at, state, since, next_at, tries, tried_at, status, error";

fn read(row: &Row<'_>) -> rusqlite::Result<DeliveryRecord> {
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
        status: row.get(11)?,
        error: row.get(12)?,
    })
}

/// Owes each webhook that wants to know of it a message about the end of a task. In the transaction of that end.
pub(super) fn owe(
    write: &mut Write<'_>,
    task: &TaskId,
    fleet: &FleetName,
    state: State,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let owed = write
        .connection
        .prepare_cached(
            "INSERT INTO delivery (webhook, task, fleet, ended_as, at, state, since, next_at)
             SELECT name, ?1, ?2, ?3, ?4, 'pending', ?4, ?4 FROM webhook
             WHERE active AND disabled IS NULL AND instr(states, ',' || ?3 || ',') > 0
                AND (fleets = '' OR instr(fleets, ',' || ?2 || ',') > 0)",
        )?
        .execute(params![id(task), fleet.as_str(), state.as_str(), now.0])?;
    if owed > 0 {
        write.wake_webhooks();
    }
    Ok(())
}

fn note(write: &mut Write<'_>, tried: &Tried) -> rusqlite::Result<()> {
    let (state, next_at) = tried.leads_to();
    let (state, next_at) = (state.as_str(), next_at.map(|at| at.0));
    let ended_at = next_at.is_none().then_some(tried.at.0);
    let mut update = write.connection.prepare_cached(
        "UPDATE delivery SET state = ?2, next_at = ?3, tries = tries + 1, tried_at = ?4, status = ?5, error = ?6,
            ended_at = ?7
         WHERE seq = ?1 AND state = 'pending' RETURNING webhook",
    )?;
    let values = params![int(tried.seq), state, next_at, tried.at.0, tried.status, tried.error, ended_at];
    let mut names = update.query_map(values, |row| get::<WebhookName>(row, 0))?;
    let name = names.next().transpose()?;
    if let (Some(name), Some(why)) = (name, tried.disables()) {
        webhook::disable(write, &name, why, tried.at)?;
    }
    Ok(())
}

fn redeliver(
    write: &mut Write<'_>,
    webhook: &WebhookName,
    which: Redeliver,
    now: Timestamp,
) -> rusqlite::Result<usize> {
    let set = "UPDATE delivery SET state = 'pending', since = ?2, next_at = ?2, tries = 0, ended_at = NULL";
    let changed = match which {
        Redeliver::One(task) => write
            .connection
            .prepare_cached(&format!("{set} WHERE webhook = ?1 AND task = ?3"))?
            .execute(params![webhook.as_str(), now.0, id(&task)])?,
        Redeliver::Failed => write
            .connection
            .prepare_cached(&format!(
                "{set} WHERE seq IN (SELECT seq FROM delivery WHERE webhook = ?1 AND state = 'failed'
                    ORDER BY seq LIMIT ?3)"
            ))?
            .execute(params![webhook.as_str(), now.0, MOST])?,
    };
    write.wake_webhooks();
    Ok(changed)
}

/// Ended ones, and those that a webhook which is no longer declared was owed for as long.
fn forget(write: &Write<'_>, before: Timestamp) -> rusqlite::Result<usize> {
    let ended = write
        .connection
        .prepare_cached(
            "DELETE FROM delivery WHERE seq IN (SELECT seq FROM delivery WHERE ended_at < ?1 LIMIT ?2)",
        )?
        .execute(params![before.0, MOST])?;
    let unwanted = write
        .connection
        .prepare_cached(
            "DELETE FROM delivery WHERE seq IN (
                SELECT seq FROM webhook JOIN delivery ON webhook = name AND delivery.state = 'pending'
                WHERE NOT active AND at < ?1 LIMIT ?2)",
        )?
        .execute(params![before.0, MOST])?;
    Ok(ended + unwanted)
}

/// Whatever they were about is erased; what the receiver said about it may be in them, too.
pub(super) fn erase(write: &Write<'_>, task: &TaskId) -> rusqlite::Result<()> {
    let delete = "DELETE FROM delivery WHERE task = ?1";
    write.connection.prepare_cached(delete)?.execute([id(task)]).map(drop)
}
