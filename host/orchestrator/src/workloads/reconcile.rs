//! One round: what is missing or was changed is applied, what nobody wishes is deleted.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use portcullis_cluster::{ClusterError, Live};
use portcullis_model::Name;
use portcullis_workload::{Installation, Object, ObjectKind, Planned, drift, name::WORKLOAD};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Inner, Wishes,
    epoch::{self, Turn},
    world::{Applied, Failure, World, replicas},
};

/// The annotation of a Deployment that somebody scaled.
pub(super) const SCALE: &str = "portcullis.dev/scale";
/// The annotation of a Deployment that somebody stopped.
pub(super) const STOPPED: &str = "portcullis.dev/stopped";
/// How many workloads are applied, and objects deleted, at once.
const AT_ONCE: usize = 8;
/// How soon what the cluster did not take is tried again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(120));

/// Tells whether what is wished of an object is what was applied.
pub(super) fn hash(installation: &Installation, object: &Object) -> u64 {
    let mut hash = DefaultHasher::new();
    object.body.to_string().hash(&mut hash);
    installation.fingerprint(&object.data).hash(&mut hash);
    hash.finish()
}

/// What of an object is ours, as the cluster writes it.
fn mark(live: &Live, object: &Object) -> Value {
    match live.kind {
        // What is in it is not looked at: anything that changes changes its version.
        ObjectKind::Secret => json!(live.version),
        _ => drift::ours(&live.body, &object.body),
    }
}

/// A workload that something has to be done for.
struct Due<'w> {
    name: &'w str,
    planned: &'w Planned,
    namespace: &'w Name,
    /// How it is applied now.
    turn: Turn,
    /// Its root, where it is there and as it should be.
    root: Option<String>,
    /// Which of its objects have to be applied, by place.
    objects: Vec<bool>,
    hashes: &'w [u64],
}

/// Brings the cluster to what is wished, as far as something happened. Answers when to come again, where something failed.
pub(super) async fn round(inner: &Inner, world: &mut World, wishes: &Wishes) -> Option<Instant> {
    if !world.complete() {
        // What was not heard of yet would seem to be missing.
        return None;
    }
    let now = Instant::now();
    let mut dirty = std::mem::take(&mut world.dirty);
    dirty.extend(world.failures.iter().filter(|(_, failure)| failure.again <= now).map(|(name, _)| name.clone()));
    world.failures.retain(|name, _| wishes.contains_key(name));
    let waits = |name: &String| world.failures.get(name).is_some_and(|failure| failure.again > now);
    let (later, names): (Vec<_>, Vec<_>) = dirty.into_iter().partition(waits);
    world.dirty.extend(later);
    let due: Vec<Due<'_>> = names.iter().filter_map(|name| due(&inner.installation, world, wishes, name)).collect();
    let jobs: Vec<_> = due.into_iter().map(|due| bring(inner, due)).collect();
    let brought: Vec<Brought> = stream::iter(jobs).buffer_unordered(AT_ONCE).collect().await;
    for Brought { name, namespace, done, outcome } in brought {
        for (live, applied) in done {
            world.applied.insert((namespace.clone(), live.kind, live.name.clone()), applied);
            // What was applied needs no second look.
            let dirty = world.dirty.contains(&name);
            world.put(&namespace, live);
            if !dirty {
                world.dirty.remove(&name);
            }
        }
        match outcome {
            Ok(()) => drop(world.failures.remove(&name)),
            Err(why) => fail(world, wishes, name, why),
        }
    }
    if world.orphans && world.unswept.as_ref().is_none_or(|failure| failure.again <= now) {
        match sweep(inner, world, wishes).await {
            None => (world.orphans, world.unswept) = (false, None),
            Some(why) => world.unswept = Some(Failure::again(why, world.unswept.take())),
        }
    }
    world.failures.values().chain(&world.unswept).map(|failure| failure.again).min()
}

fn fail(world: &mut World, wishes: &Wishes, name: String, why: ClusterError) {
    let before = world.failures.remove(&name);
    if before.as_ref().is_none_or(|before| before.why != why)
        && let Some(granted) = wishes.get(&name)
    {
        tracing::error!(server = %granted.identity, %why, "its objects can't be applied; it is tried again");
    }
    world.failures.insert(name, Failure::again(why, before));
}

impl Failure {
    /// It failed, after it had failed as in `before`.
    fn again(why: ClusterError, before: Option<Self>) -> Self {
        let tries = before.map_or(0, |before| before.tries.saturating_add(1));
        let wait = AGAIN.0.saturating_mul(1 << tries.min(10)).min(AGAIN.1);
        Self { why, tries, again: Instant::now() + wait }
    }
}

