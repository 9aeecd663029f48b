use std::time::Duration;

use longshore_core::fleet::Fleet;
use longshore_core::rollout::{Order, Phase, Refused, Release, Step, Wait};
use longshore_core::task::{Ending, Interruption};
use longshore_store::*;
use uuid::Uuid;

use super::journal::{OWNER, ask, call, gateway};
use crate::support::*;

/// Fleet `a` with this concurrency: another one is another release.
fn with(concurrency: u32) -> Fleet {
    let fleet = Fleet::new(fleet("a"), vec!["true".into()], "/".into());
    Fleet { concurrency, ..fleet }
}

async fn declare(world: &World, concurrency: u32) -> FleetChange {
    let b = Fleet::new(fleet("b"), vec!["true".into()], "/".into());
    let changes = world.store.put_fleets(vec![with(concurrency), b], world.now()).await.unwrap();
    changes.into_iter().find(|change| change.name == fleet("a")).unwrap()
}

/// A worker that a controller started on a release.
async fn started(world: &World, name: &str, release: Release) -> Crew {
    let crew = Crew { id: longshore_core::id::WorkerId::new(name).unwrap(), nonce: Uuid::new_v4() };
    let (id, fleet, platform) = (crew.id.clone(), fleet("a"), "process".into());
    let planned = PlannedWorker { id, fleet, release, platform };
    assert!(world.store.plan_worker(planned, world.epoch, world.now()).await.unwrap());
    world.register(&crew).await.unwrap();
    crew
}

async fn open(world: &World) -> Option<RolloutRecord> {
    let mut open = world.store.open_rollouts().await.unwrap();
    assert!(open.len() <= 1);
    open.pop()
}

async fn serving(world: &World) -> Release {
    world.store.fleet(fleet("a")).await.unwrap().unwrap().release
}

async fn end(world: &World, phase: Phase) {
    let mut rollout = open(world).await.unwrap();
    (rollout.plan.phase, rollout.plan.step) = (phase, Step::End);
    world.store.save_rollout(rollout, world.epoch, world.now()).await.unwrap().unwrap();
}

fn wish(concurrency: u32, supersede: bool) -> NewRelease {
    NewRelease { declaration: with(concurrency), commit: Some("c0ffee".into()), supersede }
}

async fn deploy(world: &World, release: NewRelease) -> Deployed {
    world.store.deploy(fleet("a"), release, world.now()).await.unwrap()
}

async fn undo(world: &World, to: Option<Release>) -> Deployed {
    world.store.undo_rollout(fleet("a"), to, "asked".into(), world.now()).await.unwrap()
}

pub async fn a_change_that_nobody_runs_is_switched_to(world: &World) {
    assert_eq!(declare(world, 2).await.release, 2);
    assert_eq!((serving(world).await, open(world).await), (2, None));
    let releases = world.store.releases(fleet("a"), 10).await.unwrap();
    let numbers: Vec<_> = releases.iter().map(|it| (it.number, it.declaration.concurrency)).collect();
    assert_eq!(numbers, [(2, 2), (1, 1)]);
    let history = world.store.rollouts(Some(fleet("a")), 10).await.unwrap();
    assert_eq!((history.len(), &history[0].plan.phase), (1, &Phase::Done));
    let mut other = with(2);
    other.scaling.max = 50;
    world.store.put_fleets(vec![other], world.now()).await.unwrap();
    assert_eq!((serving(world).await, world.store.releases(fleet("a"), 10).await.unwrap().len()), (2, 2));
    assert_eq!(world.store.release(fleet("a"), 1).await.unwrap(), releases.get(1).cloned());
    assert_eq!(world.store.release(fleet("a"), 9).await.unwrap(), None);
}

pub async fn a_change_with_workers_is_rolled_out(world: &World) {
    started(world, "w", 1).await;
    assert_eq!(declare(world, 2).await.release, 2);
    let rollout = open(world).await.unwrap();
    assert_eq!((rollout.number, rollout.plan.from, rollout.plan.to), (1, 1, 2));
    assert_eq!(serving(world).await, 1, "until all of them are replaced");
    assert_eq!(declare(world, 2).await.kind, FleetChangeKind::Unchanged);
    assert_eq!(open(world).await.as_ref(), Some(&rollout), "the same again begins nothing");
    end(world, Phase::Done).await;
    assert_eq!((serving(world).await, open(world).await), (2, None));
    let known = world.store.worker(longshore_core::id::WorkerId::new("w").unwrap()).await.unwrap().unwrap();
    assert_eq!(known.release, 1, "a worker stays what it was started as");
}

