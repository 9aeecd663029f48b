//! What claims look at: much lies there that is dead, since a transaction is open for long somewhere in the database, or much
//! that is queued.

use std::time::Duration;

use longshore_core::task::Ending;
use longshore_store::NewTask;
use longshore_testkit::Postgres;

use super::until;
use crate::support::*;

/// A server that logs how it ran each statement.
fn explaining() -> Option<Postgres> {
    Postgres::options()
        .setting("autovacuum", "off")
        .setting("session_preload_libraries", "auto_explain")
        .setting("auto_explain.log_min_duration", "0")
        .setting("auto_explain.log_analyze", "on")
        .setting("auto_explain.log_buffers", "on")
        .start()
}

#[tokio::test]
async fn claims_look_at_no_more_than_they_take() {
    let Some(server) = explaining() else { return };
    let world = World::on(&server).await;
    let first = world.submit(new_task()).await;
    let client = world.client().await;
    let copies = |table: &str| {
        format!(
            "CREATE TEMPORARY TABLE one ON COMMIT DROP AS SELECT * FROM {table} WHERE id = '{}';
             INSERT INTO {table} SELECT (jsonb_populate_record(one, jsonb_build_object('id',
                    '00000000-0000-7000-8000-' || lpad(n::text, 12, '0')))).* FROM one, generate_series(1, 30000) AS n",
            first.0
        )
    };
    for table in ["task", "live"] {
        client.batch_execute(&format!("BEGIN; {}; COMMIT", copies(table))).await.unwrap();
    }
    client
        .batch_execute("UPDATE fleet_count SET runnable = 30001 WHERE runnable = 1; ANALYZE")
        .await
        .unwrap();
    let crew = world.worker("w").await;
    for seq in 1..=8 {
        assert_eq!(world.claim(&crew, seq, 5).await.unwrap().len(), 5);
    }
    // With a second tenant they are taken in turn.
    let other = (0..20).map(|_| NewTask { tenant: tenant("other"), ..new_task() }).collect();
    world.store.submit(other, None, world.now()).await.unwrap();
    for seq in 9..=16 {
        assert_eq!(world.claim(&crew, seq, 5).await.unwrap().len(), 5);
    }
    let looks = until("the plans in the log", async || {
        let looks = buffers_of(&server.log(), "FOR UPDATE SKIP LOCKED");
        (looks.len() >= 16).then_some(looks)
    });
    let looks = looks.await;
    assert!(looks.iter().all(|buffers| *buffers < 200), "pages: {looks:?}");
}

#[tokio::test]
async fn claims_do_not_step_over_what_is_dead_each_time() {
    let Some(server) = explaining() else { return };
    let world = World::on(&server).await;
    let first = world.submit(new_task()).await;
    let (client, reader) = (world.client().await, world.client().await);
    let read = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM live; SELECT count(*) FROM task";
    reader.batch_execute(read).await.unwrap();
    // 20,000 tasks that were there for a moment.
    let pass = format!(
        "CREATE TEMPORARY TABLE one AS SELECT * FROM live WHERE id = '{}';
         INSERT INTO live SELECT (jsonb_populate_record(one, jsonb_build_object('id',
                '00000000-0000-7000-8000-' || lpad(n::text, 12, '0')))).*
            FROM one, generate_series(1, 20000) AS n;
         DELETE FROM live WHERE id < '00000001-0000-7000-8000-000000000000'",
        first.0
    );
    client.batch_execute(&pass).await.unwrap();
    let tasks = (0..100).map(|_| new_task()).collect();
    world.store.submit(tasks, None, world.now()).await.unwrap();
    let crew = world.worker("w").await;
    for seq in 1..=50 {
        let held = world.claim_one(&crew, seq).await.held();
        assert!(world.end(&crew, held, Ending::Succeeded).await, "an open transaction stops nobody");
    }
    let buffers = until("the plans in the log", async || {
        let buffers = buffers_of(&server.log(), "FOR UPDATE SKIP LOCKED");
        (buffers.len() >= 50).then_some(buffers)
    });
    let buffers = buffers.await;
    let (least, most) = (buffers.iter().min().unwrap(), buffers.iter().max().unwrap());
    assert!(*most > 300, "dead rows were there to be stepped over: {buffers:?}");
    assert!(*least < 100, "and most claims knew where to begin: {buffers:?}");
    // Whoever ends an attempt asks for suspects, of which there are none.
    let suspects = buffers_of(&server.log(), "SELECT DISTINCT fleet");
    assert!(suspects.len() >= 50 && suspects.iter().all(|buffers| *buffers < 100), "{suspects:?}");
    reader.batch_execute("COMMIT").await.unwrap();
    world.tick(Duration::from_secs(1)).await;
}

/// How many pages each run of a statement with these words looked at.
fn buffers_of(log: &str, words: &str) -> Vec<u64> {
    let plans = log.split("Query Text: ").skip(1).filter(|plan| plan.contains(words));
    plans
        .filter_map(|plan| {
            let line = plan.lines().find(|line| line.trim_start().starts_with("Buffers: shared hit="))?;
            line.split_once("hit=")?.1.split_whitespace().next()?.parse().ok()
        })
        .collect()
}
