//! Forgets what a plan says may go of ended tasks, a few at a time. What may go when is decided in
//! `longshore_core::retention`.
//!
//! A reader looks for them, so that those that are still needed hold nobody up. What it finds stays free to go: an ended
//! task never runs again, and gets no new parent, child or batch.

use longshore_core::id::{FleetName, TenantName};
use longshore_core::retention::{Dropped, Needs, Part, Plan};
use longshore_core::task::State;
use longshore_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::Embedded;
use super::column::get;
use super::writer::{Place, Write};
use crate::error::StoreError;
use crate::model::Forgotten;

/// Tables with rows of a task that go with its journal, by `ord`.
const JOURNAL: [&str; 7] =
    ["journal", "journal_blob", "journal_link", "journal_request", "journal_entry", "journal_ask", "step"];

/// Tables with rows of a task that go with the task, beside those of its journal.
const TASK: [&str; 8] =
    ["input", "result", "attempt", "event", "staged_message", "child", "orphaned", "question"];

/// Tables that name a task and are left alone: hot ones know no ended task, and messages outlive theirs.
#[cfg(test)]
const OTHERS: [&str; 6] = ["task", "runnable", "delayed", "lease", "conversation_queue", "message"];

/// The most that one step deletes: tasks, and events of theirs.
const STEP: usize = 100;
const STEP_EVENTS: i64 = 20_000;

impl Embedded {
    pub(crate) async fn retain(&self, fleet: FleetName, plan: Plan) -> Result<Forgotten, StoreError> {
        let found = self.read(move |connection| Ok(look(connection, &fleet, &plan)?)).await?;
        if found.is_empty() {
            return Ok(Forgotten::default());
        }
        // Whether this outlives a power cut does not matter: it would be done again.
        self.write_soon(move |write| Ok(forget(write, &found)?)).await
    }

    /// One file has no days that could go as a whole.
    pub(crate) async fn forget_days(
        &self,
        _: Vec<(FleetName, Plan)>,
        _: Timestamp,
    ) -> Result<Option<Forgotten>, StoreError> {
        Ok(None)
    }
}

struct Picked {
    ord: i64,
    part: Part,
    finished_at: i64,
    events: i64,
}

