//! The passing of time: service time goes on, leases expire, deadlines pass, due tasks become runnable.

use std::time::Duration;

use longshore_core::id::Held;
use longshore_core::task::{Hold, Interruption};
use longshore_core::time::{ServiceTime, Timestamp};

use super::Shared;
use super::changes::Changes;
use super::column::{get, get_option};
use super::connection::Connection;
use super::ending::{self, By, EndOf};
use super::fault::DbError;
use super::lane;
use super::lease::expiry;
use super::live::{Live, live_columns};
use super::replica::epoch;
use super::sql::args;
use crate::embedded::queued;
use crate::error::StoreError;
use crate::model::{Epoch, Tick};
use crate::signals::{Topic, Wakes};

/// The most leases and the most due tasks of one transaction.
const MOST: i64 = 1000;

/// Leases are looked for in the order of their index: else all that is queued might be read until there is one.
const NOW: &str = "SELECT service_ms, (SELECT true FROM @live WHERE worker IS NOT NULL ORDER BY worker LIMIT 1) IS NOT NULL,
        EXISTS (SELECT 1 FROM @leader WHERE epoch = $1) FROM @clock";

/// Adds to it, rather than sets it: should two leaders tick for a moment, neither takes time back.
const ADVANCE: &str = "UPDATE @clock SET service_ms = service_ms + $1
     WHERE EXISTS (SELECT 1 FROM @leader WHERE epoch = $2) RETURNING service_ms";

/// Asked of the workers that may have lost something: a fleet that renews all it holds is not gone through.
const EXPIRED: &str = concat!(
    "SELECT live.id, live.fence FROM @worker AS worker CROSS JOIN LATERAL
        (SELECT id, fence, claim_seq, expires_ms FROM @live AS held
            WHERE held.worker = worker.id AND held.fence >= worker.held_from OFFSET 0)
        AS live
     WHERE worker.state <> 'gone' AND (worker.renewed_until <= $1 OR worker.unrenewed_ms <= $1) AND ",
    expiry!(),
    " <= $1 ORDER BY live.fence LIMIT $2"
);

/// Asked of all leases, whatever is known of their workers.
const ALL_EXPIRED: &str = concat!(
    "SELECT live.id, live.fence FROM @live AS live LEFT JOIN @worker AS worker ON worker.id = live.worker
     WHERE live.worker IS NOT NULL AND ",
    expiry!(),
    " <= $1 ORDER BY live.fence LIMIT $2"
);

/// How often all leases are gone through: should a worker's row have been lost, its tasks are not.
const ALL_EVERY_MS: i64 = 60_000;

const DUE: &str = concat!(
    "SELECT ",
    live_columns!(),
    " FROM @live AS live WHERE due_at <= $1 ORDER BY due_at, id LIMIT $2 FOR UPDATE SKIP LOCKED"
);

const NEXT_DUE: &str = "SELECT min(due_at) FROM @live WHERE due_at IS NOT NULL";
const NEXT_WAIT: &str = "SELECT min(wait_until) FROM @live WHERE wait_until IS NOT NULL";
const NEXT_DEADLINE: &str =
    "SELECT min(deadline_at) FROM @live WHERE deadline_at IS NOT NULL AND NOT expired";

impl Shared {
    pub(crate) async fn tick(
        &self,
        of: Epoch,
        elapsed: Option<Duration>,
        link_seen: bool,
        now: Timestamp,
        roll: f64,
    ) -> Result<Tick, StoreError> {
        let advanced = self.core().run(async |it| advance(&it, of, elapsed, link_seen).await).await?;
        let (service, before) = match advanced {
            Advanced::To { service, before } => (service, before),
            // Due by a clock that no longer counts.
            Advanced::OtherLeads(service) => {
                return Ok(Tick {
                    service,
                    expired: Vec::new(),
                    overdue: Vec::new(),
                    promoted: 0,
                    next_due: None,
                });
            }
        };
        let all = service.0 / ALL_EVERY_MS != before.0 / ALL_EVERY_MS;
        let expired = self.expire(if all { ALL_EXPIRED } else { EXPIRED }, service, now, roll).await?;
        let overdue = self.give_up(MOST, now).await?;
        let promoted = self.promote(now).await?;
        self.time_out(MOST, now).await?;
        self.cancel_orphaned(MOST, now).await?;
        let (open, rate) = self.core().run(async |it| lane::rates(&it, now).await).await?;
        self.core().fire(Wakes::from(open.into_iter().map(Topic::Runnable)));
        let next = self.core().run(async |it| next(&it, rate).await).await?;
        Ok(Tick { service, expired, overdue, promoted, next_due: next })
    }

