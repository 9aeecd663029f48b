//! Hands runnable tasks to workers, each with a lease and a fence of its own; many claims in one transaction.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use futures_util::future::BoxFuture;
use longshore_core::id::{Fence, FleetName, TaskId, WorkerId};
use longshore_core::json::Json;
use longshore_core::task::State;
use longshore_core::time::Timestamp;
use longshore_core::wait::Question;
use serde_json::json;
use tokio_postgres::Row;
use uuid::Uuid;

use super::Shared;
use super::changes::{self, Changes};
use super::column::{document, get, int};
use super::connection::Connection;
use super::core::Core;
use super::counts::Place;
use super::fault::DbError;
use super::floor::Position;
use super::lane::{self, Turn, Way};
use super::lease::held_by_workers;
use super::live::{self, Live, live_columns};
use super::register::{self, Known};
use super::sql::args;
use super::{conversation, question, register::Who};
use crate::error::{ClaimError, LinkError};
use crate::model::{ClaimRequest, LeasedTask, WorkerState};

/// The most that one claim gets.
const MOST: u32 = 1000;

/// A claim's answer is held in memory on both sides: it ends with the task whose input reaches this many bytes.
const MOST_BYTES: usize = 8 << 20;

pub(super) struct Asked {
    request: ClaimRequest,
    now: Timestamp,
}

pub(super) fn weigh(asked: &Asked) -> usize {
    asked.request.max.clamp(1, MOST) as usize
}

pub(super) type Answer = Result<Vec<LeasedTask>, Refused>;

#[derive(Clone, Debug)]
pub(super) enum Refused {
    Link(Who),
    OutOfOrder { newest: u64 },
}

impl Shared {
    pub(crate) async fn claim(
        &self,
        request: ClaimRequest,
        now: Timestamp,
    ) -> Result<Vec<LeasedTask>, ClaimError> {
        let worker = request.worker.clone();
        let claimed = self.open.claims.ask(Asked { request, now }).await?;
        claimed.map_err(|refused| match refused {
            Refused::Link(who) => LinkError::from(who.named(worker)).into(),
            Refused::OutOfOrder { newest } => ClaimError::OutOfOrder { newest },
        })
    }
}

/// Which workers hold a task that has to be alone. First all that have to be: they are few, while a busy worker leaves many
/// dead entries in the index of what it holds.
const KEPT_ALONE: &str = "SELECT DISTINCT worker FROM (SELECT worker FROM @live
        WHERE alone AND fleet IN (SELECT fleet FROM @worker WHERE id = ANY($1)) OFFSET 0) AS alone
     WHERE worker = ANY($1)";

/// Whether a worker holds anything.
const HOLDS: &str = concat!("SELECT live.any ", held_by_workers!("count(*) > 0 AS any"));

/// What a worker is told beside the hot row. Looked up one by one: how many rows there will be is not known to Postgres,
/// and if it expects many it reads all tasks that there are.
macro_rules! of_task {
    () => {
        " CROSS JOIN LATERAL (SELECT input, labels FROM @task AS task WHERE task.id = live.id LIMIT 1) AS task "
    };
}
pub(super) use of_task;

/// The leases of a claim whose answer was lost.
const AGAIN: &str = concat!(
    "SELECT ",
    live_columns!(),
    ", task.input, task.labels FROM @live AS live",
    of_task!(),
    "WHERE live.worker = $1 AND live.claim_seq = $2 ORDER BY live.fence"
);

/// Suspects come on top: a worker that is busy passes them by. They are counted wherever they stand: were only those asked
/// for that are ready, it could be answered by going through the index of all tasks that are.
const PICK: &str = concat!(
    "SELECT ",
    live_columns!(),
    ", task.input, task.labels
     FROM (SELECT * FROM @live WHERE fleet = $1 AND tenant = 'default' AND hold = 'ready' AND (rank, id) >= ($2, $3)
           ORDER BY rank, id
           LIMIT $4 + (SELECT count(*) FROM @live WHERE alone AND fleet = $1)
           FOR UPDATE SKIP LOCKED) AS live",
    of_task!(),
    "ORDER BY live.rank, live.id"
);

/// Drawn when both are locked, the row of the worker and that of the task: each has had lower ones only.
const FENCES: &str =
    "SELECT nextval('@fence'), (SELECT service_ms FROM @clock) FROM generate_series(1, $1::bigint)";

