//! What [`Store`] promises, case by case.

use std::{sync::atomic::Ordering, time::Duration};

use portcullis_store::{
    Change, Expect, MAX_KEY, MAX_VALUE, Revision, SledOptions, SledStore, Store, StoreError, Write, scan_all,
};

use crate::{
    delete,
    house::{House, on_each_store},
    open, put,
};

on_each_store!(
    records_and_revisions_survive_reopening,
    a_batch_is_written_whole_or_not_at_all,
    one_of_many_that_race_wins,
    each_batch_has_a_revision_of_its_own,
    scans_are_ordered_bounded_and_kept_to_their_prefix,
    limits_are_kept,
    a_watch_replays_then_follows,
    a_watch_that_falls_behind_is_told_so,
    a_watch_ends_with_its_store,
);

async fn records_and_revisions_survive_reopening(house: &House) {
    let store = house.open().await;
    assert_eq!(store.revision(), Revision(0));
    let one = store.write(vec![put("a", "1"), put("b", "1")]).await.unwrap();
    let two = store.write(vec![put("a", "2"), delete("b")]).await.unwrap();
    assert_eq!((one, two), (Revision(1), Revision(2)));
    assert_eq!(store.write(vec![delete("nothing")]).await.unwrap(), two, "no change, no revision");
    drop(store);
    let store = house.open().await;
    assert_eq!(store.revision(), two);
    let a = store.get("a").await.unwrap().unwrap();
    assert_eq!((&a.value[..], a.revision), (&b"2"[..], two));
    assert_eq!(store.get("b").await.unwrap(), None);
    assert_eq!(store.write(vec![put("c", "3")]).await.unwrap(), Revision(3));
}

async fn a_batch_is_written_whole_or_not_at_all(house: &House) {
    let store = house.open().await;
    let at = store.write(vec![put("a", "1")]).await.unwrap();
    let expecting = |expect| Write::Put { key: "a".into(), value: "x".into(), expect };
    for (expect, actual) in [(Expect::Absent, Some(at)), (Expect::Is(Revision(99)), Some(at))] {
        let refused = store.write(vec![put("other", "x"), expecting(expect)]).await;
        assert_eq!(refused, Err(StoreError::Conflict { key: "a".into(), actual }));
    }
    let gone = Write::Delete { key: "gone".into(), expect: Expect::Is(at) };
    assert!(matches!(store.write(vec![put("other", "x"), gone]).await, Err(StoreError::Conflict { actual: None, .. })));
    assert_eq!(store.get("other").await.unwrap(), None);
    assert!(store.write(vec![expecting(Expect::Is(at))]).await.is_ok());
}

async fn one_of_many_that_race_wins(house: &House) {
    let store = house.open().await;
    let race = (0..64).map(|i| {
        let store = store.clone();
        tokio::spawn(async move {
            let value = i.to_string().into();
            store.write(vec![Write::Put { key: "lock".into(), value, expect: Expect::Absent }]).await.is_ok()
        })
    });
    let mut winners = 0;
    for racer in race.collect::<Vec<_>>() {
        winners += usize::from(racer.await.unwrap());
    }
    assert_eq!(winners, 1);
}

async fn each_batch_has_a_revision_of_its_own(house: &House) {
    let store = house.open().await;
    let all = (0..256).map(|i| {
        let store = store.clone();
        tokio::spawn(async move { store.write(vec![put(&format!("k{i}"), "v")]).await })
    });
    let mut revisions = Vec::new();
    for one in all.collect::<Vec<_>>() {
        revisions.push(one.await.unwrap().unwrap().0);
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=256).collect::<Vec<_>>(), "each batch has its own revision");
    assert_eq!(scan_all(&*store, "k").await.unwrap().len(), 256);
}