pub async fn a_plan_is_written_by_whoever_read_the_newest(world: &World) {
    started(world, "w", 1).await;
    declare(world, 2).await;
    let first = open(world).await.unwrap();
    let mut next = first.clone();
    next.plan.spent_ms = 5;
    let saved = world.store.save_rollout(next.clone(), world.epoch, world.now()).await.unwrap().unwrap();
    assert_eq!((saved.version, saved.plan.spent_ms), (first.version + 1, 5));
    assert_eq!(open(world).await, Some(saved.clone()));
    assert_eq!(world.store.save_rollout(next, world.epoch, world.now()).await.unwrap(), None);
    let paused = world.store.order_rollout(fleet("a"), Order::Pause, world.now()).await.unwrap();
    let Ordered::Obeyed(paused) = paused else { panic!("{paused:?}") };
    assert!(paused.plan.paused && paused.plan.spent_ms == 5);
    assert_eq!(world.store.save_rollout(saved, world.epoch, world.now()).await.unwrap(), None);
    let resumed = world.store.order_rollout(fleet("a"), Order::Resume, world.now()).await.unwrap();
    assert!(matches!(resumed, Ordered::Obeyed(it) if !it.plan.paused));
    let nobody = world.store.order_rollout(fleet("b"), Order::Pause, world.now()).await.unwrap();
    assert_eq!(nobody, Ordered::None);
}

pub async fn a_newer_declaration_overtakes_and_the_old_one_goes_back(world: &World) {
    started(world, "w", 1).await;
    declare(world, 2).await;
    assert_eq!(declare(world, 3).await.release, 3);
    let rollout = open(world).await.unwrap();
    assert_eq!((rollout.number, rollout.plan.from, rollout.plan.to), (2, 1, 3));
    let history = world.store.rollouts(Some(fleet("a")), 10).await.unwrap();
    assert!(matches!(history[1].plan.phase, Phase::Superseded { .. }) && history[1].ended_at.is_some());
    assert_eq!(declare(world, 1).await.release, 1);
    let back = open(world).await.unwrap();
    assert_eq!((back.number, back.plan.heads_for()), (2, 1));
    assert!(matches!(back.plan.phase, Phase::Back { .. }));
    // What was taken back is not begun again by another word of the same declaration.
    end(world, Phase::RolledBack { reason: "x".into() }).await;
    declare(world, 1).await;
    assert_eq!((serving(world).await, open(world).await), (1, None));
    let gone = world.store.put_fleets(Vec::new(), world.now()).await;
    assert!(gone.is_ok());
}

pub async fn what_failed_is_not_tried_again_by_itself(world: &World) {
    started(world, "w", 1).await;
    declare(world, 2).await;
    end(world, Phase::RolledBack { reason: "it coughed".into() }).await;
    declare(world, 2).await;
    assert_eq!((serving(world).await, open(world).await), (1, None));
    let mut other = with(2);
    other.scaling.max = 50;
    world.store.put_fleets(vec![other], world.now()).await.unwrap();
    assert_eq!((serving(world).await, open(world).await), (1, None));
    // But whoever asks for it gets it.
    assert!(matches!(undo(world, Some(2)).await, Deployed::Begun(it) if it.plan.to == 2));
}

pub async fn of_two_deploys_at_once_one_is_refused(world: &World) {
    assert_eq!(deploy(world, wish(1, false)).await, Deployed::Runs(1));
    started(world, "w", 1).await;
    let at_once = tokio::join!(deploy(world, wish(2, false)), deploy(world, wish(3, false)));
    let begun = |it: &Deployed| matches!(it, Deployed::Begun(_));
    let busy = |it: &Deployed| matches!(it, Deployed::Busy(_));
    let (one, two) = &at_once;
    assert!(begun(one) && busy(two) || busy(one) && begun(two), "{at_once:?}");
    let rollout = open(world).await.unwrap();
    let wanted = world.store.release(fleet("a"), rollout.plan.to).await.unwrap().unwrap();
    assert_eq!(wanted.commit.as_deref(), Some("c0ffee"));
    let again = deploy(world, wish(wanted.declaration.concurrency, false)).await;
    assert!(matches!(again, Deployed::UnderWay(it) if it.number == rollout.number));
    let over = deploy(world, wish(4, true)).await;
    assert!(matches!(over, Deployed::Begun(it) if it.plan.from == 1 && it.number == rollout.number + 1));
    let unknown = world.store.deploy(fleet("nobody"), wish(2, false), world.now()).await.unwrap();
    assert_eq!(unknown, Deployed::UnknownFleet);
}

