//! Cancels, or runs again, all tasks that a filter finds: in pages, newest first, each task in a transaction of its own.
//!
//! Nothing here is remembered between requests: a cursor says where to go on, and what was done already is found as done,
//! by its state (cancel) or by its key (retry).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use futures_util::future::join_all;
use longshore_api::bulk::{Bulk, BulkDone};
use longshore_core::bulk::{self, Action, Refusal};
use longshore_core::fleet::Fleet;
use longshore_core::id::{FleetName, TaskId};
use longshore_core::search::{BUDGET, COUNT_BUDGET};
use longshore_core::task::State as TaskState;
use longshore_store::{CancelOutcome, Idempotency, MatchPage, SubmitError, TaskFilter};
use sha2::{Digest, Sha256};

use super::search;
use super::tasks::once_more;
use crate::app::{App, now};
use crate::caller::Caller;
use crate::cursor;
use crate::error::{Answer, Refused};
use crate::extract::{IdempotencyKey, JsonBody};
use crate::tenant;

/// Tasks that are changed side by side; the inputs of so many are held in memory for a retry.
const STEP: usize = 50;

/// What one request changes if it does not say.
const LIMIT: u64 = 1_000;
const MOST: u64 = 10_000;

/// A request answers after this long with a cursor, however much is left.
const LONGEST: Duration = Duration::from_secs(30);

/// Cancel all tasks that a filter finds. Queued ones end at once, running ones when their agents have stopped.
#[utoipa::path(post, path = "/v1/tasks:cancel", request_body = Bulk,
    responses((status = 200, body = BulkDone), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn cancel(
    State(app): State<App>,
    caller: Caller,
    JsonBody(asked): JsonBody<Bulk>,
) -> Answer<Json<BulkDone>> {
    let mut walk = Walk::begin(&app, &caller, Action::Cancel, &asked).await?;
    while let Some(page) = walk.next().await? {
        let ids = page.tasks.iter().map(|(id, _)| *id);
        let states = &walk.filter.states;
        let cancels = ids.map(|id| app.store.cancel_in(id, states.clone(), asked.reason.clone(), now()));
        for outcome in join_all(cancels).await {
            match outcome? {
                CancelOutcome::Cancelled | CancelOutcome::Requested => walk.done.changed += 1,
                CancelOutcome::NotFound | CancelOutcome::AlreadyTerminal(_) | CancelOutcome::Elsewhere(_) => {
                    walk.done.skipped += 1
                }
            }
        }
    }
    Ok(Json(walk.done))
}

/// Run all tasks that a filter finds again, as new tasks with `retry_of`. With the same key none of them twice.
#[utoipa::path(post, path = "/v1/tasks:retry", request_body = Bulk,
    params(("Idempotency-Key" = Option<String>, Header, description = "Send the same one with each page, and after a lost answer: no task runs again twice")),
    responses((status = 200, body = BulkDone), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn retry(
    State(app): State<App>,
    caller: Caller,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(asked): JsonBody<Bulk>,
) -> Answer<Json<BulkDone>> {
    if asked.reason.is_some() {
        return Err(Refused::invalid("reason", "a retry keeps none"));
    }
    let mut walk = Walk::begin(&app, &caller, Action::Retry, &asked).await?;
    let fingerprint: [u8; 32] = Sha256::digest(walk.mark.as_bytes()).into();
    let key = key.filter(|_| !asked.dry_run).map(|key| Key::of(&caller, key, fingerprint));
    if let Some(key) = &key {
        // So that another filter with the same key is refused before anything is done.
        app.store.submit(Vec::new(), Some(key.of_request()), now()).await?;
    }
    let mut fleets = Fleets::default();
    while let Some(page) = walk.next().await? {
        let mut again = Vec::new();
        for (id, _) in &page.tasks {
            match retried(&app, &caller, &mut fleets, *id, &walk.filter.states).await? {
                Some(task) => {
                    let key = key.as_ref().map(|key| key.of_task(*id));
                    again.push(app.store.submit(vec![task], key, now()));
                }
                None => walk.done.skipped += 1,
            }
        }
        for submitted in join_all(again).await {
            match submitted {
                Ok(submitted) if submitted.replayed => walk.done.skipped += 1,
                Ok(submitted) => {
                    walk.done.changed += 1;
                    walk.done.created.extend(submitted.ids);
                }
                Err(SubmitError::UnknownFleet(_)) => walk.done.skipped += 1,
                Err(failed) => return Err(failed.into()),
            }
        }
    }
    Ok(Json(walk.done))
}

struct Key {
    /// What it is unique within.
    whole: String,
    single: String,
    key: String,
    fingerprint: [u8; 32],
}

impl Key {
    fn of(caller: &Caller, key: String, fingerprint: [u8; 32]) -> Key {
        let (whole, single) = (caller.idempotency_scope("bulk"), caller.idempotency_scope("bulk-retry"));
        Key { whole, single, key, fingerprint }
    }

    fn of_request(&self) -> Idempotency {
        Idempotency { scope: self.whole.clone(), key: self.key.clone(), fingerprint: self.fingerprint }
    }

    fn of_task(&self, task: TaskId) -> Idempotency {
        let scope = format!("{}:{}", self.single, self.key);
        Idempotency { scope, key: task.to_string(), fingerprint: self.fingerprint }
    }
}

/// The fleets that were met, as they are declared; `None`: not any more.
#[derive(Default)]
struct Fleets(HashMap<FleetName, Option<Fleet>>);

impl Fleets {
    async fn get(&mut self, app: &App, name: &FleetName) -> Answer<Option<&Fleet>> {
        if !self.0.contains_key(name) {
            let found = app.store.fleet(name.clone()).await?.filter(|fleet| fleet.active);
            self.0.insert(name.clone(), found.map(|fleet| fleet.declaration));
        }
        Ok(self.0.get(name).and_then(Option::as_ref))
    }
}

/// The new task; `None`: the old one is gone or has moved, its fleet takes none, or its conversation is not this caller's.
async fn retried(
    app: &App,
    caller: &Caller,
    fleets: &mut Fleets,
    id: TaskId,
    states: &[TaskState],
) -> Answer<Option<longshore_store::NewTask>> {
    let Some(old) = app.store.task(id).await?.filter(|old| states.contains(&old.state)) else {
        return Ok(None);
    };
    if let Some(conversation) = &old.conversation
        && !caller.sees_conversation(app, conversation).await?
    {
        return Ok(None);
    }
    match fleets.get(app, &old.fleet).await? {
        Some(fleet) => once_more(old, fleet, now()).map(Some),
        None => Ok(None),
    }
}

/// Goes through what a filter finds, a few at a time, until the limit, the end, or the time is up.
struct Walk<'a> {
    app: &'a App,
    caller: &'a Caller,
    filter: TaskFilter,
    /// Of the list that its cursors belong to.
    mark: String,
    left: u64,
    step: usize,
    started: Instant,
    over: bool,
    done: BulkDone,
}

impl<'a> Walk<'a> {
    async fn begin(app: &'a App, caller: &'a Caller, action: Action, asked: &Bulk) -> Answer<Walk<'a>> {
        let mut filter = search::filter(app, caller, &asked.filter).await?;
        filter.states =
            bulk::states(action, &filter.states, filter.is_empty(), asked.all).map_err(refused)?;
        // Not before: that all of a tenant's tasks are meant has to be said as well.
        filter = tenant::narrowed(caller, filter);
        let mark = format!("{action:?} {:?}", asked.filter);
        filter.before = asked.cursor.as_deref().map(|cursor| cursor::read(cursor, &mark)).transpose()?;
        let limit = match asked.limit {
            None => LIMIT,
            Some(limit @ 1..=MOST) => limit,
            Some(limit) => return Err(Refused::invalid("limit", format!("{limit} is outside 1 to {MOST}"))),
        };
        if filter.before.is_none() {
            check_count(app, caller, &filter, asked.at_most).await?;
        }
        let (left, step) = if asked.dry_run { (u64::MAX, BUDGET) } else { (limit, STEP) };
        let done = BulkDone { dry_run: asked.dry_run, ..BulkDone::default() };
        Ok(Walk { app, caller, filter, mark, left, step, started: Instant::now(), over: false, done })
    }

    /// The next tasks to change; in a dry run they are only counted.
    async fn next(&mut self) -> Answer<Option<MatchPage>> {
        while !self.over {
            if self.left == 0 || self.started.elapsed() > LONGEST {
                let place = self.filter.before;
                self.done.next_cursor = place.map(|place| cursor::after(place, &self.mark));
                return Ok(None);
            }
            let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.step);
            let page = look(self.app, self.caller, &self.filter, most).await?;
            let found = page.tasks.len() as u64;
            self.left -= found;
            self.done.matched += found;
            self.over = page.next.is_none();
            self.filter.before = page.next;
            if found > 0 && !self.done.dry_run {
                return Ok(Some(page));
            }
        }
        Ok(None)
    }
}

