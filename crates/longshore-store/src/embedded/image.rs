//! Which image the name of a release stands for: noted once, and then that one is meant.

use longshore_core::id::FleetName;
use longshore_core::json::Json;
use longshore_core::rollout::Release;
use rusqlite::params;

use super::Embedded;
use super::column::int;
use super::rollout::release;
use crate::error::StoreError;

impl Embedded {
    pub(crate) async fn pin_image(
        &self,
        fleet: FleetName,
        number: Release,
        id: String,
    ) -> Result<Option<String>, StoreError> {
        self.write(move |write| {
            let Some(mut known) = release(write.connection, &fleet, number)? else { return Ok(None) };
            let Some(container) = &mut known.declaration.container else { return Ok(None) };
            if container.image_id.is_some() {
                return Ok(container.image_id.clone());
            }
            container.image_id = Some(id.clone());
            write
                .connection
                .prepare_cached("UPDATE release SET declaration = ?3 WHERE fleet = ?1 AND number = ?2")?
                .execute(params![fleet.as_str(), int(number), Json::of(&known.declaration).text()])?;
            Ok(Some(id))
        })
        .await
    }
}
