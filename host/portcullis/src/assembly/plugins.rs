//! How plugins stand, in the words of the admin API.

use portcullis_console::api::{CandidateItem, Condition, PluginItem, QuarantineItem};
use portcullis_model::Name;
use portcullis_plugin::manager::{Standing, State};

/// How a plugin stands.
pub fn item(name: &Name, standing: &Standing) -> PluginItem {
    let quarantined = &standing.quarantined;
    PluginItem {
        name: name.to_string(),
        state: standing.state.as_str().to_owned(),
        desired: standing.desired.clone(),
        active: standing.active.clone(),
        hooks: standing.hooks.names().into_iter().map(str::to_owned).collect(),
        withheld: standing.withheld.clone(),
        ungranted: standing.ungranted.clone(),
        problem: standing.problem.clone(),
        since_ms: standing.since_ms,
        previous: standing.previous.clone(),
        candidate: standing.candidate.as_ref().map(|candidate| CandidateItem {
            digest: candidate.digest.clone(),
            share: candidate.share,
            asked: candidate.asked,
            problem: candidate.problem.clone(),
            differences: candidate.differences(),
        }),
        quarantine: quarantined
            .iter()
            .map(|q| q.until_ms)
            .max()
            .map(|until_ms| QuarantineItem { places: quarantined.len(), until_ms }),
    }
}

/// What is true of it beside what can't be loaded.
pub fn conditions(standing: &Standing) -> Vec<Condition> {
    let mut found = Vec::new();
    let mut not = |kind: &str, reason: &str, message: String| {
        found.push(Condition { kind: kind.to_owned(), status: false, reason: reason.to_owned(), message });
    };
    if standing.state == State::RolledBack {
        let active = standing.active.as_deref().unwrap_or_default();
        not(
            "Current",
            "RolledBack",
            format!("an operator went back to {active}; what the resource says does not serve"),
        );
    }
    if !standing.quarantined.is_empty() {
        let message = "it failed too often for too many, and is not asked for a while; onError holds".to_owned();
        not("Healthy", "Quarantined", message);
    }
    found
}