    async fn expire(
        &self,
        which: &'static str,
        service: ServiceTime,
        now: Timestamp,
        roll: f64,
    ) -> Result<Vec<Held>, StoreError> {
        let core = self.core();
        let expired = core.run(async |it| {
            let rows = it.query(which, args![service.0, MOST]).await?;
            if rows.is_empty() {
                return Ok(Vec::new());
            }
            let mut ends = Vec::with_capacity(rows.len());
            for row in &rows {
                let held = Held { task: get(row, 0)?, fence: get(row, 1)? };
                ends.push(EndOf::interruption(held, Interruption::LeaseExpired, roll));
            }
            it.begin().await?;
            let mut changes = Changes::new(now);
            let expired = ending::end(&it, &mut changes, &ends, By::Control).await?;
            core.commit(&it, changes).await?;
            Ok(expired)
        });
        Ok(expired.await?)
    }

    async fn promote(&self, now: Timestamp) -> Result<usize, StoreError> {
        let core = self.core();
        let promoted = core.run(async |it| {
            // Mostly there is nothing, and then no transaction either.
            let next = it.query_one(NEXT_DUE, args![]).await?;
            if get_option::<Timestamp>(&next, 0)?.is_none_or(|due| due > now) {
                return Ok(0);
            }
            it.begin().await?;
            let mut changes = Changes::new(now);
            let rows = it.query(DUE, args![now.0, MOST]).await?;
            for row in &rows {
                let mut row = Live::read(row)?;
                row.queue(&mut changes, Hold::Ready, None);
                row.event(&mut changes, "queued", &queued(Hold::Ready, None));
                changes.save(row, None);
            }
            core.commit(&it, changes).await?;
            Ok(rows.len())
        });
        Ok(promoted.await?)
    }
}

/// When something is due that no tick has seen.
async fn next(connection: &Connection, rate: Option<Timestamp>) -> Result<Option<Timestamp>, DbError> {
    let (due, deadline, wait) = futures_util::try_join!(
        async { connection.query_one(NEXT_DUE, args![]).await },
        async { connection.query_one(NEXT_DEADLINE, args![]).await },
        async { connection.query_one(NEXT_WAIT, args![]).await },
    )?;
    let next: [Option<Timestamp>; 4] =
        [get_option(&due, 0)?, get_option(&deadline, 0)?, get_option(&wait, 0)?, rate];
    Ok(next.into_iter().flatten().min())
}

/// Service time after a tick.
enum Advanced {
    To {
        service: ServiceTime,
        before: ServiceTime,
    },
    /// Time, and all that comes with it, is another replica's matter.
    OtherLeads(ServiceTime),
}

async fn advance(
    connection: &Connection,
    of: Epoch,
    elapsed: Option<Duration>,
    link_seen: bool,
) -> Result<Advanced, DbError> {
    let row = connection.query_one(NOW, args![epoch(of)]).await?;
    let now = ServiceTime(row.try_get(0)?);
    let (leases, leads): (bool, bool) = (row.try_get(1)?, row.try_get(2)?);
    if !leads {
        return Ok(Advanced::OtherLeads(now));
    }
    let next = now.tick(elapsed, link_seen);
    // Without leases nothing depends on it, and an idle service leaves the disk alone.
    if !leases || next == now {
        return Ok(Advanced::To { service: now, before: now });
    }
    let Some(row) = connection.query_opt(ADVANCE, args![next.0 - now.0, epoch(of)]).await? else {
        return Ok(Advanced::OtherLeads(now));
    };
    Ok(Advanced::To { service: ServiceTime(row.try_get(0)?), before: now })
}
