//! The pause of a Deployment's own rollout: whether it is ours, or somebody else's word.

use longshore_core::kubernetes::{Intent, Version};
use longshore_core::rollout::Order;
use longshore_store::StoreError;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::{Controller, Scene, Write};

/// As we set it last, or agreed to it.
#[derive(Default)]
pub struct Paused {
    word: Word,
    /// As it is in the store; none: not read yet.
    stored: Option<Word>,
    /// What our last change of it has made: older sights are from before.
    since: Version,
}

/// What whoever leads next has to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Word {
    ours: Option<bool>,
    /// Changes of ours, written down before they are made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    intended: Vec<Intent<bool>>,
}

impl Paused {
    /// It was set by us, and not let go on.
    fn is_ours(&self) -> bool {
        self.word.ours == Some(true)
    }

    /// Takes what is seen for ours if it is what we meant to write, whatever became of the answer.
    fn sees(&mut self, seen: bool, version: &str) {
        if self.word.intended.iter().any(|it| it.what == seen) {
            self.word = Word { ours: Some(seen), intended: Vec::new() };
        }
        self.word.intended.retain(|it| it.upon == version);
    }

    /// It is as it is to be, whoever wrote it.
    fn agree(&mut self, seen: bool, at: &Version) {
        if !at.is_before(&self.since) {
            self.word.ours = Some(seen);
        }
    }

    fn wrote(&mut self, paused: bool, since: Version) {
        self.word = Word { ours: Some(paused), intended: Vec::new() };
        self.since = since;
    }

    /// What somebody meant who paused it, or let it go on, by other means than longshore: said until it is obeyed.
    fn by_hand(&self, seen: bool, at: &Version) -> Option<Order> {
        // However long our own change takes until it is seen.
        if at.is_before(&self.since) {
            return None;
        }
        match (seen, self.word.ours) {
            (true, Some(true)) | (false, Some(false) | None) => None,
            (true, _) => Some(Order::Pause),
            (false, Some(true)) => Some(Order::Resume),
        }
    }

    /// The plan has it now as it was found. What was not obeyed stays somebody else's, and is never undone by us.
    pub(super) fn obeyed(&mut self, seen: bool) {
        self.word.ours = Some(seen);
    }
}

impl Controller {
    /// What somebody meant who paused the Deployment's own rollout, or let it go on, by other means than longshore. It is to be
    /// told and noted once it is obeyed. `wanted`: as the plan has it; none: it is not for others to say now.
    pub(super) async fn ordered_by_hand(
        &mut self,
        scene: &Scene<'_>,
        wanted: Option<bool>,
    ) -> Result<Option<Order>, StoreError> {
        let (seen, at) = (scene.deployment.paused, scene.version());
        self.recall_pause(scene).await?;
        let paused = &mut self.pods.paused;
        paused.sees(seen, &scene.deployment.version);
        if wanted.is_none_or(|wanted| wanted == seen) {
            paused.agree(seen, &at);
            return self.note_pause(scene).await.map(|()| None);
        }
        let order = paused.by_hand(seen, &at);
        if order.is_none() {
            self.note_pause(scene).await?;
        }
        Ok(order)
    }

    /// What we have paused is not left so once there is no rollout.
    ///
    /// Inner errors: why it could not be let go on, for people.
    pub(super) async fn unpause(&mut self, scene: &Scene<'_>) -> Result<Result<(), String>, StoreError> {
        self.recall_pause(scene).await?;
        let paused = &mut self.pods.paused;
        paused.sees(scene.deployment.paused, &scene.deployment.version);
        if !scene.deployment.paused && paused.is_ours() {
            paused.agree(false, &scene.version());
        }
        self.note_pause(scene).await?;
        match self.pods.paused.is_ours() {
            true => self.pause(scene, false).await,
            false => Ok(Ok(())),
        }
    }

    /// Inner errors: why the Deployment's own rollout could not be stopped or let go on, for people.
    pub(super) async fn pause(
        &mut self,
        scene: &Scene<'_>,
        paused: bool,
    ) -> Result<Result<(), String>, StoreError> {
        if scene.external.is_some() || paused == scene.deployment.paused {
            return Ok(Ok(()));
        }
        if let Some(held) = self.held(scene, Write::Pause) {
            return Ok(held);
        }
        // Before it is made: whoever leads next has to know whose pause it is.
        Intent::add(&mut self.pods.paused.word.intended, paused, &scene.deployment.version);
        self.note_pause(scene).await?;
        // It is not written down for one that does not lead any more.
        let noted = scene.app.store.meta_get(key(scene)).await?;
        let noted = noted.and_then(|text| serde_json::from_str::<Word>(&text).ok());
        if !self.leads(scene.app) || noted.as_ref() != Some(&self.pods.paused.word) {
            return Ok(Ok(()));
        }
        info!(fleet = %scene.record.name, paused, "the Deployment's rollout is paused, or goes on");
        let written = scene.sight.cluster.pause(&scene.deployment, paused).await;
        let generation = written.as_ref().ok().copied();
        if written.as_ref().is_err_and(|error| error.is_refusal()) {
            self.pods.paused.word.intended.clear();
        }
        let wrote = self.wrote(Write::Pause, written);
        if let Some(generation) = generation {
            self.pods.paused.wrote(paused, Version { generation, ..scene.version() });
        }
        self.note_pause(scene).await?;
        Ok(wrote)
    }