/// One page. Wide searches take turns, so that they never hold all of the store's readers.
async fn look(app: &App, caller: &Caller, filter: &TaskFilter, most: usize) -> Answer<MatchPage> {
    let _turn = match filter.is_wide() {
        true => app.slow_lists.acquire().await.ok(),
        false => None,
    };
    search::matching(app, caller, filter, most).await
}

/// Refuses when more tasks match than were expected.
async fn check_count(app: &App, caller: &Caller, filter: &TaskFilter, expected: Option<u64>) -> Answer<()> {
    let Some(most) = expected else { return Ok(()) };
    let (mut filter, mut found) = (filter.clone(), 0);
    for _ in 0..COUNT_BUDGET / BUDGET {
        let wanted = usize::try_from(most - found + 1).unwrap_or(BUDGET).min(BUDGET);
        let page = look(app, caller, &filter, wanted).await?;
        found += page.tasks.len() as u64;
        bulk::guard(found, expected).map_err(refused)?;
        if page.next.is_none() {
            return Ok(());
        }
        filter.before = page.next;
    }
    let detail = format!("more than {COUNT_BUDGET} tasks would have to be looked at to tell how many match");
    Err(Refused::new(422, "filter_too_wide", detail)
        .hint("name a state, a batch, a conversation or a time, or leave `at_most` out"))
}

fn refused(refusal: Refusal) -> Refused {
    let detail = refusal.to_string();
    match refusal {
        Refusal::Empty => Refused::new(422, "empty_filter", detail)
            .hint("name a fleet, a state, a batch, …, or send `\"all\": true`"),
        Refusal::State { .. } => Refused::invalid("state", detail),
        Refusal::MoreThanExpected { .. } => Refused::new(409, "more_than_expected", detail)
            .hint("count again with `\"dry_run\": true`; nothing was done"),
    }
}
