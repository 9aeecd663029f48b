//! Whose word counts for what a Deployment's pods are made from.
//!
//! longshore writes there, and so may others: `kubectl set image`, a new rendering, Git. What it was agreed to be is
//! remembered together with its release, so that a change by somebody else is known from one that is still to be made, and
//! another way of counting digests rolls nothing.

use serde::{Deserialize, Serialize};

use crate::rollout::Release;
use crate::time::Timestamp;

/// What tells templates apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declaration: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// A template, and the release that it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    pub release: Release,
    pub mark: Mark,
}

/// Which Deployment, and what of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Of one that was deleted and made again it is another one.
    pub uid: String,
    /// Grows with each change of what it is to be.
    pub generation: i64,
}

impl Version {
    /// What is seen at this version does not know yet of what was written with the other one.
    pub fn is_before(&self, written: &Version) -> bool {
        self.uid == written.uid && self.generation < written.generation
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    Nothing,
    /// It is the wanted one: that is to be remembered.
    Agree,
    /// The wanted one is to be written.
    Write,
    /// It is somebody else's to write the wanted one.
    Ask,
    /// Somebody has written another one: it is followed.
    Follow,
}

/// `ours`: longshore may write.
pub fn turn(seen: &Mark, wanted: &Agreed, agreed: Option<&Agreed>, ours: bool) -> Turn {
    match agreed {
        Some(agreed) if agreed.mark == *seen && agreed.release == wanted.release => Turn::Nothing,
        _ if wanted.mark == *seen => Turn::Agree,
        Some(agreed) if agreed.mark == *seen && ours => Turn::Write,
        Some(agreed) if agreed.mark == *seen => Turn::Ask,
        _ => Turn::Follow,
    }
}

/// Somebody who sets a template again so soon after a rollout took it back insists on it.
const INSISTS_MS: u64 = 30 * 60_000;

/// So many templates that were taken back are remembered.
const TAKEN_BACK: usize = 8;

/// A write whose answer is not known: it may have been done, and may be done yet as long as what it was made upon is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent<T> {
    pub what: T,
    /// The version of the object that it was made upon, and is refused at any other.
    pub upon: String,
}

impl<T: PartialEq> Intent<T> {
    /// Adds a write to those that are under way, before it is made. Returns whether it was none of them.
    pub fn add(all: &mut Vec<Intent<T>>, what: T, upon: &str) -> bool {
        let intent = Intent { what, upon: upon.to_owned() };
        let fresh = !all.contains(&intent);
        if fresh {
            all.push(intent);
        }
        fresh
    }
}

/// What is remembered of what a Deployment's pods are made from, by whoever leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// None: it has not been seen yet.
    #[serde(flatten)]
    agreed: Option<Agreed>,
    /// Ours, written down before they are made: if they are seen they were not somebody else's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    intended: Vec<Intent<Agreed>>,
    /// What rollouts have taken back lately.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    taken_back: Vec<TakenBack>,
    /// The release that somebody has set again after it was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    insisted: Option<Release>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    counted: Option<Counted>,
}

/// How often Kubernetes has seen the template change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Counted {
    revision: u64,
    /// As it was then; none: it is another one since, so that the next change is none of others.
    #[serde(default)]
    mark: Option<Mark>,
    /// Somebody else changed what the mark does not say, and pods are replaced for it.
    #[serde(default)]
    by_others: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TakenBack {
    mark: Mark,
    at: Timestamp,
}

impl Known {
    pub fn agreed(&self) -> Option<&Agreed> {
        self.agreed.as_ref()
    }

    /// The release that is shown and not undone, since somebody insists on it.
    pub fn insisted(&self) -> Option<Release> {
        self.insisted
    }

    /// Takes what is seen for ours if it is what we meant to write, whatever became of the answer; what can come no more is
    /// forgotten. Returns whether anything is known now that was not before.
    pub fn sees(&mut self, seen: &Mark, version: &str) -> bool {
        if let Some(done) = self.intended.iter().rposition(|it| it.what.mark == *seen) {
            let done = self.intended.swap_remove(done).what;
            self.agree(done);
            return true;
        }
        let before = self.intended.len();
        self.intended.retain(|it| it.upon == version);
        self.intended.len() != before
    }

    /// Returns whether this very write was not under way already.
    pub fn intend(&mut self, what: Agreed, upon: &str) -> bool {
        Intent::add(&mut self.intended, what, upon)
    }

    /// It was refused, and never was done.
    pub fn give_up(&mut self, what: &Agreed) {
        self.intended.retain(|it| it.what != *what);
    }

    pub fn agree(&mut self, agreed: Agreed) {
        self.intended.clear();
        let another = self.agreed.as_ref().is_none_or(|before| before.mark != agreed.mark);
        if let Some(counted) = self.counted.as_mut().filter(|_| another) {
            (counted.mark, counted.by_others) = (None, false);
        }
        self.insisted = self.insisted.filter(|release| *release == agreed.release);
        self.agreed = Some(agreed);
    }

