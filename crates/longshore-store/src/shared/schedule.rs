//! Schedules: their declarations, and the ticks that become tasks together with the move of the cursor.
//!
//! Rows of schedules are locked after idempotency keys and before all others. So of two replicas that deal with the same
//! ticks one comes second, finds the cursor where it does not expect it, and writes nothing.

use longshore_core::id::TaskId;
use longshore_core::json::Json;
use longshore_core::schedule::{Schedule, ScheduleName};
use longshore_core::time::Timestamp;
use serde_json::{Value, json};
use tokio_postgres::Row;

use super::changes::Changes;
use super::column::{count, document, get, get_option, int};
use super::connection::Connection;
use super::core::Core;
use super::fault::DbError;
use super::sql::args;
use super::submit::{self, Begun, Refused, Submission};
use super::{Shared, arrival};
use crate::error::{StoreError, SubmitError};
use crate::model::{
    Fire, Fired, Idempotency, NewTask, ScheduleChange, ScheduleEvent, ScheduleRecord, Submitted,
    schedule_changes,
};
use crate::signals::Topic;

/// Events kept of each schedule.
const EVENTS: i64 = 200;

macro_rules! columns {
    () => {
        "SELECT declaration, generation, active, paused, cursor, last_task, last_tick, fired, missed, overlapped, refused,
            changed_at FROM @schedule "
    };
}

const ALL: &str = concat!(columns!(), "ORDER BY name");
const ONE: &str = concat!(columns!(), "WHERE name = $1");
const LOCK_ONE: &str = concat!(columns!(), "WHERE name = $1 FOR UPDATE");
const LOCK_ALL: &str = concat!(columns!(), "ORDER BY name FOR UPDATE");

/// One declaration at a time, and nobody else waits: two replicas that start at once must not add up to a mixture.
const LOCK: &str = "LOCK TABLE @schedule IN SHARE UPDATE EXCLUSIVE MODE";
const REMOVE: &str =
    "UPDATE @schedule SET active = false, generation = generation + 1, changed_at = $2 WHERE name = $1";
const PUT: &str = "INSERT INTO @schedule AS s (name, declaration, generation, active, cursor, changed_at)
     VALUES ($1, $2, 1, true, $3, $4)
     ON CONFLICT (name) DO UPDATE SET declaration = $2, generation = s.generation + 1, active = true, cursor = $3,
        changed_at = $4, paused = CASE WHEN $5 THEN s.paused END";
const PAUSE: &str = "UPDATE @schedule SET paused = $2, cursor = $3, changed_at = $4 WHERE name = $1";
const MOVE: &str =
    "UPDATE @schedule SET cursor = $2, last_task = $3, last_tick = $4, fired = fired + $5, missed = missed + $6,
        overlapped = overlapped + $7, refused = refused + $8
     WHERE name = $1";
const RAN: &str = "UPDATE @schedule SET last_task = $2, last_tick = NULL WHERE name = $1";

/// The schedule's row is locked, so numbers follow each other.
const NOTE: &str = "INSERT INTO @schedule_event (schedule, seq, at, kind, data)
     SELECT $1, newest.seq + n.at, $2, n.kind, n.data
     FROM unnest($3::text[], $4::text[]) WITH ORDINALITY AS n (kind, data, at),
        (SELECT coalesce(max(seq), 0) AS seq FROM @schedule_event WHERE schedule = $1) AS newest";
const FORGET: &str = "DELETE FROM @schedule_event WHERE schedule = $1
        AND seq <= (SELECT max(seq) FROM @schedule_event WHERE schedule = $1) - $2";
const NEWEST: &str =
    "SELECT at, kind, data FROM @schedule_event WHERE schedule = $1 ORDER BY seq DESC LIMIT $2";

impl Shared {
    pub(crate) async fn put_schedules(
        &self,
        schedules: Vec<Schedule>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let done = self.core().run(async |it| {
            it.begin().await?;
            it.execute(LOCK, args![]).await?;
            let known = it.query(LOCK_ALL, args![]).await?;
            let known = known.iter().map(read).collect::<Result<Vec<_>, _>>()?;
            for change in schedule_changes(&known, &schedules, now) {
                apply(&it, change, now).await?;
            }
            it.commit().await
        });
        done.await?;
        self.core().fire([Topic::Schedules].into());
        Ok(())
    }

