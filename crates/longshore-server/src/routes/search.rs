//! What a filter's words mean. The one place where they are read, for lists and for changes of many tasks.

use std::collections::BTreeMap;

use longshore_api::search::Filter;
use longshore_core::batch::BatchId;
use longshore_core::id::{ConversationId, FleetName, IdError, TaskId, TenantName};
use longshore_core::task::State as TaskState;
use longshore_core::time::Timestamp;
use longshore_store::TaskFilter;

use crate::app::App;
use crate::error::{Answer, Refused};

/// Reads a filter; a fleet that is not known is refused, since nothing could be found.
pub async fn filter(app: &App, given: &Filter) -> Answer<TaskFilter> {
    let filter = read(given)?;
    if let Some(fleet) = &filter.fleet
        && app.store.fleet(fleet.clone()).await?.is_none()
    {
        return Err(Refused::no_fleet(fleet));
    }
    Ok(filter)
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
