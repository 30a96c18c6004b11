//! What one call of a plugin costs: processor time of the thread, fresh and warm.

use std::sync::Arc;

use portcullis_model::spec::Isolation;
use portcullis_plugin::{Component, Host};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::{
    case::{Case, InvalidCase},
    trial::{Trial, TrialError},
};

/// What a call costs. Times are in microseconds of processor time, of the host's part and the plugin's.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// The median of a call in a fresh instance (`isolation: call`).
    pub fresh_us: f64,
    /// The median of a call in an instance that was used before (`isolation: tenant`).
    pub warm_us: f64,
    /// The slowest round of fresh instances, for how far to trust the median.
    pub fresh_worst_us: f64,
    /// Whether an instance starts from the memory that `setup` left.
    pub starts_ready: bool,
    /// How many calls were made for each.
    pub calls: u32,
}

const ROUNDS: u32 = 9;

/// Measures what a case asks.
///
/// # Errors
/// Where the plugin is not loaded, or the case asks nothing.
pub async fn measure(
    host: &Arc<Host>,
    component: &Arc<Component>,
    case: &Case,
    calls: u32,
) -> Result<Cost, TrialError> {
    let each = (calls / ROUNDS).max(1);
    let (fresh, starts_ready) = rounds(host, component, case, Isolation::Call, each).await?;
    let (warm, _) = rounds(host, component, case, Isolation::Tenant, each).await?;
    let middle = fresh.len() / 2;
    Ok(Cost {
        fresh_us: fresh[middle],
        warm_us: warm[middle],
        fresh_worst_us: fresh.last().copied().unwrap_or_default(),
        starts_ready,
        calls: each * ROUNDS,
    })
}

async fn rounds(
    host: &Arc<Host>,
    component: &Arc<Component>,
    case: &Case,
    isolation: Isolation,
    each: u32,
) -> Result<(Vec<f64>, bool), TrialError> {
    let ask = case.ask.as_ref().ok_or_else(|| InvalidCase::Form("`ask` is missing".to_owned()))?;
    let trial = Trial::load(host, component, case, isolation).await?;
    let question = trial.question(ask)?;
    // The first call of fresh code touches every page for the first time. What it says counts for nothing here.
    let _ = trial.call(&question).await;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let before = now_us();
        for _ in 0..each {
            let _ = trial.call(&question).await;
        }
        rounds.push((now_us() - before) / f64::from(each));
    }
    rounds.sort_by(f64::total_cmp);
    Ok((rounds, trial.plugin().starts_ready()))
}

fn now_us() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}
