//! Whose word counts for what a Deployment's pods are made from.
//!
//! longshore writes there, and so may others: `kubectl set image`, a new rendering, Git. What it was agreed to be is
//! remembered together with its release, so that a change by somebody else is known from one that is still to be made, and
//! another way of counting digests rolls nothing.

use serde::{Deserialize, Serialize};

use crate::rollout::Release;

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
}
