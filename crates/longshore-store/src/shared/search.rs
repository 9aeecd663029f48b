//! Finds tasks, newest first, and stops after a bounded number that it looked at.
//!
//! One condition leads (`longshore_core::search::lead`) and has an index; all others are checked on each task that it meets.

use longshore_core::id::TaskId;
use longshore_core::search::{self, BUDGET, Lead};
use longshore_core::time::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::Shared;
use super::column::{get, int};
use super::fault::DbError;
use super::list::{self, record_columns, record_tables};
use super::sql::Arg;
use crate::error::StoreError;
use crate::model::{MatchPage, SearchPage, TaskFilter};

const STATE: &str = "coalesce(live.state, done.state)";

impl Shared {
    pub(crate) async fn search(&self, filter: TaskFilter, limit: usize) -> Result<SearchPage, StoreError> {
        let (rows, next) = self.page(&filter, limit, record_columns!()).await?;
        Ok(SearchPage { tasks: rows.iter().map(list::read).collect::<Result<_, _>>()?, next })
    }

    pub(crate) async fn matching(&self, filter: TaskFilter, limit: usize) -> Result<MatchPage, StoreError> {
        let (rows, next) = self.page(&filter, limit, &format!("task.id, {STATE}")).await?;
        let read = |row: &Row| Ok::<_, DbError>((get(row, 0)?, get(row, 1)?));
        Ok(MatchPage { tasks: rows.iter().map(read).collect::<Result<_, _>>()?, next })
    }

    /// `columns` begin with the id.
    async fn page(
        &self,
        filter: &TaskFilter,
        limit: usize,
        columns: &str,
    ) -> Result<(Vec<Row>, Option<TaskId>), StoreError> {
        let names = &self.core().names;
        let (sql, values) = hits(filter, limit, columns);
        let mut rows = self.once(&names.expand(&sql), &values).await?;
        if rows.len() > limit {
            rows.truncate(limit);
            let last = rows.last().map(|row| get(row, 0)).transpose()?;
            return Ok((rows, last));
        }
        let (sql, values) = end(filter);
        let end = self.once(&names.expand(&sql), &values).await?;
        Ok((rows, end.first().map(|row| get(row, 0)).transpose()?))
    }

    async fn once(&self, sql: &str, values: &Values) -> Result<Vec<Row>, DbError> {
        let args: Vec<&dyn Arg> = values.iter().map(|value| value.as_ref() as &dyn Arg).collect();
        self.core().run(async |it| it.query_once(sql, &args).await).await
    }
}

type Values = Vec<Box<dyn Arg + Send>>;

/// Words of ours are written into a statement, words from outside are arguments.
#[derive(Default)]
struct Conditions {
    parts: Vec<String>,
    values: Values,
}

impl Conditions {
    /// `part` has a `?` for the value.
    fn add(&mut self, part: &str, value: impl Arg + Send + 'static) {
        let place = self.place(value);
        self.parts.push(part.replace('?', &place));
    }

    fn place(&mut self, value: impl Arg + Send + 'static) -> String {
        self.values.push(Box::new(value));
        format!("${}", self.values.len())
    }

    /// Takes the parts that were added.
    fn take(&mut self) -> String {
        let parts = std::mem::take(&mut self.parts);
        if parts.is_empty() { "true".to_owned() } else { parts.join(" AND ") }
    }
}

/// The tasks that fulfil all conditions, among the first that the leading condition meets.
fn hits(filter: &TaskFilter, limit: usize, columns: &str) -> (String, Values) {
    let mut all = Conditions::default();
    walk(filter, &mut all);
    let walked = all.take();
    check(filter, &mut all);
    let checked = all.take();
    let most = all.place(int(limit as u64).saturating_add(1));
    let sql = format!(
        "SELECT * FROM (SELECT {columns}, ({checked}) AS hit{}WHERE {walked} ORDER BY task.id DESC LIMIT {BUDGET}) AS seen
         WHERE hit LIMIT {most}",
        record_tables!()
    );
    (sql, all.values)
}

/// The last task that a page looks at, if there may be more behind it.
fn end(filter: &TaskFilter) -> (String, Values) {
    let mut all = Conditions::default();
    walk(filter, &mut all);
    let walked = all.take();
    let sql = format!(
        "SELECT task.id{}WHERE {walked} ORDER BY task.id DESC OFFSET {} LIMIT 1",
        record_tables!(),
        BUDGET - 1
    );
    (sql, all.values)
}

fn walk(filter: &TaskFilter, all: &mut Conditions) {
    match search::lead(&filter.wanted()) {
        Lead::Batch => all.add("task.batch = ?", filter.batch.as_ref().map(|batch| batch.0)),
        Lead::Parent => all.add("task.parent = ?", filter.parent.map(|parent| parent.0)),
        Lead::Conversation => {
            all.add("task.conversation = ?", filter.conversation.as_ref().map(ToString::to_string));
        }
        Lead::Running => all.parts.push("live.state = 'running'".into()),
        Lead::Unfinished => all.parts.push("live.state IS NOT NULL".into()),
        Lead::Failed => all.parts.push("done.state = 'failed'".into()),
        Lead::Cancelled => all.parts.push("done.state = 'cancelled'".into()),
        Lead::Tenant => {
            all.parts.push("task.tenant <> 'default'".into());
            all.add("task.tenant = ?", filter.tenant.as_ref().map(ToString::to_string));
        }
        Lead::Id => {}
    }
    let (low, high) = search::id_bounds(filter.created_from, filter.created_before, filter.finished_before);
    for (part, bound) in [("task.id >= ?", low), ("task.id <= ?", high)] {
        if let Some(bound) = bound {
            all.add(part, Uuid::from_bytes(bound));
        }
    }
    if let Some(before) = &filter.before {
        all.add("task.id < ?", before.0);
    }
}

fn check(filter: &TaskFilter, all: &mut Conditions) {
    if let Some(fleet) = &filter.fleet {
        all.add("task.fleet = ?", fleet.to_string());
    }
    if !filter.states.is_empty() {
        let states: Vec<_> = filter.states.iter().map(|state| format!("'{}'", state.as_str())).collect();
        all.parts.push(format!("{STATE} IN ({})", states.join(", ")));
    }
    if let Some(tenant) = &filter.tenant {
        all.add("task.tenant = ?", tenant.to_string());
    }
    if let Some(conversation) = &filter.conversation {
        all.add("task.conversation = ?", conversation.to_string());
    }
    for (name, value) in &filter.labels {
        let name = all.place(name.clone());
        all.add(&format!("task.labels::json ->> {name} = ?"), value.clone());
    }
    if let Some(batch) = &filter.batch {
        all.add("task.batch = ?", batch.0);
    }
    if let Some(parent) = &filter.parent {
        all.add("task.parent = ?", parent.0);
    }
    if let Some(code) = &filter.code {
        all.add("coalesce(live.failure, done.failure)::json ->> 'code' = ?", code.clone());
    }
    let times: [(&str, Option<Timestamp>); 4] = [
        ("task.created_at >= ?", filter.created_from),
        ("task.created_at < ?", filter.created_before),
        ("done.finished_at >= ?", filter.finished_from),
        ("done.finished_at < ?", filter.finished_before),
    ];
    for (part, at) in times {
        if let Some(at) = at {
            all.add(part, at.0);
        }
    }
}