    pub(crate) async fn schedules(&self) -> Result<Vec<ScheduleRecord>, StoreError> {
        let rows = self.core().run(async |it| it.query(ALL, args![]).await).await?;
        Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
    }

    pub(crate) async fn schedule(&self, name: ScheduleName) -> Result<Option<ScheduleRecord>, StoreError> {
        let row = self.core().run(async |it| it.query_opt(ONE, args![name.as_str()]).await).await?;
        Ok(row.as_ref().map(read).transpose()?)
    }

    pub(crate) async fn schedule_events(
        &self,
        name: ScheduleName,
        limit: usize,
    ) -> Result<Vec<ScheduleEvent>, StoreError> {
        let args = args![name.as_str(), int(limit as u64)];
        let rows = self.core().run(async |it| it.query(NEWEST, args).await).await?;
        let event = |row: &Row| {
            Ok::<_, DbError>(ScheduleEvent { at: get(row, 0)?, kind: get(row, 1)?, data: get(row, 2)? })
        };
        Ok(rows.iter().map(event).collect::<Result<_, _>>()?)
    }

    pub(crate) async fn pause_schedule(
        &self,
        name: ScheduleName,
        paused: bool,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let known = self.core().run(async |it| {
            it.begin().await?;
            let known = match lock(&it, &name).await?.filter(|record| record.active) {
                Some(record) => {
                    pause(&it, &record, paused, now).await?;
                    true
                }
                None => false,
            };
            it.commit().await?;
            Ok(known)
        });
        let known = known.await?;
        self.core().fire([Topic::Schedules].into());
        Ok(known)
    }

    pub(crate) async fn fire_schedule(&self, fire: Fire, now: Timestamp) -> Result<Fired, SubmitError> {
        let submission = |(tick, task): &(Timestamp, NewTask)| Submission {
            tasks: vec![task.clone()],
            parent: None,
            batch: None,
            idempotency: Some(fire.key(*tick)),
            now,
        };
        let submissions: Vec<Submission> = fire.tasks.iter().map(submission).collect();
        let core = self.core();
        let fired = core.run(async |it| {
            let fired = carry_out(core, &it, (&fire, &submissions), now).await?;
            if !matches!(fired, Ok(Fired::Done(_))) {
                // Nothing of it stays, no key either.
                it.roll_back().await;
            }
            Ok(fired)
        });
        fired.await?.map_err(SubmitError::from)
    }

    pub(crate) async fn run_schedule(
        &self,
        name: ScheduleName,
        task: NewTask,
        idempotency: Option<Idempotency>,
        now: Timestamp,
    ) -> Result<Submitted, SubmitError> {
        let submission = Submission { tasks: vec![task], parent: None, batch: None, idempotency, now };
        let core = self.core();
        let made = core.run(async |it| {
            let made = run(core, &it, &name, &submission).await?;
            if made.is_err() {
                it.roll_back().await;
            }
            Ok(made)
        });
        made.await?.map_err(SubmitError::from)
    }
}

async fn lock(connection: &Connection, name: &ScheduleName) -> Result<Option<ScheduleRecord>, DbError> {
    connection.query_opt(LOCK_ONE, args![name.as_str()]).await?.as_ref().map(read).transpose()
}

fn read(row: &Row) -> Result<ScheduleRecord, DbError> {
    let declaration: Schedule = document(row, 0)?;
    Ok(ScheduleRecord {
        name: declaration.name.clone(),
        generation: count(row, 1)?,
        active: row.try_get(2)?,
        paused: row.try_get::<_, Option<bool>>(3)?.unwrap_or(declaration.paused),
        declaration,
        cursor: get(row, 4)?,
        last_task: get_option(row, 5)?,
        last_tick: get_option(row, 6)?,
        fired: count(row, 7)?,
        missed: count(row, 8)?,
        overlapped: count(row, 9)?,
        refused: count(row, 10)?,
        changed_at: get(row, 11)?,
    })
}

async fn apply(connection: &Connection, change: ScheduleChange<'_>, now: Timestamp) -> Result<(), DbError> {
    match change {
        ScheduleChange::Remove(name) => {
            connection.execute(REMOVE, args![name.as_str(), now.0]).await.map(drop)
        }
        ScheduleChange::Put { declaration: it, cursor, keeps_word } => {
            let text = Json::of(it);
            let args = args![it.name.as_str(), text.text(), cursor.0, now.0, keeps_word];
            connection.execute(PUT, args).await?;
            let data = json!({ "cron": it.cron, "timezone": it.timezone });
            note(connection, &it.name, &[("changed", data)], now).await
        }
    }
}

