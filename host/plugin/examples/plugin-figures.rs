//! Prints the figures that the plugin platform promises: microseconds of CPU time per call, with one thread, two and all; and what a
//! hundred loaded plugins take. `cargo run --release -p portcullis-plugin --example plugin-figures [ONLY]` measures the rows whose name
//! holds ONLY.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a tool for people")]

#[path = "../tests/it/guests.rs"]
#[allow(dead_code)]
mod guests;

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use portcullis_model::spec::Isolation;
use portcullis_plugin::{CallFacts, Host, HostOptions, Item, ListKind, LoadPlan, Plugin, ResultFacts};
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 7;
const CALLS: u32 = 2_000;
const PLUGINS: usize = 100;

/// As in the product: a third of a fresh instance's time is allocation.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A policy of results that asks how large they are, and nothing else.
const SIZES: &str = r#"{"rules": [{"results": "2MiB"}]}"#;
/// One that reads all of them.
const SECRETS: &str = r#"{"rules": [{"patterns": ["secrets"], "in": ["results"]}]}"#;

/// A policy that reads one argument of a kilobyte of them and denies nothing.
const RULES: &str = r#"{"default": "deny", "rules": [
    {"effect": "deny", "servers": ["github"], "tools": ["delete_*"]},
    {"effect": "allow", "principals": ["team:blue"], "when": [{"argument": "/owner", "equals": "blue-inc"}]},
    {"effect": "allow", "principals": ["role:admin"]},
    {"effect": "allow", "servers": ["github"], "tools": ["create_*", "tool_*"], "when": [{"argument": "/owner", "equals": "us"}]},
    {"effect": "allow", "tools": ["tool_*"]}]}"#;

fn cpu_us() -> f64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    t.tv_sec as f64 * 1e6 + t.tv_nsec as f64 / 1e3
}

/// What one call of `calls` costs on each of `threads` that all call at once.
fn measure<W, F>(threads: usize, calls: u32, work: &W) -> f64
where
    W: Fn() -> F + Sync,
    F: Future<Output = ()>,
{
    let start = std::sync::Barrier::new(threads);
    let per_thread = std::thread::scope(|scope| {
        let spawned: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    let mut rounds: Vec<f64> = (0..ROUNDS)
                        .map(|_| {
                            start.wait();
                            let before = cpu_us();
                            runtime.block_on(async {
                                for _ in 0..calls {
                                    work().await;
                                }
                            });
                            (cpu_us() - before) / f64::from(calls)
                        })
                        .collect();
                    rounds.sort_by(f64::total_cmp);
                    rounds[ROUNDS / 2]
                })
            })
            .collect();
        spawned.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    per_thread.iter().sum::<f64>() / threads as f64
}

fn row<W, F>(name: &str, only: &str, target: f64, work: W)
where
    W: Fn() -> F + Sync,
    F: Future<Output = ()>,
{
    row_of(CALLS, name, only, target, work);
}

fn row_of<W, F>(calls: u32, name: &str, only: &str, target: f64, work: W)
where
    W: Fn() -> F + Sync,
    F: Future<Output = ()>,
{
    if !name.contains(only) {
        return;
    }
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let mut counts = vec![1, 2, all];
    counts.sort_unstable();
    counts.dedup();
    let figures: Vec<String> = counts.iter().map(|n| format!("{:>8.2} ({n})", measure(*n, calls, &work))).collect();
    println!("{name:<44} {} us (threads); promised below {target}", figures.join(" "));
}

/// Resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap_or(0)
}

fn built_in(name: &str) -> Arc<[u8]> {
    portcullis_plugins::built_ins().iter().find(|one| one.name == name).expect("a built-in").wasm.into()
}

