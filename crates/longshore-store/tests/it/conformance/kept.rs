//! What retention leaves alone for the sake of parents and children, and which of them searches find.

use std::time::Duration;

use longshore_core::id::{Held, TaskId};
use longshore_core::retention::{Policy, plan};
use longshore_core::task::Ending;
use longshore_store::*;

use crate::support::*;

/// A parent that runs, and its child, which does not yet.
async fn family(world: &World, crew: &Crew, task: NewTask) -> (Held, TaskId) {
    world.submit(new_task()).await;
    let parent = world.claim_one(crew, 1).await.held();
    let child = NewChild { name: "x".into(), detach: false, task };
    let submitted = world.store.submit_children(parent, fleet("a"), vec![child], world.now()).await.unwrap();
    (parent, submitted[0].0.id)
}

/// Does what a policy of a minute asks for; returns the tasks and the results that went.
async fn keep(world: &World) -> (u64, u64) {
    let minute = Some(60_000);
    let policy = Policy { journal_ms: minute, results_ms: minute, tasks_ms: minute, max_tasks: Some(0) };
    let mut sum = (0, 0);
    loop {
        let step = world.store.retain(fleet("a"), plan(&policy, 100, world.now())).await.unwrap();
        sum = (sum.0 + step.tasks, sum.1 + step.results);
        if !step.more {
            return sum;
        }
    }
}

pub async fn what_an_unfinished_parent_or_child_needs_is_kept(world: &World) {
    let crew = world.worker("w").await;
    let (parent, child) = family(world, &crew, new_task()).await;
    let other = world.submit(new_task()).await;
    let mut held = vec![parent];
    held.extend(world.claim(&crew, 2, 2).await.unwrap().iter().map(LeasedTask::held));
    assert_eq!(held.iter().map(|held| held.task).collect::<Vec<_>>(), [parent.task, child, other]);
    world.end(&crew, held[1], Ending::Succeeded).await;
    world.pass(Duration::from_secs(3600));
    assert_eq!(keep(world).await, (0, 0));
    assert!(world.task(child).await.result.is_some(), "its parent may ask for it");
    world.end(&crew, held[2], Ending::Succeeded).await;
    world.pass(Duration::from_secs(3600));
    assert_eq!(keep(world).await, (1, 1), "the other one is needed by nobody, though the child ended first");
    world.end(&crew, held[0], Ending::Succeeded).await;
    world.pass(Duration::from_secs(3600));
    assert_eq!(keep(world).await, (2, 2));
    assert_eq!(world.store.children(parent.task).await.unwrap(), []);
}

pub async fn a_parent_is_kept_while_a_child_goes_on(world: &World) {
    let crew = world.worker("w").await;
    let (parent, child) = family(world, &crew, new_task()).await;
    world.end(&crew, parent, Ending::Succeeded).await;
    world.pass(Duration::from_secs(3600));
    assert_eq!(keep(world).await, (0, 0));
    world.store.cancel(child, None, world.now()).await.unwrap();
    assert_eq!(keep(world).await.0, 2);
}

pub async fn children_and_tenants_are_found(world: &World) {
    let crew = world.worker("w").await;
    let (parent, child) = family(world, &crew, NewTask { tenant: tenant("acme"), ..new_task() }).await;
    let found = async |filter: TaskFilter| {
        let page = world.store.search(filter, 10).await.unwrap();
        page.tasks.into_iter().map(|task| task.id).collect::<Vec<_>>()
    };
    let tenant =
        |tenant: &str| TaskFilter { tenant: Some(crate::support::tenant(tenant)), ..TaskFilter::default() };
    assert_eq!(found(TaskFilter { parent: Some(parent.task), ..TaskFilter::default() }).await, [child]);
    assert_eq!(found(tenant("acme")).await, [child]);
    assert_eq!(found(tenant("default")).await, [parent.task]);
    assert_eq!(found(TaskFilter { fleet: Some(fleet("b")), ..tenant("acme") }).await, []);
}
