//! What is erased is gone from the file, byte for byte, and what is not erased is still there.

use std::fs;
use std::path::Path;

use longshore_core::batch::BatchId;
use longshore_core::fleet::SecretSource;
use longshore_core::task::{Ending, Interruption};
use longshore_core::wait::{Ask, OnExpiry};
use longshore_core::webhook::{STATES, Webhook, WebhookName};
use longshore_store::*;
use uuid::Uuid;

use crate::support::*;

const MARK: &str = "zebra-crossing-4711";
const OTHER: &str = "bystander-0815";

fn marked(mark: &str, conversation: &str) -> NewTask {
    NewTask {
        input: json(&format!("{{\"secret\":\"{mark}\"}}")),
        publish_input: true,
        // A name is a trace as well.
        tenant: tenant(mark),
        labels: [("who".to_owned(), mark.to_owned())].into(),
        ..talk(&format!("{conversation}-{mark}"))
    }
}

/// Is told of each end, so that something is kept that outlives its task.
fn webhook() -> Webhook {
    Webhook {
        name: WebhookName::new("every").unwrap(),
        url: "https://example.com/".into(),
        secrets: vec![SecretSource::Env("S".into())],
        fleets: Vec::new(),
        states: STATES.to_vec(),
        allow_private: false,
    }
}

/// How often a text stands in the store's files.
fn found(dir: &Path, text: &str) -> usize {
    let files = fs::read_dir(dir).unwrap().flatten().filter(|file| file.file_type().unwrap().is_file());
    let count =
        |bytes: Vec<u8>| bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count();
    files.map(|file| count(fs::read(file.path()).unwrap())).sum()
}

/// Runs a task to its end with everything that may leave a trace.
async fn run(world: &World, crew: &Crew, seq: u64, mark: &str) {
    let task = world.claim_one(crew, seq).await;
    let held = task.held();
    let text = format!("\"{mark}\"");
    world.store.begin_step(held, fleet("a"), mark.into(), world.now()).await.unwrap();
    world.store.end_step(held, fleet("a"), mark.into(), json(&text), world.now()).await.unwrap();
    let ask = Ask {
        name: Some(mark.into()),
        question: json(&text),
        schema: None,
        expires_ms: None,
        on_expiry: OnExpiry::Fail,
    };
    world.store.ask(held, fleet("a"), ask, world.now()).await.unwrap();
    let events = vec![says(1, AgentEventKind::Progress, &text), says(2, AgentEventKind::Message, &text)];
    let end = EndAttempt { held, events, ending: Ending::Succeeded, result: Some(json(&text)), roll: 0.5 };
    world.store.end_attempts(crew.id.clone(), crew.nonce, vec![end], world.now()).await.unwrap();
}

async fn erase(world: &World) -> (Erased, u64) {
    let mut sum = Erased::default();
    loop {
        let step = world.store.erase_tenant(tenant(MARK), "erased".into(), world.now()).await.unwrap();
        sum.cancelled += step.cancelled;
        sum.tasks += step.tasks;
        sum.conversations += step.conversations;
        sum.batches += step.batches;
        if !step.more {
            return (sum, step.running);
        }
    }
}

#[tokio::test]
async fn nothing_of_an_erased_tenant_is_left_in_the_file() {
    let world = World::embedded().await;
    let dir = world.dir.as_ref().unwrap().path().to_owned();
    world.store.put_webhooks(vec![webhook()], world.now()).await.unwrap();
    let crew = world.worker("w").await;
    let batch =
        NewBatch { id: BatchId(Uuid::now_v7()), name: MARK.into(), labels: Default::default(), more: false };
    world.submit(marked(OTHER, "c")).await;
    run(&world, &crew, 1, OTHER).await;
    let key = Idempotency { scope: "batch".into(), key: MARK.into(), fingerprint: [7; 32] };
    // One that ends, one that runs, one that waits behind it, and a crowd whose pages are split and moved.
    let mut tasks = vec![marked(MARK, "c"), marked(MARK, "d"), marked(MARK, "d")];
    tasks.extend((0..300).map(|n| marked(MARK, &format!("e{n}"))));
    let ids = world.store.submit_batch(batch, tasks, Some(key), world.now()).await.unwrap().ids;
    run(&world, &crew, 2, MARK).await;
    let running = world.claim_one(&crew, 3).await;
    assert_eq!(running.id, ids[1]);
    assert!(found(&dir, MARK) > 600 && found(&dir, OTHER) > 5);

    let (erased, left) = erase(&world).await;
    assert_eq!((erased.cancelled, erased.tasks, left), (302, 302, 1), "the one that runs is told to stop");
    world.end(&crew, running.held(), Ending::Interrupted(Interruption::Cancelled)).await;
    let (erased, left) = erase(&world).await;
    assert_eq!((erased.tasks, erased.batches, left), (1, 1, 0));
    assert_eq!(erase(&world).await, (Erased::default(), 0), "it can be repeated");
    assert_eq!(world.store.forget_orphaned_keys(None).await.unwrap(), None);
    world.store.compact().await.unwrap();

    assert_eq!(found(&dir, MARK), 0, "no byte is left");
    assert!(found(&dir, OTHER) > 5, "others keep what is theirs");
    let left = world.store.search(TaskFilter::default(), 10).await.unwrap().tasks;
    assert_eq!(left.len(), 1);
    assert!(world.store.task(left[0].id).await.unwrap().expect("it is there").result.is_some());
    world.submit(new_task()).await;
    assert_eq!(world.claim(&crew, 4, 5).await.unwrap().len(), 1, "the store works on");
    crate::properties::tables::check(&dir);
}

