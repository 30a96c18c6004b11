//! Bombs and floods: whatever a guest asks for without end is given to a bound, and that call is the only one that notices.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use portcullis_model::{Span, spec::Isolation};
use portcullis_plugin::{
    BoxFuture, Decision, Host, LoadError, LoadPlan, Outbound, OutboundError, OutboundRequest, OutboundResponse, Plugin,
    PluginFailure, ResultFacts, Services,
};
use tracing::{Event, Metadata, Subscriber, span};

use crate::{
    built::{built_in, guest},
    guests::{ALLOW, Guest, call, host, load, plan, principal, request},
};

/// Imports `log`; `$log` is its core function.
const LOG: &str = r#"
  (import "portcullis:host/log@0.1.0" (instance $log
    (type $l (enum "error" "warn" "info" "debug"))
    (export "level" (type $level (eq $l)))
    (export "log" (func (param "level" $level) (param "message" string) (param "fields" (list (tuple string string)))))))
  (core module $libc (memory (export "memory") 48))
  (core instance $libc (instantiate $libc))
  (core func $log (canon lower (func $log "log") (memory (core memory $libc "memory"))))
"#;
const WITH_LOG: &str = r#"(export "log" (func $log)) (export "memory" (memory $libc "memory"))"#;
const LOG_CORE: &str = r#"(import "host" "log" (func $log (param i32 i32 i32 i32 i32)))
  (import "host" "memory" (memory 48))"#;
const LOG_MEMORY: &str = r#"(export "memory" (memory 0))"#;

async fn decide(plugin: &Plugin) -> Result<Decision, PluginFailure> {
    plugin.decide(&principal(), &request(), &call()).await
}

async fn works(host: &Arc<Host>) {
    let good = load(host, &Guest::default()).await.unwrap();
    assert_eq!(decide(&good).await, Ok(Decision::Allow), "a neighbour goes on");
}

#[tokio::test]
async fn a_table_bomb_is_stopped_when_it_grows_and_refused_when_it_starts_so() {
    let host = host();
    let grows = Guest {
        core: "(table $t 1 funcref)",
        decide: "(drop (table.grow $t (ref.null func) (i32.const 10000000))) (unreachable)",
        ..Guest::default()
    };
    let failure = decide(&load(&host, &grows).await.unwrap()).await.unwrap_err();
    assert_eq!(failure, PluginFailure::Memory);
    let starts = Guest { core: "(table 100000000 funcref)", ..Guest::default() };
    assert!(load(&host, &starts).await.is_err());
    works(&host).await;
}

#[tokio::test]
async fn a_memory_that_starts_too_large_is_refused() {
    let host = host();
    let many = "(memory 1)".repeat(8);
    for memory in ["(memory 2000)", "(memory 60000)", many.as_str()] {
        assert!(load(&host, &Guest { core: memory, ..Guest::default() }).await.is_err(), "{memory}");
    }
    works(&host).await;
}

/// A list of two hundred thousand pairs of texts, in three megabytes of memory: on the host's side each is larger than that.
#[tokio::test]
async fn an_answer_that_points_at_itself_is_not_copied_without_end() {
    let host = host();
    let guest = Guest {
        imports: LOG,
        with: WITH_LOG,
        core: LOG_CORE,
        memory: LOG_MEMORY,
        decide: "(call $log (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 196608))
                 (call $drop-caller (local.get 0)) (call $drop-call (local.get 1)) (i32.const 1024)",
        ..Guest::default()
    };
    let plugin = load(&host, &guest).await.unwrap();
    let started = Instant::now();
    assert_eq!(decide(&plugin).await, Err(PluginFailure::Output));
    assert!(started.elapsed() < Duration::from_secs(5));
    // In an answer as well: a denial of three megabytes, which is more than any answer may have.
    let long = "(call $drop-caller (local.get 0)) (call $drop-call (local.get 1))
                (i32.store (i32.const 1028) (i32.const 3)) (i32.store (i32.const 1032) (i32.const 0))
                (i32.store (i32.const 1036) (i32.const 3000000)) (i32.const 1024)";
    let plugin = load(&host, &Guest { decide: long, ..Guest::default() }).await.unwrap();
    assert_eq!(decide(&plugin).await, Err(PluginFailure::Output));
    works(&host).await;
}

/// Counts events.
struct Counting(Arc<AtomicUsize>);

impl Subscriber for Counting {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Relaxed);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn a_flood_of_log_lines_is_cut_in_a_call_and_over_calls() {
    let host = host();
    let core = format!("{LOG_CORE} (global $n (mut i32) (i32.const 2000))");
    let decide = format!(
        "(loop $l (call $log (i32.const 2) (i32.const 0) (i32.const 3) (i32.const 0) (i32.const 0))
           (global.set $n (i32.sub (global.get $n) (i32.const 1))) (br_if $l (global.get $n))) {ALLOW}"
    );
    let guest =
        Guest { imports: LOG, with: WITH_LOG, core: &core, memory: LOG_MEMORY, decide: &decide, ..Guest::default() };
    let plugin = load(&host, &guest).await.unwrap();
    let lines = Arc::new(AtomicUsize::new(0));
    let _guard = tracing::subscriber::set_default(Counting(lines.clone()));
    assert_eq!(self::decide(&plugin).await, Ok(Decision::Allow));
    // 32 of a call, and one that says that lines are dropped.
    assert!((1..=33).contains(&lines.load(Relaxed)), "{lines:?}");
    for _ in 0..100 {
        assert_eq!(self::decide(&plugin).await, Ok(Decision::Allow));
    }
    // A hundred at once, twenty a second.
    assert!(lines.load(Relaxed) < 500, "{lines:?}");
}