async fn scans_are_ordered_bounded_and_kept_to_their_prefix(house: &House) {
    let store = house.open().await;
    store.write(["a/1", "a/2", "a/20", "a/3", "a", "b/1", "a0"].iter().map(|k| put(k, k)).collect()).await.unwrap();
    let keys = async |prefix: &str, after: Option<&str>, limit| {
        let found = store.scan(prefix, after, limit).await.unwrap();
        found.iter().map(|r| r.key.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(keys("a/", None, 10).await, ["a/1", "a/2", "a/20", "a/3"]);
    assert_eq!(keys("a/", Some("a/2"), 1).await, ["a/20"]);
    assert_eq!(keys("a/", Some("a/3"), 10).await, [""; 0]);
    assert_eq!(keys("a/", Some("0"), 1).await, ["a/1"], "before the prefix");
    assert_eq!(keys("", None, 2).await, ["a", "a/1"]);
    assert_eq!(keys("a/", None, 0).await, [""; 0]);
}

async fn limits_are_kept(house: &House) {
    let store = house.open().await;
    let big = |key: usize, value: usize| Write::Put {
        key: "k".repeat(key),
        value: vec![0; value].into(),
        expect: Expect::Any,
    };
    assert!(store.write(vec![big(MAX_KEY, MAX_VALUE)]).await.is_ok());
    for bad in [big(MAX_KEY + 1, 0), big(0, 0), big(1, MAX_VALUE + 1)] {
        assert_eq!(store.write(vec![bad]).await, Err(StoreError::TooLarge));
    }
    let many =
        (0..33).map(|i| Write::Put { key: format!("k{i}"), value: vec![0; MAX_VALUE].into(), expect: Expect::Any });
    assert_eq!(store.write(many.collect()).await, Err(StoreError::TooLarge));
}

async fn a_watch_replays_then_follows(house: &House) {
    let store = house.open().await;
    store.write(vec![put("x/a", "1"), put("y", "1")]).await.unwrap();
    let from = store.write(vec![put("x/a", "2")]).await.unwrap();
    store.write(vec![delete("x/a"), put("x/b", "1")]).await.unwrap();
    drop(store);
    let store = house.open().await;
    let mut watch = store.watch("x/", from).unwrap();
    let next = watch.next().await.unwrap();
    assert_eq!(next, Change::Deleted { key: "x/a".into(), revision: Revision(3) });
    assert!(matches!(watch.next().await.unwrap(), Change::Put(r) if &*r.key == "x/b"));
    assert_eq!(watch.try_next().unwrap(), None);
    let waiting = tokio::spawn(async move { watch.next().await });
    store.write(vec![put("y", "2")]).await.unwrap();
    store.write(vec![put("x/c", "3")]).await.unwrap();
    let change = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap().unwrap();
    assert!(matches!(change, Change::Put(r) if &*r.key == "x/c"));
}

async fn a_watch_that_falls_behind_is_told_so(house: &House) {
    let store = house.open().await;
    let mut slow = store.watch("", Revision(0)).unwrap();
    // Two full batches are more than the log keeps.
    for round in 0..3 {
        store.write((0..16_000).map(|i| put(&format!("k{i}"), &round.to_string())).collect()).await.unwrap();
    }
    assert_eq!(slow.next().await, Err(StoreError::TooOld));
    assert_eq!(store.watch("", Revision(0)).err(), Some(StoreError::TooOld));
    assert_eq!(store.watch("", Revision(99)).err(), Some(StoreError::TooOld), "a revision that is not there yet");
    assert!(store.watch("", store.revision()).is_ok());
    drop(store);
    let store = house.open().await;
    assert_eq!(store.watch("", Revision(0)).err(), Some(StoreError::TooOld), "what was forgotten stays forgotten");
    let mut last = store.watch("", Revision(2)).unwrap();
    assert!(matches!(last.try_next().unwrap(), Some(Change::Put(_))));
}

async fn a_watch_ends_with_its_store(house: &House) {
    let store = house.open().await;
    let mut watch = store.watch("", Revision(0)).unwrap();
    drop(store);
    assert!(matches!(watch.next().await, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn writers_that_wait_share_a_flush() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let all = (0..256).map(|i| {
        let store = store.clone();
        tokio::spawn(async move { store.write(vec![put(&format!("k{i}"), "v")]).await.unwrap() })
    });
    for one in all.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    let flushes = store.stats().flushes.load(Ordering::Relaxed);
    assert!(flushes < 256, "{flushes} flushes for 256 writers");
}

#[test]
fn the_lock_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let options = |ms| SledOptions { min_free: 0, lock_patience: Duration::from_millis(ms), ..SledOptions::default() };
    assert_eq!(SledStore::open(dir.path(), options(100)).err(), Some(StoreError::Locked));
    let path = dir.path().to_owned();
    let patient = std::thread::spawn(move || SledStore::open(&path, options(10_000)));
    drop(store);
    assert!(patient.join().unwrap().is_ok());
}
