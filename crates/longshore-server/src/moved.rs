//! Fleets that are declared on another platform while workers are on the one before, whom nobody would look after: refused where
//! somebody can be told, and logged where a file says it.

use longshore_core::fleet::Fleet;
use longshore_core::id::FleetName;
use longshore_store::{Store, StoreError, WorkerFilter};

use crate::error::Refused;

/// A fleet that would leave workers to nobody.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "fleet `{fleet}` is declared with platform `{to}`, and has workers on `{from}` ({workers}), whom nobody would look after any more"
)]
pub struct Moved {
    fleet: FleetName,
    from: &'static str,
    to: &'static str,
    workers: usize,
}

impl Moved {
    pub fn hint(&self) -> String {
        let Moved { fleet, from, .. } = self;
        format!(
            "declare it with platform `{from}` until it has none: `longshore scale {fleet} --replicas 0`, or 0 where something else \
             scales it, and `longshore workers` shows when they are gone; or give what is new another name"
        )
    }
}

impl From<Moved> for Refused {
    fn from(moved: Moved) -> Refused {
        Refused::new(409, "platform_in_use", moved.to_string()).hint(moved.hint())
    }
}

/// The first fleet that may not be declared so, as things are.
pub async fn find(store: &Store, wanted: &[Fleet]) -> Result<Option<Moved>, StoreError> {
    for record in store.fleets().await? {
        let from = record.declaration.platform;
        let Some(to) = wanted.iter().find(|fleet| fleet.name == record.name).map(|fleet| fleet.platform)
        else {
            continue;
        };
        if from.hands_over_to(to) {
            continue;
        }
        let filter = WorkerFilter { fleet: Some(record.name.clone()), gone: false };
        let there = store.workers(filter).await?;
        let workers = there.iter().filter(|worker| worker.platform.starts_with(from.as_str())).count();
        if workers > 0 {
            return Ok(Some(Moved { fleet: record.name, from: from.as_str(), to: to.as_str(), workers }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use longshore_core::fleet::Platform;
    use longshore_core::id::WorkerId;
    use longshore_core::task::Interruption;
    use longshore_store::{PlannedWorker, WorkerEnd};
    use serde_json::json;

    use crate::app::{now, roll};
    use crate::tests::scene::{Scene, fleet, leads, start};

    #[tokio::test]
    async fn a_fleet_moves_to_another_platform_once_its_workers_on_the_one_before_are_gone() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("admin");
        let server = start(&dir, "fleets = \"api\"", Some(file.clone())).await.expect("it starts");
        let mut scene = Scene::of(server, dir);
        scene.admin = std::fs::read_to_string(file).expect("it was made").trim().to_owned();
        let app = scene.server.app();
        leads(app).await;
        let on = |platform| {
            let mut fleet =
                longshore_core::fleet::Fleet::new(fleet("a"), vec!["true".into()], dir_of(&scene));
            (fleet.platform, fleet.scaling.min, fleet.scaling.max) = (platform, 0, 1);
            fleet
        };
        app.store.put_fleets(vec![on(Platform::Compose)], now()).await.expect("stored");
        let id = WorkerId::new("a-abcdef-7").expect("a name");
        let planned = PlannedWorker {
            id: id.clone(),
            fleet: fleet("a"),
            release: 1,
            platform: "compose@other/shop".into(),
        };
        let epoch = app.epoch().expect("it leads");
        assert!(app.store.plan_worker(planned.clone(), epoch, now()).await.expect("stored"));

        for dry_run in [true, false] {
            let wanted = json!({ "fleets": [on(Platform::External)], "dry_run": dry_run });
            let (status, refused) = scene.post("/v1/fleets:apply", &scene.admin, wanted).await;
            assert_eq!((status, &refused["code"]), (409, &json!("platform_in_use")), "{refused}");
            let hint = refused["hint"].as_str().expect("what to do");
            assert!(hint.contains("longshore scale a --replicas 0"), "{hint}");
        }
        let end = WorkerEnd {
            worker: id,
            nonce: None,
            cause: Interruption::WorkerEnded,
            why: "it was scaled to 0".into(),
        };
        app.store.worker_ended(end, roll(), now()).await.expect("stored");
        let wanted = json!({ "fleets": [on(Platform::External)] });
        let (status, applied) = scene.post("/v1/fleets:apply", &scene.admin, wanted).await;
        assert_eq!(status, 200, "nobody is there any more: {applied}");

        // A file has nobody to tell: what is known of workers may be of before a power cut.
        let planned = PlannedWorker { id: WorkerId::new("a-abcdef-8").expect("a name"), ..planned };
        app.store.put_fleets(vec![on(Platform::Compose)], now()).await.expect("stored");
        assert!(app.store.plan_worker(planned, epoch, now()).await.expect("stored"));
        let dir = scene.stopped().await;
        let mut server = start(&dir, "", None).await.expect("it starts all the same");
        let record = server.app().store.fleet(fleet("a")).await.expect("read").expect("declared");
        assert_eq!(record.declaration.platform, Platform::External);
        server.stop().await;
    }

    fn dir_of(scene: &Scene) -> String {
        scene.dir.path().display().to_string()
    }
}