    async fn recall_pause(&mut self, scene: &Scene<'_>) -> Result<(), StoreError> {
        if self.pods.paused.stored.is_none() {
            let text = scene.app.store.meta_get(key(scene)).await?;
            let word: Word = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
            (self.pods.paused.word, self.pods.paused.stored) = (word.clone(), Some(word));
        }
        Ok(())
    }

    pub(super) async fn note_pause(&mut self, scene: &Scene<'_>) -> Result<(), StoreError> {
        let word = self.pods.paused.word.clone();
        if self.pods.paused.stored.as_ref() != Some(&word) {
            let text = serde_json::to_string(&word).expect("plain data");
            scene.app.store.meta_put_leading(key(scene), text, self.epoch).await?;
            self.pods.paused.stored = Some(word);
        }
        Ok(())
    }
}

fn key(scene: &Scene<'_>) -> String {
    format!("paused:{}", scene.record.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(generation: i64) -> Version {
        Version { uid: "one".into(), generation }
    }

    /// What the next leader knows.
    fn after(paused: &Paused) -> Paused {
        Paused { word: paused.word.clone(), ..Paused::default() }
    }

    #[test]
    fn a_pause_by_hand_is_an_order_until_it_is_obeyed() {
        let mut paused = Paused::default();
        assert_eq!(paused.by_hand(false, &at(3)), None);
        for (at, seen, order) in [(at(4), true, Order::Pause), (at(5), false, Order::Resume)] {
            for _ in 0..2 {
                assert_eq!(paused.by_hand(seen, &at), Some(order.clone()), "it was not stored");
                assert_eq!(paused.is_ours(), !seen, "nor is it ours before");
            }
            paused.obeyed(seen);
            assert_eq!(paused.by_hand(seen, &at), None);
        }
    }

    #[test]
    fn what_is_seen_from_before_our_own_change_is_nobodys_order() {
        let mut paused = Paused::default();
        paused.wrote(true, at(8));
        assert_eq!(paused.by_hand(false, &at(7)), None, "our pause is not seen yet");
        paused.agree(false, &at(7));
        assert!(paused.is_ours(), "it was told to go on, and that is not written yet");
        assert_eq!(paused.by_hand(true, &at(8)), None);
        assert_eq!(paused.by_hand(false, &at(9)), Some(Order::Resume), "somebody let it go on");
        paused.wrote(false, at(12));
        assert_eq!(paused.by_hand(true, &at(11)), None, "neither is our word that it goes on");
    }

    #[test]
    fn the_next_leader_knows_whose_pause_it_is() {
        let mut paused = Paused::default();
        paused.wrote(true, at(8));
        assert_eq!(after(&paused).by_hand(true, &at(8)), None, "it was ordered to go on since");
        assert_eq!(after(&paused).by_hand(false, &at(9)), Some(Order::Resume), "somebody let it go on");
        assert!(after(&paused).is_ours(), "it is let go on when the rollout has ended");
    }

    #[test]
    fn a_pause_whose_answer_was_lost_is_ours_if_it_was_made() {
        for (from, to) in [(false, true), (true, false)] {
            let mut paused = Paused::default();
            paused.agree(from, &at(7));
            Intent::add(&mut paused.word.intended, to, "7");
            let mut done = after(&paused);
            done.sees(to, "8");
            assert_eq!(done.by_hand(to, &at(8)), None, "it is no order, whatever is wanted since");
            assert_eq!(done.by_hand(from, &at(9)), Some(if from { Order::Pause } else { Order::Resume }));
            let mut undone = after(&paused);
            undone.sees(from, "7");
            assert_eq!(undone.by_hand(from, &at(7)), None, "it is made again");
            undone.sees(from, "8");
            undone.sees(to, "9");
            let order = Some(if to { Order::Pause } else { Order::Resume });
            assert_eq!(undone.by_hand(to, &at(9)), order, "it could come no more");
        }
    }

    #[test]
    fn a_deployment_that_was_made_anew_counts_from_the_beginning() {
        let mut paused = Paused::default();
        paused.wrote(false, at(40));
        let anew = Version { uid: "another".into(), generation: 2 };
        assert_eq!(paused.by_hand(true, &anew), Some(Order::Pause));
    }
}
