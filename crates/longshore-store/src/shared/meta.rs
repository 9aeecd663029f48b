//! Small things by name: the secret that tokens are made with, the CA.

use super::Shared;
use super::replica::epoch;
use super::sql::args;
use crate::error::StoreError;
use crate::model::Epoch;

const GET: &str = "SELECT value FROM @meta WHERE key = $1";
const PUT: &str = "INSERT INTO @meta VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = $2";
const PUT_LEADING: &str =
    "INSERT INTO @meta SELECT $1, $2 WHERE EXISTS (SELECT 1 FROM @leader WHERE epoch = $3)
     ON CONFLICT (key) DO UPDATE SET value = excluded.value";
/// The first one stays: two replicas that start at once must agree.
const FIRST: &str =
    "INSERT INTO @meta AS m VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = m.value RETURNING value";

impl Shared {
    pub(crate) async fn meta_get(&self, key: String) -> Result<Option<String>, StoreError> {
        let row = self.core().run(async |it| it.query_opt(GET, args![key]).await).await?;
        Ok(row.map(|row| row.try_get(0)).transpose().map_err(super::fault::DbError::from)?)
    }

    pub(crate) async fn meta_put(&self, key: String, value: String) -> Result<(), StoreError> {
        self.core().run(async |it| it.execute(PUT, args![key, value]).await).await?;
        Ok(())
    }

    pub(crate) async fn meta_put_leading(
        &self,
        key: String,
        value: String,
        of: Epoch,
    ) -> Result<(), StoreError> {
        self.core().run(async |it| it.execute(PUT_LEADING, args![key, value, epoch(of)]).await).await?;
        Ok(())
    }

    pub(crate) async fn meta_first(&self, key: String, value: String) -> Result<String, StoreError> {
        let row = self.core().run(async |it| it.query_one(FIRST, args![key, value]).await).await?;
        Ok(row.try_get(0).map_err(super::fault::DbError::from)?)
    }
}
