//! What claims look at: much lies there that is dead, since a transaction is open for long somewhere in the database, or much
//! that is queued. And what those look at who send messages of webhooks, where many are kept.

use std::time::Duration;

use longshore_core::fleet::SecretSource;
use longshore_core::task::Ending;
use longshore_core::webhook::{Next, STATES, Webhook, WebhookName};
use longshore_store::{DeliveryFilter, DeliveryState, NewTask, Redeliver, Tried};
use longshore_testkit::Postgres;

use super::until;
use crate::support::*;

/// A server that logs how it ran each statement, and plans them so.
fn explaining(plans: &str) -> Option<Postgres> {
    Postgres::options()
        .setting("autovacuum", "off")
        .setting("plan_cache_mode", plans)
        .setting("session_preload_libraries", "auto_explain")
        .setting("auto_explain.log_min_duration", "0")
        .setting("auto_explain.log_analyze", "on")
        .setting("auto_explain.log_buffers", "on")
        .start()
}

#[tokio::test]
async fn claims_look_at_no_more_than_they_take() {
    let Some(server) = explaining("auto") else { return };
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
    let Some(server) = explaining("auto") else { return };
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

#[tokio::test]
async fn messages_are_looked_up_however_many_are_kept() {
    // The plan that is made once for whatever is asked, which prepared statements come to.
    let Some(server) = explaining("force_generic_plan") else { return };
    let world = World::on(&server).await;
    let named = |name: &str| Webhook {
        name: WebhookName::new(name).unwrap(),
        url: "https://example.com/".into(),
        secrets: vec![SecretSource::Env("S".into())],
        fleets: Vec::new(),
        states: STATES.to_vec(),
        allow_private: false,
    };
    let now = world.now();
    world.store.put_webhooks(vec![named("busy"), named("quiet"), named("removed")], now).await.unwrap();
    let task = world.submit(NewTask { tenant: tenant("acme"), ..new_task() }).await;
    world.store.cancel(task, None, now).await.unwrap();
    world.store.put_webhooks(vec![named("busy"), named("quiet")], now).await.unwrap();
    // Of one webhook much was delivered, of another much waits.
    let many = format!(
        "INSERT INTO delivery (webhook, task, fleet, tenant, ended_as, at, state, since, next_at, ended_at)
            SELECT webhook, gen_random_uuid(), 'a', 'default', 'failed', {0}, state, {0},
                CASE WHEN state = 'pending' THEN {0} END, CASE WHEN state <> 'pending' THEN {0} END
            FROM generate_series(1, 20000), (VALUES ('busy', 'delivered'), ('removed', 'pending')) AS of (webhook, state);
         ANALYZE delivery",
        now.0
    );
    world.on_server(&many).await;
    let quiet = || WebhookName::new("quiet").unwrap();
    let due = world.store.due_deliveries(quiet(), now, 10).await.unwrap();
    let number = due[0].seq;
    let until_then = now.after(Duration::from_secs(30));
    assert_eq!(
        world.store.hold_deliveries(vec![number], world.epoch, now, until_then).await.unwrap(),
        [number]
    );
    assert_eq!(world.store.next_delivery(quiet()).await.unwrap(), None);
    for state in [None, Some(DeliveryState::Failed), Some(DeliveryState::Pending)] {
        let filter = DeliveryFilter { webhook: quiet(), state, before: None };
        world.store.deliveries(filter, 100).await.unwrap();
    }
    world.store.webhook_backlog(quiet()).await.unwrap();
    for which in [Redeliver::Failed, Redeliver::One(task)] {
        world.store.redeliver(quiet(), which, now).await.unwrap();
    }
    let tried = Tried { seq: number, at: now, status: Some(200), error: None, next: Next::Delivered };
    world.store.delivery_tried(tried).await.unwrap();
    assert_eq!(world.store.forget_deliveries(now.before(Duration::from_secs(1))).await.unwrap(), 0);
    let erased = async || {
        let erased = world.store.erase_tenant(tenant("acme"), "asked".into(), now).await.unwrap();
        (!erased.more).then_some(())
    };
    until("the tenant to be erased", erased).await;
    let log = until("the plans in the log", async || {
        let log = server.log();
        (!buffers_of(&log, "ORDER BY tenant, seq").is_empty()).then_some(log)
    });
    let log = log.await;
    let read = |words: &str, most: u64| {
        let looks = buffers_of(&log, words);
        assert!(!looks.is_empty() && looks.iter().all(|buffers| *buffers < most), "{words}: {looks:?} pages");
    };
    for words in
        ["held_until IS NULL ", "SET held_until", "ORDER BY webhook DESC", "AS few", "SET state = 'pending'"]
    {
        read(words, 100);
    }
    for words in ["WITH tried AS", "ended_at < $1", "ORDER BY tenant, seq"] {
        read(words, 100);
    }
    // Of what nobody wants any more the oldest are read.
    read("WHERE NOT w.active", 15_000);
    world.clean_up().await;
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
