use std::time::Duration;

use longshore_core::child::{DEEPEST, MOST, Refused};
use longshore_core::id::{ConversationId, Held, TaskId};
use longshore_core::task::{Ending, Hold, Interruption, OnBusy, State};
use longshore_core::wait::{Awaits, Wait, Which};
use longshore_store::*;
use uuid::Uuid;

use crate::support::*;

/// A parent that runs at a worker, the first and only task that it claimed.
async fn parent(world: &World, crew: &Crew) -> Held {
    world.submit(new_task()).await;
    world.claim_one(crew, 1).await.held()
}

fn child(name: &str) -> NewChild {
    NewChild { name: name.into(), detach: false, task: NewTask { fleet: fleet("b"), ..new_task() } }
}

async fn try_submit(
    world: &World,
    held: Held,
    children: Vec<NewChild>,
) -> Result<Vec<(ChildRecord, bool)>, ChildError> {
    world.store.submit_children(held, fleet("a"), children, world.now()).await
}

async fn submit(world: &World, held: Held, names: &[&str]) -> Vec<TaskId> {
    let submitted = try_submit(world, held, names.iter().map(|name| child(name)).collect()).await.unwrap();
    submitted.into_iter().map(|(child, _)| child.id).collect()
}

fn waits(which: Which, of: &[&str], timeout: Option<Duration>) -> Ending {
    let of = of.iter().map(|name| (*name).to_owned()).collect();
    Ending::Waited(Awaits::Children { which, of, timeout_ms: timeout.map(|it| it.as_millis() as u64) })
}

fn waits_for_all() -> Ending {
    waits(Which::All, &[], None)
}

/// Children are of fleet `b`, which these tests have no worker of: they end by being cancelled.
async fn end(world: &World, child: TaskId) {
    let outcome = world.store.cancel(child, None, world.now()).await.unwrap();
    assert_eq!(outcome, CancelOutcome::Cancelled);
}

async fn failure(world: &World, id: TaskId) -> String {
    let task = world.task(id).await;
    assert_eq!(task.state, State::Failed);
    task.failure.unwrap().code
}

pub async fn a_parent_waits_without_a_worker_until_all_have_ended(world: &World) {
    let crew = world.worker("w").await;
    let held = parent(world, &crew).await;
    let children = submit(world, held, &["x", "y"]).await;
    assert!(world.end(&crew, held, waits_for_all()).await);
    let task = world.task(held.task).await;
    let wait = Some(Wait::Children { which: Which::All, of: Vec::new() });
    assert_eq!((task.state, task.wait, task.wait_until), (State::Waiting, wait, None));
    assert_eq!((task.failed_attempts, task.interrupted, task.attempts), (0, 0, 1));
    assert_eq!(world.store.attempts(held.task).await.unwrap()[0].outcome, Some(Outcome::Waited));
    assert!(world.store.leases(None).await.unwrap().is_empty(), "nothing is held meanwhile");
    let load = world.store.load(fleet("a"), world.now()).await.unwrap();
    assert_eq!((load.runnable, load.running), (0, 0), "it is no load");
    assert_eq!(world.store.counts().await.unwrap()[0].waiting, 1);
    assert!(world.end(&crew, held, waits_for_all()).await, "a repeated ending is told yes again");
    end(world, children[1]).await;
    assert!(world.claim(&crew, 2, 1).await.unwrap().is_empty());
    end(world, children[0]).await;
    let again = world.claim_one(&crew, 2).await;
    assert_eq!((again.id, again.attempt), (held.task, 2));
    assert!(world.end(&crew, again.held(), Ending::Succeeded).await);
    let task = world.task(held.task).await;
    assert_eq!((task.state, task.failed_attempts, task.interrupted), (State::Succeeded, 0, 0));
    let kinds = world.kinds(held.task).await;
    assert_eq!(
        kinds,
        [
            "submitted",
            "queued",
            "started",
            "children_submitted",
            "attempt_ended",
            "waiting",
            "queued",
            "started",
            "attempt_ended",
            "succeeded"
        ]
    );
}

