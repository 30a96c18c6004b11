//! One round: what the custom resources are now, given to the registry; what became of each, written back.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, stream};
use portcullis_cluster::{ClusterError, Custom, Event, Namespace};
use portcullis_model::{Door, Kind, Name, Resource};
use portcullis_store::{
    Fleet,
    registry::{Outcome, Refusal as Refused, RegistryError},
};
use serde_json::Value;

use super::{
    Shared, owner,
    read::{self, Refusal},
    status,
};
use crate::{
    api::{Finding, Grade},
    recorded::TakeError,
};

/// How many statuses are written, and rights asked for, at once.
const AT_ONCE: usize = 8;

/// An object, and what is known of it.
struct Object {
    custom: Custom,
    read: Result<Resource, Refusal>,
    /// What became of it: taken with warnings, or refused. None before the first round with it.
    became: Option<Result<Vec<String>, Refusal>>,
    /// The status as it was written last, until the cluster tells of it.
    written: Option<Value>,
}

/// The objects of a kind in a namespace.
struct Shelf {
    place: Namespace,
    /// Whether all of them are known.
    complete: bool,
    blind: Option<ClusterError>,
    objects: BTreeMap<String, Object>,
}

/// All custom resources.
pub(super) struct World {
    shelves: BTreeMap<(Name, Kind), Shelf>,
    /// The status of one could not be written.
    unwritten: Option<ClusterError>,
}

impl World {
    /// One of these namespaces, nothing of which is known yet.
    pub(super) fn of(places: &[Namespace]) -> Self {
        let shelf =
            |place: &Namespace| Shelf { place: place.clone(), complete: false, blind: None, objects: BTreeMap::new() };
        let shelves = places.iter().flat_map(|p| Kind::ALL.map(|kind| ((p.namespace.clone(), kind), shelf(p))));
        Self { shelves: shelves.collect(), unwritten: None }
    }

    /// Takes note of what happened.
    pub(super) fn take(&mut self, shared: &Shared, place: &Namespace, kind: Kind, event: Event) {
        let Some(shelf) = self.shelves.get_mut(&(place.namespace.clone(), kind)) else { return };
        match event {
            Event::All(all) => {
                let mut before = std::mem::take(&mut shelf.objects);
                for custom in all {
                    let earlier = before.remove(&custom.name);
                    shelf.put(earlier, custom);
                }
                (shelf.complete, shelf.blind) = (true, None);
            }
            Event::Is(custom) => {
                let earlier = shelf.objects.remove(&custom.name);
                shelf.put(earlier, *custom);
                shelf.blind = None;
            }
            Event::Gone(name) => {
                shelf.objects.remove(&name);
                shelf.blind = None;
            }
            Event::Blind(why) => {
                if shelf.blind.as_ref() != Some(&why) {
                    tracing::warn!(namespace = %place.namespace, %kind, %why, "custom resources can't be followed; what is known of them stays");
                    shared.metrics.config_loaded("kubernetes", "blind");
                }
                shelf.blind = Some(why);
            }
        }
    }

    /// Whether any object is refused.
    pub(super) fn refused(&self) -> bool {
        self.shelves.values().flat_map(|s| s.objects.values()).any(|o| matches!(o.became, Some(Err(_))))
    }

    /// What is not as it should be.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let finding = |subject: String, grade, message: String, next: &str| Finding {
            subject,
            grade,
            message,
            next: Some(next.to_owned()),
        };
        let mut found = Vec::new();
        for ((namespace, kind), shelf) in &self.shelves {
            if let Some(why) = &shelf.blind {
                let next = match why {
                    ClusterError::Missing(_) => {
                        "Tell the cluster what they are: `portcullis crds | kubectl apply --server-side -f -`."
                    }
                    ClusterError::Forbidden { .. } => "Give the gateway's account that right.",
                    _ => "It is tried again by itself; what is known of them serves until then.",
                };
                let subject = format!("custom resources {namespace}/{}", kind.plural());
                found.push(finding(subject, Grade::Error, why.to_string(), next));
            }
            for (name, object) in &shelf.objects {
                if let Some(Err(refusal)) = &object.became {
                    let subject = format!("custom resource {}", path(namespace, *kind, name));
                    let next = "Correct it; it is read again at once, and what it brought before serves until then.";
                    found.push(finding(subject, Grade::Error, refusal.message.clone(), next));
                }
            }
        }
        if let Some(why) = &self.unwritten {
            let message = format!("the status of custom resources can't be written: {why}");
            let next = "It is tried again by itself.";
            found.push(finding("custom resources".to_owned(), Grade::Warning, message, next));
        }
        found
    }

    fn objects(&self) -> impl Iterator<Item = (&Shelf, &Object)> {
        self.shelves.values().flat_map(|shelf| shelf.objects.values().map(move |object| (shelf, object)))
    }

    fn object(&mut self, path: &str) -> Option<&mut Object> {
        let mut parts = path.splitn(3, '/');
        let (namespace, plural, name) = (parts.next()?, parts.next()?, parts.next()?);
        let key = (namespace.parse().ok()?, plural.parse().ok()?);
        self.shelves.get_mut(&key)?.objects.get_mut(name)
    }
}

