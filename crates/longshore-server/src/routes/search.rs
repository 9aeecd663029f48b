//! What a filter's words mean. The one place where they are read, for lists and for changes of many tasks.

use std::collections::BTreeMap;

use longshore_api::search::Filter;
use longshore_core::batch::BatchId;
use longshore_core::id::{ConversationId, FleetName, IdError, TaskId, TenantName};
use longshore_core::task::State as TaskState;
use longshore_core::time::Timestamp;
use longshore_store::{MatchPage, SearchPage, TaskFilter};

use crate::app::App;
use crate::caller::Caller;
use crate::error::{Answer, Refused};

/// Reads a filter; a fleet that is not known is refused, since nothing could be found.
///
/// Errors: 403 for a fleet or a tenant that is named and not this caller's. One that names none finds more than the caller
/// may see until it is narrowed.
pub async fn filter(app: &App, caller: &Caller, given: &Filter) -> Answer<TaskFilter> {
    let filter = read(given)?;
    caller.names(filter.fleet.as_ref(), filter.tenant.as_ref())?;
    if let Some(fleet) = &filter.fleet
        && app.store.fleet(fleet.clone()).await?.is_none()
    {
        return Err(Refused::no_fleet(fleet));
    }
    Ok(filter)
}

/// The newest tasks that a filter finds among those of the caller's fleets.
pub async fn tasks(app: &App, caller: &Caller, filter: TaskFilter, limit: usize) -> Answer<SearchPage> {
    let mut pages = Vec::new();
    for filter in of_fleets(caller, filter) {
        let page = app.store.search(filter, limit).await?;
        pages.push((page.tasks, page.next));
    }
    let (tasks, next) = merged(pages, |task| task.id, limit);
    Ok(SearchPage { tasks, next })
}

/// The same, without all that belongs to a task.
pub async fn matching(app: &App, caller: &Caller, filter: &TaskFilter, limit: usize) -> Answer<MatchPage> {
    let mut pages = Vec::new();
    for filter in of_fleets(caller, filter.clone()) {
        let page = app.store.matching(filter, limit).await?;
        pages.push((page.tasks, page.next));
    }
    let (tasks, next) = merged(pages, |task| task.0, limit);
    Ok(MatchPage { tasks, next })
}

/// One filter for each fleet of a caller that has some only.
fn of_fleets(caller: &Caller, filter: TaskFilter) -> Vec<TaskFilter> {
    let fleets = &caller.known.scope.fleets;
    if fleets.is_empty() || filter.fleet.is_some() {
        return vec![filter];
    }
    fleets.iter().map(|fleet| TaskFilter { fleet: Some(fleet.clone()), ..filter.clone() }).collect()
}

/// One page of several, from new to old. Each has all down to its `next`; together they have all down to the newest of those.
fn merged<T>(
    mut pages: Vec<(Vec<T>, Option<TaskId>)>,
    id: impl Fn(&T) -> TaskId,
    limit: usize,
) -> (Vec<T>, Option<TaskId>) {
    if pages.len() == 1 {
        return pages.remove(0);
    }
    let next = pages.iter().filter_map(|(_, next)| *next).max();
    let mut all: Vec<T> = pages.into_iter().flat_map(|(found, _)| found).collect();
    all.retain(|found| next.is_none_or(|next| id(found) >= next));
    all.sort_unstable_by_key(|found| std::cmp::Reverse(id(found)));
    if all.len() <= limit {
        return (all, next);
    }
    all.truncate(limit);
    let last = all.last().map(&id);
    (all, last)
}

fn read(given: &Filter) -> Answer<TaskFilter> {
    Ok(TaskFilter {
        fleet: id("fleet", &given.fleet, FleetName::new)?,
        states: states(given.state.as_deref().unwrap_or(""))?,
        tenant: id("tenant", &given.tenant, TenantName::new)?,
        conversation: id("conversation", &given.conversation, ConversationId::new)?,
        labels: labels(given.label.as_deref().unwrap_or(""))?,
        batch: id("batch", &given.batch, |text| text.parse::<BatchId>())?,
        parent: id("parent", &given.parent, |text| text.parse::<TaskId>())?,
        code: given.code.clone(),
        created_from: time("created_after", &given.created_after)?,
        created_before: time("created_before", &given.created_before)?,
        finished_from: time("finished_after", &given.finished_after)?,
        finished_before: time("finished_before", &given.finished_before)?,
        before: None,
    })
}

fn id<'a, T>(
    name: &str,
    given: &'a Option<String>,
    read: impl Fn(&'a str) -> Result<T, IdError>,
) -> Answer<Option<T>> {
    given.as_deref().map(read).transpose().map_err(|error| Refused::invalid(name, error.to_string()))
}

fn time(name: &str, given: &Option<String>) -> Answer<Option<Timestamp>> {
    let read = |text: &String| {
        text.parse().map_err(|_| {
            let expected = "expected RFC 3339 with zone such as 2026-11-23T21:00:00Z";
            Refused::invalid(name, format!("`{text}` is not a time: {expected}"))
        })
    };
    given.as_ref().map(read).transpose()
}

fn states(text: &str) -> Answer<Vec<TaskState>> {
    let named = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    named
        .map(|name| {
            TaskState::parse(name).ok_or_else(|| {
                let known = TaskState::ALL.map(TaskState::as_str).join(", ");
                Refused::invalid("state", format!("`{name}` is not a state: expected {known}"))
            })
        })
        .collect()
}

pub fn labels(text: &str) -> Answer<BTreeMap<String, String>> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(Refused::invalid("label", format!("`{pair}` is not of the form name=value"))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn check(pages: &[(&[u128], Option<u128>)], limit: usize, expected: (&[u128], Option<u128>)) {
        let id = |n: &u128| TaskId(Uuid::from_u128(*n));
        let given = pages.iter().map(|(found, next)| (found.to_vec(), next.as_ref().map(id))).collect();
        let (found, next) = merged(given, id, limit);
        assert_eq!((found.as_slice(), next), (expected.0, expected.1.as_ref().map(id)), "{pages:?}");
    }

    #[test]
    fn pages_of_several_fleets_are_one_that_leaves_nothing_out() {
        check(&[], 3, (&[], None));
        check(&[(&[9, 4], Some(4))], 2, (&[9, 4], Some(4)));
        check(&[(&[9, 4], None), (&[7], None)], 3, (&[9, 7, 4], None));
        check(&[(&[9, 4], None), (&[7], None)], 2, (&[9, 7], Some(7)));
        // What the second page has not looked at yet may hold an 8.
        check(&[(&[9, 4], None), (&[], Some(6))], 3, (&[9], Some(6)));
        check(&[(&[9, 8], Some(8)), (&[7, 3], Some(3))], 2, (&[9, 8], Some(8)));
    }
}
