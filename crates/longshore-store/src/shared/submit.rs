//! New tasks: all of a submission or none; many submissions in one transaction.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::future::BoxFuture;
use longshore_core::batch::BatchId;
use longshore_core::id::{ConversationId, FleetName, TaskId, TenantName};
use longshore_core::json::Json;
use longshore_core::task::{Hold, State};
use longshore_core::time::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::batch_opening::{self, Openings};
use super::changes::{self, Changes};
use super::column::int;
use super::connection::Connection;
use super::core::Core;
use super::counts::Place;
use super::fault::DbError;
use super::sql::args;
use super::{Shared, arrival};
use crate::embedded::{MOST_KEYS, hold_text, on_interrupt_text};
use crate::error::{StoreError, SubmitError};
use crate::model::{Idempotency, NewBatch, NewTask, Submitted};

/// A submission as it waits for its turn.
pub(super) struct Submission {
    pub tasks: Vec<NewTask>,
    /// The task whose children they are.
    pub parent: Option<TaskId>,
    pub batch: Option<NewBatch>,
    pub idempotency: Option<Idempotency>,
    pub now: Timestamp,
}

pub(super) fn weigh(submission: &Submission) -> usize {
    submission.tasks.len().max(1)
}

pub(super) type Answer = Result<Submitted, Refused>;

/// Why a submission is not taken; nothing of it is written.
#[derive(Clone, Debug)]
pub(super) enum Refused {
    UnknownFleet(FleetName),
    KeyReused,
    BatchClosed(BatchId),
    BatchOfSeveral { batch: BatchId, tenant: TenantName },
    ConversationBusy(ConversationId),
}

impl From<Refused> for SubmitError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::UnknownFleet(fleet) => SubmitError::UnknownFleet(fleet),
            Refused::KeyReused => SubmitError::KeyReused,
            Refused::BatchClosed(batch) => SubmitError::BatchClosed(batch),
            Refused::ConversationBusy(conversation) => SubmitError::ConversationBusy(conversation),
            Refused::BatchOfSeveral { batch, tenant } => SubmitError::BatchOfSeveral { batch, tenant },
        }
    }
}

impl Shared {
    pub(crate) async fn submit(
        &self,
        tasks: Vec<NewTask>,
        idempotency: Option<Idempotency>,
        now: Timestamp,
    ) -> Result<Submitted, SubmitError> {
        self.ask_to_submit(Submission { tasks, parent: None, batch: None, idempotency, now }).await
    }

    pub(crate) async fn submit_batch(
        &self,
        batch: NewBatch,
        tasks: Vec<NewTask>,
        idempotency: Option<Idempotency>,
        now: Timestamp,
    ) -> Result<Submitted, SubmitError> {
        let batch = Some(NewBatch { name: batch.name.replace('\0', ""), ..batch });
        self.ask_to_submit(Submission { tasks, parent: None, batch, idempotency, now }).await
    }

    async fn ask_to_submit(&self, submission: Submission) -> Result<Submitted, SubmitError> {
        let submitted = match arrival::is_choosy(&submission.tasks) {
            true => Box::pin(self.submit_alone(&submission)).await?,
            false => self.open.submissions.ask(submission).await?,
        };
        submitted.map_err(SubmitError::from)
    }

    pub(crate) async fn forget_keys(&self, before: Timestamp) -> Result<usize, StoreError> {
        let gone = self.core().run(async |it| {
            // As with whatever is done again if a power cut undoes it.
            it.begin_unsynced().await?;
            let gone = it.execute(FORGET_OLD, args![before.0, MOST_KEYS]).await?;
            it.commit().await?;
            Ok(gone)
        });
        Ok(gone.await? as usize)
    }
}

/// The oldest, by where they lie: their keys may be long. One that is in use is left to the next time.
const FORGET_OLD: &str = "DELETE FROM @idempotency WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM @idempotency WHERE at < $1 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED))";

