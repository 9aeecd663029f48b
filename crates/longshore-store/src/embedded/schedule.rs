//! Schedules: their declarations, and the ticks that become tasks together with the move of the cursor.

use longshore_core::id::TaskId;
use longshore_core::json::Json;
use longshore_core::schedule::{Schedule, ScheduleName};
use longshore_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::json;

use super::Embedded;
use super::column::{count, get, get_option, id, int};
use super::submit::submit;
use super::writer::Write;
use crate::error::{StoreError, SubmitError};
use crate::model::{
    Fire, Fired, Idempotency, NewTask, ScheduleChange, ScheduleEvent, ScheduleRecord, Submitted,
    schedule_changes,
};

/// Events kept of each schedule.
const EVENTS: i64 = 200;

impl Embedded {
    pub(crate) async fn put_schedules(
        &self,
        schedules: Vec<Schedule>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(move |write| Ok(put(write, &schedules, now)?)).await
    }

    pub(crate) async fn schedules(&self) -> Result<Vec<ScheduleRecord>, StoreError> {
        self.read(|connection| Ok(all(connection)?)).await
    }

    pub(crate) async fn schedule(&self, name: ScheduleName) -> Result<Option<ScheduleRecord>, StoreError> {
        self.read(move |connection| Ok(find(connection, &name)?)).await
    }

    pub(crate) async fn schedule_events(
        &self,
        name: ScheduleName,
        limit: usize,
    ) -> Result<Vec<ScheduleEvent>, StoreError> {
        self.read(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT at, kind, data FROM schedule_event WHERE schedule = ?1 ORDER BY seq DESC LIMIT ?2",
            )?;
            let rows = select.query_map(params![name.as_str(), int(limit as u64)], |row| {
                Ok(ScheduleEvent { at: get(row, 0)?, kind: row.get(1)?, data: get(row, 2)? })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(crate) async fn pause_schedule(
        &self,
        name: ScheduleName,
        paused: bool,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.write(move |write| Ok(pause(write, &name, paused, now)?)).await
    }

    pub(crate) async fn fire_schedule(&self, fire: Fire, now: Timestamp) -> Result<Fired, SubmitError> {
        self.write(move |write| fire_schedule(write, fire, now)).await
    }

    pub(crate) async fn run_schedule(
        &self,
        name: ScheduleName,
        task: NewTask,
        idempotency: Option<Idempotency>,
        now: Timestamp,
    ) -> Result<Submitted, SubmitError> {
        self.write(move |write| run(write, &name, task, idempotency.as_ref(), now)).await
    }
}

const COLUMNS: &str =
    "name, declaration, generation, active, paused, cursor, last_task, last_tick, fired, missed,
    overlapped, refused, changed_at";

fn read(row: &Row<'_>) -> rusqlite::Result<ScheduleRecord> {
    let declaration: Json = get(row, 1)?;
    let declaration: Schedule = declaration.read().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(error))
    })?;
    Ok(ScheduleRecord {
        name: declaration.name.clone(),
        generation: count(row, 2)?,
        active: row.get(3)?,
        paused: row.get::<_, Option<bool>>(4)?.unwrap_or(declaration.paused),
        declaration,
        cursor: get(row, 5)?,
        last_task: get_option(row, 6)?,
        last_tick: get_option(row, 7)?,
        fired: count(row, 8)?,
        missed: count(row, 9)?,
        overlapped: count(row, 10)?,
        refused: count(row, 11)?,
        changed_at: get(row, 12)?,
    })
}

fn all(connection: &Connection) -> rusqlite::Result<Vec<ScheduleRecord>> {
    let select = format!("SELECT {COLUMNS} FROM schedule ORDER BY name");
    connection.prepare_cached(&select)?.query_map([], read)?.collect()
}

fn find(connection: &Connection, name: &ScheduleName) -> rusqlite::Result<Option<ScheduleRecord>> {
    let select = format!("SELECT {COLUMNS} FROM schedule WHERE name = ?1");
    connection.prepare_cached(&select)?.query_row([name.as_str()], read).optional()
}

/// Declares exactly these; others become inactive and keep what is known of them.
fn put(write: &mut Write<'_>, schedules: &[Schedule], now: Timestamp) -> rusqlite::Result<()> {
    let known = all(write.connection)?;
    for change in schedule_changes(&known, schedules, now) {
        match change {
            ScheduleChange::Remove(name) => write
                .connection
                .prepare_cached(
                    "UPDATE schedule SET active = 0, generation = generation + 1, changed_at = ?2 WHERE name = ?1",
                )?
                .execute(params![name.as_str(), now.0])
                .map(drop)?,
            ScheduleChange::Put { declaration, cursor, keeps_word } => {
                declare(write, declaration, (cursor, keeps_word), now)?;
            }
        }
        write.wake_schedules();
    }
    Ok(())
}

