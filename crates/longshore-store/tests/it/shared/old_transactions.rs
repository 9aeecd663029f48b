//! A transaction that is open for long somewhere in the database, so that nothing dead can be removed.

use std::time::Duration;

use longshore_core::task::Ending;
use longshore_testkit::Postgres;

use super::until;
use crate::support::*;

#[tokio::test]
async fn claims_do_not_step_over_what_is_dead_each_time() {
    let server = Postgres::options()
        .setting("autovacuum", "off")
        .setting("session_preload_libraries", "auto_explain")
        .setting("auto_explain.log_min_duration", "0")
        .setting("auto_explain.log_analyze", "on")
        .setting("auto_explain.log_buffers", "on");
    let Some(server) = server.start() else { return };
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
