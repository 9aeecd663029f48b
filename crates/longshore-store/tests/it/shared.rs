//! What several control planes on one database do, what only that store has, and what it lives through.

mod atomic;
mod both;
mod calls;
mod crowd;
mod families;
mod hooks;
mod looks;
mod outages;
mod partitions;
mod people;
mod redis_lost;
mod replicas;
mod skew;
mod turns;

use std::time::{Duration, Instant};

use longshore_store::{Store, TaskFilter, TaskRecord};

/// Longer than anything here takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until what must come is there.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// All tasks that are stored, page by page.
async fn everything(store: &Store) -> Vec<TaskRecord> {
    let (mut all, mut filter) = (Vec::new(), TaskFilter::default());
    loop {
        let page = store.search(filter.clone(), 1000).await.unwrap();
        all.extend(page.tasks);
        filter.before = page.next;
        if filter.before.is_none() {
            return all;
        }
    }
}
