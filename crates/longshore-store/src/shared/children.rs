//! New children of a task that runs: all of them or none, and none twice.
//!
//! What is there already is read before the transaction; in it conversations are locked first, as everywhere, and then the
//! parent. Should somebody have been faster by then, it begins anew.

use std::collections::{BTreeSet, HashMap};

use longshore_core::child::{self, DEEPEST, Lineage};
use longshore_core::id::{FleetName, Held, TaskId};
use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::changes::{self, Changes};
use super::column::{get, get_option, int};
use super::connection::Connection;
use super::core::Core;
use super::fault::DbError;
use super::live::{Live, live_columns};
use super::sql::args;
use super::submit::{self, Begun, Refused, Submission};
use super::{Shared, arrival, family};
use crate::error::{CallError, ChildError};
use crate::model::{ChildRecord, NewChild};

const LEASE: &str = "SELECT fleet FROM @live WHERE id = $1 AND fence = $2";

/// The parent's row alone: its conversation is not touched, and its own parent learns nothing.
const LOCK_PARENT: &str =
    concat!("SELECT ", live_columns!(), " FROM @live AS live WHERE id = $1 AND fence = $2 FOR UPDATE");

const KNOWN: &str = "SELECT name FROM @child WHERE task = $1";
const NEWEST: &str = "SELECT count(*), coalesce(max(seq), 0) FROM @child WHERE task = $1";

/// A task and those above it, as far as there are any that a child may have.
const LINEAGE: &str = "WITH RECURSIVE up (conversation, parent, depth) AS (
        SELECT conversation, parent, 0::bigint FROM @task WHERE id = $1
        UNION ALL SELECT above.conversation, above.parent, up.depth + 1 FROM up CROSS JOIN LATERAL
            (SELECT conversation, parent FROM @task WHERE id = up.parent LIMIT 1) AS above WHERE up.depth < $2)
     SELECT conversation, depth FROM up ORDER BY depth";

const INSERT: &str = "INSERT INTO @child (task, name, seq, child, detach)
     SELECT $1, n.name, $2 + n.at, n.child, n.detach
     FROM unnest($3::text[], $4::uuid[], $5::boolean[]) WITH ORDINALITY AS n (name, child, detach, at)";

type Answer = Result<Vec<(ChildRecord, bool)>, ChildError>;

/// What an agent wants to be submitted.
struct Asked {
    held: Held,
    fleet: FleetName,
    children: Vec<NewChild>,
    now: Timestamp,
}

impl Shared {
    pub(crate) async fn submit_children(
        &self,
        held: Held,
        fleet: FleetName,
        children: Vec<NewChild>,
        now: Timestamp,
    ) -> Answer {
        let (core, asked) = (self.core(), Asked { held, fleet, children, now });
        let done = core.run(async |it| {
            let done = submit(core, &it, &asked).await?;
            if done.is_err() {
                it.roll_back().await;
            }
            Ok(done)
        });
        done.await?
    }
}

async fn submit(core: &Core, connection: &Connection, asked: &Asked) -> Result<Answer, DbError> {
    let (task, fence) = (asked.held.task.0, int(asked.held.fence.0));
    connection.ready(&[LEASE, KNOWN, LINEAGE]).await?;
    let (lease, known, above) = futures_util::try_join!(
        async { connection.query_opt(LEASE, args![task, fence]).await },
        async { connection.query(KNOWN, args![task]).await },
        async { connection.query(LINEAGE, args![task, DEEPEST as i64]).await },
    )?;
    match lease.map(|row| get::<FleetName>(&row, 0)).transpose()? {
        None => return Ok(Err(CallError::StaleFence.into())),
        Some(fleet) if fleet != asked.fleet => return Ok(Err(CallError::OtherFleet.into())),
        Some(_) => {}
    }
    let mut names = known.iter().map(|row| row.try_get(0)).collect::<Result<BTreeSet<&str>, _>>()?;
    let there = names.len();
    let new: Vec<&NewChild> = asked.children.iter().filter(|child| names.insert(&child.name)).collect();
    let mut lineage = Lineage { children: there, depth: above.len().saturating_sub(1), ..Lineage::default() };
    for row in &above {
        lineage.conversations.extend(get_option(row, 0)?);
    }
    let conversations: Vec<_> = new.iter().map(|child| child.task.conversation.clone()).collect();
    if let Err(refused) = child::check(&lineage, &conversations) {
        return Ok(Err(refused.into()));
    }
    if !new.is_empty()
        && let Err(refused) = enter(core, connection, asked, &new, there).await?
    {
        return Ok(Err(refused));
    }
    records(connection, asked, &new).await.map(Ok)
}

