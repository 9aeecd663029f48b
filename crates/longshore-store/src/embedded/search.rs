//! Finds tasks, newest first, and stops after a bounded number that it looked at.
//!
//! One index leads (`longshore_core::search::lead`); all conditions are checked on each task that it meets.

use longshore_core::id::TaskId;
use longshore_core::search::{self, BUDGET, Lead};
use longshore_core::task::State;
use longshore_core::time::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

use super::column::{batch_id, get, id};
use super::{Embedded, list};
use crate::error::StoreError;
use crate::model::{MatchPage, SearchPage, TaskFilter};

impl Embedded {
    pub(crate) async fn search(&self, filter: TaskFilter, limit: usize) -> Result<SearchPage, StoreError> {
        self.read(move |connection| {
            let (tasks, next) = page(connection, &filter, limit, list::COLUMNS, list::read)?;
            Ok(SearchPage { tasks, next })
        })
        .await
    }

    pub(crate) async fn matching(&self, filter: TaskFilter, limit: usize) -> Result<MatchPage, StoreError> {
        self.read(move |connection| {
            let read = |row: &Row<'_>| Ok((get(row, 0)?, get(row, 1)?));
            let (tasks, next) = page(connection, &filter, limit, "id, state", read)?;
            Ok(MatchPage { tasks, next })
        })
        .await
    }
}

/// `columns` begin with the id.
fn page<T>(
    connection: &Connection,
    filter: &TaskFilter,
    limit: usize,
    columns: &str,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<(Vec<T>, Option<TaskId>)> {
    let query = Query::of(filter, columns);
    let mut select = connection.prepare_cached(&query.sql)?;
    let hit = select.column_count() - 1;
    let mut rows = select.query(params_from_iter(query.values))?;
    let (mut found, mut last_found, mut last, mut looked_at) = (Vec::new(), None, None, 0);
    while let Some(row) = rows.next()? {
        looked_at += 1;
        if row.get::<_, Option<bool>>(hit)?.unwrap_or(false) {
            if found.len() == limit {
                return Ok((found, last_found));
            }
            found.push(read(row)?);
            last_found = Some(get(row, 0)?);
        }
        last = Some(get(row, 0)?);
    }
    Ok((found, last.filter(|_| looked_at == BUDGET)))
}

/// A search as SQL: words of ours are written into it, words from outside are bound.
struct Query {
    sql: String,
    values: Vec<Value>,
}

#[derive(Default)]
struct Conditions {
    parts: Vec<String>,
    values: Vec<Value>,
}

impl Conditions {
    fn add(&mut self, part: impl Into<String>, value: impl Into<Value>) {
        self.parts.push(part.into());
        self.values.push(value.into());
    }

    fn text(&self) -> String {
        if self.parts.is_empty() { "1".to_owned() } else { self.parts.join(" AND ") }
    }
}

impl Query {
    fn of(filter: &TaskFilter, columns: &str) -> Query {
        let checked = conditions(filter);
        let (index, walked) = walk(filter);
        let sql = format!(
            "SELECT {columns}, ({}) FROM task {index} WHERE {} ORDER BY id DESC LIMIT {BUDGET}",
            checked.text(),
            walked.text()
        );
        Query { sql, values: checked.values.into_iter().chain(walked.values).collect() }
    }
}

/// The index that leads, and what it is walked by.
fn walk(filter: &TaskFilter) -> (&'static str, Conditions) {
    let mut walked = Conditions::default();
    let mut only = |part: &str| walked.parts.push(part.to_owned());
    let index = match search::lead(&filter.wanted()) {
        Lead::Batch => {
            walked.add("batch = ?", filter.batch.as_ref().map_or(Value::Null, |batch| blob(batch_id(batch))));
            "INDEXED BY task_by_batch"
        }
        Lead::Parent => {
            walked.add("parent = ?", filter.parent.as_ref().map_or(Value::Null, |parent| blob(id(parent))));
            "INDEXED BY task_by_parent"
        }
        Lead::Conversation => {
            let conversation = filter.conversation.as_ref().map(ToString::to_string);
            walked.add("conversation = ?", conversation);
            "INDEXED BY task_by_conversation"
        }
        Lead::Running => {
            // Running tasks are few, and the table of leases knows them.
            only("ord IN (SELECT ord FROM lease)");
            ""
        }
        Lead::Unfinished => {
            only("finished_at IS NULL");
            "INDEXED BY task_unfinished"
        }
        Lead::Failed => {
            only("state = 'failed'");
            "INDEXED BY task_failed"
        }
        Lead::Cancelled => {
            only("state = 'cancelled'");
            "INDEXED BY task_cancelled"
        }
        Lead::Tenant => {
            only("tenant != 'default'");
            walked.add("tenant = ?", filter.tenant.as_ref().map(ToString::to_string));
            "INDEXED BY task_by_tenant"
        }
        Lead::Id => "",
    };
    let (low, high) = search::id_bounds(filter.created_from, filter.created_before, filter.finished_before);
    for (part, bound) in [("id >= ?", low), ("id <= ?", high)] {
        if let Some(bound) = bound {
            walked.add(part, blob(&bound));
        }
    }
    if let Some(before) = &filter.before {
        walked.add("id < ?", blob(id(before)));
    }
    (index, walked)
}

fn conditions(filter: &TaskFilter) -> Conditions {
    let mut all = Conditions::default();
    if let Some(fleet) = &filter.fleet {
        all.add("fleet = ?", fleet.to_string());
    }
    if !filter.states.is_empty() {
        let states: Vec<_> =
            filter.states.iter().map(|state: &State| format!("'{}'", state.as_str())).collect();
        all.parts.push(format!("state IN ({})", states.join(", ")));
    }
    if let Some(tenant) = &filter.tenant {
        all.add("tenant = ?", tenant.to_string());
    }
    if let Some(conversation) = &filter.conversation {
        all.add("conversation = ?", conversation.to_string());
    }
    for (name, value) in &filter.labels {
        all.parts.push(
            "EXISTS (SELECT 1 FROM json_each(labels) AS label WHERE label.key = ? AND label.value = ?)"
                .into(),
        );
        all.values.extend([Value::Text(name.clone()), Value::Text(value.clone())]);
    }
    if let Some(batch) = &filter.batch {
        all.add("batch = ?", blob(batch_id(batch)));
    }
    if let Some(parent) = &filter.parent {
        all.add("parent = ?", blob(id(parent)));
    }
    if let Some(code) = &filter.code {
        all.add("json_extract(failure, '$.code') = ?", code.clone());
    }
    let times: [(&str, Option<Timestamp>); 4] = [
        ("created_at >= ?", filter.created_from),
        ("created_at < ?", filter.created_before),
        ("finished_at >= ?", filter.finished_from),
        ("finished_at < ?", filter.finished_before),
    ];
    for (part, at) in times {
        if let Some(at) = at {
            all.add(part, at.0);
        }
    }
    all
}

fn blob(bytes: &[u8]) -> Value {
    Value::Blob(bytes.to_owned())
}
