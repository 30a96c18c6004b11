//! Prints what one call of a plugin costs: microseconds of this thread's CPU time, median of nine rounds.
//! `cargo run --release -p portcullis-plugin --example plugin-cost [PLUGIN.wasm [CONFIG.json [ONLY]]]`
//! measures the rows whose name holds ONLY.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for people")]

#[path = "../tests/it/guests.rs"]
#[allow(dead_code)]
mod guests;

use std::{future::Future, sync::Arc};

use portcullis_model::spec::Isolation;
use portcullis_plugin::{Item, ListKind, LoadPlan, Plugin};
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 9;
const CALLS: u32 = 2_000;

/// As in the product: a third of a fresh instance's time is allocation.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn cpu_us() -> f64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    t.tv_sec as f64 * 1e6 + t.tv_nsec as f64 / 1e3
}

async fn measure<F: Future<Output = ()>>(name: &str, only: &str, mut call: impl FnMut() -> F) {
    if !name.contains(only) {
        return;
    }
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let before = cpu_us();
        for _ in 0..CALLS {
            call().await;
        }
        rounds.push((cpu_us() - before) / f64::from(CALLS));
    }
    rounds.sort_by(f64::total_cmp);
    println!("{name:<32} {:>8.2} us", rounds[ROUNDS / 2]);
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next();
    let config = arguments.next().map_or_else(|| "{}".to_owned(), |path| std::fs::read_to_string(path).unwrap());
    let only = arguments.next().unwrap_or_default();
    let wasm: Arc<[u8]> = match &file {
        Some(path) => std::fs::read(path).unwrap().into(),
        None => guests::Guest::default().wasm(),
    };
    let host = guests::host();
    println!("pooled: {}", host.pooled());
    let component = host.compile(wasm).await.unwrap();
    let (principal, request, call) = (guests::principal(), guests::request(), guests::call());
    let names: Vec<String> = (0..200).map(|i| format!("tool_{i}")).collect();
    let items: Vec<Item<'_>> = names.iter().map(|name| Item { server: "github", name }).collect();
    for (word, isolation) in [("fresh", Isolation::Call), ("warm", Isolation::Tenant)] {
        let plan = LoadPlan { isolation, config: config.clone(), ..guests::plan(component.clone()) };
        let plugin: Arc<Plugin> = host.load(plan).await.unwrap();
        println!("{word}: starts ready: {}", plugin.starts_ready());
        if plugin.hooks().tool_call {
            measure(&format!("decide, {word}"), &only, || async {
                plugin.decide(&principal, &request, &call).await.unwrap();
            })
            .await;
        }
        if plugin.hooks().list_filter {
            measure(&format!("filter of 200, {word}"), &only, || async {
                plugin.filter(&principal, &request, ListKind::Tools, &items).await.unwrap();
            })
            .await;
        }
    }
}
