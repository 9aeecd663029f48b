//! Webhooks: their declarations, and what they are told and by whom they are switched off.

use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use longshore_core::webhook::{Webhook, WebhookName};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Embedded;
use super::column::{count, get, get_option};
use super::writer::Write;
use crate::error::StoreError;
use crate::model::{WebhookBacklog, WebhookChange, WebhookRecord, webhook_changes};

impl Embedded {
    pub(crate) async fn put_webhooks(
        &self,
        webhooks: Vec<Webhook>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(move |write| Ok(put(write, &webhooks, now)?)).await
    }

    pub(crate) async fn webhooks(&self) -> Result<Vec<WebhookRecord>, StoreError> {
        self.read(|connection| Ok(all(connection)?)).await
    }

    pub(crate) async fn webhook(&self, name: WebhookName) -> Result<Option<WebhookRecord>, StoreError> {
        self.read(move |connection| {
            let select = format!("SELECT {COLUMNS} FROM webhook WHERE name = ?1");
            Ok(connection.prepare_cached(&select)?.query_row([name.as_str()], read).optional()?)
        })
        .await
    }

    pub(crate) async fn enable_webhook(&self, name: WebhookName, now: Timestamp) -> Result<bool, StoreError> {
        self.write(move |write| {
            let update = "UPDATE webhook SET disabled = NULL, disabled_at = NULL, changed_at = ?2
                          WHERE name = ?1 AND active";
            write.wake_webhooks();
            Ok(write.connection.prepare_cached(update)?.execute(params![name.as_str(), now.0])? > 0)
        })
        .await
    }

    pub(crate) async fn webhook_backlog(&self, name: WebhookName) -> Result<WebhookBacklog, StoreError> {
        self.read(move |connection| Ok(backlog(connection, &name)?)).await
    }
}

const COLUMNS: &str = "declaration, active, disabled, disabled_at, changed_at";

fn read(row: &Row<'_>) -> rusqlite::Result<WebhookRecord> {
    let declaration: Json = get(row, 0)?;
    let declaration: Webhook = declaration.read().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    })?;
    let disabled: Option<String> = row.get(2)?;
    Ok(WebhookRecord {
        name: declaration.name.clone(),
        declaration,
        active: row.get(1)?,
        disabled: disabled.zip(get_option(row, 3)?),
        changed_at: get(row, 4)?,
    })
}

fn all(connection: &Connection) -> rusqlite::Result<Vec<WebhookRecord>> {
    let select = format!("SELECT {COLUMNS} FROM webhook ORDER BY name");
    connection.prepare_cached(&select)?.query_map([], read)?.collect()
}

/// Declares exactly these; others become inactive, and what they are owed waits for them to be declared again.
fn put(write: &mut Write<'_>, webhooks: &[Webhook], now: Timestamp) -> rusqlite::Result<()> {
    let known = all(write.connection)?;
    for change in webhook_changes(&known, webhooks) {
        match change {
            WebhookChange::Remove(name) => write
                .connection
                .prepare_cached("UPDATE webhook SET active = 0, changed_at = ?2 WHERE name = ?1")?
                .execute(params![name.as_str(), now.0])
                .map(drop)?,
            WebhookChange::Put { declaration, moved } => declare(write, declaration, moved, now)?,
        }
    }
    write.wake_webhooks();
    Ok(())
}

fn declare(write: &Write<'_>, next: &Webhook, moved: bool, now: Timestamp) -> rusqlite::Result<()> {
    let states = next.states.iter().map(|state| state.as_str());
    write
        .connection
        .prepare_cached(
            "INSERT INTO webhook (name, declaration, active, fleets, states, changed_at) VALUES (?1, ?2, 1, ?3, ?4, ?5)
             ON CONFLICT (name) DO UPDATE SET declaration = ?2, active = 1, fleets = ?3, states = ?4, changed_at = ?5,
                disabled = CASE WHEN NOT ?6 THEN disabled END, disabled_at = CASE WHEN NOT ?6 THEN disabled_at END",
        )?
        .execute(params![
            next.name.as_str(),
            Json::of(next).text(),
            listed(next.fleets.iter().map(|fleet| fleet.as_str())),
            listed(states),
            now.0,
            moved,
        ])
        .map(drop)
}

/// Words in commas, `,a,b,`; nothing when there are none.
fn listed<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<&str> = words.collect();
    if words.is_empty() { String::new() } else { format!(",{},", words.join(",")) }
}

/// Switches it off: nothing is sent to it, and it is owed nothing new.
pub(super) fn disable(
    write: &Write<'_>,
    name: &WebhookName,
    why: &str,
    now: Timestamp,
) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached(
            "UPDATE webhook SET disabled = ?2, disabled_at = ?3 WHERE name = ?1 AND disabled IS NULL",
        )?
        .execute(params![name.as_str(), why, now.0])
        .map(drop)
}

/// The most that are counted: who asks every few seconds must not go through millions.
const COUNTED: i64 = 100_000;

fn backlog(connection: &Connection, name: &WebhookName) -> rusqlite::Result<WebhookBacklog> {
    connection
        .prepare_cached(
            "SELECT (SELECT count(*) FROM (SELECT 1 FROM delivery WHERE webhook = ?1 AND state = 'pending' LIMIT ?2)),
                (SELECT at FROM delivery WHERE webhook = ?1 AND state = 'pending' ORDER BY seq LIMIT 1),
                (SELECT count(*) FROM (SELECT 1 FROM delivery WHERE webhook = ?1 AND state = 'failed' LIMIT ?2))",
        )?
        .query_row(params![name.as_str(), COUNTED], |row| {
            Ok(WebhookBacklog {
                pending: count(row, 0)?,
                oldest: get_option(row, 1)?,
                failed: count(row, 2)?,
            })
        })
}