    /// Takes notice of how often the template has changed: once more, while its mark is the same, is a change of something else
    /// in it, by somebody else. `replaces`: there are pods that are not made from it.
    pub fn counts(&mut self, revision: Option<u64>, mark: &Mark, replaces: bool) {
        let Some(revision) = revision else { return };
        let same = |it: &Counted| it.mark.as_ref() == Some(mark);
        match &mut self.counted {
            Some(counted) if counted.revision == revision => counted.by_others &= replaces && same(counted),
            counted => {
                let by_others = counted.as_ref().is_some_and(|it| it.revision < revision && same(it));
                *counted = Some(Counted { revision, mark: Some(mark.clone()), by_others });
            }
        }
    }

    /// Pods are replaced for a change that is no release.
    pub fn is_changed_by_others(&self) -> bool {
        self.counted.as_ref().is_some_and(|it| it.by_others)
    }

    /// A rollout that goes back writes another template in the place of this one.
    pub fn take_back(&mut self, mark: &Mark, now: Timestamp) {
        self.taken_back.retain(|it| it.mark != *mark && is_lately(it.at, now));
        if self.taken_back.len() >= TAKEN_BACK {
            self.taken_back.remove(0);
        }
        self.taken_back.push(TakenBack { mark: mark.clone(), at: now });
    }

    /// Whether a rollout has taken this one back lately: who sets it again means it, and would set it again and again.
    pub fn was_taken_back(&self, mark: &Mark, now: Timestamp) -> bool {
        self.taken_back.iter().any(|it| it.mark == *mark && is_lately(it.at, now))
    }

    /// Somebody else has set this release again.
    pub fn insist(&mut self, agreed: Agreed) {
        self.insisted = Some(agreed.release);
        self.agree(agreed);
    }
}