const GRANT: &str =
    "UPDATE @live AS live SET state = 'running', hold = NULL, since = NULL, due_at = NULL, attempts = attempts + 1,
        started_at = coalesce(started_at, n.at), last_event = last_event + 1, fence = n.fence, worker = n.worker,
        claim_seq = n.claim_seq, attempt_at = n.at, expires_ms = n.expires_ms, last_n = 0
     FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
        AS n (id, fence, worker, claim_seq, at, expires_ms)
     WHERE live.id = n.id";

const NUMBERS: &str =
    "UPDATE @worker AS worker SET claim_seq = n.seq, unrenewed_ms = least(worker.unrenewed_ms, n.expires_ms)
     FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS n (id, seq, expires_ms) WHERE worker.id = n.id";

/// So many fences are drawn together with a look for as many tasks, in one round trip and maybe in vain.
const DRAWN_AT_ONCE: i64 = 16;

/// The worker of a fleet that holds the fewest tasks, among those that may claim and whose leases last for some time yet: one
/// that was silent for longer claims nothing, so nobody waits for it. Among equals the first by name.
const LEAST_BUSY: &str =
    "SELECT worker.id FROM @worker AS worker LEFT JOIN @live AS live ON live.worker = worker.id
     WHERE worker.fleet = $1 AND worker.state = 'ready' AND worker.drain_mode IS NULL
        AND worker.renewed_until > $2 + (SELECT service_ms FROM @clock)
     GROUP BY worker.id ORDER BY count(live.id), worker.id LIMIT 1";

pub(super) fn together<'a>(
    core: &'a Core,
    batch: &'a [Asked],
) -> BoxFuture<'a, Result<Vec<Answer>, DbError>> {
    Box::pin(async move {
        let connection = core.connection().await?;
        let done = claim(core, &connection, batch).await;
        if done.is_err() {
            connection.roll_back().await;
        }
        done
    })
}

/// A task that could be given away.
pub(super) struct Picked {
    pub row: Live,
    input: Json,
    labels: BTreeMap<String, String>,
}

async fn claim(core: &Core, connection: &Connection, batch: &[Asked]) -> Result<Vec<Answer>, DbError> {
    connection.ready(&[register::LOCK, HOLDS, AGAIN, PICK, FENCES, GRANT, NUMBERS, lane::WAYS]).await?;
    connection.ready(changes::STATEMENTS).await?;
    let ids: Vec<&str> = batch.iter().map(|asked| asked.request.worker.as_str()).collect();
    let (begun, workers, alone, ways) = futures_util::join!(
        connection.begin(),
        register::lock(connection, &ids),
        async { connection.query(KEPT_ALONE, args![ids]).await },
        lane::ways(connection, &ids),
    );
    begun?;
    let ways = ways?;
    let mut workers = workers?;
    let mut alone = alone?.iter().map(|row| row.try_get(0)).collect::<Result<HashSet<String>, _>>()?;
    let mut answers: Vec<Option<Answer>> = Vec::with_capacity(batch.len());
    let mut fresh: BTreeMap<FleetName, Vec<usize>> = BTreeMap::new();
    let (mut seen, mut repeated) = (HashSet::new(), Vec::new());
    for (at, asked) in batch.iter().enumerate() {
        if !seen.insert((&asked.request.worker, asked.request.nonce, asked.request.seq)) {
            repeated.push(at);
            answers.push(None);
            continue;
        }
        answers.push(match judge(connection, &asked.request, &workers).await? {
            Judged::Answer(answer) => Some(answer),
            Judged::Fresh(fleet) => {
                fresh.entry(fleet).or_default().push(at);
                None
            }
        });
    }
    fresh.retain(|fleet, _| ways.get(fleet) != Some(&Way::Paused));
    let now = batch.iter().map(|asked| asked.now).max().unwrap_or_default();
    let mut changes = Changes::new(now);
    let in_turn = fresh.iter().filter(|(fleet, _)| ways.get(*fleet) == Some(&Way::InTurn));
    let wanted = in_turn.map(|(fleet, claims)| (fleet, wanted(batch, claims))).collect();
    let mut turns = lane::lock(connection, &wanted, now).await?;
    let (mut given, mut fences) = (Vec::new(), Vec::new());
    for (fleet, claims) in &fresh {
        let mut turn = turns.iter_mut().find(|turn| turn.fleet == *fleet);
        let (picked, room) = match &mut turn {
            Some(turn) => (turn.pick(connection).await?, turn.room),
            None => {
                let (picked, drawn) = pick(core, connection, fleet, batch, claims).await?;
                // Not with several fleets: the next one's tasks are locked later than these were drawn.
                fences = if fresh.len() == 1 { drawn } else { Vec::new() };
                (picked, u64::MAX)
            }
        };
        let before = given.len();
        assign(connection, fleet, batch, claims, (picked, room), &mut alone, &mut given).await?;
        if let Some(turn) = turn {
            let tenants: Vec<_> = given[before..].iter().map(|(_, task)| task.row.tenant.clone()).collect();
            turn.started(&mut changes, &tenants, now);
            lane::take_room(&mut turns, &tenants);
        }
    }
    if given.is_empty() {
        // Nothing was written: there is nothing to be kept either.
        connection.roll_back().await;
    } else {
        grant(core, connection, batch, (&mut given, fences, &turns, changes), &mut workers).await?;
    }
    let mut asked = questions(connection, given.iter().map(|(_, task)| &task.row)).await?;
    let mut tasks: HashMap<usize, Vec<LeasedTask>> = HashMap::new();
    for (at, picked) in given {
        tasks.entry(at).or_default().push(leased(picked, &mut asked));
    }
    for at in repeated {
        // Its worker gave up waiting and asks once more, while the first one had not had its turn.
        tasks.insert(at, again(connection, &batch[at].request).await?);
    }
    let answers = answers
        .into_iter()
        .enumerate()
        .map(|(at, answer)| answer.unwrap_or(Ok(tasks.remove(&at).unwrap_or_default())));
    let mut answers: Vec<Answer> = answers.collect();
    let histories = || answers.iter().flatten().flatten().filter_map(|task| task.conversation.as_ref());
    let read = conversation::histories(core, histories().map(|it| it.id.clone()).collect()).await?;
    let histories = answers.iter_mut().flatten().flatten().filter_map(|task| task.conversation.as_mut());
    histories.zip(read).for_each(|(history, read)| *history = read);
    Ok(answers)
}

