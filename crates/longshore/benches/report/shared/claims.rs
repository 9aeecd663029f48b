//! What a claim costs beside much else: a long queue, tasks that are held, a transaction that was left open.

use std::time::{Duration, Instant};

use longshore_core::id::ConversationId;

use super::stage::Stage;
use crate::link_worker::LinkWorker;
use crate::{EXTERNAL, Row, kib, row, task};

/// What one claim asks for, and how many claims are timed.
const CLAIM: u32 = 100;
const CLAIMS: usize = 60;

const QUEUED: usize = 1_000_000;
const HELD: usize = 100_000;
const CONVERSATIONS: usize = 1_000;
/// Tasks that go through while the transaction stays open.
const THROUGH: usize = 60_000;

pub async fn claims() -> Vec<Row> {
    let Some(stage) = Stage::set(EXTERNAL).await else { return Vec::new() };
    let mut worker = LinkWorker::register(&stage.plane, "bench", "claims").await;
    // Once for the caches and plans of its connections.
    timed(&stage, &mut worker).await;
    let empty = timed(&stage, &mut worker).await;
    vec![
        row(format!("shared: claim of {CLAIM}, nothing else queued"), empty.shown(), ""),
        queued(empty).await,
        held(empty).await,
        beside_an_old_transaction(stage, worker, empty).await,
    ]
}

async fn queued(empty: Took) -> Row {
    let stage = Stage::set(EXTERNAL).await.expect("it was there before");
    fill(&stage, QUEUED, |_| None, 1000).await;
    let mut worker = LinkWorker::register(&stage.plane, "bench", "claims").await;
    timed(&stage, &mut worker).await;
    let took = timed(&stage, &mut worker).await;
    row("shared: the same with 1 million queued", took.beside(empty), "2 times")
}

async fn held(empty: Took) -> Row {
    let stage = Stage::set(EXTERNAL).await.expect("it was there before");
    fill(&stage, HELD, |n| Some(format!("c-{}", n % CONVERSATIONS)), 1).await;
    let mut busy = LinkWorker::register(&stage.plane, "bench", "busy").await;
    let heads = busy.claim(CONVERSATIONS as u32).await;
    assert_eq!(heads.len(), CONVERSATIONS, "the first of each conversation runs, the others wait for it");
    let mut worker = LinkWorker::register(&stage.plane, "bench", "claims").await;
    timed(&stage, &mut worker).await;
    let took = timed(&stage, &mut worker).await;
    row("shared: the same with 99,000 held behind 1,000 busy conversations", took.beside(empty), "2 times")
}

/// Nobody may remove what that transaction could still see. Its age is counted in dead rows: as many as a queue of 100
/// tasks a second leaves in ten minutes.
async fn beside_an_old_transaction(mut stage: Stage, mut worker: LinkWorker, empty: Took) -> Row {
    let mut other = super::stage::connect(&stage.url).await;
    let old = other
        .build_transaction()
        .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
        .start()
        .await
        .expect("it begins");
    old.query("SELECT count(*) FROM longshore.live", &[]).await.expect("its snapshot is taken");
    for _ in 0..THROUGH / (CLAIMS * CLAIM as usize) {
        timed(&stage, &mut worker).await;
    }
    let took = timed(&stage, &mut worker).await;
    let dead = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'live'";
    tokio::time::sleep(Duration::from_secs(1)).await;
    let dead: i64 = stage.database.query_one(dead, &[]).await.expect("it answers").get(0);
    old.rollback().await.expect("it ends");
    stage.plane.stop().await;
    let what =
        format!("shared: the same while a transaction stays open, after {THROUGH} tasks ({dead} dead rows)");
    row(what, took.beside(empty), "2 times")
}

/// Puts tasks in, with so many bytes each.
async fn fill(stage: &Stage, number: usize, conversation: impl Fn(usize) -> Option<String>, bytes: usize) {
    const PART: usize = 6_000;
    for part in 0..number.div_ceil(PART) {
        let line = |n: usize| {
            let mut task = task(kib(bytes));
            task.conversation = conversation(n).map(|id| ConversationId::new(id).expect("valid"));
            serde_json::to_string(&task).expect("plain data") + "\n"
        };
        let lines: String = (part * PART..number.min((part + 1) * PART)).map(line).collect();
        stage.plane.client.submit_batch(lines.into_bytes(), None).await.expect("accepted");
    }
}

/// Time that claims take, the median one and all together.
#[derive(Clone, Copy)]
struct Took {
    median: Duration,
    all: Duration,
}

impl Took {
    fn shown(self) -> String {
        let rate = CLAIMS as f64 * f64::from(CLAIM) / self.all.as_secs_f64();
        format!("{:.1} ms, {rate:.0} tasks/s", self.median.as_secs_f64() * 1e3)
    }

    fn beside(self, other: Took) -> String {
        let times = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
        let (median, all) = (times(self.median, other.median), times(self.all, other.all));
        format!("{}: {median:.2} times the median, {all:.2} times all", self.shown())
    }
}

/// Puts tasks in and takes as many out; only the claims are timed.
async fn timed(stage: &Stage, worker: &mut LinkWorker) -> Took {
    fill(stage, CLAIMS * CLAIM as usize, |_| None, 1000).await;
    let mut each = Vec::new();
    for _ in 0..CLAIMS {
        let begun = Instant::now();
        let tasks = worker.claim(CLAIM).await;
        each.push(begun.elapsed());
        assert_eq!(tasks.len(), CLAIM as usize);
        worker.complete(tasks, 1024).await;
    }
    each.sort();
    Took { median: each[each.len() / 2], all: each.iter().sum() }
}
