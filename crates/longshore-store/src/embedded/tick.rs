//! The passing of time: service time goes on, leases expire, deadlines pass, due tasks become runnable.

use std::time::Duration;

use longshore_core::task::{Hold, Interruption};
use longshore_core::time::{ServiceTime, Timestamp};
use rusqlite::params;

use super::column::get_option;
use super::task_row::TaskRow;
use super::writer::Write;
use super::{Embedded, cache, deadline, ending, event, family, lane, lease, waiting};
use crate::error::StoreError;
use crate::model::{Epoch, Tick};

/// The most leases and the most due tasks of one tick: the rest waits for the next, other commands do not.
const MOST: usize = 1000;

impl Embedded {
    pub(crate) async fn tick(
        &self,
        _epoch: Epoch,
        elapsed: Option<Duration>,
        link_seen: bool,
        now: Timestamp,
        roll: f64,
    ) -> Result<Tick, StoreError> {
        self.write(move |write| {
            let leases = lease::any(write)?;
            write.advance(elapsed, link_seen, leases);
            let expired = if leases && write.may_expire() { expire(write, roll, now)? } else { Vec::new() };
            let overdue = deadline::give_up(write, MOST, now)?;
            let promoted = promote(write, now)?;
            waiting::time_out(write, MOST, now)?;
            family::cancel_orphaned(write, MOST, now)?;
            cache::expire(write, MOST, now)?;
            let next = [next_due(write)?, deadline::next(write)?, lane::rates(write, now)?];
            let next_due = next.into_iter().flatten().min();
            Ok(Tick { service: write.service(), expired, overdue, promoted, next_due })
        })
        .await
    }
}

fn expire(
    write: &mut Write<'_>,
    roll: f64,
    now: Timestamp,
) -> rusqlite::Result<Vec<longshore_core::id::Held>> {
    let leases = lease::expired(write, MOST)?;
    let expired = ending::interrupt(write, &leases, Interruption::LeaseExpired, roll, now)?;
    let next = lease::next_expiry(write)?.unwrap_or(ServiceTime(i64::MAX));
    write.none_expires_before(next);
    Ok(expired)
}

fn promote(write: &mut Write<'_>, now: Timestamp) -> rusqlite::Result<usize> {
    let due: Vec<i64> = {
        let mut select = write
            .connection
            .prepare_cached("SELECT ord FROM delayed WHERE due_at <= ?1 ORDER BY due_at, ord LIMIT ?2")?;
        let rows = select.query_map(params![now.0, MOST as i64], |row| row.get(0))?;
        rows.collect::<Result<_, _>>()?
    };
    for ord in &due {
        let mut row = TaskRow::load(write, *ord)?;
        row.queue(write, Hold::Ready, None, now)?;
        row.event(write, "queued", &event::queued(Hold::Ready, None), now)?;
        row.save(write)?;
    }
    Ok(due.len())
}

fn next_due(write: &Write<'_>) -> rusqlite::Result<Option<Timestamp>> {
    write
        .connection
        .prepare_cached(
            "SELECT min(at) FROM (SELECT min(due_at) AS at FROM delayed
                UNION ALL SELECT min(wait_until) FROM task WHERE wait_until IS NOT NULL)",
        )?
        .query_row([], |row| get_option(row, 0))
}