enum Judged {
    Answer(Answer),
    /// It may get tasks of this fleet.
    Fresh(FleetName),
}

async fn judge(
    connection: &Connection,
    it: &ClaimRequest,
    workers: &HashMap<WorkerId, Known>,
) -> Result<Judged, DbError> {
    let worker = match register::judge(connection, workers.get(&it.worker), &it.worker, it.nonce).await? {
        Ok(worker) => worker,
        Err(who) => return Ok(Judged::Answer(Err(Refused::Link(who)))),
    };
    Ok(if it.seq < worker.claim_seq {
        Judged::Answer(Err(Refused::OutOfOrder { newest: worker.claim_seq }))
    } else if it.seq == worker.claim_seq {
        Judged::Answer(Ok(again(connection, it).await?))
    } else if worker.state == WorkerState::Draining || worker.drain.is_some() {
        Judged::Answer(Ok(Vec::new()))
    } else {
        Judged::Fresh(worker.fleet.clone())
    })
}

/// The answer was lost on the way: the same leases, those that are still held.
async fn again(connection: &Connection, it: &ClaimRequest) -> Result<Vec<LeasedTask>, DbError> {
    let rows = connection.query(AGAIN, args![it.worker.as_str(), int(it.seq)]).await?;
    let again = rows.iter().map(read_picked).collect::<Result<Vec<_>, _>>()?;
    let mut asked = questions(connection, again.iter().map(|task| &task.row)).await?;
    Ok(again.into_iter().map(|task| leased(task, &mut asked)).collect())
}

/// What those of these tasks have asked that ever asked anything.
async fn questions<'a>(
    connection: &Connection,
    rows: impl Iterator<Item = &'a Live>,
) -> Result<HashMap<TaskId, Vec<Question>>, DbError> {
    question::of(connection, rows.filter(|row| row.asked).map(Live::uuid).collect()).await
}

pub(super) fn read_picked(row: &Row) -> Result<Picked, DbError> {
    Ok(Picked {
        row: Live::read(row)?,
        input: get(row, live::COLUMNS)?,
        labels: document(row, live::COLUMNS + 1)?,
    })
}