async fn load(host: &Arc<Host>, wasm: Arc<[u8]>, config: &str, isolation: Isolation, name: &str) -> Arc<Plugin> {
    let component = host.compile(wasm).await.unwrap();
    let plan = guests::plan(component);
    host.load(LoadPlan { isolation, config: config.to_owned(), name: name.to_owned(), ..plan }).await.unwrap()
}

fn main() {
    let only = std::env::args().nth(1).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let host = Host::new(HostOptions { pool_instances: 256, ..HostOptions::default() }).unwrap();
    println!("pooled: {}", host.pooled());
    let (principal, request) = (guests::principal(), guests::request());
    let mut arguments = serde_json::json!({"owner": "us", "repo": "portcullis"});
    arguments["body"] = "x".repeat(1024 - arguments.to_string().len() - 10).into();
    let kilobyte = CallFacts { arguments: Bytes::from(arguments.to_string()), ..guests::call() };
    let names: Vec<String> = (0..200).map(|i| format!("tool_{i}")).collect();
    let items: Vec<Item<'_>> = names.iter().map(|name| Item { server: "github", name }).collect();
    let result = |bytes: usize| {
        let text = "x".repeat(bytes - 43);
        ResultFacts::new(false, serde_json::json!({"content": [{"type": "text", "text": text}]}).to_string().into())
    };
    let results = [("1 KiB", result(1 << 10)), ("1 MiB", result(1 << 20))];

    for (word, isolation) in [("warm", Isolation::Tenant), ("fresh", Isolation::Call)] {
        let policy = runtime.block_on(load(&host, built_in("tool-access"), RULES, isolation, "policy"));
        let small = runtime.block_on(load(&host, guests::Guest::default().wasm(), "{}", isolation, "small"));
        let targets = if word == "warm" { (2.0, 50.0) } else { (10.0, 50.0) };
        row(&format!("a policy, 1 KiB of arguments, {word}"), &only, targets.0, || async {
            policy.decide(&principal, &request, &kilobyte).await.unwrap();
        });
        row(&format!("a policy that only allows, {word}"), &only, targets.0, || async {
            small.decide(&principal, &request, &kilobyte).await.unwrap();
        });
        row(&format!("a list of 200 tools, {word}"), &only, targets.1, || async {
            policy.filter(&principal, &request, ListKind::Tools, &items).await.unwrap();
        });
        let sizes = runtime.block_on(load(&host, built_in("size-cap"), SIZES, isolation, "sizes"));
        let secrets = runtime.block_on(load(&host, built_in("redact"), SECRETS, isolation, "secrets"));
        for (size, result) in &results {
            row(&format!("a result of {size} that nobody reads, {word}"), &only, targets.0, || async {
                sizes.review(&principal, &request, &kilobyte, result).await.unwrap();
            });
            // What reading costs: no figure is promised.
            row_of(CALLS / 20, &format!("a result of {size} that is read, {word}"), &only, f64::INFINITY, || async {
                secrets.review(&principal, &request, &kilobyte, result).await.unwrap();
            });
        }
    }
    if "plugins".contains(&only) {
        let dir = tempfile::tempdir().unwrap();
        for word in ["compiled now", "compiled before"] {
            let options = HostOptions { cache_dir: Some(dir.path().join("cache")), ..HostOptions::default() };
            let host = Host::new(options).unwrap();
            let (before, started) = (resident(), Instant::now());
            let loaded: Vec<_> = (0..PLUGINS)
                .map(|i| {
                    // Each a component of its own: another custom section.
                    let mut wasm = built_in("tool-access").to_vec();
                    wasm.extend_from_slice(&[0, 5, 1, b'n', 0, 0, i as u8]);
                    runtime.block_on(load(&host, wasm.into(), RULES, Isolation::Call, &format!("plugin-{i}")))
                })
                .collect();
            let (took, more) = (started.elapsed(), resident().saturating_sub(before));
            println!("{} plugins, {word}: {took:.2?}, {:.1} MiB more resident", loaded.len(), more as f64 / 1024.0);
        }
    }
}
