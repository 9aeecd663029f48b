//! Which image the name of a release stands for: noted once, and then that one is meant.

use longshore_core::id::FleetName;
use longshore_core::json::Json;
use longshore_core::rollout::Release;

use super::Shared;
use super::column::int;
use super::connection::Connection;
use super::fault::DbError;
use super::fleet;
use super::rollout::release;
use super::sql::args;
use crate::error::StoreError;

const PIN: &str = "UPDATE @release SET declaration = $3 WHERE fleet = $1 AND number = $2";

impl Shared {
    pub(crate) async fn pin_image(
        &self,
        fleet: FleetName,
        number: Release,
        id: String,
    ) -> Result<Option<String>, StoreError> {
        let done = self.core().run(async |it| {
            it.begin().await?;
            it.execute(fleet::LOCK, args![]).await?;
            let counts = pin(&it, &fleet, number, &id).await?;
            it.commit().await?;
            Ok(counts)
        });
        Ok(done.await?)
    }
}

async fn pin(
    connection: &Connection,
    fleet: &FleetName,
    number: Release,
    id: &str,
) -> Result<Option<String>, DbError> {
    let Some(mut known) = release(connection, fleet, number).await? else { return Ok(None) };
    let Some(container) = &mut known.declaration.container else { return Ok(None) };
    if container.image_id.is_some() {
        return Ok(container.image_id.clone());
    }
    container.image_id = Some(id.to_owned());
    let declaration = Json::of(&known.declaration);
    connection.execute(PIN, args![fleet.as_str(), int(number), declaration.text()]).await?;
    Ok(Some(id.to_owned()))
}
