//! Random operations against a `BTreeMap`, with the store closed and opened in between.

use std::collections::BTreeMap;

use portcullis_store::{Change, Expect, Revision, StoreError, Write, scan_all};
use proptest::prelude::*;

use crate::house::House;

#[derive(Clone, Debug)]
enum Step {
    Batch(Vec<(u8, Option<u8>, Supposed)>),
    Reopen,
}

#[derive(Clone, Copy, Debug)]
enum Supposed {
    Any,
    Absent,
    Right,
    Wrong,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let supposed = prop_oneof![4 => Just(Supposed::Any), 1 => Just(Supposed::Absent), 2 => Just(Supposed::Right), 1 => Just(Supposed::Wrong)];
    let write = (0..6_u8, proptest::option::weighted(0.7, any::<u8>()), supposed);
    let step = prop_oneof![12 => proptest::collection::vec(write, 0..5).prop_map(Step::Batch), 1 => Just(Step::Reopen)];
    proptest::collection::vec(step, 1..40)
}

type Model = BTreeMap<String, (u8, u64)>;

/// The model's batch: each write sees those before it.
fn apply(model: &Model, batch: &[Write], next: u64) -> Result<(Model, bool), ()> {
    let mut after = model.clone();
    let mut changed = false;
    for write in batch {
        let now = after.get(write.key()).map(|(_, r)| Revision(*r));
        let holds = match write.expect() {
            Expect::Any => true,
            Expect::Absent => now.is_none(),
            Expect::Is(revision) => now == Some(revision),
        };
        if !holds {
            return Err(());
        }
        match write {
            Write::Put { key, value, .. } => {
                after.insert(key.clone(), (value[0], next));
                changed = true;
            }
            Write::Delete { key, .. } => changed |= after.remove(key).is_some(),
        }
    }
    Ok((after, changed))
}

async fn run(house: Option<House>, steps: Vec<Step>) {
    let Some(house) = house else { return };
    let mut store = house.open().await;
    let (mut model, mut revision) = (Model::new(), 0);
    let mut replica = Model::new();
    let mut watched = Revision(0);
    for step in steps {
        match step {
            Step::Reopen => {
                drop(store);
                store = house.open().await;
            }
            Step::Batch(writes) => {
                let batch: Vec<_> = writes
                    .into_iter()
                    .map(|(key, value, supposed)| {
                        let key = format!("k{key}");
                        let now = model.get(&key).map(|(_, r)| *r);
                        let expect = match (supposed, now) {
                            (Supposed::Any, _) => Expect::Any,
                            (Supposed::Absent, _) | (Supposed::Right, None) => Expect::Absent,
                            (Supposed::Right, Some(now)) => Expect::Is(Revision(now)),
                            (Supposed::Wrong, now) => Expect::Is(Revision(now.unwrap_or(0) + 1000)),
                        };
                        match value {
                            Some(v) => Write::Put { key, value: vec![v].into(), expect },
                            None => Write::Delete { key, expect },
                        }
                    })
                    .collect();
                let expected = apply(&model, &batch, revision + 1);
                match (store.write(batch).await, expected) {
                    (Ok(at), Ok((after, changed))) => {
                        model = after;
                        revision += u64::from(changed);
                        assert_eq!(at, Revision(revision));
                    }
                    (Err(StoreError::Conflict { .. }), Err(())) => {}
                    (got, expected) => panic!("store {got:?}, model {expected:?}"),
                }
            }
        }
        let found: Model = scan_all(&*store, "")
            .await
            .unwrap()
            .iter()
            .map(|r| (r.key.to_string(), (r.value[0], r.revision.0)))
            .collect();
        assert_eq!(found, model);
        assert_eq!(store.revision(), Revision(revision));
        // A reader that comes now and then ends up with the same, whatever was opened in between.
        let mut watch = store.watch("", watched).unwrap();
        while let Some(change) = watch.try_next().unwrap() {
            assert!(change.revision() >= watched, "out of order");
            watched = watched.max(change.revision());
            match change {
                Change::Put(r) => replica.insert(r.key.to_string(), (r.value[0], r.revision.0)),
                Change::Deleted { key, .. } => replica.remove(&*key),
            };
        }
        assert_eq!(replica, model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_embedded_store_is_a_map(steps in steps()) {
        runtime().block_on(async { run(House::sled().await, steps).await });
    }
}

proptest! {
    // Each takes a second or two.
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_store_in_a_database_is_a_map(steps in steps()) {
        runtime().block_on(async { run(House::postgres().await, steps).await });
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