const ACTIVE_FLEETS: &str = "SELECT name FROM @fleet WHERE name = ANY($1) AND active";

/// Waits for whoever writes the same key at the same time.
const KEYS: &str = "INSERT INTO @idempotency AS i (scope, key, fingerprint, task_ids, at)
     SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[]) AS n (scope, key, fingerprint),
        LATERAL (SELECT ''::bytea, $4::bigint) AS rest
     ORDER BY scope, key
     ON CONFLICT (scope, key) DO UPDATE SET at = i.at
     RETURNING scope, key, fingerprint, task_ids";

const REMEMBER: &str = "UPDATE @idempotency AS i SET task_ids = n.task_ids
     FROM unnest($1::text[], $2::text[], $3::bytea[]) AS n (scope, key, task_ids)
     WHERE i.scope = n.scope AND i.key = n.key";
const FORGET: &str = "DELETE FROM @idempotency WHERE scope = $1 AND key = $2 AND task_ids = ''";

/// Takes the next places in conversations: in order of names, so that two transactions never wait crosswise.
const LINE_UP: &str = "INSERT INTO @conversation AS c (id, next_seq, messages, used_at)
     SELECT id, 1 + n, 0, $3::bigint FROM unnest($1::text[], $2::bigint[]) AS n (id, n) ORDER BY id
     ON CONFLICT (id) DO UPDATE SET next_seq = c.next_seq + excluded.next_seq - 1,
        used_at = greatest(c.used_at, excluded.used_at)
     RETURNING id, next_seq";

/// After their rows are locked: which of them have unfinished tasks.
const BUSY: &str = "SELECT DISTINCT conversation FROM @live WHERE conversation = ANY($1)";

const INSERT_TASKS: &str =
    "INSERT INTO @task (id, fleet, tenant, priority, run_at, deadline_at, timeout_ms, max_attempts, on_interrupt, backoff_base_ms,
        backoff_cap_ms, labels, conversation, conv_seq, publish_input, retry_of, created_at, input, batch,
        parent)
     SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::integer[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bigint[], $9::text[], $10::bigint[], $11::bigint[], $12::text[], $13::text[], $14::bigint[], $15::boolean[],
        $16::uuid[], $17::bigint[], $18::text[], $19::uuid[], $20::uuid[])";

const INSERT_LIVE: &str =
    "INSERT INTO @live (id, fleet, tenant, state, hold, rank, run_at, due_at, deadline_at, since, timeout_ms, max_attempts,
        on_interrupt, backoff_base_ms, backoff_cap_ms, conversation, conv_seq, publish_input, alone, failed_attempts,
        attempts, interrupted, strikes, cancel_requested, created_at, last_event, batch, parent)
     SELECT id, fleet, tenant, 'queued', hold, rank, run_at, due_at, deadline_at, CASE WHEN hold = 'ready' THEN created_at END,
        timeout_ms, max_attempts, on_interrupt, backoff_base_ms, backoff_cap_ms, conversation, conv_seq, publish_input,
        false, 0, 0, 0, 0, false, created_at, 2, batch, parent
     FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
        $9::bigint[], $10::bigint[], $11::text[], $12::bigint[], $13::bigint[], $14::text[], $15::bigint[], $16::boolean[],
        $17::bigint[], $18::uuid[], $19::uuid[])
        AS n (id, fleet, tenant, hold, rank, run_at, due_at, deadline_at, timeout_ms, max_attempts, on_interrupt, backoff_base_ms,
            backoff_cap_ms, conversation, conv_seq, publish_input, created_at, batch, parent)";

pub(super) fn together<'a>(
    core: &'a Core,
    batch: &'a [Submission],
) -> BoxFuture<'a, Result<Vec<Answer>, DbError>> {
    Box::pin(async move {
        let connection = core.connection().await?;
        let done = submit(core, &connection, batch).await;
        if done.is_err() {
            connection.roll_back().await;
        }
        done
    })
}

