//! Whatever a guest does ends as a failure of that call.

use std::time::{Duration, Instant};

use portcullis_model::{Span, spec::Limits};
use portcullis_plugin::{Decision, Item, ListKind, LoadPlan, PluginFailure};

use crate::guests::{ALLOW, Guest, call, filter, host, load, load_warm, plan, principal, request};

async fn decide(decide: &str) -> Result<Decision, PluginFailure> {
    let plugin = load(&host(), &Guest { decide, ..Guest::default() }).await.expect("loads");
    let first = plugin.decide(&principal(), &request(), &call()).await;
    // The next call finds nothing of the first one.
    let second = plugin.decide(&principal(), &request(), &call()).await;
    assert_eq!(std::mem::discriminant(&first), std::mem::discriminant(&second));
    first
}

#[tokio::test]
async fn an_honest_guest_allows() {
    assert_eq!(decide(ALLOW).await, Ok(Decision::Allow));
}

#[tokio::test]
async fn an_endless_loop_runs_out_of_cpu_time() {
    let started = Instant::now();
    assert_eq!(decide("(loop $l (br $l)) (unreachable)").await, Err(PluginFailure::Cpu));
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn wall_time_alone_is_a_timeout_and_never_counts_against_the_plugin() {
    let host = host();
    let guest = Guest { decide: "(loop $l (br $l)) (unreachable)", ..Guest::default() };
    let component = host.compile(guest.wasm()).await.unwrap();
    let limits = Limits { cpu: Span::seconds(60), wall: Span::millis(20), ..Limits::default() };
    let plugin = host.load(LoadPlan { limits, ..plan(component) }).await.unwrap();
    let failure = plugin.decide(&principal(), &request(), &call()).await.unwrap_err();
    assert_eq!(failure, PluginFailure::Timeout);
    assert!(failure.is_fault() && !failure.counts_against_plugin());
}

#[tokio::test]
async fn a_memory_bomb_is_told_apart_from_a_panic() {
    let bomb = "(drop (memory.grow (i32.const 1024))) (unreachable)";
    assert_eq!(decide(bomb).await, Err(PluginFailure::Memory));
    assert!(matches!(decide("(unreachable)").await, Err(PluginFailure::Trap(why)) if why.contains("unreachable")));
}

#[tokio::test]
async fn endless_recursion_traps() {
    let plugin =
        load(&host(), &Guest { core: "(func $f (call $f))", decide: "(call $f) (unreachable)", ..Guest::default() })
            .await
            .unwrap();
    let failure = plugin.decide(&principal(), &request(), &call()).await.unwrap_err();
    assert!(matches!(failure, PluginFailure::Trap(_)), "{failure}");
}

#[tokio::test]
async fn a_kept_borrow_is_a_failure_and_the_instance_is_gone() {
    let host = host();
    let leak = "(i32.const 1024)";
    let plugin = load_warm(&host, &Guest { decide: leak, ..Guest::default() }).await;
    for _ in 0..2 {
        let failure = plugin.decide(&principal(), &request(), &call()).await.unwrap_err();
        assert!(matches!(failure, PluginFailure::Trap(_)), "{failure}");
    }
    assert_eq!(host.free_instances(), 64, "permits come back");
}

#[tokio::test]
async fn warm_instances_are_used_again_and_traps_drop_them() {
    let host = host();
    // Every third call of one instance traps.
    let guest = Guest {
        core: "(global $n (mut i32) (i32.const 0))",
        decide: "(global.set $n (i32.add (global.get $n) (i32.const 1)))
                 (if (i32.ge_u (global.get $n) (i32.const 3)) (then unreachable))
                 (call $drop-caller (local.get 0)) (call $drop-call (local.get 1)) (i32.const 1024)",
        ..Guest::default()
    };
    let plugin = load_warm(&host, &guest).await;
    let mut outcomes = String::new();
    for _ in 0..9 {
        outcomes.push(if plugin.decide(&principal(), &request(), &call()).await.is_ok() { '+' } else { '-' });
    }
    assert_eq!(outcomes, "++-++-++-");
    drop(plugin);
    assert_eq!(host.free_instances(), 64);
}

#[tokio::test]
async fn answers_that_make_no_sense_are_refused() {
    let store = |len: i64, ptr: i32| {
        format!(
            "(call $drop-caller (local.get 0)) (call $drop-call (local.get 1))
             (i32.store (i32.const 1028) (i32.const 2)) (i32.store (i32.const 1032) (i32.const 0))
             (i32.store (i32.const 1036) (i32.const {ptr})) (i32.store (i32.const 1040) (i32.const {len}))
             (i32.const 1024)"
        )
    };
    // Two MiB of new arguments, where one is the most.
    assert_eq!(decide(&store(2 << 20, 4096)).await, Err(PluginFailure::Output));
    // Zeros, which are no JSON.
    assert!(matches!(decide(&store(16, 4096)).await, Err(PluginFailure::Invalid(_))));
    // Beyond the memory.
    assert!(matches!(decide(&store(-1, 4096)).await, Err(PluginFailure::Trap(_))));
    // A case that the variant does not have.
    let case = "(call $drop-caller (local.get 0)) (call $drop-call (local.get 1))
                (i32.store (i32.const 1028) (i32.const 99)) (i32.const 1024)";
    assert!(matches!(decide(case).await, Err(PluginFailure::Trap(_))));
}

#[tokio::test]
async fn a_filter_names_only_positions_of_the_list() {
    let host = host();
    let items: Vec<Item<'_>> = ["a", "b", "c"].map(|name| Item { server: "s", name }).into();
    for (positions, good) in [(&[0, 2][..], true), (&[], true), (&[3], false), (&[1, 1], false), (&[2, 0], false)] {
        let plugin = host.load(plan(host.compile(filter(positions)).await.unwrap())).await.unwrap();
        let kept = plugin.filter(&principal(), &request(), ListKind::Tools, &items).await;
        match good {
            true => assert_eq!(kept.as_deref(), Ok(positions)),
            false => assert!(matches!(kept, Err(PluginFailure::Invalid(_))), "{positions:?}"),
        }
    }
}

const SLEEP_AND_PRINT: &str = r#"
  (import "wasi:io/poll@0.2.6" (instance $poll
    (export "pollable" (type (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow 0))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.6" (instance $clock
    (alias outer 1 $pollable (type $p0))
    (export "pollable" (type $p (eq $p0)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $subscribe (canon lower (func $clock "subscribe-duration")))
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sleeping_on_a_tokio_worker_traps_and_never_panics_the_host() {
    let guest = Guest {
        imports: SLEEP_AND_PRINT,
        with: "(export \"block\" (func $block)) (export \"subscribe\" (func $subscribe))",
        core: "(import \"host\" \"block\" (func $block (param i32)))
               (import \"host\" \"subscribe\" (func $subscribe (param i64) (result i32)))",
        decide: "(call $block (call $subscribe (i64.const 1000000000))) (unreachable)",
        ..Guest::default()
    };
    let plugin = load(&host(), &guest).await.unwrap();
    let failure = tokio::spawn(async move { plugin.decide(&principal(), &request(), &call()).await })
        .await
        .expect("the host does not panic")
        .unwrap_err();
    assert!(matches!(&failure, PluginFailure::Trap(why) if why.contains("waiting")), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_concurrent_calls_one_traps_and_its_neighbours_do_not_notice() {
    let host = host();
    let good = load(&host, &Guest::default()).await.unwrap();
    let bad = load(&host, &Guest { decide: "(unreachable)", ..Guest::default() }).await.unwrap();
    let calls = (0..1000).map(|i| {
        let plugin = if i == 500 { bad.clone() } else { good.clone() };
        tokio::spawn(async move { plugin.decide(&principal(), &request(), &call()).await })
    });
    let mut failed = 0;
    for task in calls.collect::<Vec<_>>() {
        match task.await.expect("no panic") {
            Ok(decision) => assert_eq!(decision, Decision::Allow),
            Err(failure) => {
                assert!(matches!(failure, PluginFailure::Trap(_)), "{failure}");
                failed += 1;
            }
        }
    }
    assert_eq!(failed, 1);
    assert_eq!(host.free_instances(), 64);
}
