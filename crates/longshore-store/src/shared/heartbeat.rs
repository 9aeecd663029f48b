//! Renews what workers still hold, and tells them what they lost; many workers in one round trip.

use std::collections::{HashMap, HashSet};

use futures_util::future::BoxFuture;
use longshore_core::id::{Held, WorkerId};
use longshore_core::task::Interruption;
use longshore_core::time::Timestamp;
use uuid::Uuid;

use super::Shared;
use super::changes::{self, Changes};
use super::column::int;
use super::connection::Connection;
use super::core::Core;
use super::ending::{self, By, EndOf};
use super::fault::DbError;
use super::lease::{self, Brief};
use super::register::{self, Known, Who};
use super::sql::args;
use crate::error::LinkError;
use crate::model::{Heartbeat, HeartbeatNews, WorkerState};

pub(super) struct Beat {
    heartbeat: Heartbeat,
    now: Timestamp,
}

pub(super) type Answer = Result<HeartbeatNews, Who>;

impl Shared {
    pub(crate) async fn heartbeat(
        &self,
        heartbeat: Heartbeat,
        now: Timestamp,
    ) -> Result<HeartbeatNews, LinkError> {
        let worker = heartbeat.worker.clone();
        let news = self.open.beats.ask(Beat { heartbeat, now }).await?;
        news.map_err(|who| who.named(worker).into())
    }

    pub(crate) async fn news(
        &self,
        worker: WorkerId,
        nonce: Uuid,
        held: Vec<Held>,
    ) -> Result<HeartbeatNews, LinkError> {
        let news = self.core().run(async |it| {
            let known = register::find(&it, &[worker.as_str()]).await?;
            let known = match register::judge(&it, known.get(&worker), &worker, nonce).await? {
                Ok(known) => known,
                Err(who) => return Ok(Err(who)),
            };
            let leases = lease::of_workers(&it, &[worker.as_str()]).await?;
            let leases: Vec<Brief> = leases.into_iter().map(|(_, lease)| lease).collect();
            Ok(Ok(news(&leases, &held, known, known.state)))
        });
        news.await?.map_err(|who| who.named(worker.clone()).into())
    }
}

/// A worker that says it is gone says so by its goodbye; until then it is at most draining. Only this start of it is
/// renewed: it may have been superseded since it was looked at. One that holds nothing gets its next lease with a fence that
/// nobody has drawn yet: while its row is locked it claims nothing.
const RENEW: &str =
    "UPDATE @worker AS worker SET state = n.state, reason = n.reason, memory = n.memory, last_seen = n.at,
        renewed_claim = n.claim, renewed_until = clock.service_ms + n.length,
        unrenewed_ms = CASE WHEN n.claim < worker.claim_seq THEN worker.unrenewed_ms END,
        held_from = coalesce(n.first, (SELECT last_value FROM @fence))
     FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
            $9::bigint[])
        AS n (id, nonce, state, reason, memory, at, claim, length, first), @clock AS clock
     WHERE worker.id = n.id AND worker.nonce = n.nonce AND worker.state <> 'gone'";

pub(super) fn together<'a>(core: &'a Core, batch: &'a [Beat]) -> BoxFuture<'a, Result<Vec<Answer>, DbError>> {
    Box::pin(async move {
        let connection = core.connection().await?;
        let done = beat(core, &connection, batch).await;
        if done.is_err() {
            connection.roll_back().await;
        }
        done
    })
}