/// What is known of submissions once their transaction has begun.
pub(super) struct Begun<'a> {
    pub answers: Vec<Answer>,
    /// Those of which something is to be written.
    pub accepted: Vec<&'a Submission>,
    pub batches: Openings<'a>,
}

/// Begins the transaction, and tells what has to be refused and what was done before.
pub(super) async fn begin<'a>(
    connection: &Connection,
    batch: &'a [Submission],
) -> Result<Begun<'a>, DbError> {
    connection
        .ready(&[ACTIVE_FLEETS, KEYS, REMEMBER, FORGET, LINE_UP, BUSY, INSERT_TASKS, INSERT_LIVE])
        .await?;
    connection.ready(changes::STATEMENTS).await?;
    let fleets: HashSet<&str> =
        batch.iter().flat_map(|it| &it.tasks).map(|task| task.fleet.as_str()).collect();
    let fleets: Vec<&str> = fleets.into_iter().collect();
    let (begun, active, keys, known) = futures_util::join!(
        connection.begin(),
        async { connection.query(ACTIVE_FLEETS, args![fleets]).await },
        take_keys(connection, batch),
        batch_opening::known(connection, batch),
    );
    begun?;
    let mut batches = Openings::new(known?);
    let active = active?.iter().map(|row| row.try_get(0)).collect::<Result<HashSet<String>, _>>()?;
    let mut keys = keys?;
    let mut answers = Vec::with_capacity(batch.len());
    let mut accepted: Vec<&Submission> = Vec::with_capacity(batch.len());
    for submission in batch {
        let answer = judge(submission, &active, &mut keys, &mut batches);
        match &answer {
            Ok(submitted) if !submitted.replayed => accepted.push(submission),
            Err(Refused::KeyReused) | Ok(_) => {}
            Err(_) => give_back(connection, submission).await?,
        }
        answers.push(answer);
    }
    Ok(Begun { answers, accepted, batches })
}

async fn submit(core: &Core, connection: &Connection, batch: &[Submission]) -> Result<Vec<Answer>, DbError> {
    let Begun { answers, accepted, batches } = begin(connection, batch).await?;
    if accepted.iter().all(|it| it.tasks.is_empty() && it.idempotency.is_none() && it.batch.is_none()) {
        connection.commit().await?;
        return Ok(answers);
    }
    let mut changes = Changes::new(batch.first().map_or(Timestamp::default(), |it| it.now));
    let now = accepted.iter().map(|it| it.now).max().unwrap_or_default();
    let mut places = line_up(connection, accepted.iter().flat_map(|it| &it.tasks), now).await?;
    let tasks = accepted.iter().flat_map(|it| it.tasks.iter().map(move |task| (*it, task)));
    let rows: Vec<Row<'_>> =
        tasks.map(|(submission, task)| place(submission, task, &mut places, &mut changes)).collect();
    futures_util::try_join!(
        insert_tasks(connection, &rows),
        insert_live(connection, &rows),
        remember(connection, &accepted),
        finish(core, connection, changes, &batches),
    )?;
    Ok(answers)
}

/// Rows of batches are locked after all others, and what is found there may undo it all.
pub(super) async fn finish(
    core: &Core,
    connection: &Connection,
    mut changes: Changes,
    batches: &Openings<'_>,
) -> Result<(), DbError> {
    if batches.is_empty() {
        return core.commit(connection, changes).await;
    }
    changes.write_all_but_batches(connection, core.slot()).await?;
    batches.enter(connection, &mut changes).await?;
    core.commit_batches(connection, changes).await
}

/// What is known of the keys of a batch: an empty list of tasks is one that nobody used before.
type Keys = HashMap<(String, String), (Vec<u8>, Vec<Uuid>)>;

