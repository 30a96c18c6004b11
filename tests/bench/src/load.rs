//! The load: fixed requests over kept connections, as fast as answers come, for a fixed time.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::task::LocalSet;

use crate::{
    process,
    wire::{self, Connection},
};

/// How long and how often each point is measured.
#[derive(Clone, Copy)]
pub struct Pace {
    pub warm: Duration,
    pub window: Duration,
    /// Rounds of everything; the middle of each point is taken, so that one disturbance does not decide.
    pub rounds: usize,
}

impl Pace {
    /// Under four minutes for the whole plan.
    pub fn full() -> Self {
        Self { warm: Duration::from_millis(200), window: Duration::from_millis(1_000), rounds: 3 }
    }

    /// Enough to see that everything works.
    pub fn quick() -> Self {
        Self { warm: Duration::from_millis(50), window: Duration::from_millis(250), rounds: 1 }
    }
}

/// What one window showed.
#[derive(Clone, Copy)]
pub struct Sample {
    pub cpu_ms_per_call: f64,
    pub requests_per_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

/// What is sent where, and whose CPU time counts.
pub struct Target<'a> {
    pub address: SocketAddr,
    pub request: &'a [u8],
    pub pid: u32,
    /// The least bytes that a right answer has: a refusal is shorter or has another status.
    pub at_least: usize,
}

/// Measures one point.
pub async fn measure(target: &Target<'_>, connections: usize, pace: Pace) -> anyhow::Result<Sample> {
    let mut opened = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut connection = Connection::open(target.address).await?;
        check(&mut connection, target).await?;
        opened.push(connection);
    }
    let counting = Rc::new(Cell::new(false));
    let done = Rc::new(Cell::new(false));
    let latencies = Rc::new(RefCell::new(Vec::<u32>::with_capacity(1 << 18)));
    let at_least = target.at_least;
    LocalSet::new()
        .run_until(async {
            let tasks: Vec<_> = opened
                .into_iter()
                .enumerate()
                .map(|(at, mut connection)| {
                    let (counting, done, latencies) = (counting.clone(), done.clone(), latencies.clone());
                    let request = wire::with_id(target.request, at);
                    tokio::task::spawn_local(async move {
                        while !done.get() {
                            let start = Instant::now();
                            let answer = connection.call(&request).await?;
                            if answer.status != 200 || answer.body.len() < at_least {
                                bail!("status {}: {}", answer.status, excerpt(answer.body));
                            }
                            if counting.get() {
                                // In tenths of a microsecond; a call beyond seven minutes would be a failure anyway.
                                latencies
                                    .borrow_mut()
                                    .push(u32::try_from(start.elapsed().as_nanos() / 100).unwrap_or(u32::MAX));
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            tokio::time::sleep(pace.warm).await;
            counting.set(true);
            let (cpu, clock) = (process::cpu(target.pid)?, Instant::now());
            tokio::time::sleep(pace.window).await;
            let (cpu, clock) = (process::cpu(target.pid)? - cpu, clock.elapsed());
            counting.set(false);
            done.set(true);
            for task in tasks {
                task.await??;
            }
            let mut times = latencies.take();
            if times.is_empty() {
                bail!("not one call ended within {} ms", pace.window.as_millis());
            }
            times.sort_unstable();
            let calls = times.len() as f64;
            Ok(Sample {
                cpu_ms_per_call: cpu.as_secs_f64() * 1e3 / calls,
                requests_per_s: calls / clock.as_secs_f64(),
                p50_us: quantile(&times, 0.50),
                p99_us: quantile(&times, 0.99),
            })
        })
        .await
}

/// One call before anything counts: the answer has to be a result, not a refusal in a fast coat.
async fn check(connection: &mut Connection, target: &Target<'_>) -> anyhow::Result<()> {
    let answer = connection.call(target.request).await?;
    let text = String::from_utf8_lossy(answer.body);
    if answer.status != 200
        || answer.body.len() < target.at_least
        || text.contains(r#""isError":true"#)
        || text.contains(r#""error":"#)
    {
        bail!("status {}: {}", answer.status, excerpt(answer.body));
    }
    Ok(())
}

fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(400).collect()
}

fn quantile(sorted: &[u32], q: f64) -> f64 {
    let at = ((sorted.len() as f64 - 1.0) * q).round() as usize;
    f64::from(sorted[at]) / 10.0
}

/// The middle sample by CPU time.
pub fn middle(mut samples: Vec<Sample>) -> anyhow::Result<Sample> {
    samples.sort_by(|a, b| a.cpu_ms_per_call.total_cmp(&b.cpu_ms_per_call));
    samples.get(samples.len() / 2).copied().context("no sample")
}