/// The most tasks that these claims could take.
fn wanted(batch: &[Asked], claims: &[usize]) -> u64 {
    claims.iter().map(|at| u64::from(batch[*at].request.max.min(MOST))).sum()
}

/// The first tasks of a fleet, locked, as many as these claims could take; and fences for them, if they were drawn already.
async fn pick(
    core: &Core,
    connection: &Connection,
    fleet: &FleetName,
    batch: &[Asked],
    claims: &[usize],
) -> Result<(VecDeque<Picked>, Vec<Row>), DbError> {
    let wanted = int(wanted(batch, claims));
    let (floor, version) = core.floors.begin(fleet);
    let (mut rows, mut fences) = futures_util::try_join!(search(connection, fleet, floor, wanted), async {
        match wanted <= DRAWN_AT_ONCE {
            true => connection.query(FENCES, args![wanted]).await,
            false => Ok(Vec::new()),
        }
    })?;
    if (rows.len() as i64) < wanted && floor != Position::FIRST {
        // Another replica may have put something in front, and whoever is told that there is nothing waits.
        rows = search(connection, fleet, Position::FIRST, wanted).await?;
        fences.clear();
    }
    let picked = rows.iter().map(read_picked).collect::<Result<VecDeque<_>, _>>()?;
    if let Some(first) = picked.front().filter(|_| picked.len() as i64 >= wanted) {
        // Others skip what is locked here, and what is not given away after all has to be found again.
        core.floors.raise(fleet, Position(first.row.rank, first.row.uuid()), version);
    }
    Ok((picked, fences))
}

async fn search(
    connection: &Connection,
    fleet: &FleetName,
    Position(rank, id): Position,
    wanted: i64,
) -> Result<Vec<Row>, DbError> {
    connection.query(PICK, args![fleet.as_str(), rank, id, wanted]).await
}

/// Gives tasks to claims, in order, no more than there is room for; a suspect goes to a worker that does nothing else, and then alone.
async fn assign(
    connection: &Connection,
    fleet: &FleetName,
    batch: &[Asked],
    claims: &[usize],
    (mut picked, room): (VecDeque<Picked>, u64),
    alone: &mut HashSet<String>,
    given: &mut Vec<(usize, Picked)>,
) -> Result<(), DbError> {
    let most = usize::try_from(room).unwrap_or(usize::MAX).saturating_add(given.len());
    for at in claims {
        if given.len() >= most {
            break;
        }
        let it = &batch[*at].request;
        if alone.contains(it.worker.as_str()) {
            continue;
        }
        let suspect_first = picked.front().is_some_and(|first| first.row.alone);
        if suspect_first && it.max > 0 && is_idle(connection, it, batch, given).await? {
            alone.insert(it.worker.as_str().to_owned());
            given.extend(picked.pop_front().map(|task| (*at, task)));
            continue;
        }
        if suspect_first && is_least_busy(connection, it, fleet).await? {
            // It runs dry and takes the suspect then: else a fleet that is always busy would never run it.
            continue;
        }
        let taken = take(&mut picked, (most - given.len()).min(it.max.min(MOST) as usize));
        given.extend(taken.into_iter().map(|task| (*at, task)));
    }
    Ok(())
}

/// The first tasks that need not be alone, up to a number and a weight.
fn take(picked: &mut VecDeque<Picked>, most: usize) -> Vec<Picked> {
    let (mut taken, mut bytes, mut at) = (Vec::new(), 0, 0);
    while taken.len() < most && bytes < MOST_BYTES && at < picked.len() {
        if picked[at].row.alone {
            at += 1;
        } else if let Some(task) = picked.remove(at) {
            bytes += task.input.text().len();
            taken.push(task);
        }
    }
    taken
}

/// Whether a worker has nothing, and gets nothing by another claim of this batch.
async fn is_idle(
    connection: &Connection,
    it: &ClaimRequest,
    batch: &[Asked],
    given: &[(usize, Picked)],
) -> Result<bool, DbError> {
    if it.in_flight > 0 || given.iter().any(|(at, _)| batch[*at].request.worker == it.worker) {
        return Ok(false);
    }
    let holds: bool = connection.query_one(HOLDS, args![vec![it.worker.as_str()]]).await?.try_get(0)?;
    Ok(!holds)
}

