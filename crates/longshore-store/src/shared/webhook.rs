//! Webhooks: their declarations, and what they are told and by whom they are switched off.

use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use longshore_core::webhook::{Webhook, WebhookName};
use tokio_postgres::Row;

use super::Shared;
use super::column::{count, document, get_option};
use super::connection::Connection;
use super::fault::DbError;
use super::sql::args;
use crate::error::StoreError;
use crate::model::{WebhookBacklog, WebhookChange, WebhookRecord, webhook_changes};
use crate::signals::Topic;

macro_rules! columns {
    () => {
        "SELECT declaration, active, disabled, disabled_at, changed_at FROM @webhook "
    };
}

const ALL: &str = concat!(columns!(), "ORDER BY name");
const ONE: &str = concat!(columns!(), "WHERE name = $1");

/// One declaration at a time, and nobody else waits: two replicas that start at once must not add up to a mixture.
const LOCK: &str = "LOCK TABLE @webhook IN SHARE UPDATE EXCLUSIVE MODE";
const REMOVE: &str = "UPDATE @webhook SET active = false, changed_at = $2 WHERE name = $1";
const PUT: &str = "INSERT INTO @webhook AS w (name, declaration, active, fleets, states, changed_at)
     VALUES ($1, $2, true, $3, $4, $5)
     ON CONFLICT (name) DO UPDATE SET declaration = $2, active = true, fleets = $3, states = $4, changed_at = $5,
        disabled = CASE WHEN NOT $6 THEN w.disabled END, disabled_at = CASE WHEN NOT $6 THEN w.disabled_at END";
const ENABLE: &str = "UPDATE @webhook SET disabled = NULL, disabled_at = NULL, changed_at = $2
     WHERE name = $1 AND active";

/// The most that are counted: who asks every few seconds must not go through millions.
const COUNTED: i64 = 100_000;

/// In the order of one index, so that it is taken: Postgres expects to find enough anywhere, and would read all there is.
const BACKLOG: &str = "SELECT
        (SELECT count(*) FROM (SELECT 1 FROM @delivery WHERE (webhook, state) >= ($1, 'pending') AND (webhook, state) <= ($1, 'pending')
            ORDER BY webhook, state, seq LIMIT $2) AS few),
        (SELECT at FROM @delivery WHERE (webhook, state) >= ($1, 'pending') AND (webhook, state) <= ($1, 'pending')
            ORDER BY webhook, state, seq LIMIT 1),
        (SELECT count(*) FROM (SELECT 1 FROM @delivery WHERE (webhook, state) >= ($1, 'failed') AND (webhook, state) <= ($1, 'failed')
            ORDER BY webhook, state, seq LIMIT $2) AS few)";

impl Shared {
    pub(crate) async fn put_webhooks(
        &self,
        webhooks: Vec<Webhook>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let done = self.core().run(async |it| {
            it.begin().await?;
            it.execute(LOCK, args![]).await?;
            let known = all(&it).await?;
            for change in webhook_changes(&known, &webhooks) {
                apply(&it, change, now).await?;
            }
            it.commit().await
        });
        done.await?;
        self.core().fire([Topic::Webhooks].into());
        Ok(())
    }

    pub(crate) async fn webhooks(&self) -> Result<Vec<WebhookRecord>, StoreError> {
        Ok(self.core().run(async |it| all(&it).await).await?)
    }

    pub(crate) async fn webhook(&self, name: WebhookName) -> Result<Option<WebhookRecord>, StoreError> {
        let row = self.core().run(async |it| it.query_opt(ONE, args![name.as_str()]).await).await?;
        Ok(row.as_ref().map(read).transpose()?)
    }

    pub(crate) async fn enable_webhook(&self, name: WebhookName, now: Timestamp) -> Result<bool, StoreError> {
        let args = args![name.as_str(), now.0];
        let enabled = self.core().run(async |it| it.execute(ENABLE, args).await).await?;
        self.core().fire([Topic::Webhooks].into());
        Ok(enabled > 0)
    }

    pub(crate) async fn webhook_backlog(&self, name: WebhookName) -> Result<WebhookBacklog, StoreError> {
        let args = args![name.as_str(), COUNTED];
        let row = self.core().run(async |it| it.query_one(BACKLOG, args).await).await?;
        let (pending, failed) = (count(&row, 0)?, count(&row, 2)?);
        Ok(WebhookBacklog { pending, oldest: get_option(&row, 1)?, failed })
    }
}

async fn all(connection: &Connection) -> Result<Vec<WebhookRecord>, DbError> {
    connection.query(ALL, args![]).await?.iter().map(read).collect()
}

async fn apply(connection: &Connection, change: WebhookChange<'_>, now: Timestamp) -> Result<u64, DbError> {
    match change {
        WebhookChange::Remove(name) => connection.execute(REMOVE, args![name.as_str(), now.0]).await,
        WebhookChange::Put { declaration, moved } => {
            let text = Json::of(declaration);
            let fleets: Vec<&str> = declaration.fleets.iter().map(|fleet| fleet.as_str()).collect();
            let states: Vec<&str> = declaration.states.iter().map(|state| state.as_str()).collect();
            let args = args![declaration.name.as_str(), text.text(), fleets, states, now.0, moved];
            connection.execute(PUT, args).await
        }
    }
}

fn read(row: &Row) -> Result<WebhookRecord, DbError> {
    let declaration: Webhook = document(row, 0)?;
    let disabled: Option<String> = row.try_get(2)?;
    Ok(WebhookRecord {
        name: declaration.name.clone(),
        declaration,
        active: row.try_get(1)?,
        disabled: disabled.zip(get_option(row, 3)?),
        changed_at: super::column::get(row, 4)?,
    })
}
