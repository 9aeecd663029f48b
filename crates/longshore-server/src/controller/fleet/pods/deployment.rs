//! What a Deployment makes its pods from: written by longshore, or by somebody else and followed.

use longshore_core::fleet::Fleet;
use longshore_core::id::FleetName;
use longshore_core::kubernetes::{Agreed, Known, Turn, Version, digest, release_set, turn};
use longshore_core::rollout::{Plan, Release};
use longshore_platform::kubernetes::{ClusterError, Template, Written};
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
        let (seen, seen_at) = (&scene.deployment.mark, scene.version());
        let mut known = self.known(scene).await?;
        if known.sees(seen, &scene.deployment.version) {
            self.note(scene, known.clone()).await?;
        }
        let release = app.store.release(record.name.clone(), target).await?;
        let commit = release.as_ref().and_then(|release| release.commit.clone());
        let fleet = self.rollout.running(app, record, target).await?;
        let Some(template) = Template::of(&fleet, commit.as_deref()) else {
            return Ok(Err("the fleet declares no image".into()));
        };
        let wanted = Agreed { release: target, mark: template.mark() };
        let turn = turn(seen, &wanted, known.agreed(), scene.external.is_none());
        if turn != Turn::Write {
            self.pods.failed.remove(&Write::Template);
        }
        match turn {
            // What is seen is from before our own change.
            Turn::Follow if seen_at.is_before(&self.pods.templated) => Ok(Ok(())),
            Turn::Nothing | Turn::Ask => Ok(Ok(())),
            Turn::Agree => {
                // What is there still is nobody's doing.
                let by_others = known.agreed().is_none_or(|agreed| agreed.mark != *seen);
                match by_others && known.was_taken_back(seen, now()) {
                    true => known.insist(wanted),
                    false => known.agree(wanted),
                }
                self.note(scene, known).await.map(Ok)
            }
            Turn::Write => {
                if let Some(held) = self.held(scene, Write::Template) {
                    return Ok(held);
                }
                let newest = app.store.rollouts(Some(record.name.clone()), 1).await?;
                let agreed = known.agreed().map(|agreed| agreed.release);
                if newest.iter().any(|it| agreed == Some(it.plan.to) && it.plan.goes_back()) {
                    known.take_back(seen, now());
                }
                self.write_template(scene, known, wanted, &template).await
            }
            // Seldom, and large.
            Turn::Follow => Box::pin(self.follow_template(scene, known, &fleet)).await,
        }
    }

    async fn write_template(
        &mut self,
        scene: &Scene<'_>,
        mut known: Known,
        wanted: Agreed,
        template: &Template,
    ) -> Result<Result<(), String>, StoreError> {
        // Before it is made: whoever sees it done knows whose it is, though nobody hears the answer.
        let fresh = known.intend(wanted.clone(), &scene.deployment.version);
        self.note(scene, known.clone()).await?;
        // It is not written down for one that does not lead any more.
        if !self.leads(scene.app) || self.noted(scene).await?.as_ref() != Some(&known) {
            return Ok(Ok(()));
        }
        info!(fleet = %scene.record.name, release = wanted.release, image = wanted.mark.image, "Deployment is given another release");
        let written = scene.sight.cluster.set_template(&scene.deployment, template).await;
        if fresh && written.as_ref().is_err_and(ClusterError::is_refusal) {
            known.give_up(&wanted);
            self.note(scene, known.clone()).await?;
        }
        let done = written.as_ref().ok().cloned();
        if let Err(why) = self.wrote(Write::Template, written.map(|done| done.generation)) {
            return Ok(Err(why));
        }
        let Some(Written { generation, mark }) = done else { return Ok(Ok(())) };
        self.pods.templated = Version { generation, ..scene.version() };
        known.agree(Agreed { mark, ..wanted });
        self.note(scene, known).await.map(Ok)
    }

    /// What the leader before has noted as well.
    async fn known(&mut self, scene: &Scene<'_>) -> Result<Known, StoreError> {
        if let Some(known) = &self.pods.template {
            return Ok(known.clone());
        }
        let known = self.noted(scene).await?.unwrap_or_default();
        Ok(self.pods.template.insert(known).clone())
    }

    async fn noted(&self, scene: &Scene<'_>) -> Result<Option<Known>, StoreError> {
        let text = scene.app.store.meta_get(key(scene)).await?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    async fn note(&mut self, scene: &Scene<'_>, known: Known) -> Result<(), StoreError> {
        if self.pods.template.as_ref() == Some(&known) {
            return Ok(());
        }
        let text = serde_json::to_string(&known).expect("plain data");
        scene.app.store.meta_put_leading(key(scene), text, self.epoch).await?;
        self.pods.template = Some(known);
        Ok(())
    }

    /// Somebody else gave the Deployment another image, or one of before: that is a release as well.
    async fn follow_template(
        &mut self,
        scene: &Scene<'_>,
        mut known: Known,
        running: &Fleet,
    ) -> Result<Result<(), String>, StoreError> {
        let (app, name, seen) = (scene.app, &scene.record.name, scene.deployment.mark.clone());
        let releases: Vec<ReleaseRecord> = app.store.releases(name.clone(), RELEASES).await?;
        let commit_of =
            |number| releases.iter().find(|it| it.number == number).and_then(|it| it.commit.clone());
        let before = known.agreed().and_then(|agreed| commit_of(agreed.release));
        let by_number: Vec<_> = releases.iter().map(|it| (it.number, it.declaration.clone())).collect();
        let of = release_set(&by_number, known.agreed(), &seen);
        let declared = |number| by_number.iter().find(|it| it.0 == number).map(|it| running.running(&it.1));
        let unnamed = seen.declaration.is_none();
        // Where it names no declaration, it is of one that it is like in all.
        let is_like = |fleet: Fleet| scene.deployment.as_declared(&fleet).is_ok_and(|shown| shown == fleet);
        let of = of.filter(|number| !unnamed || declared(*number).is_none_or(is_like));
        let commit = commit_of_change(scene.deployment.commit.clone(), before, of.and_then(commit_of));
        let declaration = match of.and_then(declared) {
            Some(declaration) => Ok(declaration),
            // Another image beside what was declared, or a rendering of something that is not declared here, or not yet: if it
            // will be, it is this very release.
            None => {
                let same =
                    |it: &&(Release, Fleet)| seen.declaration.as_deref() == Some(digest(&it.1).as_str());
                let base = by_number.iter().find(same).map(|it| running.running(&it.1));
                scene.deployment.as_declared(base.as_ref().unwrap_or(running))
            }
        };
        let declaration = match declaration {
            Ok(declaration) => declaration,
            Err(why) => return Ok(Err(format!("Deployment `{}`: {why}", scene.deployment.name))),
        };
        // Whoever leads now has seen more than this look has.
        if !self.leads(app) {
            return Ok(Ok(()));
        }
        let release = NewRelease { declaration, commit, supersede: true };
        let followed = match app.store.deploy(name.clone(), release, now()).await? {
            Deployed::Begun(rollout) | Deployed::UnderWay(rollout) => rollout.plan.heads_for(),
            Deployed::Runs(release) => release,
            other => {
                warn!(fleet = %name, ?other, "a change of the Deployment could not be followed");
                return Ok(Ok(()));
            }
        };
        let agreed = Agreed { release: followed, mark: seen };
        let again = known.was_taken_back(&agreed.mark, now());
        info!(fleet = %name, release = followed, image = agreed.mark.image, again, "somebody else changed the Deployment: that is followed");
        app.fleets.forget();
        app.look_again.notify_one();
        match again {
            true => known.insist(agreed),
            false => known.agree(agreed),
        }
        self.note(scene, known).await.map(Ok)
    }

    /// The release that somebody has set again after it was taken back: a fight over it would have no end.
    pub(super) fn insisted(&self) -> Option<Release> {
        self.pods.template.as_ref().and_then(Known::insisted)
    }

    /// What others did that longshore does not undo, for people. `heads_for`: the release of the rollout that is open. Counts changes of what pods are made from.
    pub(super) async fn of_others(
        &mut self,
        scene: &Scene<'_>,
        heads_for: Option<Release>,
    ) -> Result<Vec<String>, StoreError> {
        let seen = &scene.deployment;
        let mut known = self.known(scene).await?;
        let before = known.is_changed_by_others();
        known.counts(seen.revision, &seen.mark, seen.replaces);
        let changed = known.is_changed_by_others();
        self.note(scene, known).await?;
        let name = &scene.deployment.name;
        let insisted = self.insisted().filter(|release| Some(*release) == heads_for).map(|release| {
            format!(
                "release {release} was taken back, and somebody else set it again in Deployment `{name}`: it is shown, and longshore \
                 does not undo it again by itself; change it where it comes from, or `longshore rollout undo {}`",
                scene.record.name
            )
        });
        if changed && !before {
            info!(fleet = %scene.record.name, deployment = name, "somebody else changed what pods are made from, but for their image: Kubernetes replaces them");
        }
        let changed = changed.then(|| {
            format!(
                "somebody else changed what Deployment `{name}` makes its pods from, but for their image: Kubernetes replaces the \
                 pods, and longshore cannot go back from that (`kubectl rollout undo deployment/{name}` can)"
            )
        });
        Ok(insisted.into_iter().chain(changed).collect())
    }
}

/// What to do where a rollout cannot even go back.
pub(super) fn stuck(fleet: &FleetName, plan: &Plan, why: &str) -> String {
    format!(
        "release {} cannot go back to {}, whose pods cannot be started ({why}): mend that, or put another one in its place: \
         `longshore deploy {fleet} IMAGE --supersede`",
        plan.to, plan.from
    )
}

/// The commit of what somebody else set: what the Deployment names, unless that is what was written beside the image before.
fn commit_of_change(
    noted: Option<String>,
    before: Option<String>,
    of_release: Option<String>,
) -> Option<String> {
    of_release.or_else(|| noted.filter(|noted| before.as_ref() != Some(noted)))
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
    fn a_commit_that_was_there_before_is_none_of_another_image() {
        let text = |it: &str| Some(it.to_owned());
        assert_eq!(commit_of_change(text("abc"), text("abc"), None), None, "`kubectl set image`");
        assert_eq!(commit_of_change(text("def"), text("abc"), None), text("def"), "a rendering, or Git");
        assert_eq!(
            commit_of_change(text("abc"), text("abc"), text("abc")),
            text("abc"),
            "a release that is known"
        );
        assert_eq!(commit_of_change(None, text("abc"), None), None);
    }

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
