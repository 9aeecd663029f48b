//! How a container stands, from what the engine says about it.

use bollard::models::{ContainerState, ContainerStateStatusEnum as Status};

use crate::End;

/// `None`: it runs.
pub(super) fn end(state: Option<&ContainerState>) -> Option<End> {
    let Some(state) = state else { return Some(End::Gone) };
    match state.status {
        Some(Status::RUNNING | Status::PAUSED | Status::RESTARTING) => None,
        // It never ran.
        Some(Status::CREATED) => Some(End::Gone),
        _ => Some(of_exit(state.exit_code, state.oom_killed.unwrap_or(false))),
    }
}

/// The engine remembers a kill for lack of memory of anything in the container; only one of its first process is its end.
fn of_exit(code: Option<i64>, oom_killed: bool) -> End {
    const KILLED: i64 = 128 + 9;
    match code {
        Some(KILLED) if oom_killed => End::OutOfMemory,
        Some(code @ 129..=192) => End::Signaled((code - 128) as i32),
        Some(code) => End::Exited(i32::try_from(code).unwrap_or(i32::MAX)),
        None => End::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: Status, code: i64, oom: bool, expected: Option<End>) {
        let state = ContainerState {
            status: Some(status),
            exit_code: Some(code),
            oom_killed: Some(oom),
            ..Default::default()
        };
        assert_eq!(end(Some(&state)), expected, "{status:?} {code} {oom}");
    }

    #[test]
    fn an_end_is_told_from_the_state() {
        check(Status::RUNNING, 0, true, None);
        check(Status::EXITED, 0, false, Some(End::Exited(0)));
        check(Status::EXITED, 3, false, Some(End::Exited(3)));
        check(Status::EXITED, 137, false, Some(End::Signaled(9)));
        check(Status::EXITED, 137, true, Some(End::OutOfMemory));
        check(Status::EXITED, 139, false, Some(End::Signaled(11)));
        // Its agent was killed before; it then ended in order.
        check(Status::EXITED, 0, true, Some(End::Exited(0)));
        check(Status::CREATED, 0, false, Some(End::Gone));
        assert_eq!(end(None), Some(End::Gone));
    }
}