async fn take_keys(connection: &Connection, batch: &[Submission]) -> Result<Keys, DbError> {
    let mut wanted: BTreeMap<(&str, &str), &[u8]> = BTreeMap::new();
    for key in batch.iter().filter_map(|it| it.idempotency.as_ref()) {
        wanted.entry((&key.scope, &key.key)).or_insert(&key.fingerprint);
    }
    if wanted.is_empty() {
        return Ok(Keys::new());
    }
    let scopes: Vec<&str> = wanted.keys().map(|(scope, _)| *scope).collect();
    let names: Vec<&str> = wanted.keys().map(|(_, key)| *key).collect();
    let fingerprints: Vec<&[u8]> = wanted.values().copied().collect();
    let now = batch.first().map_or(0, |it| it.now.0);
    let rows = connection.query(KEYS, args![scopes, names, fingerprints, now]).await?;
    rows.iter()
        .map(|row| {
            let ids: &[u8] = row.try_get(3)?;
            let ids = ids.chunks_exact(16).filter_map(|id| Uuid::from_slice(id).ok()).collect();
            Ok(((row.try_get(0)?, row.try_get(1)?), (row.try_get(2)?, ids)))
        })
        .collect()
}

fn judge<'a>(
    submission: &'a Submission,
    active: &HashSet<String>,
    keys: &mut Keys,
    batches: &mut Openings<'a>,
) -> Answer {
    let ids: Vec<TaskId> = submission.tasks.iter().map(|task| task.id).collect();
    if let Some(key) = &submission.idempotency
        && let Some((fingerprint, known)) = keys.get(&(key.scope.clone(), key.key.clone()))
    {
        if *fingerprint != key.fingerprint {
            return Err(Refused::KeyReused);
        }
        if !known.is_empty() {
            let ids = known.iter().copied().map(TaskId).collect();
            return Ok(Submitted { ids, replayed: true });
        }
    }
    if let Some(task) = submission.tasks.iter().find(|task| !active.contains(task.fleet.as_str())) {
        return Err(Refused::UnknownFleet(task.fleet.clone()));
    }
    if let Some(batch) = &submission.batch {
        if let Some(tenant) = batches.other_tenant(batch.id, &submission.tasks) {
            return Err(Refused::BatchOfSeveral { batch: batch.id, tenant });
        }
        if !batches.open(batch, submission.tasks.first()) {
            return Err(Refused::BatchClosed(batch.id));
        }
    }
    // The same key twice in one batch: the second one is a repetition of the first.
    if let Some(key) = &submission.idempotency {
        let known = ids.iter().map(|id| id.0).collect();
        keys.insert((key.scope.clone(), key.key.clone()), (key.fingerprint.to_vec(), known));
    }
    Ok(Submitted { ids, replayed: false })
}

/// A key whose submission was refused is as if it had not been used.
async fn give_back(connection: &Connection, submission: &Submission) -> Result<(), DbError> {
    match &submission.idempotency {
        Some(key) => connection.execute(FORGET, args![key.scope, key.key]).await.map(drop),
        None => Ok(()),
    }
}

pub(super) async fn remember(connection: &Connection, accepted: &[&Submission]) -> Result<(), DbError> {
    let keys = || accepted.iter().filter_map(|it| Some((it.idempotency.as_ref()?, *it)));
    if keys().next().is_none() {
        return Ok(());
    }
    let ids: Vec<Vec<u8>> =
        keys().map(|(_, it)| it.tasks.iter().flat_map(|task| *task.id.0.as_bytes()).collect()).collect();
    let scopes: Vec<&str> = keys().map(|(key, _)| key.scope.as_str()).collect();
    let names: Vec<&str> = keys().map(|(key, _)| key.key.as_str()).collect();
    let ids: Vec<&[u8]> = ids.iter().map(Vec::as_slice).collect();
    connection.execute(REMEMBER, args![scopes, names, ids]).await.map(drop)
}

/// For each conversation the next place that is free, and whether somebody stands before it.
pub(super) type Places = HashMap<ConversationId, (i64, bool)>;