/// Ticks while it is paused are not missed: they are not meant. So the cursor moves when it goes on.
async fn pause(
    connection: &Connection,
    record: &ScheduleRecord,
    paused: bool,
    now: Timestamp,
) -> Result<(), DbError> {
    if record.paused == paused {
        return Ok(());
    }
    let cursor = if paused { record.cursor } else { record.cursor.max(now) };
    connection.execute(PAUSE, args![record.name.as_str(), paused, cursor.0, now.0]).await?;
    let kind = if paused { "paused" } else { "resumed" };
    note(connection, &record.name, &[(kind, json!({}))], now).await
}

/// Errors: one of the tasks is not accepted; like with ticks that are lost, all of it is to be rolled back.
async fn carry_out(
    core: &Core,
    connection: &Connection,
    (fire, submissions): (&Fire, &[Submission]),
    now: Timestamp,
) -> Result<Result<Fired, Refused>, DbError> {
    connection.ready(arrival::STATEMENTS).await?;
    let Begun { answers, accepted, .. } = submit::begin(connection, submissions).await?;
    let Some(record) = lock(connection, &fire.name).await?.filter(|it| fire.is_planned_from(it)) else {
        return Ok(Ok(Fired::Lost));
    };
    let made = match answers.into_iter().collect::<Result<Vec<Submitted>, Refused>>() {
        Ok(made) => made,
        Err(refused) => return Ok(Err(refused)),
    };
    let ids: Vec<TaskId> = made.into_iter().flat_map(|it| it.ids).collect();
    let mut changes = Changes::new(now);
    if let Err(refused) = arrival::arrive_all(connection, &mut changes, &accepted).await? {
        return Ok(Err(refused));
    }
    move_cursor(connection, fire, &record, &ids).await?;
    note(connection, &fire.name, &fire.told(&ids), now).await?;
    core.commit(connection, changes).await?;
    Ok(Ok(Fired::Done(ids)))
}

async fn move_cursor(
    connection: &Connection,
    fire: &Fire,
    record: &ScheduleRecord,
    ids: &[TaskId],
) -> Result<(), DbError> {
    let last = ids.last().copied().or(record.last_task).map(|task| task.0);
    let last_tick = fire.tasks.last().map(|(tick, _)| *tick).or(record.last_tick).map(|tick| tick.0);
    let args = args![
        fire.name.as_str(),
        fire.next_cursor.0,
        last,
        last_tick,
        ids.len() as i64,
        int(fire.missed),
        int(fire.overlapped),
        int(fire.refused()),
    ];
    connection.execute(MOVE, args).await.map(drop)
}

async fn run(
    core: &Core,
    connection: &Connection,
    name: &ScheduleName,
    submission: &Submission,
) -> Result<Result<Submitted, Refused>, DbError> {
    connection.ready(arrival::STATEMENTS).await?;
    let Begun { mut answers, accepted, .. } =
        submit::begin(connection, std::slice::from_ref(submission)).await?;
    let made = match answers.pop().ok_or(DbError::Missing)? {
        Ok(made) => made,
        Err(refused) => return Ok(Err(refused)),
    };
    let mut changes = Changes::new(submission.now);
    if !made.replayed {
        lock(connection, name).await?;
        if let Err(refused) = arrival::arrive_all(connection, &mut changes, &accepted).await? {
            return Ok(Err(refused));
        }
        let task = made.ids.first();
        connection.execute(RAN, args![name.as_str(), task.map(|task| task.0)]).await?;
        note(connection, name, &[("run", json!({ "task": task }))], submission.now).await?;
    }
    core.commit(connection, changes).await?;
    Ok(Ok(made))
}

async fn note(
    connection: &Connection,
    name: &ScheduleName,
    told: &[(&str, Value)],
    now: Timestamp,
) -> Result<(), DbError> {
    if told.is_empty() {
        return Ok(());
    }
    let kinds: Vec<&str> = told.iter().map(|(kind, _)| *kind).collect();
    let data: Vec<String> = told.iter().map(|(_, data)| Json::of(data).text().to_owned()).collect();
    connection.execute(NOTE, args![name.as_str(), now.0, kinds, data]).await?;
    connection.execute(FORGET, args![name.as_str(), EVENTS]).await.map(drop)
}