pub async fn a_child_that_misses_its_deadline_wakes_its_parent(world: &World) {
    let crew = world.worker("w").await;
    let held = parent(world, &crew).await;
    let late = world.now().after(Duration::from_secs(10));
    let hasty = child("x");
    let hasty = NewChild { task: NewTask { deadline_at: Some(late), ..hasty.task }, ..hasty };
    let children = try_submit(world, held, vec![hasty]).await.unwrap();
    world.end(&crew, held, waits_for_all()).await;
    assert_eq!(world.task(held.task).await.state, State::Waiting);
    world.tick(Duration::from_secs(11)).await;
    assert_eq!(failure(world, children[0].0.id).await, "deadline_exceeded");
    assert_eq!(world.task(held.task).await.state, State::Queued);
}

pub async fn a_newcomer_that_stops_a_child_wakes_its_parent(world: &World) {
    let crew = world.worker("w").await;
    let held = parent(world, &crew).await;
    let talks = NewChild { task: NewTask { fleet: fleet("b"), ..talk("c") }, ..child("x") };
    try_submit(world, held, vec![talks]).await.unwrap();
    world.end(&crew, held, waits_for_all()).await;
    world.submit(NewTask { on_busy: OnBusy::Interrupt, fleet: fleet("b"), ..talk("c") }).await;
    assert_eq!(world.task(held.task).await.state, State::Queued);
}

pub async fn any_child_or_a_named_one_wakes_its_parent(world: &World) {
    let crew = world.worker("w").await;
    let held = parent(world, &crew).await;
    let children = submit(world, held, &["x", "y", "z"]).await;
    world.end(&crew, held, waits(Which::Any, &["y", "z"], None)).await;
    end(world, children[0]).await;
    assert_eq!(world.task(held.task).await.state, State::Waiting, "it was not that one");
    end(world, children[2]).await;
    let task = world.task(held.task).await;
    assert_eq!((task.state, task.hold), (State::Queued, Some(Hold::Ready)));
    end(world, children[1]).await;
    assert_eq!(world.task(held.task).await.last_event, task.last_event, "it is woken once");
}

pub async fn a_wait_for_what_is_there_ends_at_once(world: &World) {
    let crew = world.worker("w").await;
    let held = parent(world, &crew).await;
    let children = submit(world, held, &["x"]).await;
    world.pass(Duration::from_secs(60));
    end(world, children[0]).await;
    world.end(&crew, held, waits_for_all()).await;
    assert_eq!(world.task(held.task).await.hold, Some(Hold::Ready));
    // But an attempt that began when all was there long ago would say so for ever.
    world.pass(Duration::from_secs(60));
    let again = world.claim_one(&crew, 2).await.held();
    world.end(&crew, again, waits_for_all()).await;
    assert_eq!(failure(world, held.task).await, "waited_in_vain");
}

pub async fn what_is_not_there_cannot_be_waited_for(world: &World) {
    let crew = world.worker("w").await;
    let held = parent(world, &crew).await;
    world.end(&crew, held, waits_for_all()).await;
    assert_eq!(failure(world, held.task).await, "nothing_to_wait_for");
    world.submit(new_task()).await;
    let held = world.claim_one(&crew, 2).await.held();
    submit(world, held, &["x"]).await;
    world.end(&crew, held, waits(Which::All, &["x", "y"], None)).await;
    assert_eq!(failure(world, held.task).await, "unknown_child");
}

pub async fn a_wait_with_a_time_out_ends_with_it(world: &World) {
    let crew = world.worker("w").await;
    let held = parent(world, &crew).await;
    submit(world, held, &["x"]).await;
    let timeout = Duration::from_secs(40);
    world.end(&crew, held, waits(Which::All, &[], Some(timeout))).await;
    let until = world.now().after(timeout);
    assert_eq!(world.task(held.task).await.wait_until, Some(until));
    let tick = world.store.tick(world.epoch, None, true, world.now(), 0.5).await.unwrap();
    assert_eq!(tick.next_due, Some(until));
    world.tick(timeout - Duration::from_secs(1)).await;
    assert_eq!(world.task(held.task).await.state, State::Waiting);
    world.tick(Duration::from_secs(1)).await;
    let task = world.task(held.task).await;
    assert_eq!((task.state, task.wait, task.wait_until), (State::Queued, None, None));
    assert_eq!(world.claim_one(&crew, 2).await.attempt, 2);
}

