//! How a search among tasks goes about it: which index leads, where by id it may begin and end, and how far one page looks.

use std::time::Duration;

use crate::task::State;
use crate::time::Timestamp;

/// The most tasks that one page looks at, so that no search holds up the others, whatever it asks for.
///
/// A page that has looked at so many ends, with the place where the next one goes on, even if it found nothing.
pub const BUDGET: usize = 20_000;

/// The most that a change by filter looks at before it refuses to tell how many it would change.
pub const COUNT_BUDGET: usize = 100 * BUDGET;

/// Between the moment that an id names and the one that is stored as its task's creation: another clock, a slow request.
const SLACK: Duration = Duration::from_secs(3600);

/// What is asked for, as far as it decides how to search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted<'a> {
    pub batch: bool,
    pub parent: bool,
    pub conversation: bool,
    pub states: &'a [State],
    /// A tenant other than the default one.
    pub tenant: bool,
    /// Anything else: fleet, labels, failure code, times.
    pub more: bool,
}

/// The index that a search walks, newest id first; all other conditions are checked on each task that it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lead {
    Batch,
    Parent,
    Conversation,
    /// Only tasks that hold a lease.
    Running,
    /// Only tasks that have not ended.
    Unfinished,
    Failed,
    Cancelled,
    Tenant,
    /// All tasks.
    Id,
}

/// Chooses the index that most likely leaves the fewest tasks to look at.
pub fn lead(wanted: &Wanted<'_>) -> Lead {
    match wanted {
        Wanted { parent: true, .. } => Lead::Parent,
        Wanted { batch: true, .. } => Lead::Batch,
        Wanted { conversation: true, .. } => Lead::Conversation,
        Wanted { states: [State::Running], .. } => Lead::Running,
        Wanted { states: [State::Cancelled], .. } => Lead::Cancelled,
        Wanted { states: [State::Failed], .. } => Lead::Failed,
        Wanted { states: [_, ..], .. } if !wanted.states.iter().any(|state| state.is_terminal()) => {
            Lead::Unfinished
        }
        Wanted { tenant: true, .. } => Lead::Tenant,
        _ => Lead::Id,
    }
}

/// Whether a search may look at many tasks for each that it finds.
pub fn is_wide(wanted: &Wanted<'_>) -> bool {
    let narrow = matches!(lead(wanted), Lead::Parent | Lead::Batch | Lead::Conversation | Lead::Running);
    let conditions = wanted.more || wanted.tenant || !wanted.states.is_empty();
    !narrow && conditions
}

/// The smallest and the largest id that a task with these times can have: ids are UUIDs of version 7.
///
/// Nothing is finished before it was created, so an end of the search by finishing is one by creation as well.
pub fn id_bounds(
    created_from: Option<Timestamp>,
    created_before: Option<Timestamp>,
    finished_before: Option<Timestamp>,
) -> (Option<[u8; 16]>, Option<[u8; 16]>) {
    let end = [created_before, finished_before].into_iter().flatten().min();
    let low = created_from.map(|at| edge(at.before(SLACK), 0));
    (low, end.map(|at| edge(at.after(SLACK), 0xff)))
}

fn edge(at: Timestamp, rest: u8) -> [u8; 16] {
    let mut id = [rest; 16];
    let ms = u64::try_from(at.0).unwrap_or(0).min((1 << 48) - 1);
    id[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wanted: Wanted<'_>, expected: Lead, wide: bool) {
        assert_eq!((lead(&wanted), is_wide(&wanted)), (expected, wide), "{wanted:?}");
    }

    #[test]
    fn the_narrowest_index_leads() {
        let any = Wanted::default;
        check(any(), Lead::Id, false);
        check(Wanted { more: true, ..any() }, Lead::Id, true);
        check(Wanted { batch: true, more: true, ..any() }, Lead::Batch, false);
        check(Wanted { batch: true, parent: true, ..any() }, Lead::Parent, false);
        check(Wanted { conversation: true, states: &[State::Failed], ..any() }, Lead::Conversation, false);
        check(Wanted { states: &[State::Failed], ..any() }, Lead::Failed, true);
        check(Wanted { states: &[State::Running], more: true, ..any() }, Lead::Running, false);
        check(Wanted { states: &[State::Queued, State::Waiting], ..any() }, Lead::Unfinished, true);
        check(Wanted { states: &[State::Queued, State::Failed], ..any() }, Lead::Id, true);
        check(Wanted { tenant: true, states: &[State::Succeeded], ..any() }, Lead::Tenant, true);
    }

    #[test]
    fn a_tasks_id_lies_within_the_bounds_of_its_times() {
        let created = Timestamp(1_795_000_000_000);
        let id = |ms: i64| {
            let (seconds, rest) = (ms / 1000, ms % 1000 * 1_000_000);
            let at = uuid::Timestamp::from_unix(uuid::NoContext, seconds as u64, rest as u32);
            *uuid::Uuid::new_v7(at).as_bytes()
        };
        let (low, high) = id_bounds(Some(created), Some(created), None);
        let (low, high) = (low.expect("a start"), high.expect("an end"));
        assert!(low <= id(created.0) && id(created.0) <= high);
        assert!(id(created.0 - 2 * 3_600_000) < low && id(created.0 + 2 * 3_600_000) > high);
        assert_eq!(id_bounds(None, None, None), (None, None));
        let (_, by_end) = id_bounds(None, Some(Timestamp::MAX), Some(created));
        assert_eq!(by_end, Some(high));
    }
}
