//! Shows this replica to the others, and leads when no other does.
//!
//! One leader runs the controllers. What it plans carries its epoch, so that a leader which does not know yet that it was
//! replaced changes nothing.

use std::time::Duration;

use longshore_core::errors::chain;
use longshore_core::role::{Role, Roles};
use longshore_store::{Epoch, Replica, StoreError};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::sleep_or_stop;
use crate::app::App;

/// A third of the time after which another takes over.
const EVERY: Duration = Duration::from_secs(1);

/// Runs for as long as the process, and makes room for another leader at its end.
pub async fn lead(app: App, me: Replica, leading: watch::Sender<Option<Epoch>>) -> &'static str {
    let mut leaving = app.leaving.clone();
    loop {
        match beat(&app, &me).await {
            Ok(epoch) => tell(&leading, epoch),
            Err(error) => {
                // Whoever leads now may be another one: nothing is planned until that is known again.
                warn!(error = %chain(&error), "this replica could not show itself");
                tell(&leading, None);
            }
        }
        tokio::select! {
            stops = sleep_or_stop(&app, EVERY) => if stops { break },
            Ok(()) = leaving.changed() => {}
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
    let mut shown = me.clone();
    if app.is_leaving() {
        // Of several that leave together each would wait for the others to lead.
        shown.roles.retain(|role| role != Role::Controllers.as_str());
    }
    let replicas = app.store.replica_seen(shown).await?;
    let gateways = replicas.iter().filter(|it| Roles::named(&it.roles).has(Role::Gateway)).count();
    let makes_way = app.is_leaving() && others_may_lead(&replicas, me);
    *app.replicas.lock().expect("no holder panics") = replicas;
    if let Some(gateway) = &app.gateway {
        gateway.set_gateways(u32::try_from(gateways).unwrap_or(u32::MAX).max(1));
        if !gateway.show().await? {
            error!(
                name = me.name,
                "another control plane uses this one's name, so its LLM calls are taken over"
            );
        }
    }
    match app.roles.has(Role::Controllers) {
        // It may finish LLM calls for minutes yet: the others need not wait for its end.
        true if makes_way => app.store.resign(me.id).await.map(|()| None),
        true => app.store.lead(me.id).await,
        false => Ok(None),
    }
}

/// Whether another replica is there that leads if this one does not.
fn others_may_lead(replicas: &[Replica], me: &Replica) -> bool {
    replicas.iter().any(|it| it.id != me.id && Roles::named(&it.roles).has(Role::Controllers))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(roles: &[Role]) -> Replica {
        let roles = roles.iter().map(|role| role.as_str().to_owned()).collect();
        let id = uuid::Uuid::new_v4();
        Replica { id, name: "a".into(), roles, link: None, version: "1".into(), seen_ago_ms: 0 }
    }

    #[test]
    fn who_leaves_makes_way_only_for_one_who_can_lead() {
        let me = replica(&Role::ALL);
        let check = |others: &[Replica], expected| {
            let all: Vec<_> = others.iter().chain([&me]).cloned().collect();
            assert_eq!(others_may_lead(&all, &me), expected, "{others:?}");
        };
        check(&[], false);
        check(&[replica(&[Role::Link]), replica(&[Role::Gateway, Role::Api])], false);
        check(&[replica(&[Role::Link]), replica(&[Role::Controllers])], true);
    }
}
