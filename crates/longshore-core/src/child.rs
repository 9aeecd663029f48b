//! Child tasks: which an agent may submit.
//!
//! A child has a name that is its own among its parent's children, so that an attempt that runs again finds the children of
//! the one before instead of submitting them twice.

use crate::id::ConversationId;

/// Children of one task, over all of its attempts.
pub const MOST: usize = 1000;

/// A task without a parent is at depth 0; the deepest has this many ancestors.
pub const DEEPEST: usize = 8;

/// Why children were refused; none of them was submitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("this task has {DEEPEST} ancestors: its children would be too deep")]
    TooDeep,
    #[error("a task has at most {MOST} children, and this one would have {0}")]
    TooMany(usize),
    #[error(
        "conversation `{0}` is that of this task or of one it descends from, which cannot go on before this one has ended"
    )]
    AncestorsConversation(ConversationId),
}

/// What is known of a task that submits children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// Tasks above it: 0 for one that has no parent.
    pub depth: usize,
    /// Its own conversation and those of its ancestors.
    pub conversations: Vec<ConversationId>,
    /// Children that it has already.
    pub children: usize,
}

/// Decides whether children may be submitted: all of them or none. `new` holds the conversations of those that are not
/// there already.
pub fn check(lineage: &Lineage, new: &[Option<ConversationId>]) -> Result<(), Refused> {
    if new.is_empty() {
        return Ok(());
    }
    if lineage.depth >= DEEPEST {
        return Err(Refused::TooDeep);
    }
    let total = lineage.children + new.len();
    if total > MOST {
        return Err(Refused::TooMany(total));
    }
    match new.iter().flatten().find(|one| lineage.conversations.contains(one)) {
        Some(taken) => Err(Refused::AncestorsConversation(taken.clone())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(name: &str) -> ConversationId {
        ConversationId::new(name).expect("valid")
    }

    fn lineage(depth: usize, children: usize) -> Lineage {
        Lineage { depth, children, conversations: vec![conversation("ours")] }
    }

    #[test]
    fn depth_and_number_have_a_limit() {
        let one = [None];
        assert_eq!(check(&lineage(DEEPEST - 1, MOST - 1), &one), Ok(()));
        assert_eq!(check(&lineage(DEEPEST, 0), &one), Err(Refused::TooDeep));
        assert_eq!(check(&lineage(0, MOST), &one), Err(Refused::TooMany(MOST + 1)));
    }

    #[test]
    fn children_that_are_there_already_are_never_refused() {
        assert_eq!(check(&lineage(DEEPEST, MOST), &[]), Ok(()));
    }

    #[test]
    fn an_ancestors_conversation_is_refused_and_any_other_is_not() {
        let ours = Some(conversation("ours"));
        let refused = Err(Refused::AncestorsConversation(conversation("ours")));
        assert_eq!(check(&lineage(1, 1), &[None, ours]), refused);
        assert_eq!(check(&lineage(1, 1), &[Some(conversation("other"))]), Ok(()));
    }
}
