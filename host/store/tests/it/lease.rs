//! Leases: one holder at a time, also where holders die.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use portcullis_store::{Leases, StoreError};

use crate::{
    house::{House, on_each_store},
    put,
};

on_each_store!(
    one_of_many_holds_it,
    what_a_dead_holder_held_comes_free_and_it_is_fenced_off,
    one_that_is_prolonged_is_not_taken,
    who_lost_an_answer_has_it_still,
);

const LIFE: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_secs(30);

async fn one_of_many_holds_it(house: &House) {
    let store = house.open().await;
    let inside = Arc::new(AtomicUsize::new(0));
    let race = (0..8).map(|n| {
        let (leases, inside) = (Leases::new(Arc::clone(&store), &format!("p{n}")), Arc::clone(&inside));
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let lease = leases.take("x", PATIENCE, PATIENCE).await.unwrap().unwrap();
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
            // Long enough for every other one to have taken it, if it could.
            for _ in 0..20 {
                store.get("x").await.unwrap();
                tokio::task::yield_now().await;
            }
            inside.fetch_sub(1, Ordering::SeqCst);
            lease.release().await;
        })
    });
    for racer in race.collect::<Vec<_>>() {
        racer.await.unwrap();
    }
}

async fn what_a_dead_holder_held_comes_free_and_it_is_fenced_off(house: &House) {
    let store = house.open().await;
    let (dead, heir) = (Leases::new(Arc::clone(&store), "dead"), Leases::new(Arc::clone(&store), "heir"));
    let old = dead.take("x", LIFE, PATIENCE).await.unwrap().unwrap();
    assert!(heir.take("x", LIFE, Duration::ZERO).await.unwrap().is_none());
    let began = Instant::now();
    let new = heir.take("x", PATIENCE, PATIENCE).await.unwrap().unwrap();
    assert!(began.elapsed() >= LIFE.saturating_sub(Duration::from_millis(20)), "after {:?}", began.elapsed());
    // It was not dead, only slow: what it does now does not happen.
    assert_eq!(old.left(), Duration::ZERO);
    let late = store.write(vec![put("done", "by the old one"), old.fence()]).await;
    assert!(matches!(late, Err(StoreError::Conflict { .. })));
    store.write(vec![put("done", "by the new one"), new.fence()]).await.unwrap();
    assert!(dead.take("x", LIFE, Duration::ZERO).await.unwrap().is_some(), "the fence gives it back");
}

async fn one_that_is_prolonged_is_not_taken(house: &House) {
    let store = house.open().await;
    let (holder, other) = (Leases::new(Arc::clone(&store), "holder"), Leases::new(Arc::clone(&store), "other"));
    let mut lease = holder.take("x", Duration::from_secs(2), PATIENCE).await.unwrap().unwrap();
    let waiting = tokio::spawn(async move { other.take("x", LIFE, Duration::from_secs(5)).await.unwrap().is_some() });
    for _ in 0..10 {
        assert!(lease.prolong().await.unwrap());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(!waiting.is_finished(), "it was taken from its holder");
    lease.release().await;
    assert!(waiting.await.unwrap(), "it was given back");
}

async fn who_lost_an_answer_has_it_still(house: &House) {
    let store = house.open().await;
    let leases = Leases::new(store, "p");
    drop(leases.take("x", PATIENCE, PATIENCE).await.unwrap());
    assert!(leases.take("x", PATIENCE, Duration::ZERO).await.unwrap().is_some());
}
