//! What a Deployment makes its pods from: written by longshore, or by somebody else and followed.

use longshore_core::fleet::Fleet;
use longshore_core::kubernetes::{Agreed, Mark, Turn, Version, release_of, turn};
use longshore_core::rollout::{Plan, Release};
use longshore_platform::kubernetes::Template;
use longshore_store::{Deployed, NewRelease, ReleaseRecord, StoreError};
use tracing::{info, warn};

use super::{Controller, Scene, Write};
use crate::app::now;

/// Releases that somebody may have gone back to.
const RELEASES: usize = 50;

impl Controller {
    /// Sees to it that the pods are made from this release, or follows whoever had them made from another.
    ///
    /// Inner errors: what is in the way, for people.
    pub(super) async fn keep_template(
        &mut self,
        scene: &Scene<'_>,
        target: Release,
    ) -> Result<Result<(), String>, StoreError> {
        let (app, record) = (scene.app, scene.record);
        let known = match &self.pods.agreed {
            Some(known) => known.clone(),
            None => {
                let text = app.store.meta_get(key(scene)).await?;
                let known = text.and_then(|text| serde_json::from_str(&text).ok());
                self.pods.agreed.insert(known).clone()
            }
        };
        let release = app.store.release(record.name.clone(), target).await?;
        let commit = release.as_ref().and_then(|release| release.commit.clone());
        let fleet = self.rollout.running(app, record, target).await?;
        let Some(template) = Template::of(&fleet, commit.as_deref()) else {
            return Ok(Err("the fleet declares no image".into()));
        };
        let wanted = Agreed { release: target, mark: template.mark() };
        let seen = &scene.deployment.mark;
        let seen_at = scene.version();
        match turn(seen, &wanted, known.as_ref(), scene.external.is_none()) {
            // What is seen is from before our own change.
            Turn::Follow if seen_at.is_before(&self.pods.templated) => Ok(Ok(())),
            Turn::Nothing | Turn::Ask => Ok(Ok(())),
            Turn::Agree => self.agree(scene, wanted).await.map(Ok),
            Turn::Write => {
                if let Some(held) = self.held(scene, Write::Template) {
                    return Ok(held);
                }
                info!(fleet = %record.name, release = target, image = wanted.mark.image, "Deployment is given another release");
                let written = scene.sight.cluster.set_template(&scene.deployment.name, &template).await;
                let generation = written.as_ref().ok().copied();
                if let Err(why) = self.wrote(Write::Template, written) {
                    return Ok(Err(why));
                }
                match generation {
                    Some(generation) => {
                        self.pods.templated = Version { generation, ..seen_at };
                        self.agree(scene, wanted).await.map(Ok)
                    }
                    None => Ok(Ok(())),
                }
            }
            Turn::Follow => self.follow_template(scene, &fleet, seen.clone()).await,
        }
    }

    async fn agree(&mut self, scene: &Scene<'_>, agreed: Agreed) -> Result<(), StoreError> {
        let text = serde_json::to_string(&agreed).expect("plain data");
        scene.app.store.meta_put_leading(key(scene), text, self.epoch).await?;
        self.pods.agreed = Some(Some(agreed));
        Ok(())
    }

    /// Somebody else gave the Deployment another image, or one of before: that is a release as well.
    async fn follow_template(
        &mut self,
        scene: &Scene<'_>,
        running: &Fleet,
        seen: Mark,
    ) -> Result<Result<(), String>, StoreError> {
        let (app, name) = (scene.app, &scene.record.name);
        let releases: Vec<ReleaseRecord> = app.store.releases(name.clone(), RELEASES).await?;
        let by_number: Vec<_> = releases.into_iter().map(|it| (it.number, it.declaration)).collect();
        let known = release_of(&by_number, seen.declaration.as_deref(), seen.image.as_deref());
        let declaration = match known.and_then(|number| by_number.iter().find(|it| it.0 == number)) {
            Some((_, declaration)) => running.running(declaration),
            None => {
                let image = seen.image.as_deref().unwrap_or_default();
                match running.with_image(image) {
                    Ok(declaration) => declaration,
                    Err(why) => return Ok(Err(format!("Deployment `{}`: {why}", scene.deployment.name))),
                }
            }
        };
        let release = NewRelease { declaration, commit: scene.deployment.commit.clone(), supersede: true };
        let followed = match app.store.deploy(name.clone(), release, now()).await? {
            Deployed::Begun(rollout) | Deployed::UnderWay(rollout) => rollout.plan.heads_for(),
            Deployed::Runs(release) => release,
            other => {
                warn!(fleet = %name, ?other, "a change of the Deployment could not be followed");
                return Ok(Ok(()));
            }
        };
        info!(fleet = %name, release = followed, image = seen.image, "somebody else changed the Deployment: that is followed");
        app.fleets.forget();
        app.look_again.notify_one();
        self.agree(scene, Agreed { release: followed, mark: seen }).await.map(Ok)
    }
}

fn key(scene: &Scene<'_>) -> String {
    format!("template:{}", scene.record.name)
}

/// Whether a rollout replaces pods that the scaler is not to remove meanwhile. `external`: somebody else began it, and alone
/// decides when it is over: no fleet waits for that. One that is paused half-way has pods of two releases, and a number that is
/// lowered then is taken from both, whoever has drained.
pub(super) fn moves_pods(plan: &Plan, external: bool) -> bool {
    !external && !plan.has_ended()
}

#[cfg(test)]
mod tests {
    use longshore_core::rollout::{Phase, Policy};
    use longshore_core::time::Timestamp;

    use super::*;

    #[test]
    fn a_rollout_of_ours_keeps_a_fleet_from_shrinking_until_it_is_over() {
        let plan = Plan::new(1, 2, Policy::default(), Default::default(), Timestamp(0));
        let back = Plan { phase: Phase::Back { reason: "worse".into() }, ..plan.clone() };
        for it in [&plan, &Plan { phase: Phase::Finishing, ..plan.clone() }, &back] {
            assert!(moves_pods(it, false), "{:?}", it.phase);
            assert!(!moves_pods(it, true), "it may stay open for ever: {:?}", it.phase);
        }
        assert!(moves_pods(&Plan { paused: true, ..plan.clone() }, false));
        assert!(!moves_pods(&Plan { phase: Phase::Done, ..plan }, false));
    }
}
