//! Shows this replica to the others, and leads when no other does.
//!
//! One leader runs the controllers. What it plans carries its epoch, so that a leader which does not know yet that it was
//! replaced changes nothing.

use std::time::Duration;

use longshore_core::errors::chain;
use longshore_store::{Epoch, Replica, StoreError};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::sleep_or_stop;
use crate::app::App;

/// A third of the time after which another takes over.
const EVERY: Duration = Duration::from_secs(1);

/// Runs for as long as the process, and makes room for another leader at its end.
pub async fn lead(app: App, me: Replica, leading: watch::Sender<Option<Epoch>>) -> &'static str {
    loop {
        match beat(&app, &me).await {
            Ok(epoch) => tell(&leading, epoch),
            Err(error) => {
                // Whoever leads now may be another one: nothing is planned until that is known again.
                warn!(error = %chain(&error), "this replica could not show itself");
                tell(&leading, None);
            }
        }
        if sleep_or_stop(&app, EVERY).await {
            break;
        }
    }
    tell(&leading, None);
    let gone = async {
        app.store.resign(me.id).await?;
        app.store.replica_gone(me.id).await
    };
    if let Err(error) = gone.await {
        warn!(error = %chain(&error), "the others were not told that this replica ends");
    }
    "leader election"
}

async fn beat(app: &App, me: &Replica) -> Result<Option<Epoch>, StoreError> {
    let replicas = app.store.replica_seen(me.clone()).await?;
    let gateways = replicas.iter().filter(|it| it.roles.iter().any(|role| role == "gateway")).count();
    app.gateway.set_gateways(u32::try_from(gateways).unwrap_or(u32::MAX).max(1));
    *app.replicas.lock().expect("no holder panics") = replicas;
    if !app.gateway.show().await? {
        error!(name = me.name, "another control plane uses this one's name, so its LLM calls are taken over");
    }
    if me.roles.iter().any(|role| role == "controllers") { app.store.lead(me.id).await } else { Ok(None) }
}

fn tell(leading: &watch::Sender<Option<Epoch>>, epoch: Option<Epoch>) {
    leading.send_if_modified(|known| {
        let changed = *known != epoch;
        match epoch {
            Some(epoch) if changed => info!(epoch = epoch.0, "this replica leads"),
            None if changed => info!("this replica does not lead any more"),
            _ => {}
        }
        *known = epoch;
        changed
    });
}