async fn is_least_busy(
    connection: &Connection,
    it: &ClaimRequest,
    fleet: &FleetName,
) -> Result<bool, DbError> {
    let half = int(it.lease.as_millis() as u64 / 2);
    let first = connection.query_opt(LEAST_BUSY, args![fleet.as_str(), half]).await?;
    let first: Option<String> = first.map(|row| row.try_get(0)).transpose()?;
    Ok(first.as_deref() == Some(it.worker.as_str()))
}

/// Tasks, each with the claim that gets it.
type Given = [(usize, Picked)];

async fn grant(
    core: &Core,
    connection: &Connection,
    batch: &[Asked],
    (given, mut fences, turns, mut changes): (&mut Given, Vec<Row>, &[Turn], Changes),
    workers: &mut HashMap<WorkerId, Known>,
) -> Result<(), DbError> {
    let lacking = given.len().saturating_sub(fences.len());
    if lacking > 0 {
        fences.extend(connection.query(FENCES, args![lacking as i64]).await?);
    }
    let (mut expires, mut at) = (Vec::new(), Vec::new());
    let mut newest: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for ((asked, task), fence) in given.iter_mut().zip(&fences) {
        let (it, now) = (&batch[*asked].request, batch[*asked].now);
        changes.now = now;
        let until = fence.try_get::<_, i64>(1)?.saturating_add(int(it.lease.as_millis() as u64));
        expires.push(until);
        at.push(now.0);
        let (_, first) = newest.get(it.worker.as_str()).copied().unwrap_or((0, until));
        newest.insert(it.worker.as_str(), (int(it.seq), first.min(until)));
        run(&mut task.row, &mut changes, it, get(fence, 0)?);
        if let Some(worker) = workers.get_mut(&it.worker) {
            worker.claim_seq = it.seq;
        }
    }
    let rows = || given.iter().map(|(_, task)| &task.row);
    let leases = || rows().filter_map(|row| row.lease.as_ref());
    let ids: Vec<Uuid> = rows().map(Live::uuid).collect();
    let fences: Vec<i64> = leases().map(|lease| int(lease.fence.0)).collect();
    let holders: Vec<&str> = leases().map(|lease| lease.worker.as_str()).collect();
    let seqs: Vec<i64> = leases().map(|lease| lease.claim_seq).collect();
    let (names, newest): (Vec<&str>, Vec<(i64, i64)>) = newest.into_iter().unzip();
    let (newest, firsts): (Vec<i64>, Vec<i64>) = newest.into_iter().unzip();
    futures_util::try_join!(
        async { connection.execute(GRANT, args![ids, fences, holders, seqs, at, expires]).await },
        async { connection.execute(NUMBERS, args![names, newest, firsts]).await },
        lane::save(connection, turns),
        core.commit(connection, changes),
    )?;
    Ok(())
}

/// The attempt begins.
fn run(row: &mut Live, changes: &mut Changes, it: &ClaimRequest, fence: Fence) {
    (row.state, row.hold, row.since) = (State::Running, None, None);
    row.moved(changes, (Place::Runnable, State::Queued));
    row.attempts += 1;
    row.last_event += 1;
    row.lease = Some(live::Lease {
        fence,
        worker: it.worker.clone(),
        claim_seq: int(it.seq),
        attempt_at: changes.now,
        last_n: 0,
    });
    let data = json!({ "attempt": row.attempts, "worker": it.worker });
    let place = (row.id, row.last_event);
    changes.attempt_event(place, "started", &Json::of(&data), (row.attempts, fence), None);
}

/// All that a worker has to know of a task that it holds; the history is filled in by the caller.
fn leased(picked: Picked, asked: &mut HashMap<TaskId, Vec<Question>>) -> LeasedTask {
    let row = picked.row;
    LeasedTask {
        id: row.id,
        fence: row.lease.as_ref().map_or(Fence(0), |lease| lease.fence),
        attempt: row.attempt(),
        fleet: row.fleet,
        input: picked.input,
        labels: picked.labels,
        conversation: row.conversation.map(|(id, _)| conversation::empty(id)),
        timeout_ms: row.timeout_ms,
        alone: row.alone,
        questions: asked.remove(&row.id).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn statements_name_as_many_columns_as_are_read() {
        let columns = super::live_columns!().split(',').count();
        assert_eq!(columns, super::live::COLUMNS);
    }
}
