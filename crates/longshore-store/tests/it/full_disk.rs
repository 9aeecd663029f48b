//! A full disk: refused cleanly, nothing that was acknowledged is lost, and it works again when there is
//! room.

use std::path::{Path, PathBuf};
use std::process::Command;

use longshore_core::id::TaskId;
use longshore_store::{NewTask, OpenError, OpenOptions, Store, StoreError, SubmitError};

use crate::support::{World, folder, json, new_task, skip};

fn big() -> NewTask {
    NewTask { input: json(&format!("\"{}\"", "x".repeat(64 * 1024))), ..new_task() }
}

/// Submits until the disk is full; returns what was acknowledged.
async fn fill(world: &World) -> Vec<TaskId> {
    let mut kept = Vec::new();
    for _ in 0..10_000 {
        match world.store.submit(vec![big()], None, world.now()).await {
            Ok(submitted) => kept.extend(submitted.ids),
            Err(SubmitError::Store(StoreError::Full)) => return kept,
            Err(other) => panic!("expected a full disk, got {other:?}"),
        }
    }
    panic!("the disk never got full");
}

async fn all_there(store: &Store, ids: &[TaskId]) {
    for id in ids {
        assert!(store.task(*id).await.unwrap().is_some(), "{id} was acknowledged");
    }
}

#[tokio::test]
async fn a_full_file_refuses_and_keeps_what_it_has() {
    let dir = folder();
    let small = OpenOptions::new(dir.path()).max_pages(400);
    let world = World::new(Store::open(&small).unwrap(), None).await;
    let kept = fill(&world).await;
    assert!(!kept.is_empty());
    all_there(&world.store, &kept).await;
    let load = world.load("a").await;
    assert_eq!(load.runnable, kept.len() as u64, "counts were rolled back, too");
    world.store.close().await.unwrap();
    let roomy = World::new(Store::open(&OpenOptions::new(dir.path())).unwrap(), None).await;
    all_there(&roomy.store, &kept).await;
    roomy.submit(big()).await;
}

/// A file system of its own, of one size, for as long as it lives.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, size: &str) -> Option<Disk> {
        let options = format!("size={size}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output();
        mount.is_ok_and(|output| output.status.success()).then(|| Disk(at.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_until_there_is_room() {
    let dir = folder();
    let Some(_disk) = Disk::mount(dir.path(), "4m") else { return skip("cannot mount a small disk") };
    let ballast = dir.path().join("ballast");
    std::fs::write(&ballast, vec![0; 512 * 1024]).unwrap();
    let store = dir.path().join("store");
    let world = World::new(Store::open(&OpenOptions::new(&store)).unwrap(), None).await;
    let mut kept = fill(&world).await;
    all_there(&world.store, &kept).await;
    std::fs::remove_file(&ballast).unwrap();
    kept.push(world.submit(big()).await);
    all_there(&world.store, &kept).await;
    drop(world);
    let again = Store::open(&OpenOptions::new(&store)).unwrap();
    all_there(&again, &kept).await;
}

#[tokio::test]
async fn what_could_not_expire_on_a_full_disk_expires_when_there_is_room() {
    let dir = folder();
    let Some(_disk) = Disk::mount(dir.path(), "4m") else { return skip("cannot mount a small disk") };
    let store = dir.path().join("store");
    let world = World::new(Store::open(&OpenOptions::new(&store)).unwrap(), None).await;
    // Many, so that their endings do not fit into what is left between two pages.
    let tasks = (0..500).map(|_| new_task()).collect();
    let ids = world.store.submit(tasks, None, world.now()).await.unwrap().ids;
    let crew = world.worker("w").await;
    assert_eq!(world.claim(&crew, 1, 1000).await.unwrap().len(), ids.len());
    let ballast = dir.path().join("ballast");
    let _ = std::fs::write(&ballast, vec![0; 4 << 20]);
    fill(&world).await;
    let second = std::time::Duration::from_secs(2);
    let mut refused = 0;
    for _ in 0..20 {
        match world.store.tick(world.epoch, Some(second), true, world.now(), 0.5).await {
            Err(StoreError::Full) => refused += 1,
            other => assert!(other.unwrap().expired.is_empty(), "no room for that"),
        }
    }
    assert!(refused > 0);
    std::fs::remove_file(&ballast).unwrap();
    let expired = world.store.tick(world.epoch, Some(second), true, world.now(), 0.5).await.unwrap().expired;
    assert_eq!(expired.len(), ids.len());
}

#[tokio::test]
async fn a_full_disk_at_the_start_is_said() {
    let dir = folder();
    let Some(_disk) = Disk::mount(dir.path(), "1m") else { return skip("cannot mount a small disk") };
    let ballast = dir.path().join("ballast");
    let fill = |bytes: usize| {
        let _ = std::fs::write(&ballast, vec![0; bytes]);
    };
    fill(2 << 20);
    let store = dir.path().join("store");
    let error = Store::open(&OpenOptions::new(&store)).err().expect("no room");
    assert!(matches!(error, OpenError::Full { .. }), "{error:?}");
    fill(0);
    let opened = Store::open(&OpenOptions::new(&store)).unwrap();
    opened.meta_put("a".into(), "b".into()).await.unwrap();
    opened.close().await.unwrap();
    drop(opened);
    fill(2 << 20);
    let error = Store::open(&OpenOptions::new(&store)).err().expect("no room");
    assert!(matches!(error, OpenError::Full { .. }), "{error:?}");
    fill(0);
    let opened = Store::open(&OpenOptions::new(&store)).unwrap();
    assert_eq!(opened.meta_get("a".into()).await.unwrap().as_deref(), Some("b"));
}
