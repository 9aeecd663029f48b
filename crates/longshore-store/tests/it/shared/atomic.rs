//! All of a change or nothing of it, on connections that are new, too.

use longshore_core::task::{Interruption, State};
use longshore_store::*;

use super::everything;
use crate::support::*;

/// From now on whatever changes the counts fails.
const BREAK: &str = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'refused by the test'; END $$;
     CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON fleet_count FOR EACH ROW EXECUTE FUNCTION refuse()";

#[tokio::test]
async fn a_change_that_fails_at_its_end_leaves_nothing_behind() {
    let Some(world) = World::shared().await else { return };
    let (queued, running) = (world.submit(new_task()).await, world.submit(new_task()).await);
    let scheduled = NewTask { run_at: Some(world.now().after(LEASE)), ..new_task() };
    let scheduled = world.submit(scheduled).await;
    let crew = world.worker("w").await;
    world.store.cancel(queued, None, world.now()).await.unwrap();
    let held = world.claim_one(&crew, 1).await.held();
    assert_eq!(held.task, running);
    let before = (world.kinds(running).await, world.kinds(scheduled).await);
    let client = world.client().await;
    client.batch_execute(BREAK).await.unwrap();
    // Each on a store of its own: statements that a connection does not know yet are sent later than others.
    let end = WorkerEnd {
        worker: crew.id.clone(),
        nonce: None,
        cause: Interruption::WorkerEnded,
        why: "gone".into(),
    };
    world.another().await.worker_ended(end, 0.5, world.now()).await.unwrap_err();
    world.another().await.cancel(scheduled, None, world.now()).await.unwrap_err();
    world.another().await.submit(vec![new_task()], None, world.now()).await.unwrap_err();
    let due = world.now().after(LEASE * 2);
    world.another().await.tick(world.epoch, None, true, due, 0.5).await.unwrap_err();
    assert_eq!((world.kinds(running).await, world.kinds(scheduled).await), before);
    assert_eq!(world.task(running).await.state, State::Running);
    assert_eq!(world.task(scheduled).await.state, State::Queued);
    assert_eq!(everything(&world.store).await.len(), 3);
    assert_eq!(world.store.worker(crew.id.clone()).await.unwrap().unwrap().end, None);
    client.batch_execute("DROP TRIGGER refuse ON fleet_count").await.unwrap();
    assert!(world.end(&crew, held, longshore_core::task::Ending::Succeeded).await);
    world.clean_up().await;
}