async fn beat(core: &Core, connection: &Connection, batch: &[Beat]) -> Result<Vec<Answer>, DbError> {
    connection.ready(&[register::LOCK, RENEW]).await?;
    connection.ready(changes::STATEMENTS).await?;
    let ids: Vec<&str> = batch.iter().map(|beat| beat.heartbeat.worker.as_str()).collect();
    // What is lost of this with the database's power, the next heartbeat says again.
    let (begun, workers, leases) = futures_util::join!(
        connection.begin_unsynced(),
        register::lock(connection, &ids),
        lease::of_workers(connection, &ids),
    );
    begun?;
    let workers = workers?;
    let mut leases_of: HashMap<String, Vec<Brief>> = HashMap::new();
    for (worker, lease) in leases? {
        leases_of.entry(worker).or_default().push(lease);
    }
    let (mut answers, mut renewed, mut ghosts) = (Vec::with_capacity(batch.len()), Vec::new(), Vec::new());
    for beat in batch {
        let it = &beat.heartbeat;
        let known = match register::judge(connection, workers.get(&it.worker), &it.worker, it.nonce).await? {
            Ok(known) => known,
            Err(who) => {
                answers.push(Err(who));
                continue;
            }
        };
        let leases = leases_of.get(it.worker.as_str()).map_or(&[][..], Vec::as_slice);
        let (held, gone) = sort(leases, it);
        ghosts.extend(gone.iter().map(|lease| EndOf::interruption(lease.held, Interruption::NotHeld, 0.0)));
        renewed.push((beat, leases.first().map(|oldest| int(oldest.held.fence.0))));
        answers.push(Ok(news(&held, &it.held, known, it.condition.state)));
    }
    let mut changes = Changes::new(batch.first().map_or(Timestamp::default(), |beat| beat.now));
    ending::end(connection, &mut changes, &ghosts, By::Control).await?;
    futures_util::try_join!(renew(connection, &renewed), core.commit(connection, changes))?;
    Ok(answers)
}

/// What the worker holds, and what it should hold but does not list; younger ones are on their way to it.
fn sort(leases: &[Brief], it: &Heartbeat) -> (Vec<Brief>, Vec<Brief>) {
    let listed: HashSet<Held> = it.held.iter().copied().collect();
    let (held, unlisted): (Vec<Brief>, Vec<Brief>) =
        leases.iter().copied().partition(|lease| listed.contains(&lease.held));
    (held, unlisted.into_iter().filter(|lease| lease.claim_seq <= int(it.last_claim)).collect())
}

/// Each with the fence of the worker's oldest lease.
async fn renew(connection: &Connection, beats: &[(&Beat, Option<i64>)]) -> Result<(), DbError> {
    if beats.is_empty() {
        return Ok(());
    }
    let all = || beats.iter().map(|(beat, _)| &beat.heartbeat);
    let state = |it: &Heartbeat| match it.condition.state {
        WorkerState::Gone => WorkerState::Draining.as_str(),
        state => state.as_str(),
    };
    connection
        .execute(
            RENEW,
            args![
                all().map(|it| it.worker.as_str()).collect::<Vec<_>>(),
                all().map(|it| it.nonce).collect::<Vec<_>>(),
                all().map(state).collect::<Vec<_>>(),
                all().map(|it| it.condition.reason.replace('\0', "")).collect::<Vec<_>>(),
                all().map(|it| int(it.condition.memory)).collect::<Vec<_>>(),
                beats.iter().map(|(beat, _)| beat.now.0).collect::<Vec<_>>(),
                all().map(|it| int(it.last_claim)).collect::<Vec<_>>(),
                all().map(|it| int(it.lease.as_millis() as u64)).collect::<Vec<_>>(),
                beats.iter().map(|(_, first)| *first).collect::<Vec<_>>(),
            ],
        )
        .await
        .map(drop)
}

/// What the worker does not know yet: `leases` are its own, `listed` what it thinks it holds.
fn news(leases: &[Brief], listed: &[Held], worker: &Known, state: WorkerState) -> HeartbeatNews {
    let valid: HashSet<Held> = leases.iter().map(|lease| lease.held).collect();
    let knows_drain = matches!(state, WorkerState::Draining | WorkerState::Gone);
    HeartbeatNews {
        lost: listed.iter().copied().filter(|held| !valid.contains(held)).collect(),
        cancel: leases.iter().filter(|lease| lease.cancel).map(|lease| lease.held).collect(),
        drain: worker.drain.filter(|_| !knows_drain),
    }
}
