//! What the cluster shows: the objects of this installation, and what follows of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use portcullis_cluster::{ClusterError, Live, Sight};
use portcullis_model::Name;
use portcullis_workload::{ObjectKind, Observed, Phase, Trouble, name::WORKLOAD, observe};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    Granted, Known, Wishes,
    epoch::{Epochs, Turn},
    reconcile::{SCALE, STOPPED},
};
use crate::logs::blacken;

/// The objects of a kind in a namespace.
#[derive(Default)]
pub(super) struct Shelf {
    /// Whether all of them were heard of once.
    pub(super) complete: bool,
    pub(super) blind: Option<ClusterError>,
    pub(super) objects: BTreeMap<String, Live>,
}

/// What was applied, to tell whether it still is so.
pub(super) struct Applied {
    /// The hash of what was wished.
    pub(super) hash: u64,
    /// The root that it belongs to.
    pub(super) owner: String,
    /// How it was applied, beside what was wished.
    pub(super) turn: Turn,
    /// What of it was ours then, as the cluster writes it; of a Secret its version.
    pub(super) mark: Value,
}

/// Why a workload's objects are not as they should be.
pub(super) struct Failure {
    pub(super) why: ClusterError,
    pub(super) tries: u32,
    pub(super) again: Instant,
}

/// Everything that is known, and what has to be looked at again.
pub(super) struct World {
    pub(super) shelves: BTreeMap<(Name, ObjectKind), Shelf>,
    pub(super) applied: HashMap<(Name, ObjectKind, String), Applied>,
    pub(super) failures: BTreeMap<String, Failure>,
    /// Objects whose end was asked for, by uid.
    pub(super) ending: HashSet<String>,
    /// Names of workloads that something happened to.
    pub(super) dirty: BTreeSet<String>,
    /// Whether something is there, or may be, that nobody wishes.
    pub(super) orphans: bool,
    /// Why something that nobody wishes is still there.
    pub(super) unswept: Option<Failure>,
}

impl World {
    pub(super) fn of(namespaces: &[Name]) -> Self {
        let places = namespaces.iter().flat_map(|n| ObjectKind::ALL.map(|kind| (n.clone(), kind)));
        Self {
            shelves: places.map(|place| (place, Shelf::default())).collect(),
            applied: HashMap::new(),
            failures: BTreeMap::new(),
            ending: HashSet::new(),
            dirty: BTreeSet::new(),
            orphans: true,
            unswept: None,
        }
    }

    /// Whether all objects were heard of once.
    pub(super) fn complete(&self) -> bool {
        self.shelves.values().all(|shelf| shelf.complete)
    }

    pub(super) fn get(&self, namespace: &Name, kind: ObjectKind, name: &str) -> Option<&Live> {
        self.shelves.get(&(namespace.clone(), kind))?.objects.get(name)
    }

    /// Takes note of what happened.
    pub(super) fn take(&mut self, namespace: &Name, kind: ObjectKind, sight: Sight) {
        let Some(shelf) = self.shelves.get_mut(&(namespace.clone(), kind)) else { return };
        let workload = |live: &Live| live.labels.get(WORKLOAD).cloned();
        match sight {
            Sight::All(all) => {
                self.dirty.extend(shelf.objects.values().filter_map(workload));
                shelf.objects = all.into_iter().map(|live| (live.name.clone(), live)).collect();
                self.applied
                    .retain(|(at, of, name), _| (at, *of) != (namespace, kind) || shelf.objects.contains_key(name));
                self.dirty.extend(shelf.objects.values().filter_map(workload));
                (shelf.complete, shelf.blind, self.orphans) = (true, None, true);
            }
            Sight::Is(live) => self.put(namespace, *live),
            Sight::Gone(name) => {
                shelf.blind = None;
                if let Some(gone) = shelf.objects.remove(&name) {
                    self.applied.remove(&(namespace.clone(), kind, name));
                    self.ending.remove(&gone.uid);
                    self.dirty.extend(workload(&gone));
                }
            }
            Sight::Blind(why) => {
                if shelf.blind.as_ref() != Some(&why) {
                    tracing::warn!(%namespace, kind = kind.as_str(), %why, "servers' objects can't be followed; what is known of them stays");
                }
                shelf.blind = Some(why);
            }
        }
    }

    /// Takes note of an object as it is now.
    pub(super) fn put(&mut self, namespace: &Name, live: Live) {
        let Some(shelf) = self.shelves.get_mut(&(namespace.clone(), live.kind)) else { return };
        shelf.blind = None;
        let workload = live.labels.get(WORKLOAD).cloned();
        // One that a label was taken off is looked at as well.
        self.dirty.extend(shelf.objects.get(&live.name).and_then(|before| before.labels.get(WORKLOAD).cloned()));
        self.dirty.extend(workload);
        shelf.objects.insert(live.name.clone(), live);
        self.orphans = true;
    }