pub async fn undoing_goes_back_to_what_ran_before(world: &World) {
    assert_eq!(undo(world, None).await, Deployed::NoHistory);
    assert_eq!(undo(world, Some(7)).await, Deployed::UnknownRelease(7));
    started(world, "w", 1).await;
    declare(world, 2).await;
    let back = undo(world, None).await;
    assert!(matches!(back, Deployed::Begun(it) if matches!(it.plan.phase, Phase::Back { .. })));
    let twice = undo(world, None).await;
    assert!(matches!(twice, Deployed::Refused(_, Refused::GoesBack)));
    end(world, Phase::RolledBack { reason: "asked".into() }).await;
    assert_eq!(undo(world, None).await, Deployed::NoHistory, "nothing has come of it");
    declare(world, 3).await;
    end(world, Phase::Done).await;
    started(world, "v", 3).await;
    let undone = undo(world, None).await;
    assert!(matches!(undone, Deployed::Begun(it) if (it.plan.from, it.plan.to) == (3, 1)));
    end(world, Phase::Done).await;
    assert_eq!(serving(world).await, 1);
    let again = undo(world, None).await;
    assert!(matches!(again, Deployed::Begun(it) if (it.plan.from, it.plan.to) == (1, 3)));
}

pub async fn attempts_are_counted_for_the_release_that_they_ran_on(world: &World) {
    let (old, new) = (started(world, "old", 1).await, started(world, "new", 2).await);
    let done = world.submit(new_task()).await;
    let held = world.claim_one(&old, 1).await.held();
    world.pass(Duration::from_millis(700));
    world.end(&old, held, Ending::Succeeded).await;
    let lost = world.submit(new_task()).await;
    world.claim_one(&old, 2).await;
    world.crash(&old).await;
    let held = world.claim_one(&new, 1).await.held();
    world.pass(Duration::from_millis(300));
    world.end(&new, held, failed("exit_status")).await;
    let outcomes = world.store.outcomes(fleet("a")).await.unwrap();
    assert_eq!((outcomes[&1].succeeded, outcomes[&1].failed, outcomes[&1].succeeded_ms), (1, 0, 700));
    assert_eq!((outcomes[&2].succeeded, outcomes[&2].failed, outcomes[&2].succeeded_ms), (0, 1, 0));
    let releases = async |id| {
        let attempts = world.store.attempts(id).await.unwrap();
        attempts.into_iter().map(|attempt| attempt.release).collect::<Vec<_>>()
    };
    assert_eq!(releases(done).await, [Some(1)]);
    assert_eq!(releases(lost).await, [Some(1), Some(2)]);
}

pub async fn a_task_that_goes_back_to_an_older_release_asks_anew(world: &World) {
    gateway(world, OWNER).await;
    let id = world.submit(new_task()).await;
    let generation = async || world.store.journal(id).await.unwrap().unwrap().generation;
    let first = started(world, "first", 2).await;
    let held = world.claim_one(&first, 1).await.held();
    assert_eq!(ask(world, call(held, "hi", 1), "of release 2").await, "of release 2");
    world.crash(&first).await;
    let newer = started(world, "newer", 3).await;
    let held = world.claim_one(&newer, 1).await.held();
    assert_eq!(ask(world, call(held, "hi", 1), "bought again").await, "of release 2");
    assert_eq!(generation().await, 0, "a newer one is given what was there");
    world.crash(&newer).await;
    let older = started(world, "older", 2).await;
    let held = world.claim_one(&older, 1).await.held();
    assert_eq!(generation().await, 1);
    assert_eq!(ask(world, call(held, "hi", 1), "asked anew").await, "asked anew");
    world.end(&older, held, Ending::Succeeded).await;
    let outcomes = world.store.outcomes(fleet("a")).await.unwrap();
    assert_eq!((outcomes[&2].succeeded, outcomes[&2].cost_nano), (1, 1_500));
}

/// Its machine is gone: nobody suspects its tasks.
async fn ends(world: &World, crew: &Crew) {
    let (worker, cause) = (crew.id.clone(), Interruption::WorkerEnded);
    let end = WorkerEnd { worker, nonce: None, cause, why: "gone".into() };
    world.store.worker_ended(end, 0.5, world.now()).await.unwrap();
}

