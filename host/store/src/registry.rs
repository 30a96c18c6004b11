//! Typed resources over a store: validated as a whole, written all or none, served as immutable snapshots.
//!
//! A resource belongs to the door that it came in by; another door's edit is refused, saying where to edit. What the store
//! adds (`revision`, `createdMs`, `door`, and a connection's `origin`) is filled in here.

mod checks;
mod fleet;
mod plan;

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock, Weak},
};

use arc_swap::ArcSwap;
use portcullis_model::{Door, Kind, Name, Problem, Resource, ResourceKey};
use tokio::sync::{Mutex, oneshot, watch};

pub use checks::{BUILT_IN_PLUGINS, PROCESS_ORIGIN, built_in_of, server_origin};
pub use fleet::{Fleet, Typed};

use crate::{Change, Expect, Revision, Store, StoreError, Write, keys, scan_all};
use plan::Plan;

/// How often a write is tried again where another process was faster.
const ATTEMPTS: usize = 8;

/// What a write did to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is new.
    Created,
    /// It is another now.
    Updated,
    /// It was so already.
    Unchanged,
    /// It is gone.
    Deleted,
}

impl Outcome {
    /// The word that the CLI prints.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
        }
    }
}

/// What was done to one resource, or would have been done by a dry run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Which.
    pub key: ResourceKey,
    /// What.
    pub change: Outcome,
    /// The revision that it has now; of a dry run, the one that it has still. None where it is not there.
    pub revision: Option<Revision>,
    /// What is likely not meant, such as the name of something that does not exist.
    pub warnings: Vec<Problem>,
}

/// A resource that can't be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which.
    pub key: ResourceKey,
    /// Its place in what was given, from 0.
    pub position: usize,
    /// The door that it was to come in by.
    pub door: Door,
    /// Why.
    pub problems: Vec<Problem>,
}

/// Why nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Some of it can't be taken, so none of it was.
    #[error("refused: {}", .0.iter().map(|r| format!("{}: {}", r.key, r.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))).collect::<Vec<_>>().join("; "))]
    Refused(Vec<Refusal>),
    /// There is no such resource.
    #[error("{0} does not exist")]
    NotFound(ResourceKey),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Knows more about resources than they say themselves, such as what a plugin's component says of its configuration.
pub trait Judge: Send + Sync {
    /// Problems that refuse a resource, where the fleet would be as it is here. May read a file, and does nothing that takes longer.
    fn problems(&self, fleet: &Fleet, resource: &Resource) -> Vec<Problem>;
}

/// All resources of all tenants.
pub struct Registry {
    store: Arc<dyn Store>,
    fleet: ArcSwap<Fleet>,
    changed: watch::Sender<Revision>,
    /// One writer at a time in this process; other processes are met by compare-and-swap.
    writing: Mutex<()>,
    /// Those who bring the snapshot up to date take turns.
    refreshing: std::sync::Mutex<()>,
    /// Who else is asked about what comes in.
    judge: OnceLock<Arc<dyn Judge>>,
    /// Dropped with the registry: then whoever follows the store for it lets the store go.
    _follower: oneshot::Sender<Infallible>,
}

impl Registry {
    /// Reads all resources and follows the store from there, on the current tokio runtime.
    ///
    /// # Errors
    /// Those of the store; [`StoreError::Corrupt`] where a resource can't be read.
    pub async fn open(store: Arc<dyn Store>) -> Result<Arc<Self>, StoreError> {
        let fleet = load(&*store).await?;
        let from = fleet.revision;
        let (follower, over) = oneshot::channel();
        let registry = Arc::new(Self {
            store,
            changed: watch::Sender::new(fleet.revision),
            fleet: ArcSwap::from_pointee(fleet),
            writing: Mutex::new(()),
            refreshing: std::sync::Mutex::new(()),
            judge: OnceLock::new(),
            _follower: follower,
        });
        let (weak, store) = (Arc::downgrade(&registry), Arc::clone(&registry.store));
        tokio::spawn(async move {
            tokio::select! {
                () = follow(weak, store, from) => {}
                // Without this it would hold the store, and its lock, until the next change, which may never come.
                _ = over => {}
            }
        });
        Ok(registry)
    }