impl Shelf {
    /// Puts an object where an earlier one stood.
    fn put(&mut self, earlier: Option<Object>, custom: Custom) {
        let object = match earlier {
            Some(Object { custom: before, read, became, .. })
                if before.uid == custom.uid
                    && before.spec == custom.spec
                    && before.labels == custom.labels
                    && before.annotations == custom.annotations =>
            {
                // Only its status is another: most often what was written here comes back.
                Object { custom, read, became, written: None }
            }
            _ => Object { read: read::read(&custom, &self.place), custom, became: None, written: None },
        };
        self.objects.insert(object.custom.name.clone(), object);
    }
}

/// What a door is named by.
fn path(namespace: &Name, kind: Kind, name: &str) -> String {
    format!("{namespace}/{}/{name}", kind.plural())
}

/// Gives the registry what there is, and writes back what became of it. Answers whether something has to be tried again.
pub(super) async fn round(shared: &Shared, world: &mut World) -> bool {
    if world.shelves.values().any(|s| !s.complete && s.blind.is_none()) {
        // Before all were heard of once, names would seem to lead nowhere.
        return false;
    }
    let fleet = shared.registry.snapshot();
    let mut refused: BTreeMap<String, Refusal> = rights(shared, world, &fleet).await;
    for (shelf, object) in world.objects() {
        if let Err(refusal) = &object.read {
            refused.insert(path(&shelf.place.namespace, object.custom.kind, &object.custom.name), refusal.clone());
        }
    }
    let stored = take(shared, world, &fleet, &mut refused).await;
    if let Ok(warnings) = &stored {
        let paths: Vec<String> =
            world.objects().map(|(s, o)| path(&s.place.namespace, o.custom.kind, &o.custom.name)).collect();
        let mut news = 0;
        for place in paths {
            let became = match refused.get(&place) {
                Some(refusal) => Err(refusal.clone()),
                None => Ok(warnings.get(&place).cloned().unwrap_or_default()),
            };
            let Some(object) = world.object(&place) else { continue };
            if object.became.as_ref() != Some(&became) {
                if let Err(refusal) = &became {
                    news += 1;
                    tracing::error!(resource = place, reason = refusal.reason, "refused: {}", refusal.message);
                }
                object.became = Some(became);
            }
        }
        if news > 0 {
            shared.metrics.config_loaded("kubernetes", "refused");
        }
    }
    shared.rounds.send_modify(|n| *n += 1);
    let written = write_back(shared, world).await;
    // A right that is given later is told by nobody.
    let waits = refused.values().any(|r| matches!(r.reason, "NotAllowed" | "NotChecked"));
    stored.is_err() || !written || waits
}

/// Refusals of connections whose owner may not be named from where they are written.
async fn rights(shared: &Shared, world: &World, fleet: &Fleet) -> BTreeMap<String, Refusal> {
    let Some(cluster) = &shared.cluster else { return BTreeMap::new() };
    let asked: Vec<_> = world
        .objects()
        .filter_map(|(shelf, object)| {
            let resource = object.read.as_ref().ok()?;
            let place = path(&shelf.place.namespace, object.custom.kind, &object.custom.name);
            let owner = owner::asked(fleet, &resource.key(), &Door::Kubernetes(place.clone()), resource)?;
            Some(async move {
                let may = owner::may_name(cluster, &object.custom, shelf.place.tenant(), owner).await;
                may.err().map(|refusal| (place, refusal))
            })
        })
        .collect();
    stream::iter(asked).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}