fn is_lately(at: Timestamp, now: Timestamp) -> bool {
    now.since(at).as_millis() < u128::from(INSISTS_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(declaration: &str, image: &str) -> Mark {
        Mark { declaration: Some(declaration.into()), image: Some(image.into()) }
    }

    fn agreed(release: Release, declaration: &str, image: &str) -> Agreed {
        Agreed { release, mark: mark(declaration, image) }
    }

    #[test]
    fn a_release_that_is_wanted_is_written_where_the_last_one_is_still_there() {
        let (one, two) = (agreed(1, "x", "a:1"), agreed(2, "y", "a:2"));
        assert_eq!(turn(&one.mark, &two, Some(&one), true), Turn::Write);
        assert_eq!(turn(&one.mark, &two, Some(&one), false), Turn::Ask);
        assert_eq!(turn(&two.mark, &two, Some(&one), true), Turn::Agree);
        assert_eq!(turn(&two.mark, &two, Some(&two), true), Turn::Nothing);
    }

    #[test]
    fn what_somebody_else_wrote_is_followed_and_not_overwritten() {
        let (one, two) = (agreed(1, "x", "a:1"), agreed(2, "y", "a:2"));
        for ours in [true, false] {
            assert_eq!(turn(&mark("x", "a:9"), &one, Some(&one), ours), Turn::Follow);
            assert_eq!(turn(&mark("x", "a:9"), &two, Some(&one), ours), Turn::Follow);
            // Never seen before: whoever put it there meant it.
            assert_eq!(turn(&mark("x", "a:9"), &one, None, ours), Turn::Follow);
            assert_eq!(turn(&one.mark, &one, None, ours), Turn::Agree);
        }
    }

    #[test]
    fn another_digest_of_the_same_release_rolls_nothing() {
        let before = agreed(1, "old-digest", "a:1");
        assert_eq!(turn(&before.mark, &agreed(1, "new-digest", "a:1"), Some(&before), true), Turn::Nothing);
    }

    #[test]
    fn a_deployment_that_was_made_again_is_not_one_of_before() {
        let version = |uid: &str, generation| Version { uid: uid.into(), generation };
        let written = version("a", 40);
        assert!(version("a", 39).is_before(&written));
        assert!(!version("a", 40).is_before(&written) && !version("a", 41).is_before(&written));
        assert!(!version("b", 1).is_before(&written), "generations are counted anew");
        assert!(!version("a", 1).is_before(&Version::default()), "nothing has been written");
    }

    fn known(agreed: Agreed) -> Known {
        let mut known = Known::default();
        known.agree(agreed);
        known
    }

    fn turn_of(known: &mut Known, seen: &Mark, version: &str, wanted: &Agreed) -> Turn {
        known.sees(seen, version);
        turn(seen, wanted, known.agreed(), true)
    }

    #[test]
    fn a_write_whose_answer_was_lost_is_ours_whatever_is_wanted_since() {
        let (one, two, three) = (agreed(1, "x", "a:1"), agreed(2, "y", "a:2"), agreed(3, "z", "a:3"));
        for (wanted, does) in [(&one, Turn::Write), (&two, Turn::Nothing), (&three, Turn::Write)] {
            let mut it = known(one.clone());
            assert!(it.intend(two.clone(), "7"));
            assert_eq!(turn_of(&mut it, &two.mark, "8", wanted), does, "{}", wanted.release);
        }
        // It is told apart from what somebody else has set.
        let mut it = known(one.clone());
        it.intend(two.clone(), "7");
        assert_eq!(turn_of(&mut it, &three.mark, "8", &one), Turn::Follow);
    }

    #[test]
    fn of_several_writes_without_an_answer_the_one_that_was_done_is_ours() {
        let (one, two, three) = (agreed(1, "x", "a:1"), agreed(2, "y", "a:2"), agreed(3, "z", "a:3"));
        let mut it = known(one.clone());
        assert!(it.intend(two.clone(), "7") && it.intend(three.clone(), "7"));
        assert!(!it.intend(two.clone(), "7"), "it is tried again");
        assert_eq!(turn_of(&mut it, &one.mark, "7", &three), Turn::Write, "neither is seen yet");
        assert_eq!(turn_of(&mut it, &two.mark, "8", &three), Turn::Write, "the first was done");
        // The next one is made upon that.
        it.intend(three.clone(), "8");
        assert_eq!(turn_of(&mut it, &three.mark, "9", &one), Turn::Write);
    }

    #[test]
    fn a_write_that_can_come_no_more_makes_nobodys_change_ours() {
        let (one, two) = (agreed(1, "x", "a:1"), agreed(2, "y", "a:2"));
        let mut it = known(one.clone());
        it.intend(two.clone(), "7");
        assert!(it.sees(&one.mark, "8"), "it would be refused now");
        assert_eq!(turn_of(&mut it, &two.mark, "9", &one), Turn::Follow);
        let mut it = known(one.clone());
        it.intend(two.clone(), "7");
        it.give_up(&two);
        assert_eq!(turn_of(&mut it, &two.mark, "8", &one), Turn::Follow);
    }

    #[test]
    fn who_sets_again_what_was_taken_back_lately_insists() {
        let (one, two) = (agreed(1, "x", "a:1"), agreed(2, "y", "a:2"));
        let (mut it, at) = (known(two.clone()), |minutes: i64| Timestamp(minutes * 60_000));
        assert!(!it.was_taken_back(&two.mark, at(0)));
        it.take_back(&two.mark, at(0));
        it.agree(one.clone());
        assert!(it.was_taken_back(&two.mark, at(29)) && !it.was_taken_back(&one.mark, at(1)));
        assert!(!it.was_taken_back(&two.mark, at(30)), "that was long ago");
        let again = Agreed { release: 3, ..two };
        it.insist(again.clone());
        assert_eq!(it.insisted(), Some(3));
        it.agree(again);
        assert_eq!(it.insisted(), Some(3));
        it.agree(one);
        assert_eq!(it.insisted(), None, "another one has taken its place");
    }

    #[test]
    fn a_change_that_no_mark_tells_of_is_known_until_its_pods_are_there() {
        let (one, two) = (agreed(1, "x", "a:1"), agreed(2, "y", "a:2"));
        let mut it = known(one.clone());
        it.counts(Some(4), &one.mark, true);
        assert!(!it.is_changed_by_others(), "it was so before");
        it.counts(None, &one.mark, true);
        it.counts(Some(5), &one.mark, true);
        assert!(it.is_changed_by_others(), "`kubectl set env`, `kubectl rollout restart`");
        it.counts(Some(5), &one.mark, true);
        assert!(it.is_changed_by_others());
        it.counts(Some(5), &one.mark, false);
        assert!(!it.is_changed_by_others(), "its pods are there");
        // A release of ours, or one that is followed, however soon it is counted.
        it.agree(two.clone());
        it.counts(Some(5), &one.mark, true);
        it.counts(Some(6), &two.mark, true);
        assert!(!it.is_changed_by_others());
        it.agree(one.clone());
        it.agree(two.clone());
        it.counts(Some(8), &two.mark, true);
        assert!(!it.is_changed_by_others(), "there and back before it was looked at");
        it.counts(Some(9), &two.mark, true);
        assert!(it.is_changed_by_others());
        it.counts(Some(1), &two.mark, true);
        assert!(!it.is_changed_by_others(), "the Deployment was made anew");
    }

    #[test]
    fn what_was_written_down_before_there_were_intents_is_read() {
        let old = serde_json::to_string(&agreed(1, "x", "a:1")).expect("plain data");
        assert_eq!(serde_json::from_str::<Known>(&old).expect("read"), known(agreed(1, "x", "a:1")));
        let mut it = known(agreed(1, "x", "a:1"));
        it.intend(agreed(2, "y", "a:2"), "7");
        it.take_back(&agreed(3, "z", "a:3").mark, Timestamp(5));
        let text = serde_json::to_string(&it).expect("plain data");
        assert_eq!(serde_json::from_str::<Known>(&text).expect("read"), it);
        let before: Agreed = serde_json::from_str(&text).expect("a replica of before reads it as well");
        assert_eq!(before.release, 1);
    }
}