/// What has to be done for a workload; none where it is as it should be.
fn due<'w>(installation: &Installation, world: &World, wishes: &'w Wishes, name: &str) -> Option<Due<'w>> {
    let (name, granted) = wishes.get_key_value(name)?;
    let (planned, hashes) = granted.planned.as_ref().ok()?;
    let namespace = &granted.namespace;
    let live = |object: &Object| world.get(namespace, object.kind, &object.name).filter(|live| !live.is_going());
    let deployment = world.get(namespace, ObjectKind::Deployment, name);
    let turn = Turn { replicas: replicas(deployment, planned.replicas), epoch: epoch::of(deployment) };
    let root = planned.objects.first().and_then(live).map(|live| live.uid.clone());
    let is_due = |(n, object): (usize, &Object)| {
        let Some(live) = live(object) else { return true };
        let key = (namespace.clone(), object.kind, object.name.clone());
        let Some(applied) = world.applied.get(&key) else { return true };
        let root = if n == 0 { "" } else { root.as_deref().unwrap_or("") };
        applied.hash != hashes[n]
            || applied.owner != root
            || applied.turn != turn.of(object.kind)
            || applied.mark != mark(live, &turn.object(object, installation, name))
    };
    let objects: Vec<bool> = planned.objects.iter().enumerate().map(is_due).collect();
    let root = root.filter(|_| !objects[0]);
    objects.contains(&true).then_some(Due { name, planned, namespace, turn, root, objects, hashes })
}

/// What became of a workload.
struct Brought {
    name: String,
    namespace: Name,
    done: Vec<(Live, Applied)>,
    outcome: Result<(), ClusterError>,
}

/// Applies what is due, the root first, and stops at what the cluster does not take.
async fn bring(inner: &Inner, due: Due<'_>) -> Brought {
    let (name, namespace) = (due.name.to_owned(), due.namespace.clone());
    let mut brought = Brought { name, namespace, done: Vec::new(), outcome: Ok(()) };
    let mut root = due.root;
    for (n, object) in due.planned.objects.iter().enumerate().filter(|(n, _)| due.objects[*n]) {
        let object = due.turn.object(object, &inner.installation, due.name);
        let owner = root.as_deref().filter(|_| n > 0).map(|uid| (due.name, uid));
        match inner.cluster.apply(due.namespace, &object, owner, false).await {
            Ok(live) => {
                let applied = Applied {
                    hash: due.hashes[n],
                    owner: owner.map_or_else(String::new, |(_, uid)| uid.to_owned()),
                    turn: due.turn.of(object.kind),
                    mark: mark(&live, &object),
                };
                if n == 0 {
                    root = Some(live.uid.clone());
                }
                brought.done.push((live, applied));
            }
            Err(why) => {
                brought.outcome = Err(why);
                break;
            }
        }
    }
    brought
}

/// Deletes what is ours and nobody wishes. Answers why something of it could not be deleted, where that is so.
async fn sweep(inner: &Inner, world: &mut World, wishes: &Wishes) -> Option<ClusterError> {
    let wished = |kind: ObjectKind, live: &Live| {
        let Some(granted) = live.labels.get(WORKLOAD).and_then(|name| wishes.get(name)) else { return false };
        match &granted.planned {
            // What can't be carried out takes nothing away.
            Err(_) => true,
            Ok((planned, _)) => planned.objects.iter().any(|o| o.kind == kind && o.name == live.name),
        }
    };
    let mut unwished: Vec<(Name, ObjectKind, String, String)> = Vec::new();
    for ((namespace, kind), shelf) in &world.shelves {
        // Pods go with what makes them.
        for live in shelf.objects.values().filter(|_| *kind != ObjectKind::Pod) {
            if !live.is_going() && !world.ending.contains(&live.uid) && !wished(*kind, live) {
                unwished.push((namespace.clone(), *kind, live.name.clone(), live.uid.clone()));
            }
        }
    }
    let delete = |(namespace, kind, name, uid): (Name, ObjectKind, String, String)| async move {
        let outcome = inner.cluster.delete(&namespace, kind, &name, &uid).await;
        (namespace, kind, name, uid, outcome)
    };
    let jobs: Vec<_> = unwished.into_iter().map(delete).collect();
    let ended: Vec<_> = stream::iter(jobs).buffer_unordered(AT_ONCE).collect().await;
    let mut failed = None;
    for (namespace, kind, name, uid, outcome) in ended {
        match outcome {
            Ok(()) => {
                tracing::info!(%namespace, kind = kind.as_str(), name, "deleted: nobody wishes it");
                world.applied.remove(&(namespace, kind, name));
                world.ending.insert(uid);
            }
            Err(why) => {
                tracing::warn!(%namespace, kind = kind.as_str(), name, %why, "it can't be deleted; it is tried again");
                failed = Some(why);
            }
        }
    }
    failed
}
