//! Small things by name: ports, the secret that tokens are made with.

use rusqlite::OptionalExtension;

use super::Embedded;
use crate::error::StoreError;
use crate::model::Epoch;

impl Embedded {
    pub(crate) async fn meta_get(&self, key: String) -> Result<Option<String>, StoreError> {
        self.read(move |connection| {
            let select = "SELECT value FROM meta WHERE key = ?1";
            Ok(connection.prepare_cached(select)?.query_row([key], |row| row.get(0)).optional()?)
        })
        .await
    }

    pub(crate) async fn meta_put(&self, key: String, value: String) -> Result<(), StoreError> {
        self.write(move |write| {
            let put = "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2";
            Ok(write.connection.prepare_cached(put)?.execute([key, value]).map(drop)?)
        })
        .await
    }

    /// There is one control plane, and it leads.
    pub(crate) async fn meta_put_leading(
        &self,
        key: String,
        value: String,
        _epoch: Epoch,
    ) -> Result<(), StoreError> {
        self.meta_put(key, value).await
    }

    pub(crate) async fn meta_first(&self, key: String, value: String) -> Result<String, StoreError> {
        self.write(move |write| {
            let put = "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = value RETURNING value";
            Ok(write.connection.prepare_cached(put)?.query_row([key, value], |row| row.get(0))?)
        })
        .await
    }
}
