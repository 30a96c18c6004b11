//! Loading while calls run, and calls that nobody waits for any more.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use portcullis_plugin::Decision;

use crate::guests::{Guest, call, host, load, principal, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plugins_are_loaded_and_dropped_while_calls_run() {
    let host = host();
    let serving = load(&host, &Guest::default()).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let caller = tokio::spawn({
        let (serving, stop) = (serving.clone(), stop.clone());
        async move {
            let mut calls = 0;
            while !stop.load(SeqCst) {
                assert_eq!(serving.decide(&principal(), &request(), &call()).await, Ok(Decision::Allow));
                calls += 1;
                tokio::task::yield_now().await;
            }
            calls
        }
    });
    for i in 0..10 {
        // A different component each time, so that each is compiled.
        let core = format!("(global $g{i} i32 (i32.const {i}))");
        let fresh = load(&host, &Guest { core: &core, ..Guest::default() }).await.unwrap();
        assert_eq!(fresh.decide(&principal(), &request(), &call()).await, Ok(Decision::Allow));
        assert_ne!(fresh.digest(), serving.digest());
    }
    stop.store(true, SeqCst);
    assert!(caller.await.unwrap() > 0);
    assert_eq!(host.free_instances(), 64);
}
