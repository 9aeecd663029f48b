//! The words that a worker's end is kept in, and whether its own program ended it. Both are here, so that they agree.

use std::fmt;

use longshore_platform::End;

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It said that it goes.
    Goodbye,
    /// Nothing was heard of it.
    Silent,
    /// Its pod is not there any more.
    PodGone,
    /// Somebody asked its pod to end, or its node did: for what, or how it took that.
    PodTaken(String),
    /// Its platform saw it end; what it said last.
    Seen(End, Option<String>),
}

const GOODBYE: &str = "said goodbye";
const SILENT: &str = "silent for too long";
const POD_GONE: &str = "its pod is gone";
const POD_TAKEN: &str = "its pod was taken away";

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Goodbye => f.write_str(GOODBYE),
            Ending::Silent => f.write_str(SILENT),
            Ending::PodGone => f.write_str(POD_GONE),
            Ending::PodTaken(why) => write!(f, "{POD_TAKEN}: {why}"),
            Ending::Seen(end, None) => write!(f, "{end}"),
            Ending::Seen(end, Some(said)) => write!(f, "{end}: {}", said.trim()),
        }
    }
}

/// Whether an end that is kept in these words was its program's own: it was not asked to end, and did not go with its machine
/// or its control plane, of which nothing follows for its release.
pub fn is_its_own(kept: &str) -> bool {
    let (left, unseen) = (End::Exited(0).to_string(), End::Gone.to_string());
    let others = [GOODBYE, SILENT, POD_GONE, POD_TAKEN, &left, &unseen];
    let begins =
        |words: &str| kept.strip_prefix(words).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
    !others.into_iter().any(begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_releases_fault_only_where_its_own_program_ended_it() {
        let said = |end, words: &str| Ending::Seen(end, Some(words.into()));
        for (ending, own) in [
            (Ending::Goodbye, false),
            (Ending::Silent, false),
            (Ending::PodGone, false),
            (Ending::PodTaken("The node was low on resource: memory.".into()), false),
            (Ending::Seen(End::Gone, None), false),
            (said(End::Gone, "its node went"), false),
            (said(End::Exited(0), " done\n"), false),
            (Ending::Seen(End::Exited(1), None), true),
            (said(End::Exited(1), "said goodbye"), true),
            (said(End::Exited(3), "no such model"), true),
            (Ending::Seen(End::Signaled(9), None), true),
            (Ending::Seen(End::OutOfMemory, None), true),
        ] {
            assert_eq!(is_its_own(&ending.to_string()), own, "{ending}");
        }
        assert!(is_its_own(""), "of an end that nobody put into words nothing is known that would excuse it");
    }

    #[test]
    fn an_end_is_told_with_what_was_said_last() {
        assert_eq!(
            Ending::Seen(End::Exited(3), Some(" no\n".into())).to_string(),
            "exited with status 3: no"
        );
        assert_eq!(
            Ending::PodTaken("killed by SIGKILL".into()).to_string(),
            "its pod was taken away: killed by SIGKILL"
        );
    }
}