/// Gives the registry all that is not refused; where it refuses one, the others again without it. Answers the warnings by path.
async fn take(
    shared: &Shared,
    world: &World,
    fleet: &Fleet,
    refused: &mut BTreeMap<String, Refusal>,
) -> Result<BTreeMap<String, Vec<String>>, ()> {
    let known: BTreeSet<(String, String)> =
        world.shelves.keys().map(|(namespace, kind)| (namespace.to_string(), kind.plural().to_owned())).collect();
    let complete: BTreeSet<(String, String)> = world
        .shelves
        .iter()
        .filter(|(_, shelf)| shelf.complete)
        .map(|((namespace, kind), _)| (namespace.to_string(), kind.plural().to_owned()))
        .collect();
    let mut all: Vec<(String, &Resource)> = world
        .objects()
        .filter_map(|(shelf, object)| {
            let place = path(&shelf.place.namespace, object.custom.kind, &object.custom.name);
            object.read.as_ref().ok().map(|resource| (place, resource))
        })
        .collect();
    // Of two that mean one resource, the one that is there stays: another namespace can't take it away.
    all.sort_by_key(|(place, resource)| {
        let there = fleet.get(&resource.key()).and_then(|r| r.metadata.door.as_ref());
        there != Some(&Door::Kubernetes(place.clone()))
    });
    let managers: BTreeMap<String, String> = world
        .objects()
        .filter_map(|(shelf, object)| {
            let place = path(&shelf.place.namespace, object.custom.kind, &object.custom.name);
            Some((place, object.custom.manager.clone()?))
        })
        .collect();
    let who = |door: &Door| match door {
        Door::Kubernetes(place) => managers.get(place).map(|manager| format!("kubernetes:{manager}")),
        _ => None,
    };
    // Each try sets one aside at least.
    for _ in 0..=all.len() {
        let set: Vec<(Door, Resource)> = all
            .iter()
            .filter(|(place, _)| !refused.contains_key(place))
            .map(|(place, resource)| (Door::Kubernetes(place.clone()), Resource::clone(resource)))
            .collect();
        let kept: BTreeSet<String> = refused.keys().cloned().collect();
        let (known, complete) = (known.clone(), complete.clone());
        let scope = move |door: &Door| match door {
            Door::Kubernetes(path) if kept.contains(path) => false,
            Door::Kubernetes(path) => {
                let mut parts = path.splitn(3, '/').map(str::to_owned);
                let shelf = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                // Of a namespace that is followed no longer, nothing stays.
                complete.contains(&shelf) || !known.contains(&shelf)
            }
            Door::Api | Door::File(_) | Door::BuiltIn => false,
        };
        let places: BTreeMap<_, _> = set.iter().map(|(door, r)| (r.key(), door.clone())).collect();
        match shared.recorded.sync(&scope, &set, &who).await {
            Ok(applied) => {
                if applied.iter().any(|a| a.change != Outcome::Unchanged) {
                    shared.metrics.config_loaded("kubernetes", "applied");
                }
                let mut warnings = BTreeMap::new();
                for item in applied {
                    if item.change != Outcome::Unchanged {
                        tracing::info!(resource = %item.key, change = item.change.as_str(), "taken from a custom resource");
                    }
                    if let Some(Door::Kubernetes(place)) = places.get(&item.key) {
                        warnings.insert(place.clone(), item.warnings.iter().map(ToString::to_string).collect());
                    }
                }
                return Ok(warnings);
            }
            Err(TakeError::Registry(RegistryError::Refused(refusals))) => {
                if !blame(&refusals, refused) {
                    return Err(());
                }
            }
            Err(error) => {
                tracing::error!(%error, "the custom resources could not be stored; what was serving goes on");
                return Err(());
            }
        }
    }
    Err(())
}

/// Puts each refusal down to its object. Answers whether there was one.
fn blame(refusals: &[Refused], refused: &mut BTreeMap<String, Refusal>) -> bool {
    let mut found = false;
    for refusal in refusals {
        if let Door::Kubernetes(place) = &refusal.door {
            let problems: Vec<String> = refusal.problems.iter().map(ToString::to_string).collect();
            found |=
                refused.insert(place.clone(), Refusal { reason: "Refused", message: problems.join("; ") }).is_none();
        }
    }
    found
}

/// Writes the statuses that are not as they should be. Answers whether all are.
async fn write_back(shared: &Shared, world: &mut World) -> bool {
    let Some(cluster) = &shared.cluster else { return true };
    let due: Vec<_> = world
        .objects()
        .filter_map(|(shelf, object)| {
            let status = status::wanted(&object.custom, object.became.as_ref()?, object.written.as_ref())?;
            let place = path(&shelf.place.namespace, object.custom.kind, &object.custom.name);
            let custom = object.custom.clone();
            Some(async move {
                let outcome = cluster.set_status(&custom, &status).await;
                (place, status, outcome)
            })
        })
        .collect();
    let mut failed = None;
    let mut writing = stream::iter(due).buffer_unordered(AT_ONCE);
    let mut written = Vec::new();
    while let Some((place, status, outcome)) = writing.next().await {
        match outcome {
            Ok(()) => written.push((place, status)),
            // It is gone, or another one: the watch tells what it is.
            Err(ClusterError::Missing(_) | ClusterError::Conflict) => {}
            Err(error) => {
                tracing::warn!(resource = place, %error, "its status could not be written; it is tried again");
                failed = Some(error);
                // The others would fare no better just now.
                break;
            }
        }
    }
    drop(writing);
    for (place, status) in written {
        if let Some(object) = world.object(&place) {
            object.written = Some(status);
        }
    }
    world.unwritten = failed;
    world.unwritten.is_none()
}