pub async fn a_pinned_task_finishes_on_the_release_it_began_on(world: &World) {
    let pinned = |concurrency| {
        let mut fleet = with(concurrency);
        fleet.rollout.pin_release = true;
        fleet
    };
    world.store.put_fleets(vec![pinned(1)], world.now()).await.unwrap();
    let old = started(world, "old", 1).await;
    let id = world.submit(new_task()).await;
    assert_eq!(world.claim_one(&old, 1).await.id, id);
    world.store.put_fleets(vec![pinned(2)], world.now()).await.unwrap();
    let new = started(world, "new", 2).await;
    ends(world, &old).await;
    assert_eq!(world.store.pinned(fleet("a")).await.unwrap().get(&1), Some(&1));
    assert!(world.claim(&new, 1, 5).await.unwrap().is_empty(), "it began on release 1");
    let fresh = world.submit(new_task()).await;
    let given = world.claim(&new, 1, 5).await.unwrap();
    assert_eq!(
        given.iter().map(|task| task.id).collect::<Vec<_>>(),
        [fresh],
        "what waits behind it is taken"
    );
    // The last of the old ones is there for nothing else.
    let last = started(world, "last", 1).await;
    let mut rollout = open(world).await.unwrap();
    rollout.plan.step = Step::Wait(Wait::Pinned { tasks: 1 });
    let saved = world.store.save_rollout(rollout, world.epoch, world.now()).await.unwrap().unwrap();
    assert_eq!(serving(world).await, 2);
    let more = world.submit(new_task()).await;
    let given = world.claim(&last, 1, 5).await.unwrap();
    assert_eq!(given.iter().map(|task| task.id).collect::<Vec<_>>(), [id]);
    ends(world, &last).await;
    // Where the new one is given up, its tasks go on with the old one.
    let mut back = saved;
    back.plan.order(Order::Undo { reason: "asked".into() }).unwrap();
    back.plan.step = Step::Wait(Wait::Room);
    world.store.save_rollout(back, world.epoch, world.now()).await.unwrap().unwrap();
    ends(world, &new).await;
    let mended = started(world, "mended", 1).await;
    let given: Vec<_> = world.claim(&mended, 1, 5).await.unwrap().iter().map(|task| task.id).collect();
    let mut all = vec![id, fresh, more];
    all.retain(|id| !given.contains(id));
    assert!(all.is_empty() && given.len() == 3, "{given:?}");
    assert_eq!(world.store.pinned(fleet("a")).await.unwrap().get(&2), None);
}

/// Fleet `a` on Docker, its image's name standing for this.
fn with_image(id: Option<&str>) -> Fleet {
    let image = longshore_core::container::Image::parse("acme/a:1").unwrap();
    let container = longshore_core::container::Container {
        image,
        image_id: id.map(str::to_owned),
        supervisor: Default::default(),
        egress: Default::default(),
        resources: Default::default(),
    };
    Fleet { container: Some(container), platform: longshore_core::fleet::Platform::Docker, ..with(1) }
}

pub async fn a_name_that_stands_for_another_image_is_another_release(world: &World) {
    let pin = async |release: Release, id: &str| {
        world.store.pin_image(fleet("a"), release, id.into()).await.unwrap()
    };
    assert_eq!(pin(1, "sha256:0").await, None, "a command has no image");
    let declared = || async { world.store.put_fleets(vec![with_image(None)], world.now()).await.unwrap() };
    declared().await;
    started(world, "w", 2).await;
    let to = |id: Option<&str>| NewRelease { declaration: with_image(id), commit: None, supersede: false };
    assert_eq!(deploy(world, to(Some("sha256:1"))).await, Deployed::Runs(2), "nothing is known of it yet");
    assert_eq!(pin(2, "sha256:1").await.as_deref(), Some("sha256:1"));
    assert_eq!(pin(2, "sha256:2").await.as_deref(), Some("sha256:1"), "the first one counts");
    assert_eq!(pin(9, "sha256:1").await, None);
    let release = world.store.release(fleet("a"), 2).await.unwrap().unwrap();
    assert_eq!(release.declaration, with_image(Some("sha256:1")));
    for same in [None, Some("sha256:1")] {
        assert_eq!(deploy(world, to(same)).await, Deployed::Runs(2), "{same:?}");
    }
    let Deployed::Begun(rollout) = deploy(world, to(Some("sha256:2"))).await else { panic!("begun") };
    assert_eq!((rollout.plan.from, rollout.plan.to), (2, 3));
    assert!(matches!(deploy(world, to(Some("sha256:2"))).await, Deployed::UnderWay(_)));
    end(world, Phase::Done).await;
    assert_eq!(
        declared().await[0].kind,
        FleetChangeKind::Unchanged,
        "the same declaration takes nothing back"
    );
    let Deployed::Begun(back) = undo(world, None).await else { panic!("begun") };
    assert_eq!((back.plan.from, back.plan.to), (3, 2));
}
