//! Changes of many tasks by a filter: which of them they touch, and when they are refused.

use crate::task::State;

/// What is done to each task that a filter finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Cancel,
    Retry,
}

/// Why a change of many tasks was refused before anything was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the filter leaves nothing out, and that every task is meant was not said")]
    Empty,
    #[error("a task that is {} cannot be {}", .state.as_str(), participle(*.action))]
    State { state: State, action: Action },
    #[error("{found} tasks or more match, and at most {expected} were expected")]
    MoreThanExpected { found: u64, expected: u64 },
}

fn participle(action: Action) -> &'static str {
    match action {
        Action::Cancel => "cancelled",
        Action::Retry => "retried",
    }
}

/// The states in which tasks are touched: those that were named, or else all that are not over (cancel) or `failed` (retry).
///
/// Errors: a named state that the action does not fit, or a filter without any condition unless `all` says so.
pub fn states(action: Action, named: &[State], empty: bool, all: bool) -> Result<Vec<State>, Refusal> {
    if empty && !all {
        return Err(Refusal::Empty);
    }
    let fits = |state: &State| state.is_terminal() == (action == Action::Retry);
    if let Some(state) = named.iter().copied().find(|state| !fits(state)) {
        return Err(Refusal::State { state, action });
    }
    Ok(match (named.is_empty(), action) {
        (false, _) => named.to_vec(),
        (true, Action::Cancel) => vec![State::Queued, State::Running, State::Waiting],
        (true, Action::Retry) => vec![State::Failed],
    })
}

/// Refuses when more match than somebody saw before.
pub fn guard(found: u64, expected: Option<u64>) -> Result<(), Refusal> {
    match expected {
        Some(expected) if found > expected => Err(Refusal::MoreThanExpected { found, expected }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_touched_only_if_that_is_said() {
        for action in [Action::Cancel, Action::Retry] {
            assert_eq!(states(action, &[], true, false), Err(Refusal::Empty));
        }
        assert_eq!(states(Action::Retry, &[], true, true), Ok(vec![State::Failed]));
        assert_eq!(states(Action::Cancel, &[], false, false).map(|states| states.len()), Ok(3));
    }

    #[test]
    fn what_is_over_cannot_be_cancelled_and_what_is_not_cannot_be_retried() {
        let refused = states(Action::Cancel, &[State::Queued, State::Failed], false, true);
        assert_eq!(refused.expect_err("it failed").to_string(), "a task that is failed cannot be cancelled");
        let refused = states(Action::Retry, &[State::Waiting], false, false);
        assert_eq!(refused.expect_err("it waits").to_string(), "a task that is waiting cannot be retried");
        let both = [State::Failed, State::Cancelled];
        assert_eq!(states(Action::Retry, &both, false, false), Ok(both.to_vec()));
    }

    #[test]
    fn fewer_than_expected_is_fine_and_more_is_not() {
        assert_eq!(guard(3, Some(3)), Ok(()));
        assert_eq!(guard(1_000_000, None), Ok(()));
        assert_eq!(guard(4, Some(3)), Err(Refusal::MoreThanExpected { found: 4, expected: 3 }));
    }
}
