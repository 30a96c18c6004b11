//! Verdicts that the service lets be used again, in the plugin's state.

use std::time::Duration;

use portcullis_sdk::{Decision, State};
use serde::{Deserialize, Serialize};

/// A verdict that can be kept.
#[derive(Serialize, Deserialize)]
pub(crate) enum Verdict {
    Allow,
    Deny(String),
}

impl Verdict {
    pub(crate) fn decision(&self) -> Decision {
        match self {
            Self::Allow => Decision::Allow,
            Self::Deny(message) => Decision::deny("webhook", message.clone()),
        }
    }
}

/// The verdict that was given to the same question. Where there is no state, the service is asked again.
pub(crate) fn get(key: &str) -> Option<Verdict> {
    let entry = State::open().get(key).ok()??;
    serde_json::from_slice(&entry.value).ok()
}

/// Keeps a verdict for so many seconds; where there is no room, the service is asked again.
pub(crate) fn set(key: &str, verdict: &Verdict, seconds: u64) {
    if let Ok(bytes) = serde_json::to_vec(verdict) {
        drop(State::open().set(key, &bytes, Some(Duration::from_secs(seconds))));
    }
}
