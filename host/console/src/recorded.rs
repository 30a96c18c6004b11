//! What comes by doors at which nobody asks, on record: watched files and custom resources.
//!
//! As with an administrator there are two records of each change: that it begins, before anything is written, and that it is done.
//! What can't be recorded is not taken, and is tried again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::future::try_join_all;
use portcullis_model::{Door, Resource, ResourceKey, text::shown};
use portcullis_store::{
    Fleet, Registry,
    registry::{Applied, Outcome, RegistryError},
};
use portcullis_telemetry::{Audit, AuditEvent, audit::AuditError};

/// How many records wait for one sync of the audit file.
const AT_ONCE: usize = 1000;
/// The most characters of a door on record.
const MAX_DOOR: usize = 512;

/// Why nothing was taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    /// The registry refused, or could not store it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The audit stream takes nothing.
    #[error("it could not be recorded, so it is not taken: {0}")]
    Unrecorded(#[from] AuditError),
}

/// A door's way into the registry.
pub(crate) struct Recorded {
    registry: Arc<Registry>,
    audit: Arc<Audit>,
    /// What is on record as begun and was not taken yet: the next try of the same does not say so again. No more than one for each
    /// resource of the last try.
    begun: Mutex<BTreeSet<Begun>>,
}

/// A change to a resource as it was at a revision.
type Begun = (ResourceKey, &'static str, Option<u64>);

impl Recorded {
    pub(crate) fn new(registry: Arc<Registry>, audit: Arc<Audit>) -> Self {
        Self { registry, audit, begun: Mutex::default() }
    }

    /// Makes the resources of some doors exactly `set`, as [`Registry::sync_door`] does. `who` says who changed what a door brings, where
    /// that is known.
    ///
    /// # Errors
    /// [`TakeError`]; that something was begun may be on record then.
    pub(crate) async fn sync(
        &self,
        scope: &(dyn Fn(&Door) -> bool + Send + Sync),
        set: &[(Door, Resource)],
        who: &(dyn Fn(&Door) -> Option<String> + Send + Sync),
    ) -> Result<Vec<Applied>, TakeError> {
        let before = self.registry.snapshot();
        let planned = self.registry.sync_door(scope, set, true).await?;
        if planned.iter().all(|a| a.change == Outcome::Unchanged) {
            return Ok(planned);
        }
        let doors: BTreeMap<ResourceKey, &Door> = set.iter().map(|(door, r)| (r.key(), door)).collect();
        let events = |applied: &[Applied], outcome| {
            let changed = applied.iter().filter(|a| a.change != Outcome::Unchanged);
            changed.map(|a| (begun(&before, a), event(&before, &doors, a, who, outcome))).collect::<Vec<_>>()
        };
        let told = {
            let known = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            let mut beginning = events(&planned, "begun");
            beginning.retain(|(begun, _)| !known.contains(begun));
            beginning
        };
        self.write(told).await?;
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) =
            planned.iter().filter(|a| a.change != Outcome::Unchanged).map(|a| begun(&before, a)).collect();
        let applied = self.registry.sync_door(scope, set, false).await?;
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if let Err(error) = self.write(events(&applied, "done")).await {
            // It is in force; that it was begun is on record.
            tracing::error!(%error, "what was taken could not be recorded as done");
        }
        Ok(applied)
    }

    async fn write(&self, events: Vec<(Begun, AuditEvent)>) -> Result<(), AuditError> {
        let mut events = events.into_iter();
        loop {
            let mut waiting = Vec::new();
            for (_, event) in events.by_ref().take(AT_ONCE) {
                waiting.push(self.audit.record_durable(event));
            }
            if waiting.is_empty() {
                return Ok(());
            }
            try_join_all(waiting).await?;
        }
    }
}

fn revision(before: &Fleet, applied: &Applied) -> Option<u64> {
    before.get(&applied.key).and_then(|r| r.metadata.revision)
}

fn begun(before: &Fleet, applied: &Applied) -> Begun {
    (applied.key.clone(), applied.change.as_str(), revision(before, applied))
}

fn event(
    before: &Fleet,
    doors: &BTreeMap<ResourceKey, &Door>,
    applied: &Applied,
    who: &(dyn Fn(&Door) -> Option<String> + Send + Sync),
    outcome: &'static str,
) -> AuditEvent {
    let existing = before.get(&applied.key);
    // What is gone came by the door that it stands with; a connection may be bound to its server by what another door brought.
    let door = doors.get(&applied.key).copied().or_else(|| existing.and_then(|r| r.metadata.door.as_ref()));
    let text = door.map(|door| match door {
        Door::File(path) => format!("file:{}", shown(path, MAX_DOOR)),
        Door::Kubernetes(path) => format!("kubernetes:{}", shown(path, MAX_DOOR)),
        Door::Api => "api".to_owned(),
        Door::BuiltIn => "built-in".to_owned(),
    });
    let caller = door.and_then(who).or_else(|| text.clone());
    let deleted = applied.change == Outcome::Deleted;
    AuditEvent {
        tenant: Some(applied.key.tenant.shared()),
        caller: caller.map(Into::into),
        method: Some(if deleted { "delete" } else { "apply" }.into()),
        tool: Some(applied.key.to_string().into()),
        door: text.map(Into::into),
        from_revision: revision(before, applied),
        to_revision: if deleted || outcome == "begun" { None } else { applied.revision.map(|r| r.0) },
        outcome: Some(outcome.into()),
        ..AuditEvent::new("administration")
    }
}