/// Submits them, and gives them their names.
async fn enter(
    core: &Core,
    connection: &Connection,
    asked: &Asked,
    new: &[&NewChild],
    there: usize,
) -> Result<Result<(), ChildError>, DbError> {
    let submission = Submission {
        tasks: new.iter().map(|child| child.task.clone()).collect(),
        parent: Some(asked.held.task),
        batch: None,
        idempotency: None,
        now: asked.now,
    };
    connection.ready(&[LOCK_PARENT, NEWEST, INSERT]).await?;
    let Begun { answers, batches, .. } = submit::begin(connection, std::slice::from_ref(&submission)).await?;
    if let Some(Err(refused)) = answers.into_iter().next() {
        return Ok(Err(told(refused)));
    }
    let mut changes = Changes::new(asked.now);
    if let Err(refused) = arrival::arrive_all(connection, &mut changes, &[&submission]).await? {
        return Ok(Err(told(refused)));
    }
    let (task, fence) = (asked.held.task.0, int(asked.held.fence.0));
    let (parent, newest) = futures_util::try_join!(
        async { connection.query_opt(LOCK_PARENT, args![task, fence]).await },
        async { connection.query_one(NEWEST, args![task]).await },
    )?;
    let Some(parent) = parent else { return Ok(Err(CallError::StaleFence.into())) };
    let (count, seq): (i64, i64) = (newest.try_get(0)?, newest.try_get(1)?);
    if count != there as i64 {
        return Err(DbError::Raced);
    }
    tell(&mut changes, Live::read(&parent)?, new);
    connection.ready(changes::STATEMENTS).await?;
    insert(connection, task, seq, new).await?;
    submit::finish(core, connection, changes, &batches).await?;
    Ok(Ok(()))
}

fn told(refused: Refused) -> ChildError {
    match refused {
        Refused::UnknownFleet(fleet) => ChildError::UnknownFleet(fleet),
        Refused::ConversationBusy(conversation) => ChildError::ConversationBusy(conversation),
        Refused::KeyReused | Refused::BatchOfSeveral { .. } | Refused::BatchClosed(_) => {
            unreachable!("children have names, and neither keys nor batches")
        }
    }
}

async fn insert(connection: &Connection, parent: Uuid, seq: i64, new: &[&NewChild]) -> Result<(), DbError> {
    let args = args![
        parent,
        seq,
        new.iter().map(|child| child.name.as_str()).collect::<Vec<_>>(),
        new.iter().map(|child| child.task.id.0).collect::<Vec<_>>(),
        new.iter().map(|child| child.detach).collect::<Vec<_>>(),
    ];
    connection.execute(INSERT, args).await.map(drop)
}

fn tell(changes: &mut Changes, mut row: Live, new: &[&NewChild]) {
    let named: Vec<_> = new.iter().map(|it| json!({ "name": it.name, "task": it.task.id })).collect();
    row.event(changes, "children_submitted", &Json::of(&json!({ "children": named })));
    changes.save(row, None);
}

/// All children that were asked for, in that order, and which of them are new.
async fn records(
    connection: &Connection,
    asked: &Asked,
    new: &[&NewChild],
) -> Result<Vec<(ChildRecord, bool)>, DbError> {
    let names: Vec<&str> = asked.children.iter().map(|child| child.name.as_str()).collect();
    let found = family::records(connection, asked.held.task, Some(&names), true).await?;
    let found: HashMap<&str, &ChildRecord> = found.iter().map(|child| (child.name.as_str(), child)).collect();
    let record = |child: &NewChild| {
        let record: ChildRecord = (*found.get(child.name.as_str())?).clone();
        let created = record.id == child.task.id && is_among(new, record.id);
        Some((record, created))
    };
    asked.children.iter().map(|child| record(child).ok_or(DbError::Missing)).collect()
}

fn is_among(new: &[&NewChild], task: TaskId) -> bool {
    new.iter().any(|child| child.task.id == task)
}
