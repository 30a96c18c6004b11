//! The Kubernetes door: custom resources in, their status back.
//!
//! The custom resources of some namespaces are followed and taken as a watched file's documents are: checked alone, then as a
//! whole with everything else, and one that is refused leaves what it brought before. What became of each is written into its
//! status. While the cluster's API can't be reached everything stays as it is; what can't be listed takes nothing away.

mod owner;
mod read;
mod status;
mod sync;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use portcullis_cluster::{Cluster, Event, Namespace};
use portcullis_model::Kind;
use portcullis_store::{Lease, Leases, Registry};
use portcullis_telemetry::{Audit, Metrics};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use crate::{api::Finding, recorded::Recorded};
use sync::World;

/// How long to wait after a change for further ones: `kubectl apply` sends one after another.
const SETTLE: Duration = Duration::from_millis(100);
/// The most that it waits so.
const SETTLE_MOST: Duration = Duration::from_secs(1);
/// How long a start waits until what there is was taken.
const FIRST: Duration = Duration::from_secs(10);
/// How long a gateway that follows custom resources may be silent before another one does.
const LEASE: Duration = Duration::from_secs(15);
/// How soon what the cluster did not take is tried again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// The Kubernetes door. Dropping it ends the watches; what it brought stays.
pub struct ClusterDoor {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    registry: Arc<Registry>,
    recorded: Recorded,
    metrics: Arc<Metrics>,
    /// None where no cluster is configured: then what one brought goes.
    cluster: Option<Arc<Cluster>>,
    findings: Mutex<Vec<Finding>>,
    /// Counts rounds with all that can be known.
    rounds: watch::Sender<u64>,
}

impl ClusterDoor {
    /// Follows the namespaces that the cluster's settings name, from now on. When this answers, what could be taken is taken,
    /// unless the cluster is slow.
    pub async fn open(
        registry: Arc<Registry>,
        metrics: Arc<Metrics>,
        audit: Arc<Audit>,
        cluster: Option<Arc<Cluster>>,
    ) -> Arc<Self> {
        let recorded = Recorded::new(Arc::clone(&registry), audit);
        let (findings, rounds) = (Mutex::default(), watch::Sender::new(0));
        let mut first = rounds.subscribe();
        let shared = Arc::new(Shared { registry, recorded, metrics, cluster, findings, rounds });
        let task = tokio::spawn(run(Arc::clone(&shared)));
        if tokio::time::timeout(FIRST, first.wait_for(|rounds| *rounds > 0)).await.is_err() {
            tracing::warn!("the cluster's API is slow; what the store holds serves until it answers");
        }
        Arc::new(Self { shared, task })
    }

    /// What is not as it should be: namespaces that can't be followed, and custom resources that are refused.
    pub fn findings(&self) -> Vec<Finding> {
        self.shared.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for ClusterDoor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for ClusterDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterDoor").finish_non_exhaustive()
    }
}

/// What happened to the objects of a kind in a namespace.
type Happened = (Namespace, Kind, Event);

/// Follows the custom resources; where other gateways share the store, one of them at a time does.
async fn run(shared: Arc<Shared>) {
    let store = Arc::clone(shared.registry.store());
    if !store.is_shared() {
        return rounds(&shared).await;
    }
    // What a cluster brought that is none of ours is another gateway's business.
    if shared.cluster.as_ref().is_none_or(|cluster| cluster.options().resources.is_empty()) {
        shared.rounds.send_modify(|rounds| *rounds += 1);
        return;
    }
    let mut holder = [0; 16];
    if let Err(error) = getrandom::fill(&mut holder) {
        tracing::error!(%error, "no randomness: custom resources are not followed");
        return;
    }
    let leases = Leases::new(store, &holder.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let mut patience = Duration::ZERO;
    loop {
        match leases.take("custom-resources", LEASE, patience).await {
            Ok(Some(lease)) => {
                tracing::info!("this gateway follows the custom resources");
                tokio::select! {
                    () = rounds(&shared) => return,
                    () = keep(lease) => tracing::warn!("another gateway follows the custom resources now"),
                }
                shared.findings.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
            // Somebody else does: what they take is in the store.
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the lease of the custom resources can't be had"),
        }
        shared.rounds.send_modify(|rounds| *rounds += 1);
        patience = LEASE * 2;
        tokio::time::sleep(AGAIN.0).await;
    }
}

/// Prolongs a lease until it is lost.
async fn keep(mut lease: Lease) {
    loop {
        tokio::time::sleep(LEASE / 3).await;
        match lease.prolong().await {
            Ok(true) => {}
            Ok(false) => return,
            // It holds for the rest of its time.
            Err(_) if lease.left() > LEASE / 3 => {}
            Err(_) => return,
        }
    }
}

async fn rounds(shared: &Arc<Shared>) {
    let places: Vec<Namespace> = shared.cluster.as_ref().map_or_else(Vec::new, |c| c.options().resources.clone());
    let mut world = World::of(&places);
    let mut events = follow(shared, &places);
    let mut changes = shared.registry.watch();
    // Nothing to hear of: what was brought by namespaces that are no longer named goes, and that is all.
    if places.is_empty() {
        sync::round(shared, &mut world).await;
        return;
    }
    let mut wait = AGAIN.0;
    let mut again: Option<Instant> = None;
    loop {
        let retry = async {
            match again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some((place, kind, event)) = events.next() => {
                world.take(shared, &place, kind, event);
                settle(shared, &mut events, &mut world).await;
                wait = AGAIN.0;
            }
            // What stood in the way of a refused one may be gone.
            changed = changes.changed(), if world.refused() => if changed.is_err() { return },
            () = retry => {}
        }
        changes.mark_unchanged();
        let failing = sync::round(shared, &mut world).await;
        *shared.findings.lock().unwrap_or_else(PoisonError::into_inner) = world.findings();
        if failing {
            again = Some(Instant::now() + wait);
            wait = (wait * 2).min(AGAIN.1);
        } else {
            (again, wait) = (None, AGAIN.0);
        }
    }
}

/// Events of every kind of every namespace.
fn follow(shared: &Shared, places: &[Namespace]) -> impl Stream<Item = Happened> + Unpin + use<> {
    let mut all = Vec::new();
    for place in places {
        for kind in Kind::ALL {
            let Some(cluster) = &shared.cluster else { continue };
            let place = place.clone();
            let events = cluster.follow(kind, &place.namespace);
            all.push(events.map(move |event| (place.clone(), kind, event)).boxed());
        }
    }
    stream::select_all(all)
}

/// Takes what comes within a moment as well.
async fn settle(shared: &Shared, events: &mut (impl Stream<Item = Happened> + Unpin), world: &mut World) {
    let end = Instant::now() + SETTLE_MOST;
    loop {
        let quiet = (Instant::now() + SETTLE).min(end);
        match tokio::time::timeout_at(quiet, events.next()).await {
            Ok(Some((place, kind, event))) => world.take(shared, &place, kind, event),
            _ => break,
        }
    }
    // What has come already is taken before anything is written.
    while let Some(Some((place, kind, event))) = events.next().now_or_never() {
        world.take(shared, &place, kind, event);
    }
}
