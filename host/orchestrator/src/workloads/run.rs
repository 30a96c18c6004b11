//! The task: hears what happens in the cluster and what is wished, tells what is known, and applies where it is this gateway's turn.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use portcullis_cluster::Sight;
use portcullis_model::Name;
use portcullis_store::{Lease, Leases};
use portcullis_workload::{ObjectKind, Phase};
use tokio::{sync::watch, time::Instant};

use super::{Inner, Knowledge, Known, Wishes, reconcile, world::World};

/// How long to wait after something happened for further things.
const SETTLE: Duration = Duration::from_millis(50);
/// The most that it waits so.
const SETTLE_MOST: Duration = Duration::from_millis(500);
/// How long a gateway that applies may be silent before another one does.
const LEASE: Duration = Duration::from_secs(15);
/// How soon a lease that could not be had is asked for again.
const ASK: Duration = Duration::from_secs(2);
/// Each state that is counted.
const PHASES: [(Phase, &str); 7] = [
    (Phase::Pending, "pending"),
    (Phase::Starting, "starting"),
    (Phase::Ready, "ready"),
    (Phase::Degraded, "degraded"),
    (Phase::Idle, "idle"),
    (Phase::Failed, "failed"),
    (Phase::Stopped, "stopped"),
];

type Happened = (Name, ObjectKind, Sight);

pub(super) async fn run(inner: Arc<Inner>, leases: Option<Leases>) {
    let (mine, turn) = watch::channel(leases.is_none());
    let leading = async {
        match leases {
            Some(leases) => lead(leases, &mine).await,
            None => std::future::pending().await,
        }
    };
    let mut found = inner.startups.changes();
    let looking_again = async {
        while found.changed().await.is_ok() {
            inner.grant_all();
        }
        std::future::pending().await
    };
    tokio::select! {
        () = leading => {}
        () = looking_again => {}
        () = keep(&inner, turn) => {}
    }
}

async fn keep(inner: &Inner, mut turn: watch::Receiver<bool>) {
    let namespaces = inner.servers.namespaces(inner.cluster.own_namespace());
    let mut wishes = inner.wishes.subscribe();
    // Nothing is asked of the cluster before there is a wish, or could have been one.
    if wishes.wait_for(Option::is_some).await.is_err() {
        return;
    }
    wishes.mark_changed();
    let mut world = World::of(&namespaces);
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    let mut wished: Arc<Wishes> = Arc::default();
    let mut sights = sights(inner, &namespaces);
    let mut again: Option<Instant> = None;
    loop {
        let waiting = async {
            match again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            sight = sights.next() => {
                let Some((namespace, kind, sight)) = sight else { return };
                world.take(&namespace, kind, sight);
            }
            changed = wishes.changed() => {
                if changed.is_err() {
                    return;
                }
                // Looked at below, with what comes until then.
                wishes.mark_changed();
            }
            changed = turn.changed() => {
                if changed.is_err() {
                    return;
                }
                // Another one may have applied meanwhile.
                world.dirty.extend(wished.keys().cloned());
                world.orphans = true;
            }
            () = waiting => {}
        }
        settle(&mut sights, &mut world).await;
        if wishes.has_changed().unwrap_or(false) {
            let next = wishes.borrow_and_update().clone().unwrap_or_default();
            compare(&wished, &next, &mut world);
            wished = next;
        }
        tell(inner, &world, &wished, &mut known);
        again = None;
        if *turn.borrow() {
            again = reconcile::round(inner, &mut world, &wished).await;
            tell(inner, &world, &wished, &mut known);
        } else {
            world.dirty.clear();
        }
    }
}

/// What of the wishes is another than before is looked at.
fn compare(before: &Wishes, now: &Wishes, world: &mut World) {
    for (name, granted) in now {
        let same = before.get(name).is_some_and(|earlier| match (&earlier.planned, &granted.planned) {
            (Ok((_, a)), Ok((_, b))) => a == b,
            (Err(a), Err(b)) => a == b,
            _ => false,
        });
        if !same {
            world.dirty.insert(name.clone());
            // What was refused may be taken now.
            world.failures.remove(name);
        }
    }
    let gone: Vec<&String> = before.keys().filter(|name| !now.contains_key(*name)).collect();
    world.orphans |= !gone.is_empty();
    world.dirty.extend(gone.into_iter().cloned());
}

/// Tells what is known of what something happened to.
fn tell(inner: &Inner, world: &World, wishes: &Wishes, known: &mut BTreeMap<String, Known>) {
    known.retain(|name, _| wishes.contains_key(name));
    for (name, granted) in wishes {
        if world.dirty.contains(name) || world.failures.contains_key(name) || !known.contains_key(name) {
            known.insert(name.clone(), world.known(name, granted));
        }
    }
    for (phase, word) in PHASES {
        inner.metrics.workloads(word, known.values().filter(|k| k.observed.phase == phase).count());
    }
    inner.find_out(world.findings(wishes));
    inner.known.store(Arc::new(Knowledge { complete: world.complete(), workloads: known.clone() }));
    inner.news.send_modify(|count| *count = count.wrapping_add(1));
}

fn sights(inner: &Inner, namespaces: &[Name]) -> impl Stream<Item = Happened> + Send + Unpin + use<> {
    let selector = inner.installation.selector();
    let mut all = Vec::new();
    for namespace in namespaces {
        for kind in ObjectKind::ALL {
            let namespace = namespace.clone();
            let seen = inner.cluster.sight(kind, &namespace, &selector);
            all.push(seen.map(move |sight| (namespace.clone(), kind, sight)).boxed());
        }
    }
    stream::select_all(all)
}

/// Takes what comes within a moment as well.
async fn settle(sights: &mut (impl Stream<Item = Happened> + Unpin), world: &mut World) {
    let end = Instant::now() + SETTLE_MOST;
    loop {
        let quiet = (Instant::now() + SETTLE).min(end);
        match tokio::time::timeout_at(quiet, sights.next()).await {
            Ok(Some((namespace, kind, sight))) => world.take(&namespace, kind, sight),
            _ => break,
        }
    }
    while let Some(Some((namespace, kind, sight))) = sights.next().now_or_never() {
        world.take(&namespace, kind, sight);
    }
}

/// Says whether it is this gateway's turn, again and again.
async fn lead(leases: Leases, mine: &watch::Sender<bool>) {
    let mut patience = Duration::ZERO;
    loop {
        match leases.take("workloads", LEASE, patience).await {
            Ok(Some(lease)) => {
                tracing::info!("this gateway keeps the servers in the cluster");
                mine.send_replace(true);
                hold(lease).await;
                mine.send_replace(false);
                tracing::warn!("another gateway keeps the servers in the cluster now");
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the lease of the servers in the cluster can't be had"),
        }
        patience = LEASE * 2;
        tokio::time::sleep(ASK).await;
    }
}

/// Prolongs a lease until it is lost.
async fn hold(mut lease: Lease) {
    loop {
        tokio::time::sleep(LEASE / 3).await;
        match lease.prolong().await {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) if lease.left() < LEASE / 3 => return,
            Err(error) => tracing::debug!(%error, "the lease could not be prolonged; it holds for now"),
        }
    }
}
