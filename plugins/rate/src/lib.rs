//! Policy `rate`: how often tools may be called, by caller, team, tool, claim or attribute. `docs/plugins/rate.md` is its reference.

mod bucket;
mod config;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bucket::Bucket;
use config::{Config, Per, Rule};
use portcullis_sdk::{Call, Caller, ConfigCell, Decision, Error, Setup, State, StateError, ToolCall, Value, export};
use sha2::{Digest, Sha256};

static CONFIG: ConfigCell<Config> = ConfigCell::new();

/// The policy.
pub struct Rate;

impl Setup for Rate {
    fn prepare() -> Result<(), Error> {
        CONFIG.read(|_| Ok(()))
    }
}

impl ToolCall for Rate {
    fn decide(caller: Caller<'_>, call: Call<'_>) -> Result<Decision, Error> {
        decide_at(caller, call, now_us())
    }
}

fn decide_at(caller: Caller<'_>, call: Call<'_>, now_us: u64) -> Result<Decision, Error> {
    CONFIG.read(|config| {
        for rule in config.rules.iter().filter(|rule| rule.covers.call(call)) {
            for key in keys(rule, caller, call) {
                if let Err(wait) = take(rule, &key, now_us)? {
                    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                    let what = rule.message.clone().unwrap_or_else(|| {
                        format!("{} may be called {} times in {} ({})", call.tool(), rule.limit, rule.every, rule.name)
                    });
                    return Ok(Decision::deny("rate-limited", format!("{what}; try again in {seconds} s")));
                }
            }
        }
        Ok(Decision::Allow)
    })
}

/// Takes one call out of a bucket, or says how long it takes until there is one.
fn take(rule: &Rule, key: &str, now_us: u64) -> Result<Result<(), Duration>, Error> {
    let bucket = Bucket::new(rule.limit, rule.every.duration(), rule.burst);
    // A bucket that is full again is like one that never was, so it may go.
    let taken = State::open().update(key, Some(bucket.full_after()), |before| {
        let before = before.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        match bucket.take(before, now_us) {
            Ok(after) => (after.to_le_bytes().to_vec(), Ok(())),
            Err(wait) => (before.unwrap_or_default().to_le_bytes().to_vec(), Err(wait)),
        }
    });
    match taken {
        Ok(taken) => Ok(taken),
        // So many at once that nobody gets through: that is too often as well.
        Err(StateError::Contended) => Ok(Err(Duration::from_secs(1))),
        Err(error) => Err(error.into()),
    }
}

/// The buckets that a call takes from: one, but of teams one for each.
fn keys(rule: &Rule, caller: Caller<'_>, call: Call<'_>) -> Vec<String> {
    let mut keys: Vec<Vec<String>> = vec![vec![rule.name.clone()]];
    for per in &rule.per {
        let values = match per {
            Per::Caller => vec![caller.subject()],
            Per::Team => caller.teams(),
            Per::Gateway => vec![call.gateway()],
            Per::Server => vec![call.server()],
            // Servers' names hold no slash.
            Per::Tool => vec![format!("{}/{}", call.server(), call.tool())],
            Per::Claim(name) => caller.claim(name).map(text).into_iter().collect(),
            Per::Attribute(name) => caller.attribute(name).map(text).into_iter().collect(),
        };
        // Who has none shares one bucket with all others that have none.
        let values = if values.is_empty() { vec![String::new()] } else { values };
        keys = keys
            .iter()
            .flat_map(|key| values.iter().map(|value| key.iter().cloned().chain([value.clone()]).collect()))
            .collect();
    }
    keys.iter().map(|parts| digest(parts)).collect()
}

fn text(value: Value) -> String {
    value.to_json().to_string()
}

/// Names of any length and content, as a key of the host's.
fn digest(parts: &[String]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

export!(Rate: Setup, ToolCall; config: Config; wants: {
    state: "counts in it; a bucket takes about 110 bytes until it is full again",
});

#[cfg(test)]
mod tests;