pub async fn an_attempt_that_runs_again_finds_its_children(world: &World) {
    let crew = world.worker("w").await;
    let held = parent(world, &crew).await;
    let first = try_submit(world, held, vec![child("x"), child("x"), child("y")]).await.unwrap();
    let created: Vec<_> = first.iter().map(|(_, created)| *created).collect();
    assert_eq!(created, [true, false, true], "a name that comes twice is the same child");
    world.crash(&crew).await;
    let again = world.worker("v").await;
    let newer = world.claim_one(&again, 1).await.held();
    let stale = try_submit(world, held, vec![child("z")]).await;
    assert!(matches!(stale, Err(ChildError::Call(CallError::StaleFence))), "{stale:?}");
    let second = try_submit(world, newer, vec![child("y"), child("x"), child("z")]).await.unwrap();
    let ids = |names: &[usize]| names.iter().map(|at| first[*at].0.id).collect::<Vec<_>>();
    assert_eq!(second[..2].iter().map(|(child, _)| child.id).collect::<Vec<_>>(), ids(&[2, 0]));
    assert_eq!(second.iter().map(|(_, created)| *created).collect::<Vec<_>>(), [false, false, true]);
    let listed = world.store.children(held.task).await.unwrap();
    assert_eq!(listed.iter().map(|child| &*child.name).collect::<Vec<_>>(), ["x", "y", "z"]);
    let filter = TaskFilter { parent: Some(held.task), ..TaskFilter::default() };
    let tasks = world.store.search(filter, 10).await.unwrap().tasks;
    assert_eq!(tasks.len(), 3);
    assert!(tasks.iter().all(|task| task.parent == Some(held.task)));
}

