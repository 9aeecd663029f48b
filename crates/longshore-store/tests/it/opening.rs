//! Refusals to open: each says what, where and what to do, and leaves every byte as it was.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use longshore_store::{OpenError, OpenOptions, Store};

use crate::support::{World, folder, new_task, skip};

/// A closed store with one task in it.
async fn closed() -> (tempfile::TempDir, longshore_core::id::TaskId) {
    let mut world = World::embedded().await;
    let id = world.submit(new_task()).await;
    world.store.close().await.unwrap();
    (world.dir.take().unwrap(), id)
}

fn bytes(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let named =
        files.filter(|path| path.is_file() && !path.ends_with("lock") && !path.ends_with("longshore.db-shm"));
    named
        .map(|path| (path.file_name().unwrap().to_string_lossy().into(), std::fs::read(&path).unwrap()))
        .collect()
}

fn refused(dir: &Path) -> OpenError {
    let before = bytes(dir);
    let error = Store::open(&OpenOptions::new(dir)).err().expect("it must not open");
    assert_eq!(bytes(dir), before, "a refusal changes nothing: {error}");
    assert!(error.to_string().contains(&*dir.to_string_lossy()), "it says where: {error}");
    error
}

#[tokio::test]
async fn a_new_store_is_for_its_owner_only_and_opens_again() {
    let parent = folder();
    let dir = parent.path().join("deep/er");
    Store::open(&OpenOptions::new(&dir)).unwrap().close().await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&dir.join("longshore.db"))), (0o700, 0o600));
    assert!(!dir.join("longshore.db-wal").exists(), "a clean end leaves no log");
    Store::open(&OpenOptions::new(&dir)).unwrap();
}

#[tokio::test]
async fn commands_after_closing_are_refused() {
    let (dir, id) = closed().await;
    let store = Store::open(&OpenOptions::new(dir.path())).unwrap();
    store.close().await.unwrap();
    assert!(matches!(store.task(id).await, Err(longshore_store::StoreError::Closed)));
    let put = store.meta_put("a".into(), "b".into()).await;
    assert!(matches!(put, Err(longshore_store::StoreError::Closed)));
}

