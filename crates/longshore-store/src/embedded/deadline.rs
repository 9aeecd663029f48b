//! Tasks whose deadline has passed: ended where they wait, stopped where they run.

use longshore_core::id::TaskId;
use longshore_core::json::Json;
use longshore_core::task::{self, AtDeadline};
use longshore_core::time::Timestamp;
use rusqlite::{OptionalExtension, params};
use serde_json::json;

use super::column::get;
use super::task_row::TaskRow;
use super::writer::Write;
use super::{ending, family, list};

/// Gives up at most `most` tasks; returns those that ended here. The others end with their attempts.
pub(super) fn give_up(write: &mut Write<'_>, most: usize, now: Timestamp) -> rusqlite::Result<Vec<TaskId>> {
    let due: Vec<i64> = {
        let mut select = write.connection.prepare_cached(
            "SELECT ord FROM task
             WHERE deadline_at IS NOT NULL AND deadline_at <= ?1 AND finished_at IS NULL AND expired = 0
             ORDER BY deadline_at LIMIT ?2",
        )?;
        let rows = select.query_map(params![now.0, most as i64], |row| row.get(0))?;
        rows.collect::<Result<_, _>>()?
    };
    let mut ended = Vec::new();
    for ord in due {
        let mut row = TaskRow::load(write, ord)?;
        row.expired = true;
        match task::at_deadline(row.state) {
            AtDeadline::Nothing => {}
            AtDeadline::Stop => {
                let data = json!({ "deadline_at": row.deadline_at });
                row.event(write, "deadline_passed", &Json::of(&data), now)?;
                list::tell_worker(write, row.ord)?;
                row.save(write)?;
            }
            AtDeadline::Fail => {
                ending::fail(write, &mut row, task::deadline_exceeded(), now)?;
                row.save(write)?;
                family::moved(write, &row, now)?;
                ended.push(row.id);
            }
        }
    }
    Ok(ended)
}

/// When the next deadline passes that nobody was told of.
pub(super) fn next(write: &Write<'_>) -> rusqlite::Result<Option<Timestamp>> {
    write
        .connection
        .prepare_cached(
            "SELECT deadline_at FROM task WHERE deadline_at IS NOT NULL AND finished_at IS NULL AND expired = 0
             ORDER BY deadline_at LIMIT 1",
        )?
        .query_row([], |row| get(row, 0))
        .optional()
}