    /// Asks somebody else too about each resource that comes in from now on. The first one stays.
    pub fn also_asks(&self, judge: Arc<dyn Judge>) {
        let _ = self.judge.set(judge);
    }

    fn judge(&self) -> Option<&dyn Judge> {
        self.judge.get().map(|judge| &**judge)
    }

    /// The store underneath.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// All resources as they are now: immutable, and never older than what an earlier call of [`Registry::apply`] wrote.
    pub fn snapshot(&self) -> Arc<Fleet> {
        self.fleet.load_full()
    }

    /// Says when there is a new snapshot.
    pub fn watch(&self) -> watch::Receiver<Revision> {
        self.changed.subscribe()
    }

    /// One resource.
    pub fn get(&self, key: &ResourceKey) -> Option<Arc<Resource>> {
        self.fleet.load().get(key).cloned()
    }

    /// Resources in the order of tenant, kind and name.
    pub fn list(&self, tenant: Option<&Name>, kind: Option<Kind>) -> Vec<Arc<Resource>> {
        let fleet = self.fleet.load();
        let wanted = |k: &ResourceKey| tenant.is_none_or(|t| *t == k.tenant) && kind.is_none_or(|w| w == k.kind);
        fleet.iter().filter(|(key, _)| wanted(key)).map(|(_, resource)| Arc::clone(resource)).collect()
    }

    /// Takes all resources or none. A resource with `metadata.revision` is taken only while that is its revision.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] naming everything that is wrong, or what the store says.
    pub async fn apply(&self, set: Vec<Resource>, door: Door, dry_run: bool) -> Result<Vec<Applied>, RegistryError> {
        self.apply_with(set, door, dry_run, Vec::new()).await
    }

    /// [`Registry::apply`], and other writes in the same batch: a connection and its sealed secrets come together or not at
    /// all.
    ///
    /// # Errors
    /// Those of [`Registry::apply`].
    pub async fn apply_with(
        &self,
        set: Vec<Resource>,
        door: Door,
        dry_run: bool,
        also: Vec<Write>,
    ) -> Result<Vec<Applied>, RegistryError> {
        let set: Vec<_> = set.into_iter().map(|resource| (door.clone(), resource)).collect();
        self.commit(dry_run, &also, |fleet| Plan::apply(fleet, &set, None, self.judge())).await
    }

    /// Makes the resources of some doors exactly `set`: what those doors brought and no longer hold is deleted. `scope` says
    /// which doors are spoken for; a file that can't be read just now is left out of it, and what it brought stays.
    /// Resources may move between doors of the scope.
    ///
    /// # Errors
    /// Those of [`Registry::apply`].
    pub async fn sync_door(
        &self,
        scope: &(dyn Fn(&Door) -> bool + Send + Sync),
        set: impl AsRef<[(Door, Resource)]>,
        dry_run: bool,
    ) -> Result<Vec<Applied>, RegistryError> {
        self.commit(dry_run, &[], |fleet| Plan::apply(fleet, set.as_ref(), Some(scope), self.judge())).await
    }

    /// Deletes a resource: with a connection its sealed secrets and tokens, with a user, a team or an agent those of their
    /// connections.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], [`RegistryError::Refused`] for another door's resource, or what the store says.
    pub async fn delete(&self, key: &ResourceKey, door: &Door) -> Result<Applied, RegistryError> {
        let applied = self.commit(false, &[], |fleet| Plan::delete(fleet, key, door)).await?;
        applied.into_iter().next().ok_or_else(|| RegistryError::NotFound(key.clone()))
    }