#[tokio::test]
async fn a_store_in_use_names_its_holder() {
    let world = World::embedded().await;
    let error = refused(world.dir.as_ref().unwrap().path());
    assert!(matches!(error, OpenError::InUse { .. }));
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    world.submit(new_task()).await;
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_an_older_one_is_migrated_after_a_copy() {
    let (dir, id) = closed().await;
    let before = bytes(dir.path());
    let old = version(&dir.path().join("longshore.db"));
    let newer = OpenOptions::new(dir.path()).with_migration("ALTER TABLE meta ADD COLUMN note TEXT;");
    let store = Store::open(&newer).unwrap();
    assert!(store.task(id).await.unwrap().is_some());
    store.close().await.unwrap();
    let path = dir.path().join(format!("longshore.db.v{old}.bak"));
    let copy = rusqlite::Connection::open(&path).unwrap();
    let tasks: u32 = copy.query_row("SELECT count(*) FROM task", [], |row| row.get(0)).unwrap();
    drop(copy);
    assert_eq!((tasks, version(&path)), (1, old));
    assert_ne!(bytes(dir.path()), before);
    let error = refused(dir.path());
    assert!(
        matches!(error, OpenError::Newer { found, known, .. } if (found, known) == (old + 1, old)),
        "{error}"
    );
}

fn version(file: &std::path::Path) -> u32 {
    let connection = rusqlite::Connection::open(file).unwrap();
    connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_migration_that_fails_leaves_the_old_schema() {
    let (dir, id) = closed().await;
    let broken = OpenOptions::new(dir.path()).with_migration("CREATE TABLE half (a); SELECT nonsense;");
    assert!(matches!(Store::open(&broken).err(), Some(OpenError::Sqlite { .. })));
    let store = Store::open(&OpenOptions::new(dir.path())).unwrap();
    assert!(store.task(id).await.unwrap().is_some());
}

#[tokio::test]
async fn another_applications_database_is_refused() {
    let dir = folder();
    let other = rusqlite::Connection::open(dir.path().join("longshore.db")).unwrap();
    other.execute_batch("CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1);").unwrap();
    drop(other);
    assert!(matches!(refused(dir.path()), OpenError::Foreign { .. }));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let dir = folder();
    std::fs::write(dir.path().join("longshore.db"), "hello, world\n".repeat(100)).unwrap();
    assert!(matches!(refused(dir.path()), OpenError::NotADatabase { .. }));
    std::fs::write(dir.path().join("longshore.db"), "SQLite format 3\0").unwrap();
    assert!(matches!(refused(dir.path()), OpenError::NotADatabase { .. }));
}

#[tokio::test]
async fn broken_pages_are_found() {
    let (dir, _) = closed().await;
    let path = dir.path().join("longshore.db");
    let mut file = std::fs::read(&path).unwrap();
    for page in file.chunks_exact_mut(4096).skip(1) {
        page[..64].fill(0xa5);
    }
    std::fs::write(&path, file).unwrap();
    assert!(matches!(refused(dir.path()), OpenError::Corrupt { .. }));
}

#[tokio::test]
async fn a_file_that_was_cut_short_is_found() {
    let (dir, _) = closed().await;
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join("longshore.db")).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    assert!(matches!(refused(dir.path()), OpenError::Corrupt { .. }));
}

#[tokio::test]
async fn the_log_of_a_lost_file_is_not_given_to_a_new_one() {
    let (dir, _) = closed().await;
    std::fs::remove_file(dir.path().join("longshore.db")).unwrap();
    std::fs::write(dir.path().join("longshore.db-wal"), vec![1; 64]).unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, OpenError::Corrupt { .. }) && error.to_string().contains("log"), "{error}");
}

#[test]
fn a_file_in_the_place_of_the_folder_is_refused() {
    let dir = folder();
    let file = dir.path().join("store");
    std::fs::write(&file, "x").unwrap();
    let error = Store::open(&OpenOptions::new(&file)).err().unwrap();
    assert!(matches!(error, OpenError::NotAFolder { .. }), "{error}");
    let error = Store::open(&OpenOptions::new(file.join("below"))).err().unwrap();
    assert!(matches!(error, OpenError::NotAFolder { .. }), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), b"x");
}

/// Rights do not bind root: a child gives them up first.
#[tokio::test]
async fn what_cannot_be_written_is_refused() {
    let (dir, _) = closed().await;
    let modes = [("folder", 0o555, 0o644), ("file", 0o777, 0o444)];
    for (what, folder_mode, file_mode) in modes {
        let file = dir.path().join("longshore.db");
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            std::fs::set_permissions(entry.unwrap().path(), PermissionsExt::from_mode(0o666)).unwrap();
        }
        std::fs::set_permissions(&file, PermissionsExt::from_mode(file_mode)).unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(folder_mode)).unwrap();
        let before = bytes(dir.path());
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "opening::child_opens_without_rights", "--nocapture"])
            .env("LONGSHORE_TEST_DIR", dir.path())
            .output()
            .unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        if text.contains("cannot give up rights") {
            return skip("cannot become another user");
        }
        assert!(
            text.contains("refused: ReadOnly"),
            "{what}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(bytes(dir.path()), before, "{what}");
    }
}

#[test]
#[ignore = "run by what_cannot_be_written_is_refused as a process of its own"]
fn child_opens_without_rights() {
    let nobody = nix::unistd::Uid::from_raw(65_534);
    if nix::unistd::geteuid().is_root() && nix::unistd::setuid(nobody).is_err() {
        return println!("cannot give up rights");
    }
    let dir = std::env::var("LONGSHORE_TEST_DIR").unwrap();
    match Store::open(&OpenOptions::new(dir)) {
        Ok(_) => println!("opened"),
        Err(error) => println!("refused: {error:?}"),
    }
}
