//! State moves between the stores, either way, and is the same afterwards.

use std::path::PathBuf;

use portcullis_store::{
    Revision, Store, StoreError,
    copy::{CopyError, Place, copy},
    scan_all,
};
use portcullis_test_postgres::Database;
use tempfile::TempDir;

use crate::{
    delete,
    house::{connect, given, options},
    open, put,
};

fn directory(dir: &TempDir) -> Place {
    Place::Directory(dir.path().join("state"))
}

fn database(database: &Database) -> Place {
    Place::Database(Box::new(options(&database.url())))
}

/// More records than a piece has, of several revisions, with some gone again.
async fn fill(store: &dyn Store) {
    store.write((0..600).map(|n| put(&format!("a/{n}"), &"x".repeat(n))).collect()).await.unwrap();
    store.write(vec![put("s/t/c", "pcv1 sealed \u{0}"), put("a/7", "again"), delete("a/8")]).await.unwrap();
    store.write(vec![put("z", "")]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_and_back_again() {
    let Some(there) = given(Database::shared().await.unwrap()) else { return };
    let (first, back) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let state = first.path().join("state");
    let store = open(&state);
    fill(&*store).await;
    let before = scan_all(&*store, "").await.unwrap();
    let locked = copy(&directory(&first), &database(&there)).await;
    assert_eq!(locked, Err(CopyError::From(StoreError::Locked)), "a gateway has it open");
    drop(store);

    let copied = copy(&directory(&first), &database(&there)).await.unwrap();
    assert_eq!((copied.records, copied.revision), (601, Revision(3)));
    let store = connect(&there).await.unwrap();
    assert_eq!(scan_all(&*store, "").await.unwrap(), before);
    assert_eq!(store.watch("", Revision(2)).err(), Some(StoreError::TooOld), "what happened before is not known there");
    let mut watch = store.watch("", Revision(3)).unwrap();
    assert_eq!(store.write(vec![put("new", "1")]).await, Ok(Revision(4)));
    assert_eq!(watch.next().await.unwrap().revision(), Revision(4));

    // While gateways are at it.
    let copied = copy(&database(&there), &directory(&back)).await.unwrap();
    assert_eq!((copied.records, copied.revision), (602, Revision(4)));
    let home = back.path().join("state");
    let store = open(&home);
    assert_eq!(store.revision(), Revision(4));
    assert_eq!(scan_all(&*store, "a/").await.unwrap(), before[..599]);
    assert_eq!(store.write(vec![put("new", "2")]).await, Ok(Revision(5)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_empty_is_left_alone() {
    let Some(there) = given(Database::shared().await.unwrap()) else { return };
    let from = tempfile::tempdir().unwrap();
    fill(&*open(&from.path().join("state"))).await;
    let store = connect(&there).await.unwrap();
    let kept = store.write(vec![put("mine", "1")]).await.unwrap();
    assert_eq!(copy(&directory(&from), &database(&there)).await, Err(CopyError::NotEmpty(kept)));
    assert_eq!(scan_all(&*store, "").await.unwrap().len(), 1);
    assert_eq!(store.write(vec![put("mine", "2")]).await, Ok(Revision(2)), "the turn to write was given back");
    let to = tempfile::tempdir().unwrap();
    fill(&*open(&to.path().join("state"))).await;
    assert_eq!(copy(&database(&there), &directory(&to)).await, Err(CopyError::NotEmpty(Revision(3))));
    let nothing = Place::Directory(PathBuf::from("/nonexistent/state"));
    assert_eq!(copy(&nothing, &directory(&to)).await, Err(CopyError::Nothing));
}