/// Locks the conversations of these tasks and takes places in them.
pub(super) async fn line_up<'a>(
    connection: &Connection,
    tasks: impl Iterator<Item = &'a NewTask>,
    now: Timestamp,
) -> Result<Places, DbError> {
    let mut wanted: BTreeMap<&ConversationId, i64> = BTreeMap::new();
    for conversation in tasks.filter_map(|task| task.conversation.as_ref()) {
        *wanted.entry(conversation).or_default() += 1;
    }
    if wanted.is_empty() {
        return Ok(Places::new());
    }
    let names: Vec<&str> = wanted.keys().map(|name| name.as_str()).collect();
    let numbers: Vec<i64> = wanted.values().copied().collect();
    // In this order: who stands there is asked when nobody else can join.
    let (rows, busy) = futures_util::try_join!(
        async { connection.query(LINE_UP, args![names, numbers, now.0]).await },
        async { connection.query(BUSY, args![names]).await },
    )?;
    let busy = busy.iter().map(|row| row.try_get(0)).collect::<Result<HashSet<String>, _>>()?;
    let named: HashMap<&str, (&ConversationId, i64)> =
        wanted.iter().map(|(it, number)| (it.as_str(), (*it, *number))).collect();
    let mut places = Places::new();
    for row in &rows {
        let name: String = row.try_get(0)?;
        let next: i64 = row.try_get(1)?;
        if let Some((conversation, number)) = named.get(name.as_str()) {
            places.insert((*conversation).clone(), (next - number, busy.contains(&name)));
        }
    }
    Ok(places)
}

pub(super) struct Row<'a> {
    task: &'a NewTask,
    parent: Option<TaskId>,
    batch: Option<BatchId>,
    hold: Hold,
    due: Option<Timestamp>,
    conv_seq: Option<i64>,
    now: Timestamp,
}

/// Gives a task its place, in the queue or behind others of its conversation.
pub(super) fn place<'a>(
    submission: &Submission,
    task: &'a NewTask,
    places: &mut Places,
    changes: &mut Changes,
) -> Row<'a> {
    let place = task.conversation.as_ref().and_then(|it| places.get_mut(it));
    let (conv_seq, behind) = match place {
        Some((next, behind)) => {
            *next += 1;
            (Some(*next - 1), std::mem::replace(behind, true))
        }
        None => (None, false),
    };
    let (hold, due) = match task.run_at {
        _ if behind => (Hold::Conversation, None),
        Some(at) if at > submission.now => (Hold::Scheduled, Some(at)),
        _ => (Hold::Ready, None),
    };
    changes.now = submission.now;
    begin_log(task, hold, due, changes);
    changes.count(&task.fleet, &task.tenant, None, Place::of(State::Queued, Some(hold)));
    if hold == Hold::Ready {
        changes.runnable(&task.fleet, -i64::from(task.priority), task.id);
    }
    let batch = submission.batch.as_ref().map(|batch| batch.id);
    changes.count_batch(batch, None, State::Queued);
    Row { task, parent: submission.parent, batch, hold, due, conv_seq, now: submission.now }
}

fn begin_log(task: &NewTask, hold: Hold, due: Option<Timestamp>, changes: &mut Changes) {
    let submitted = json!({ "fleet": task.fleet, "tenant": task.tenant, "priority": task.priority });
    changes.event(task.id, 1, "submitted", &Json::of(&submitted));
    changes.event(task.id, 2, "queued", &crate::embedded::queued(hold, due));
}