    /// What is known of a wished workload.
    pub(super) fn known(&self, name: &str, granted: &Granted) -> Known {
        let of = |pod: &&Live| pod.labels.get(WORKLOAD).is_some_and(|of| of == name);
        let pods = self.shelves.get(&(granted.namespace.clone(), ObjectKind::Pod));
        let mut pods: Vec<&Live> = pods.into_iter().flat_map(|shelf| shelf.objects.values()).filter(of).collect();
        pods.sort_by_key(|pod| pod.body["metadata"]["creationTimestamp"].as_str());
        let deployment = self.get(&granted.namespace, ObjectKind::Deployment, name).filter(|live| !live.is_going());
        let stopped = deployment.is_some_and(|live| live.body["metadata"]["annotations"][STOPPED] == "true");
        let mut observed = observe(deployment.map(|live| &live.body), pods.iter().map(|pod| &pod.body), stopped);
        if let Err(why) = &granted.planned {
            trouble(&mut observed, "NotPlanned", why.clone(), "Correct the McpServer, or connect it again.");
        } else if let Some(failure) = self.failures.get(name) {
            let next = match failure.why {
                ClusterError::Forbidden { .. } => "Give the gateway's account that right.",
                ClusterError::Refused(_) => {
                    "Correct what the cluster refuses; `portcullis render SERVER --check` asks it."
                }
                _ => "It is tried again by itself.",
            };
            trouble(&mut observed, "NotApplied", failure.why.to_string(), next);
        } else if let Some(why) = self.unheard(&granted.namespace) {
            let next = "Give the gateway's account the rights of deploy/kubernetes/servers.yaml, or see why the cluster's API is away.";
            trouble(&mut observed, "NotFollowed", why.to_string(), next);
        }
        let secrets = granted.secrets();
        if let Some(trouble) = &mut observed.trouble {
            trouble.message = blacken(&trouble.message, &secrets);
        }
        Known {
            identity: granted.identity.clone(),
            namespace: granted.namespace.clone(),
            observed,
            relaxed: granted.planned.as_ref().map_or_else(|_| Vec::new(), |(planned, _)| planned.relaxed.clone()),
            ready: pods.iter().filter_map(|pod| callable(pod)).collect(),
            pods: pods.iter().map(|pod| pod.name.clone()).collect(),
            start: granted.start.max(Duration::from_secs(1)),
            epochs: granted.bridged.then(|| Epochs::of(deployment, pods.iter().copied())),
        }
    }

    /// Why nothing can be applied in a namespace: its objects could not be listed yet.
    fn unheard(&self, namespace: &Name) -> Option<&ClusterError> {
        let shelves = self.shelves.iter().filter(|((at, _), shelf)| at == namespace && !shelf.complete);
        shelves.filter_map(|(_, shelf)| shelf.blind.as_ref()).next()
    }

    /// Sentences about what keeps the runtime from its work.
    pub(super) fn findings(&self, wishes: &Wishes) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for ((namespace, kind), shelf) in &self.shelves {
            if let Some(why) = &shelf.blind {
                found.push(format!(
                    "{} of servers in the namespace {namespace} can't be followed: {why}",
                    kind.plural()
                ));
            }
        }
        if let Some(failure) = &self.unswept {
            found.push(format!("what nobody wishes any more can't be deleted: {}", failure.why));
        }
        for (name, failure) in &self.failures {
            if let Some(granted) = wishes.get(name) {
                found.push(format!("{}: {}", granted.identity, failure.why));
            }
        }
        found
    }
}

/// How many pods a Deployment should have: as written, unless somebody scaled or stopped it.
pub(super) fn replicas(deployment: Option<&Live>, written: u32) -> u32 {
    let annotations = deployment.map(|live| &live.body["metadata"]["annotations"]).unwrap_or(&Value::Null);
    if annotations[STOPPED] == "true" {
        return 0;
    }
    let scaled = annotations[SCALE].as_str().and_then(|n| n.parse::<u32>().ok());
    scaled.filter(|n| *n <= portcullis_model::spec::MAX_REPLICAS).unwrap_or(written)
}

/// A trouble of ours says more than that nothing is there yet, and takes nothing from what can be called.
fn trouble(observed: &mut Observed, reason: &str, message: String, next: &str) {
    if observed.trouble.is_some() {
        return;
    }
    observed.trouble = Some(Trouble { reason: reason.to_owned(), message, next: next.to_owned() });
    observed.phase = match observed.phase {
        Phase::Ready | Phase::Degraded => Phase::Degraded,
        Phase::Pending => Phase::Failed,
        other => other,
    };
}

fn callable(pod: &Live) -> Option<(String, IpAddr)> {
    let conditions = pod.body["status"]["conditions"].as_array()?;
    let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    let address = pod.body["status"]["podIP"].as_str()?.parse().ok()?;
    (ready && !pod.is_going()).then(|| (pod.name.clone(), address))
}
