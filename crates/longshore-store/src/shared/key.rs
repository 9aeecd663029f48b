//! API keys by their hash, and the owners of tasks and conversations.

use longshore_core::access::Scope;
use longshore_core::id::{ConversationId, KeyId, TaskId};
use longshore_core::time::Timestamp;
use tokio_postgres::Row;

use super::Shared;
use super::column::{bytes, document, get, get_option};
use super::fault::DbError;
use super::sql::args;
use crate::error::StoreError;
use crate::model::{KeyHash, KeyRecord, NewKey, Owner};
use crate::scope_text::{fleets_text, verbs, verbs_text};

macro_rules! columns {
    () => {
        "id, hash, name, hint, verbs, fleets, tenant, created_at, expires_at, revoked_at, used_at"
    };
}

/// Said twice after a lost answer, it is there already; another key with its hash is refused.
const CREATE: &str =
    "INSERT INTO @api_key (id, hash, name, hint, verbs, fleets, tenant, created_at, expires_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (id) DO NOTHING";
const ALL: &str = concat!("SELECT ", columns!(), " FROM @api_key ORDER BY id DESC");
const ONE: &str = concat!("SELECT ", columns!(), " FROM @api_key WHERE hash = $1");
/// The first word counts: revoking again does not move the time.
const REVOKE: &str =
    concat!("UPDATE @api_key SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1 RETURNING ", columns!());
/// Replicas may tell it out of order.
const TOUCH: &str = "UPDATE @api_key SET used_at = $2 WHERE id = $1 AND (used_at IS NULL OR used_at < $2)";
const OWNER: &str = "SELECT fleet, tenant FROM @task WHERE id = $1";
/// In the order of bytes, as everywhere, whatever the database's own is.
const OWNERS: &str = "SELECT fleet, tenant FROM @task WHERE conversation = $1
     GROUP BY fleet, tenant ORDER BY fleet COLLATE \"C\", tenant COLLATE \"C\"";

impl Shared {
    pub(crate) async fn create_key(&self, key: NewKey, now: Timestamp) -> Result<(), StoreError> {
        let (verbs, fleets) = (verbs_text(&key.scope.verbs), fleets_text(&key.scope.fleets));
        let tenant = key.scope.tenant.as_ref().map(|tenant| tenant.as_str());
        let expires_at = key.expires_at.map(|at| at.0);
        let done = self.core().run(async |it| {
            let (hash, name, hint) = (key.hash.as_slice(), key.name.as_str(), key.hint.as_str());
            let (verbs, fleets) = (verbs.as_str(), fleets.as_str());
            let args = args![key.id.0, hash, name, hint, verbs, fleets, tenant, now.0, expires_at];
            it.execute(CREATE, args).await
        });
        done.await?;
        Ok(())
    }

    pub(crate) async fn keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        let rows = self.core().run(async |it| it.query(ALL, args![]).await).await?;
        Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
    }

    pub(crate) async fn key_by_hash(&self, hash: KeyHash) -> Result<Option<KeyRecord>, StoreError> {
        let row = self.core().run(async |it| it.query_opt(ONE, args![hash.as_slice()]).await).await?;
        Ok(row.as_ref().map(read).transpose()?)
    }

    pub(crate) async fn revoke_key(
        &self,
        key: KeyId,
        now: Timestamp,
    ) -> Result<Option<KeyRecord>, StoreError> {
        let row = self.core().run(async |it| it.query_opt(REVOKE, args![key.0, now.0]).await).await?;
        Ok(row.as_ref().map(read).transpose()?)
    }

    pub(crate) async fn touch_key(&self, key: KeyId, now: Timestamp) -> Result<(), StoreError> {
        self.core().run(async |it| it.execute(TOUCH, args![key.0, now.0]).await).await?;
        Ok(())
    }

    pub(crate) async fn task_owner(&self, task: TaskId) -> Result<Option<Owner>, StoreError> {
        let row = self.core().run(async |it| it.query_opt(OWNER, args![task.0]).await).await?;
        Ok(row.as_ref().map(owner).transpose()?)
    }

    pub(crate) async fn conversation_owners(
        &self,
        conversation: ConversationId,
    ) -> Result<Vec<Owner>, StoreError> {
        let rows = self.core().run(async |it| it.query(OWNERS, args![conversation.as_str()]).await).await?;
        Ok(rows.iter().map(owner).collect::<Result<_, _>>()?)
    }
}

fn owner(row: &Row) -> Result<Owner, DbError> {
    Ok(Owner { fleet: get(row, 0)?, tenant: get(row, 1)? })
}

fn read(row: &Row) -> Result<KeyRecord, DbError> {
    // An error where fleets are not understood: nothing would mean all of them.
    let scope =
        Scope { verbs: verbs(row.try_get(4)?), fleets: document(row, 5)?, tenant: get_option(row, 6)? };
    Ok(KeyRecord {
        id: KeyId(get(row, 0)?),
        hash: bytes(row, 1)?,
        name: get(row, 2)?,
        hint: get(row, 3)?,
        scope,
        created_at: get(row, 7)?,
        expires_at: get_option(row, 8)?,
        revoked_at: get_option(row, 9)?,
        used_at: get_option(row, 10)?,
    })
}