/// Never answers.
#[derive(Default)]
struct Silent(Mutex<usize>);

impl Outbound for Silent {
    fn send(&self, _: OutboundRequest) -> BoxFuture<'_, Result<OutboundResponse, OutboundError>> {
        *self.0.lock().unwrap() += 1;
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_host_call_that_never_returns_ends_with_its_calls_time() {
    let host = host();
    let silent = Arc::new(Silent::default());
    let mut plan = plan(host.compile(guest("courier")).await.unwrap());
    plan.config = r#"{"url": "https://granted.example/"}"#.into();
    plan.grants.http = vec!["https://granted.example".into()];
    plan.limits.wait = Span::millis(200);
    plan.services = Services { http: Some(silent.clone()), ..Services::default() };
    let plugin = host.load(plan).await.unwrap();
    let (one, two) = tokio::join!(decide(&plugin), decide(&plugin));
    assert_eq!((one, two), (Err(PluginFailure::Timeout), Err(PluginFailure::Timeout)));
    assert_eq!(*silent.0.lock().unwrap(), 2);
    assert_eq!(host.free_instances(), 64, "nothing waits on");
    works(&host).await;
}

#[tokio::test]
async fn a_hundred_thousand_functions_are_not_compiled() {
    let host = host();
    let functions = "(func)".repeat(100_000);
    let started = Instant::now();
    let refused = host.compile(Guest { core: &functions, ..Guest::default() }.wasm()).await.unwrap_err();
    assert!(matches!(refused, LoadError::TooMany { what: "functions", max: 50_000 }), "{refused}");
    assert!(started.elapsed() < Duration::from_secs(20), "no compiler was asked");
    works(&host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_is_shared_out_and_a_full_one_says_so() {
    let host = Host::new(portcullis_plugin::HostOptions { pool_instances: 4, ..Default::default() }).unwrap();
    let mut waiting = plan(host.compile(guest("courier")).await.unwrap());
    waiting.config = r#"{"url": "https://granted.example/"}"#.into();
    waiting.grants.http = vec!["https://granted.example".into()];
    waiting.services = Services { http: Some(Arc::new(Silent::default())), ..Services::default() };
    let waiting = host.load(waiting).await.unwrap();
    let mut inline = plan(host.compile(Guest::default().wasm()).await.unwrap());
    inline.limits.wall = Span::millis(100);
    let inline: Arc<Plugin> = host.load(LoadPlan { ..inline }).await.unwrap();
    let held: Vec<_> = (0..4)
        .map(|_| {
            let plugin = waiting.clone();
            tokio::spawn(async move { decide(&plugin).await })
        })
        .collect();
    let until = Instant::now() + Duration::from_secs(10);
    while host.free_instances() > 0 {
        assert!(Instant::now() < until, "the calls hold every instance");
        tokio::task::yield_now().await;
    }
    let failure = decide(&inline).await.unwrap_err();
    assert_eq!(failure, PluginFailure::PoolFull);
    assert!(!failure.counts_against_plugin(), "the plugin can do nothing for it");
    for call in held {
        call.abort();
        let _ = call.await;
    }
    assert_eq!(decide(&inline).await, Ok(Decision::Allow));
}

/// A result that a policy does not look into is not copied, however large it is.
#[tokio::test]
async fn a_large_result_that_nobody_reads_costs_what_a_small_one_costs() {
    let host = host();
    let mut plan = plan(host.compile(built_in("size-cap")).await.unwrap());
    plan.config = r#"{"rules": [{"results": "16MiB"}]}"#.into();
    plan.isolation = Isolation::Tenant;
    let plugin = host.load(plan).await.unwrap();
    let result = |bytes: usize| ResultFacts::new(false, Bytes::from(vec![b' '; bytes]));
    let cpu = || {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
    };
    let cost = async |outcome: &ResultFacts| {
        let mut rounds = Vec::new();
        for _ in 0..5 {
            let before = cpu();
            for _ in 0..40 {
                let said = plugin.review(&principal(), &request(), &call(), outcome).await;
                assert_eq!(said, Ok(Decision::Allow));
            }
            rounds.push(cpu() - before);
        }
        rounds.into_iter().min().unwrap()
    };
    let (small, large) = (result(1 << 10), result(8 << 20));
    let (little, much) = (cost(&small).await, cost(&large).await);
    // Copying it once would take a millisecond and more, forty times.
    assert!(much < 3 * little + Duration::from_millis(4), "{little:?} and {much:?}");
    assert!(!large.was_read());
}
