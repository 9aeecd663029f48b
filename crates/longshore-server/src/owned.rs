//! Who decides what a fleet's pods are made from, as the leader saw it last: asked before anything is deployed.

use longshore_core::fleet::Platform;
use longshore_core::id::FleetName;
use longshore_core::kubernetes::{AGENT, DECLARATION, digest};
use longshore_core::rollout::Owner;
use longshore_store::{Epoch, FleetRecord, StoreError};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::error::{Answer, Refused};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// Why it is not longshore; none: it is.
    pub by: Option<String>,
}

impl Owned {
    pub async fn publish(&self, app: &App, fleet: &FleetName, epoch: Epoch) -> Result<(), StoreError> {
        let text = serde_json::to_string(self).expect("plain data");
        app.store.meta_put_leading(key(fleet), text, epoch).await
    }

    async fn of(app: &App, record: &FleetRecord) -> Result<Owned, StoreError> {
        if record.declaration.platform != Platform::Kubernetes {
            return Ok(Owned::default());
        }
        let text = app.store.meta_get(key(&record.name)).await?;
        let seen: Option<Owned> = text.and_then(|text| serde_json::from_str(&text).ok());
        let declared = record.declaration.rollout.owner == Owner::External;
        let says = || declared.then(|| "`rollout.owner` is \"external\"".to_owned());
        Ok(Owned { by: seen.and_then(|seen| seen.by).or_else(says) })
    }
}

fn key(fleet: &FleetName) -> String {
    format!("owned:{fleet}")
}

/// Refuses where longshore is not the one to change what pods are made from. `wanted`: what is to be changed instead.
pub async fn refuse_others(app: &App, record: &FleetRecord, wanted: Option<&Wanted<'_>>) -> Answer<()> {
    let Some(by) = Owned::of(app, record).await?.by else { return Ok(()) };
    let detail =
        format!("the rollouts of fleet `{}` are not longshore's to begin or to undo: {by}", record.name);
    let refused = Refused::new(409, "external_owner", detail);
    Err(match wanted {
        Some(wanted) => refused.hint(wanted.for_git(&record.name)),
        None => refused.hint("change it where it comes from; longshore follows and shows it"),
    })
}

/// Another image, and the declaration with it.
pub struct Wanted<'a> {
    pub fleet: &'a longshore_core::fleet::Fleet,
}

impl Wanted<'_> {
    fn for_git(&self, fleet: &FleetName) -> String {
        format!(
            "in Git, set in Deployment `{fleet}` the image of container `{AGENT}` to `{}` and the pod template's annotation \
             `{DECLARATION}` to \"{}\", or change longshore.toml and commit what `longshore render kubernetes {fleet}` writes",
            self.fleet.image().unwrap_or_default(),
            digest(self.fleet),
        )
    }
}