pub(super) async fn insert_tasks(connection: &Connection, rows: &[Row<'_>]) -> Result<(), DbError> {
    if rows.is_empty() {
        return Ok(());
    }
    let tasks = || rows.iter().map(|row| row.task);
    let labels: Vec<Json> = tasks().map(|task| Json::of(&task.labels)).collect();
    connection
        .execute(
            INSERT_TASKS,
            args![
                tasks().map(|it| it.id.0).collect::<Vec<_>>(),
                tasks().map(|it| it.fleet.as_str()).collect::<Vec<_>>(),
                tasks().map(|it| it.tenant.as_str()).collect::<Vec<_>>(),
                tasks().map(|it| it.priority).collect::<Vec<_>>(),
                tasks().map(|it| it.run_at.map(|at| at.0)).collect::<Vec<_>>(),
                tasks().map(|it| it.deadline_at.map(|at| at.0)).collect::<Vec<_>>(),
                tasks().map(|it| int(it.timeout_ms)).collect::<Vec<_>>(),
                tasks().map(|it| i64::from(it.max_attempts)).collect::<Vec<_>>(),
                tasks().map(|it| on_interrupt_text(it.on_interrupt)).collect::<Vec<_>>(),
                tasks().map(|it| int(it.backoff.base_ms)).collect::<Vec<_>>(),
                tasks().map(|it| int(it.backoff.cap_ms)).collect::<Vec<_>>(),
                labels.iter().map(Json::text).collect::<Vec<_>>(),
                tasks().map(|it| it.conversation.as_ref().map(|it| it.as_str())).collect::<Vec<_>>(),
                rows.iter().map(|row| row.conv_seq).collect::<Vec<_>>(),
                tasks().map(|it| it.publish_input).collect::<Vec<_>>(),
                tasks().map(|it| it.retry_of.map(|id| id.0)).collect::<Vec<_>>(),
                rows.iter().map(|row| row.now.0).collect::<Vec<_>>(),
                tasks().map(|it| it.input.text()).collect::<Vec<_>>(),
                rows.iter().map(|row| row.batch.map(|batch| batch.0)).collect::<Vec<_>>(),
                rows.iter().map(|row| row.parent.map(|parent| parent.0)).collect::<Vec<_>>(),
            ],
        )
        .await
        .map(drop)
}

pub(super) async fn insert_live(connection: &Connection, rows: &[Row<'_>]) -> Result<(), DbError> {
    if rows.is_empty() {
        return Ok(());
    }
    let tasks = || rows.iter().map(|row| row.task);
    connection
        .execute(
            INSERT_LIVE,
            args![
                tasks().map(|it| it.id.0).collect::<Vec<_>>(),
                tasks().map(|it| it.fleet.as_str()).collect::<Vec<_>>(),
                tasks().map(|it| it.tenant.as_str()).collect::<Vec<_>>(),
                rows.iter().map(|row| hold_text(row.hold)).collect::<Vec<_>>(),
                tasks().map(|it| -i64::from(it.priority)).collect::<Vec<_>>(),
                tasks().map(|it| it.run_at.map(|at| at.0)).collect::<Vec<_>>(),
                rows.iter().map(|row| row.due.map(|at| at.0)).collect::<Vec<_>>(),
                tasks().map(|it| it.deadline_at.map(|at| at.0)).collect::<Vec<_>>(),
                tasks().map(|it| int(it.timeout_ms)).collect::<Vec<_>>(),
                tasks().map(|it| i64::from(it.max_attempts)).collect::<Vec<_>>(),
                tasks().map(|it| on_interrupt_text(it.on_interrupt)).collect::<Vec<_>>(),
                tasks().map(|it| int(it.backoff.base_ms)).collect::<Vec<_>>(),
                tasks().map(|it| int(it.backoff.cap_ms)).collect::<Vec<_>>(),
                tasks().map(|it| it.conversation.as_ref().map(|it| it.as_str())).collect::<Vec<_>>(),
                rows.iter().map(|row| row.conv_seq).collect::<Vec<_>>(),
                tasks().map(|it| it.publish_input).collect::<Vec<_>>(),
                rows.iter().map(|row| row.now.0).collect::<Vec<_>>(),
                rows.iter().map(|row| row.batch.map(|batch| batch.0)).collect::<Vec<_>>(),
                rows.iter().map(|row| row.parent.map(|parent| parent.0)).collect::<Vec<_>>(),
            ],
        )
        .await
        .map(drop)
}
