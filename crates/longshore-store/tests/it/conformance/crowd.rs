use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use longshore_core::task::Ending;
use longshore_store::*;

use crate::support::*;

const TASKS: usize = 2000;

pub async fn no_task_is_claimed_twice(world: &World) {
    let tasks: Vec<_> = (0..TASKS).map(|_| new_task()).collect();
    let ids: HashSet<_> =
        world.store.submit(tasks, None, world.now()).await.unwrap().ids.into_iter().collect();
    let crews = crews(world, 8).await;
    let claimers = crews.into_iter().map(|crew| {
        let (store, now) = (world.store.clone(), world.now());
        tokio::spawn(async move { claim_all(&store, &crew, now).await })
    });
    let mut claimed = Vec::new();
    for claimer in claimers.collect::<Vec<_>>() {
        claimed.extend(claimer.await.unwrap());
    }
    let distinct: HashSet<_> = claimed.iter().map(|task: &LeasedTask| task.id).collect();
    let fences: HashSet<_> = claimed.iter().map(|task| task.fence).collect();
    assert_eq!((claimed.len(), distinct, fences.len()), (TASKS, ids, TASKS));
    let counts = world.store.counts().await.unwrap();
    assert_eq!(counts[0].succeeded, TASKS as u64);
}

async fn crews(world: &World, workers: usize) -> Vec<Crew> {
    let mut crews = Vec::new();
    for number in 0..workers {
        crews.push(world.worker(&format!("w{number}")).await);
    }
    crews
}

/// Claims and finishes until nothing is left.
async fn claim_all(store: &Store, crew: &Crew, now: longshore_core::time::Timestamp) -> Vec<LeasedTask> {
    let mut all = Vec::new();
    for seq in 1.. {
        let (worker, nonce) = (crew.id.clone(), crew.nonce);
        let request = ClaimRequest { worker, nonce, seq, max: 7, in_flight: 0, lease: LEASE };
        let tasks = store.claim(request, now).await.unwrap();
        if tasks.is_empty() {
            break;
        }
        let end = |task: &LeasedTask| EndAttempt {
            held: task.held(),
            events: Vec::new(),
            ending: Ending::Succeeded,
            result: None,
            roll: 0.5,
        };
        let endings = tasks.iter().map(end).collect();
        let ended = store.end_attempts(crew.id.clone(), crew.nonce, endings, now).await.unwrap();
        assert_eq!(ended.accepted.len(), tasks.len());
        all.extend(tasks);
    }
    all
}

/// Counts commits by the frames that SQLite marks as the last of one in the log.
pub async fn commands_share_commits(world: &World) {
    let dir = world.dir.as_ref().expect("embedded").path().to_owned();
    let store = Arc::new(world.store.clone());
    let before = commits(&dir);
    let now = world.now();
    let submits: Vec<_> = (0..400)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.submit(vec![new_task()], None, now).await.unwrap() })
        })
        .collect();
    for submit in submits {
        tokio::time::timeout(Duration::from_secs(60), submit).await.unwrap().unwrap();
    }
    let made = commits(&dir) - before;
    assert!((1..=100).contains(&made), "400 commands made {made} commits");
}

pub async fn what_changes_nothing_commits_nothing(world: &World) {
    let dir = world.dir.as_ref().expect("embedded").path().to_owned();
    let crew = world.worker("w").await;
    let before = commits(&dir);
    world.tick(Duration::from_secs(60)).await;
    assert_eq!(world.claim(&crew, 1, 1).await.unwrap(), []);
    assert!(world.claim(&Crew { nonce: uuid::Uuid::new_v4(), ..crew.clone() }, 1, 1).await.is_err());
    let nobody = world.store.cancel(new_task().id, None, world.now()).await.unwrap();
    assert_eq!(nobody, CancelOutcome::NotFound);
    assert_eq!(commits(&dir), before, "an idle service leaves the disk alone");
    world.submit(new_task()).await;
    world.claim_one(&crew, 1).await;
    let before = commits(&dir);
    world.tick(Duration::from_secs(4)).await;
    assert_eq!(commits(&dir), before + 2, "with leases, service time is kept");
}

/// Source: "WAL File Format", sqlite.org: a frame's second number is above 0 in commit records only.
fn commits(dir: &std::path::Path) -> usize {
    let log = std::fs::read(dir.join("longshore.db-wal")).unwrap();
    log[32..].chunks_exact(24 + 4096).filter(|frame| frame[4..8] != [0; 4]).count()
}