#[tokio::test]
async fn commands_that_come_while_the_file_is_rewritten_are_done_after() {
    let world = World::embedded().await;
    let compact = world.store.compact();
    let submit = world.store.submit(vec![new_task()], None, world.now());
    let (compacted, submitted) = tokio::join!(compact, submit);
    compacted.unwrap();
    assert_eq!(submitted.unwrap().ids.len(), 1);
}

#[tokio::test]
async fn a_child_that_outlives_its_erased_parent_ends_in_peace() {
    child_that_outlives_its_erased_parent(&World::embedded().await).await;
}

#[tokio::test]
async fn a_child_that_outlives_its_erased_parent_ends_in_peace_in_the_shared_store() {
    let Some(world) = World::shared().await else { return };
    child_that_outlives_its_erased_parent(&world).await;
    assert_eq!(rows_with(&world, MARK).await, 0);
    world.clean_up().await;
}

async fn child_that_outlives_its_erased_parent(world: &World) {
    if !world.has_cache().await {
        return;
    }
    let crew = world.worker("w").await;
    let kept = |of: &str| NewCached {
        fleet: fleet(of),
        key: "k".into(),
        ttl_ms: 3_600_000,
        cached: Cached { kind: None, value: MARK.into() },
    };
    for of in ["a", "b"] {
        world.store.cache_put(kept(of), world.now()).await.unwrap();
    }
    world.submit(NewTask { tenant: tenant(MARK), ..new_task() }).await;
    let parent = world.claim_one(&crew, 1).await.held();
    let task = NewTask { tenant: tenant(MARK), ..new_task() };
    let child = NewChild { name: "x".into(), detach: false, task };
    world.store.submit_children(parent, fleet("a"), vec![child], world.now()).await.unwrap();
    let child = world.claim_one(&crew, 2).await.held();
    world.end(&crew, parent, Ending::Succeeded).await;

    let (erased, running) = erase(world).await;
    assert_eq!((erased.tasks, erased.cancelled, running), (1, 1, 1));
    assert!(world.end(&crew, child, Ending::Interrupted(Interruption::Cancelled)).await);
    let (erased, running) = erase(world).await;
    assert_eq!((erased.tasks, running), (1, 0));
    assert_eq!(world.store.children(parent.task).await.unwrap(), []);
    let cached = async |of| world.store.cache_get(fleet(of), "k".into(), world.now()).await.unwrap();
    assert_eq!(cached("a").await, None, "what its fleets cached may be the tenant's");
    assert!(cached("b").await.is_some(), "it had no task there");
}

/// How often a text stands in the shared store's tables.
async fn rows_with(world: &World, text: &str) -> usize {
    let list = "SELECT c.relname::text FROM pg_class AS c WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'";
    let mut found = 0;
    for table in world.ask_server(list).await {
        let count = format!("SELECT count(*)::text FROM {table} AS row WHERE row::text LIKE '%{text}%'");
        found += world.ask_server(&count).await[0].parse::<usize>().unwrap();
    }
    found
}

#[tokio::test]
async fn nothing_of_an_erased_tenant_is_left_in_the_shared_store_and_its_copies() {
    let Some(world) = World::shared().await else { return };
    world.store.put_webhooks(vec![webhook()], world.now()).await.unwrap();
    let crew = world.worker("w").await;
    let batch =
        NewBatch { id: BatchId(Uuid::now_v7()), name: MARK.into(), labels: Default::default(), more: false };
    world.submit(marked(OTHER, "c")).await;
    run(&world, &crew, 1, OTHER).await;
    let key = Idempotency { scope: "batch".into(), key: MARK.into(), fingerprint: [7; 32] };
    let mut tasks = vec![marked(MARK, "c"), marked(MARK, "d"), marked(MARK, "d")];
    tasks.extend((0..300).map(|n| marked(MARK, &format!("e{n}"))));
    let ids = world.store.submit_batch(batch.clone(), tasks, Some(key), world.now()).await.unwrap().ids;
    run(&world, &crew, 2, MARK).await;
    // A copy of what was said is made for the next one that is told.
    world.submit(NewTask { priority: 9, ..marked(MARK, "c") }).await;
    let told = world.claim_one(&crew, 3).await;
    assert_eq!(told.conversation.as_ref().expect("it talks").messages.len(), 2);
    world.end(&crew, told.held(), Ending::Succeeded).await;
    let running = world.claim_one(&crew, 4).await;
    assert_eq!(running.id, ids[1]);
    assert!(rows_with(&world, MARK).await > 600);
    let redis = std::env::var("LONGSHORE_TEST_REDIS").is_ok();
    assert_eq!(world.copies(MARK).await > 0, redis);
    let others = rows_with(&world, OTHER).await;

    let (erased, left) = erase(&world).await;
    assert_eq!((erased.cancelled, erased.tasks, left), (302, 303, 1), "the one that runs is told to stop");
    world.end(&crew, running.held(), Ending::Interrupted(Interruption::Cancelled)).await;
    let (erased, left) = erase(&world).await;
    assert_eq!((erased.tasks, erased.batches, left), (1, 1, 0));
    assert_eq!(erase(&world).await, (Erased::default(), 0), "it can be repeated");
    assert_eq!(world.store.forget_orphaned_keys(None).await.unwrap(), None);
    world.store.compact().await.unwrap();

    assert_eq!(rows_with(&world, MARK).await, 0);
    assert_eq!(rows_with(&world, OTHER).await, others, "others keep what is theirs");
    assert_eq!(world.copies(MARK).await, 0, "no copy of the conversation is served any more");
    assert!(world.store.batch_events(batch.id, 0, 10).await.unwrap().is_empty());
    let counts = world.store.counts().await.unwrap();
    let stored: u64 = counts.iter().map(|it| it.succeeded + it.cancelled + it.running + it.held).sum();
    assert_eq!(stored, 1);
    world.clean_up().await;
}
