//! API keys by their hash, and the owners of tasks and conversations.

use std::collections::BTreeSet;

use longshore_core::access::Scope;
use longshore_core::id::{ConversationId, FleetName, KeyId, TaskId};
use longshore_core::time::Timestamp;
use rusqlite::types::FromSqlError;
use rusqlite::{OptionalExtension, Row, params};

use super::Embedded;
use super::column::{get, get_option, id};
use crate::error::StoreError;
use crate::model::{KeyHash, KeyRecord, NewKey, Owner};
use crate::scope_text::{fleets, fleets_text, verbs, verbs_text};

const COLUMNS: &str =
    "id, hash, name, hint, verbs, fleets, tenant, created_at, expires_at, revoked_at, used_at";

impl Embedded {
    pub(crate) async fn create_key(&self, key: NewKey, now: Timestamp) -> Result<(), StoreError> {
        let insert =
            "INSERT INTO api_key (id, hash, name, hint, verbs, fleets, tenant, created_at, expires_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        self.write(move |write| {
            let NewKey { id, hash, name, hint, scope, expires_at } = key;
            let tenant = scope.tenant.as_ref().map(AsRef::<str>::as_ref);
            let values = params![
                id.0.as_bytes(),
                hash,
                name,
                hint,
                verbs_text(&scope.verbs),
                fleets_text(&scope.fleets),
                tenant,
                now.0,
                expires_at.map(|at| at.0)
            ];
            Ok(write.connection.prepare_cached(insert)?.execute(values).map(drop)?)
        })
        .await
    }

    pub(crate) async fn keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        self.read(|connection| {
            let select = format!("SELECT {COLUMNS} FROM api_key ORDER BY id DESC");
            let mut statement = connection.prepare_cached(&select)?;
            Ok(statement.query_map([], read)?.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(crate) async fn key_by_hash(&self, hash: KeyHash) -> Result<Option<KeyRecord>, StoreError> {
        self.read(move |connection| {
            let select = format!("SELECT {COLUMNS} FROM api_key WHERE hash = ?1");
            Ok(connection.prepare_cached(&select)?.query_row([hash], read).optional()?)
        })
        .await
    }

    pub(crate) async fn revoke_key(
        &self,
        key: KeyId,
        now: Timestamp,
    ) -> Result<Option<KeyRecord>, StoreError> {
        // The first word counts: revoking again does not move the time.
        let update = format!(
            "UPDATE api_key SET revoked_at = coalesce(revoked_at, ?2) WHERE id = ?1 RETURNING {COLUMNS}"
        );
        self.write(move |write| {
            let mut statement = write.connection.prepare_cached(&update)?;
            Ok(statement.query_row(params![key.0.as_bytes(), now.0], read).optional()?)
        })
        .await
    }

    pub(crate) async fn touch_key(&self, key: KeyId, now: Timestamp) -> Result<(), StoreError> {
        // Replicas may tell it out of order.
        let update = "UPDATE api_key SET used_at = ?2 WHERE id = ?1 AND (used_at IS NULL OR used_at < ?2)";
        self.write_soon(move |write| {
            let values = params![key.0.as_bytes(), now.0];
            Ok(write.connection.prepare_cached(update)?.execute(values).map(drop)?)
        })
        .await
    }

    pub(crate) async fn task_owner(&self, task: TaskId) -> Result<Option<Owner>, StoreError> {
        self.read(move |connection| {
            let select = "SELECT fleet, tenant FROM task WHERE id = ?1";
            Ok(connection.prepare_cached(select)?.query_row([id(&task)], owner).optional()?)
        })
        .await
    }

    pub(crate) async fn conversation_owners(
        &self,
        conversation: ConversationId,
    ) -> Result<Vec<Owner>, StoreError> {
        self.read(move |connection| {
            let select = "SELECT DISTINCT fleet, tenant FROM task WHERE conversation = ?1 ORDER BY 1, 2";
            let mut statement = connection.prepare_cached(select)?;
            Ok(statement.query_map([conversation.as_str()], owner)?.collect::<Result<_, _>>()?)
        })
        .await
    }
}

fn owner(row: &Row<'_>) -> rusqlite::Result<Owner> {
    Ok(Owner { fleet: get(row, 0)?, tenant: get(row, 1)? })
}

fn read(row: &Row<'_>) -> rusqlite::Result<KeyRecord> {
    let scope = Scope {
        verbs: verbs(row.get_ref(4)?.as_str()?),
        fleets: fleets_of(row, 5)?,
        tenant: get_option(row, 6)?,
    };
    Ok(KeyRecord {
        id: KeyId(get(row, 0)?),
        hash: row.get(1)?,
        name: row.get(2)?,
        hint: row.get(3)?,
        scope,
        created_at: get(row, 7)?,
        expires_at: get_option(row, 8)?,
        revoked_at: get_option(row, 9)?,
        used_at: get_option(row, 10)?,
    })
}

fn fleets_of(row: &Row<'_>, at: usize) -> rusqlite::Result<BTreeSet<FleetName>> {
    fleets(row.get_ref(at)?.as_str()?).map_err(|error| FromSqlError::other(error).into())
}