fn declare(
    write: &Write<'_>,
    next: &Schedule,
    (cursor, keeps_word): (Timestamp, bool),
    now: Timestamp,
) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached(
            "INSERT INTO schedule (name, declaration, generation, active, cursor, changed_at)
             VALUES (?1, ?2, 1, 1, ?3, ?4)
             ON CONFLICT (name) DO UPDATE SET declaration = ?2, generation = generation + 1, active = 1, cursor = ?3,
                changed_at = ?4, paused = CASE WHEN ?5 THEN paused END",
        )?
        .execute(params![next.name.as_str(), Json::of(next).text(), cursor.0, now.0, keeps_word])?;
    note(write, &next.name, "changed", &json!({ "cron": next.cron, "timezone": next.timezone }), now)
}

/// Ticks while it is paused are not missed: they are not meant. So the cursor moves when it goes on.
fn pause(write: &mut Write<'_>, name: &ScheduleName, paused: bool, now: Timestamp) -> rusqlite::Result<bool> {
    let Some(record) = find(write.connection, name)?.filter(|it| it.active) else { return Ok(false) };
    if record.paused == paused {
        return Ok(true);
    }
    let cursor = if paused { record.cursor } else { record.cursor.max(now) };
    write
        .connection
        .prepare_cached("UPDATE schedule SET paused = ?2, cursor = ?3, changed_at = ?4 WHERE name = ?1")?
        .execute(params![name.as_str(), paused, cursor.0, now.0])?;
    note(write, name, if paused { "paused" } else { "resumed" }, &json!({}), now)?;
    write.wake_schedules();
    Ok(true)
}

fn fire_schedule(write: &mut Write<'_>, fire: Fire, now: Timestamp) -> Result<Fired, SubmitError> {
    let Some(record) = find(write.connection, &fire.name)? else { return Ok(Fired::Lost) };
    if !fire.is_planned_from(&record) {
        return Ok(Fired::Lost);
    }
    let mut ids = Vec::with_capacity(fire.tasks.len());
    let mut last = (record.last_task, record.last_tick);
    for (tick, task) in &fire.tasks {
        let made = submit(write, std::slice::from_ref(task), None, Some(&fire.key(*tick)), now)?;
        last = (made.ids.first().copied(), Some(*tick));
        ids.extend(made.ids);
    }
    for (kind, data) in fire.told(&ids) {
        note(write, &fire.name, kind, &data, now)?;
    }
    write
        .connection
        .prepare_cached(
            "UPDATE schedule SET cursor = ?2, last_task = ?3, last_tick = ?4, fired = fired + ?5, missed = missed + ?6,
                overlapped = overlapped + ?7, refused = refused + ?8
             WHERE name = ?1",
        )?
        .execute(params![
            fire.name.as_str(),
            fire.next_cursor.0,
            last.0.as_ref().map(id),
            last.1.map(|tick| tick.0),
            int(ids.len() as u64),
            int(fire.missed),
            int(fire.overlapped),
            int(fire.refused()),
        ])?;
    Ok(Fired::Done(ids))
}

fn run(
    write: &mut Write<'_>,
    name: &ScheduleName,
    task: NewTask,
    idempotency: Option<&Idempotency>,
    now: Timestamp,
) -> Result<Submitted, SubmitError> {
    let made = submit(write, &[task], None, idempotency, now)?;
    let Some(task) = made.ids.first().filter(|_| !made.replayed) else { return Ok(made) };
    note_run(write, name, *task, now)?;
    Ok(made)
}

fn note_run(write: &Write<'_>, name: &ScheduleName, task: TaskId, now: Timestamp) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached("UPDATE schedule SET last_task = ?2, last_tick = NULL WHERE name = ?1")?
        .execute(params![name.as_str(), id(&task)])?;
    note(write, name, "run", &json!({ "task": task }), now)
}

fn note(
    write: &Write<'_>,
    name: &ScheduleName,
    kind: &str,
    data: &serde_json::Value,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let seq: i64 = write
        .connection
        .prepare_cached(
            "INSERT INTO schedule_event (schedule, seq, at, kind, data)
             SELECT ?1, coalesce(max(seq), 0) + 1, ?2, ?3, ?4 FROM schedule_event WHERE schedule = ?1
             RETURNING seq",
        )?
        .query_row(params![name.as_str(), now.0, kind, Json::of(data).text()], |row| row.get(0))?;
    write
        .connection
        .prepare_cached("DELETE FROM schedule_event WHERE schedule = ?1 AND seq <= ?2")?
        .execute(params![name.as_str(), seq - EVENTS])
        .map(drop)
}