    async fn commit(
        &self,
        dry_run: bool,
        also: &[Write],
        plan: impl Fn(&Fleet) -> Result<Plan, RegistryError>,
    ) -> Result<Vec<Applied>, RegistryError> {
        let _turn = self.writing.lock().await;
        let mut attempt = 1;
        loop {
            let fleet = self.snapshot();
            let mut plan = plan(&fleet)?;
            if dry_run {
                return Ok(plan.applied);
            }
            plan.writes.extend_from_slice(also);
            if plan.writes.is_empty() {
                return Ok(plan.applied);
            }
            match self.store.write(plan.writes).await {
                Ok(revision) => {
                    for applied in &mut plan.applied {
                        if matches!(applied.change, Outcome::Created | Outcome::Updated) {
                            applied.revision = Some(revision);
                        }
                    }
                    self.catch_up().await?;
                    return Ok(plan.applied);
                }
                // Another process was faster: look again. What the caller itself supposed is checked by the plan.
                Err(StoreError::Conflict { .. }) if attempt < ATTEMPTS => {
                    attempt += 1;
                    self.catch_up().await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Brings the snapshot to what is durable now, without waiting for the task that follows the store.
    async fn catch_up(&self) -> Result<(), StoreError> {
        match self.store.watch(keys::RESOURCES, self.snapshot().revision) {
            Ok(mut changes) => {
                let mut news = Vec::new();
                while let Some(change) = changes.try_next()? {
                    news.push(change);
                }
                self.take(&news)
            }
            Err(StoreError::TooOld) => self.reload().await,
            Err(error) => Err(error),
        }
    }

    async fn reload(&self) -> Result<(), StoreError> {
        let fleet = load(&*self.store).await?;
        let _turn = self.refreshing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if fleet.revision >= self.fleet.load().revision {
            self.publish(fleet);
        }
        Ok(())
    }

    fn take(&self, news: &[Change]) -> Result<(), StoreError> {
        let _turn = self.refreshing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = self.fleet.load();
        let news: Vec<_> = news.iter().filter(|change| change.revision() > now.revision).collect();
        if !news.is_empty() {
            let next = now.with(&news)?;
            self.publish(next);
        }
        Ok(())
    }

    fn publish(&self, fleet: Fleet) {
        let revision = fleet.revision;
        self.fleet.store(Arc::new(fleet));
        self.changed.send_replace(revision);
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("revision", &self.fleet.load().revision).finish_non_exhaustive()
    }
}

async fn load(store: &dyn Store) -> Result<Fleet, StoreError> {
    let revision = store.revision();
    let records = scan_all(store, keys::RESOURCES).await?;
    Fleet::read(revision, &records)
}

/// Keeps the snapshot up to date with what other processes write, until registry or store are gone.
async fn follow(registry: Weak<Registry>, store: Arc<dyn Store>, mut from: Revision) {
    loop {
        let mut changes = match store.watch(keys::RESOURCES, from) {
            Ok(changes) => changes,
            Err(StoreError::TooOld) => {
                let Some(registry) = registry.upgrade() else {
                    return;
                };
                if let Err(error) = registry.reload().await {
                    tracing::error!(%error, "the resources could not be read again");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
                from = registry.snapshot().revision;
                continue;
            }
            Err(error) => {
                tracing::debug!(%error, "no longer following the store");
                return;
            }
        };
        loop {
            match changes.next().await {
                Ok(first) => {
                    let mut news = vec![first];
                    // Those of one revision belong together: a snapshot shows a batch whole or not at all.
                    while let Ok(Some(change)) = changes.try_next() {
                        news.push(change);
                    }
                    let Some(registry) = registry.upgrade() else {
                        return;
                    };
                    if let Err(error) = registry.take(&news) {
                        tracing::error!(%error, "a resource could not be read; what was serving goes on");
                    }
                    from = registry.snapshot().revision;
                }
                Err(StoreError::TooOld) => break,
                Err(_) => return,
            }
        }
    }
}

/// A condition for the record behind a resource.
fn expect(existing: Option<&Arc<Resource>>) -> Expect {
    existing.and_then(|r| r.metadata.revision).map_or(Expect::Absent, |revision| Expect::Is(Revision(revision)))
}