pub async fn a_childs_result_and_failure_are_shown(world: &World) {
    let crew = world.worker("w").await;
    let held = parent(world, &crew).await;
    let here = |name: &str| NewChild { task: new_task(), ..child(name) };
    try_submit(world, held, vec![here("good"), here("bad")]).await.unwrap();
    world.end(&crew, held, waits_for_all()).await;
    let tasks = world.claim(&crew, 2, 2).await.unwrap();
    world.end(&crew, tasks[0].held(), Ending::Succeeded).await;
    let no = longshore_core::task::Failure::lasting("no", "m");
    world.end(&crew, tasks[1].held(), Ending::Failed(no)).await;
    assert_eq!(world.task(held.task).await.state, State::Queued, "failed ones have ended too");
    let child = |name: &str| world.store.child(held.task, name.into());
    let good = child("good").await.unwrap().unwrap();
    assert_eq!((good.state, good.result), (State::Succeeded, Some(json(r#"{"ok":true}"#))));
    let bad = child("bad").await.unwrap().unwrap();
    assert_eq!((bad.state, bad.failure.map(|it| it.code)), (State::Failed, Some("no".into())));
    assert_eq!(child("ugly").await.unwrap(), None);
    let listed = world.store.children(held.task).await.unwrap();
    assert!(listed.iter().all(|child| child.result.is_none()));
}

pub async fn a_cancelled_parent_takes_its_children_along(world: &World) {
    let crew = world.worker("w").await;
    let held = parent(world, &crew).await;
    let here = |name: &str| NewChild { task: NewTask { priority: 5, ..new_task() }, ..child(name) };
    let detached = NewChild { detach: true, ..child("detached") };
    let children =
        try_submit(world, held, vec![here("runs"), child("queued"), detached, child("done")]).await.unwrap();
    let id = |at: usize| children[at].0.id;
    end(world, id(3)).await;
    let running = world.claim_one(&crew, 2).await.held();
    assert_eq!(running.task, id(0));
    let below = submit(world, running, &["below"]).await[0];
    world.end(&crew, held, waits_for_all()).await;
    end(world, held.task).await;
    world.tick(Duration::from_secs(1)).await;
    assert_eq!(world.task(id(1)).await.state, State::Cancelled);
    assert_eq!(world.task(id(2)).await.state, State::Queued, "it goes on by itself");
    let news = world.beat(&crew, vec![running], 2).await.unwrap();
    assert_eq!(news.cancel, [running], "its worker is told");
    assert_eq!(world.task(below).await.state, State::Queued, "its own parent has not ended");
    world.end(&crew, running, Ending::Interrupted(Interruption::Cancelled)).await;
    world.tick(Duration::from_secs(1)).await;
    assert_eq!(world.task(below).await.state, State::Cancelled);
    let last = world.store.events(below, 0, 100).await.unwrap().pop().unwrap();
    assert_eq!(last.data, json(r#"{"reason":"its parent was cancelled"}"#));
}

pub async fn a_cancelled_attempt_that_waits_ends_its_task(world: &World) {
    let crew = world.worker("w").await;
    let held = parent(world, &crew).await;
    submit(world, held, &["x"]).await;
    assert_eq!(world.store.cancel(held.task, None, world.now()).await.unwrap(), CancelOutcome::Requested);
    world.end(&crew, held, waits_for_all()).await;
    assert_eq!(world.task(held.task).await.state, State::Cancelled);
}

pub async fn too_deep_too_many_and_an_ancestors_conversation_are_refused(world: &World) {
    let crew = world.worker("w").await;
    world.submit(talk("ours")).await;
    let mut held = world.claim_one(&crew, 1).await.held();
    let talks = |name: &str| NewChild { task: talk(name), ..child("talks") };
    for depth in 1..=DEEPEST {
        let refused = try_submit(world, held, vec![talks("ours")]).await.unwrap_err();
        assert!(matches!(refused, ChildError::Refused(Refused::AncestorsConversation(_))), "{refused}");
        let next = NewChild { task: talk(&format!("c{depth}")), ..child("next") };
        try_submit(world, held, vec![next]).await.unwrap();
        held = world.claim_one(&crew, 1 + depth as u64).await.held();
    }
    let refused = try_submit(world, held, vec![child("x")]).await.unwrap_err();
    assert!(matches!(refused, ChildError::Refused(Refused::TooDeep)), "{refused}");
    world.submit(new_task()).await;
    let held = world.claim_one(&crew, 20).await.held();
    let many = (0..MOST).map(|at| child(&at.to_string()));
    let many: Vec<_> =
        many.map(|it| NewChild { task: NewTask { id: TaskId(Uuid::now_v7()), ..it.task }, ..it }).collect();
    try_submit(world, held, many.clone()).await.unwrap();
    let refused = try_submit(world, held, vec![child("one more")]).await.unwrap_err();
    assert!(matches!(refused, ChildError::Refused(Refused::TooMany(_))), "{refused}");
    let same = try_submit(world, held, many).await.unwrap();
    assert!(same.iter().all(|(_, created)| !created), "those that are there are never too many");
}

pub async fn children_are_all_submitted_or_none(world: &World) {
    let crew = world.worker("w").await;
    let held = parent(world, &crew).await;
    let nowhere = NewChild { task: NewTask { fleet: fleet("nobody"), ..new_task() }, ..child("y") };
    let refused = try_submit(world, held, vec![child("x"), nowhere]).await.unwrap_err();
    assert!(matches!(refused, ChildError::UnknownFleet(_)), "{refused}");
    assert!(world.store.children(held.task).await.unwrap().is_empty());
    assert_eq!(world.task(held.task).await.last_event, 3, "and nothing is told");
    let elsewhere = world.store.submit_children(held, fleet("b"), vec![child("x")], world.now()).await;
    assert!(matches!(elsewhere, Err(ChildError::Call(CallError::OtherFleet))));
}

pub async fn a_waiting_head_keeps_its_conversation(world: &World) {
    let crew = world.worker("w").await;
    let (head, next) = (world.submit(talk("c")).await, world.submit(talk("c")).await);
    let held = world.claim_one(&crew, 1).await.held();
    let children = submit(world, held, &["x"]).await;
    let word = says(1, AgentEventKind::Message, "1");
    world.end_with(&crew, held, waits_for_all(), vec![word]).await;
    assert!(world.claim(&crew, 2, 5).await.unwrap().is_empty());
    end(world, children[0]).await;
    let again = world.claim_one(&crew, 2).await;
    assert_eq!(again.id, head);
    assert!(again.conversation.clone().unwrap().messages.is_empty(), "only success publishes");
    world.end(&crew, again.held(), Ending::Succeeded).await;
    assert_eq!(world.claim_one(&crew, 3).await.id, next);
    let c = ConversationId::new("c").unwrap();
    assert!(
        world.store.messages(c, 0, 10).await.unwrap().is_empty(),
        "words of a waiting attempt are dropped"
    );
}