/// Some that may go, all of the first part of which there are any.
fn look(connection: &Connection, fleet: &FleetName, plan: &Plan) -> rusqlite::Result<Vec<Picked>> {
    for part in Part::ALL {
        if let Some(before) = plan.before(part) {
            let found = ended(connection, fleet, part, before, STEP)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
    let most = usize::try_from(plan.excess).unwrap_or(STEP).min(STEP);
    match most {
        0 => Ok(Vec::new()),
        most => ended(connection, fleet, Part::Task, Timestamp::MAX, most),
    }
}

/// Those that ended first, of which this part is there and not needed any more.
fn ended(
    connection: &Connection,
    fleet: &FleetName,
    part: Part,
    before: Timestamp,
    most: usize,
) -> rusqlite::Result<Vec<Picked>> {
    let mut picked = Vec::new();
    for dropped in Dropped::ALL.into_iter().filter(|dropped| dropped.has(part)) {
        picked.extend(ended_alike(connection, fleet, (part, dropped), before, most)?);
    }
    picked.sort_by_key(|one| one.finished_at);
    let mut events = 0;
    let fitting = picked.iter().take(most).take_while(|one| {
        let first = events == 0;
        events += one.events;
        first || events <= STEP_EVENTS
    });
    let fitting = fitting.count();
    picked.truncate(fitting);
    Ok(picked)
}

fn ended_alike(
    connection: &Connection,
    fleet: &FleetName,
    (part, dropped): (Part, Dropped),
    before: Timestamp,
    most: usize,
) -> rusqlite::Result<Vec<Picked>> {
    let mut select = connection.prepare_cached(
        "SELECT ord, finished_at, last_event,
            parent IS NOT NULL AND EXISTS (SELECT 1 FROM task AS p WHERE p.id = task.parent AND p.finished_at IS NULL),
            EXISTS (SELECT 1 FROM task AS c WHERE c.parent = task.id AND c.finished_at IS NULL),
            batch IS NOT NULL AND EXISTS (SELECT 1 FROM batch AS b WHERE b.id = task.batch AND b.finished_at IS NULL)
         FROM task INDEXED BY task_ended
         WHERE fleet = ?1 AND dropped = ?2 AND finished_at IS NOT NULL AND finished_at < ?3 ORDER BY finished_at",
    )?;
    let mut rows = select.query(params![fleet.as_str(), dropped.0, before.0])?;
    let mut picked = Vec::new();
    while let Some(row) = rows.next()? {
        let needs = Needs { parent: row.get(3)?, child: row.get(4)?, batch: row.get(5)? };
        if needs.keep(part) {
            continue;
        }
        picked.push(Picked { ord: row.get(0)?, part, finished_at: row.get(1)?, events: row.get(2)? });
        if picked.len() == most {
            break;
        }
    }
    Ok(picked)
}

fn forget(write: &mut Write<'_>, found: &[Picked]) -> rusqlite::Result<Forgotten> {
    let mut done = Forgotten { more: !found.is_empty(), ..Forgotten::default() };
    for one in found {
        match one.part {
            Part::Journal => {
                delete(write, &JOURNAL, one.ord)?;
                done.journals += u64::from(mark(write, one)?);
            }
            Part::Result => {
                delete(write, &["result"], one.ord)?;
                done.results += u64::from(mark(write, one)?);
            }
            Part::Task => done.tasks += u64::from(delete_task(write, one.ord)?.is_some()),
        }
    }
    Ok(done)
}

/// Notes on the task what it has lost; false if it is gone meanwhile.
fn mark(write: &Write<'_>, one: &Picked) -> rusqlite::Result<bool> {
    let dropped: Option<Dropped> = write
        .connection
        .prepare_cached("SELECT dropped FROM task WHERE ord = ?1")?
        .query_row([one.ord], |row| get(row, 0))
        .optional()?;
    let Some(dropped) = dropped else { return Ok(false) };
    write
        .connection
        .prepare_cached("UPDATE task SET dropped = ?2 WHERE ord = ?1")?
        .execute(params![one.ord, dropped.without(one.part).0])?;
    Ok(true)
}

fn delete(write: &Write<'_>, tables: &[&str], ord: i64) -> rusqlite::Result<()> {
    tables.iter().try_for_each(|table| {
        write
            .connection
            .prepare_cached(&format!("DELETE FROM {table} WHERE ord = ?1"))?
            .execute([ord])
            .map(drop)
    })
}

/// Deletes an ended task with all that is its own; returns its conversation's name, if it had one, or `None` if the task is
/// gone or has not ended.
pub(super) fn delete_task(write: &mut Write<'_>, ord: i64) -> rusqlite::Result<Option<Option<String>>> {
    let gone: Option<(FleetName, TenantName, State, Option<String>)> = write
        .connection
        .prepare_cached(
            "DELETE FROM task WHERE ord = ?1 AND finished_at IS NOT NULL RETURNING fleet, tenant, state, conversation",
        )?
        .query_row([ord], |row| Ok((get(row, 0)?, get(row, 1)?, get(row, 2)?, row.get(3)?)))
        .optional()?;
    let Some((fleet, tenant, state, conversation)) = gone else { return Ok(None) };
    write.uncount(&fleet, &tenant, Place::of(state, None));
    delete(write, &JOURNAL, ord)?;
    delete(write, &TASK, ord)?;
    // Its children's rows too: an erased parent may have children that still run, and tell nobody when they end.
    write.connection.prepare_cached("DELETE FROM child WHERE parent = ?1")?.execute([ord])?;
    Ok(Some(conversation))
}

#[cfg(test)]
fn tables_with(connection: &Connection, column: &str) -> Vec<String> {
    let mut select = connection
        .prepare(
            "SELECT m.name FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c
             WHERE m.type = 'table' AND c.name = ?1 ORDER BY m.name",
        )
        .unwrap();
    select.query_map([column], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::migrate;

    fn schema() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate::run(&mut connection, migrate::MIGRATIONS, 0).unwrap();
        connection
    }

    #[test]
    fn tasks_of_an_older_file_are_known_by_what_they_have() {
        let mut file = Connection::open_in_memory().unwrap();
        let ours = migrate::MIGRATIONS.iter().position(|step| step.contains("CREATE TABLE batch ")).unwrap();
        migrate::run(&mut file, &migrate::MIGRATIONS[..ours], 0).unwrap();
        let insert = "INSERT INTO task (ord, id, fleet, state, hold, priority, timeout_ms, max_attempts, on_interrupt,
            backoff_base_ms, backoff_cap_ms, labels, publish_input, created_at, finished_at, conversation, conv_seq)
            VALUES (?1, randomblob(16), 'a', ?2, ?3, 0, 1, 1, 'resume', 1, 1, '{}', 0, 5, ?4, 'c', ?1)";
        for (ord, state, hold, at) in [
            (1, "succeeded", None, Some(9)),
            (2, "succeeded", None, Some(9)),
            (3, "failed", None, Some(9)),
            (4, "queued", Some("ready"), None),
        ] {
            file.execute(insert, params![ord, state, hold, at]).unwrap();
        }
        file.execute_batch(
            "INSERT INTO journal (ord) VALUES (1);
             INSERT INTO conversation (id, next_seq, messages) VALUES ('c', 5, 1);
             INSERT INTO message (conversation, seq, ord, at, data) VALUES ('c', 1, 2, 9, '1')",
        )
        .unwrap();
        migrate::run(&mut file, migrate::MIGRATIONS, ours).unwrap();
        let mut select = file.prepare("SELECT dropped FROM task ORDER BY ord").unwrap();
        let dropped: Vec<Dropped> =
            select.query_map([], |row| get(row, 0)).unwrap().collect::<Result<_, _>>().unwrap();
        let ended = |state, journal| Dropped::at_end(state, journal);
        let expected = [
            ended(State::Succeeded, true),
            ended(State::Succeeded, false),
            ended(State::Failed, false),
            Dropped::default(),
        ];
        assert_eq!(dropped, expected);
        let ask = |query| file.query_row(query, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(ask("SELECT used_at FROM conversation"), 5);
        assert_eq!(
            ask("SELECT count(*) FROM message JOIN task ON task.id = message.task WHERE task.ord = 2"),
            1
        );
    }

    #[test]
    fn every_table_that_names_a_task_is_deleted_with_it_or_known_to_stay() {
        for table in tables_with(&schema(), "ord") {
            let known = JOURNAL.iter().chain(&TASK).chain(&OTHERS).any(|known| *known == table);
            assert!(known, "`{table}` has rows of tasks: name it in JOURNAL, TASK or OTHERS");
        }
    }

    #[test]
    fn every_table_that_names_a_tenant_is_erased_with_it() {
        let known = super::super::erase::TABLES;
        for table in tables_with(&schema(), "tenant") {
            assert!(
                known.contains(&table.as_str()),
                "`{table}` has rows of tenants: let the erasure delete them"
            );
        }
    }
}
