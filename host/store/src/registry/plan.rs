//! What a write would do to the fleet, worked out before anything is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{SystemTime, UNIX_EPOCH},
};

use portcullis_model::{Door, Kind, Name, Problem, Resource, ResourceKey, Spec, spec::Owner};

use super::{Applied, Fleet, Judge, Outcome, Refusal, RegistryError, checks, expect};
use crate::{Expect, Revision, StoreError, Write, keys};

/// Speaks for a door.
type Scope<'a> = &'a (dyn Fn(&Door) -> bool + Send + Sync);

/// The writes, and what they do.
pub(super) struct Plan {
    pub(super) writes: Vec<Write>,
    pub(super) applied: Vec<Applied>,
}

impl Plan {
    /// Plans taking `set`; with a scope, also deleting what its doors no longer hold.
    pub(super) fn apply(
        fleet: &Fleet,
        set: &[(Door, Resource)],
        scope: Option<Scope<'_>>,
        judge: Option<&dyn Judge>,
    ) -> Result<Self, RegistryError> {
        // One moment for all: what comes in one write is of one age.
        let now = now_ms();
        let mut next = fleet.clone();
        let mut refusals: BTreeMap<usize, Vec<Problem>> = BTreeMap::new();
        let mut places: BTreeMap<ResourceKey, usize> = BTreeMap::new();
        for (position, (door, resource)) in set.iter().enumerate() {
            let key = resource.key();
            let mut problems = resource.problems();
            if let Some(earlier) = places.get(&key) {
                let (door, _) = &set[*earlier];
                problems.push(Problem::new(
                    "metadata.name",
                    format!("{key} is there twice: also in {door}, as number {}", earlier + 1),
                ));
            }
            problems.extend(may_edit(fleet, &key, door, resource.metadata.revision, scope));
            problems.extend(moved(fleet, resource));
            if !problems.is_empty() {
                refusals.entry(position).or_default().extend(problems);
            }
            places.entry(key).or_insert(position);
            next.insert(complete(fleet, resource, door, now));
        }
        let gone: Vec<ResourceKey> = scope.map_or_else(Vec::new, |scope| {
            let ours = |r: &Resource| r.metadata.door.as_ref().is_some_and(scope);
            fleet.iter().filter(|(key, r)| ours(r) && !places.contains_key(*key)).map(|(key, _)| key.clone()).collect()
        });
        for key in &gone {
            next.remove(key);
        }
        for (key, position) in &places {
            if let Some(resource) = next.get(key) {
                let mut problems = checks::problems(&next, resource);
                problems.extend(judge.into_iter().flat_map(|judge| judge.problems(&next, resource)));
                if !problems.is_empty() {
                    refusals.entry(*position).or_default().extend(problems);
                }
            }
        }
        if !refusals.is_empty() {
            let refuse = |(position, problems): (usize, Vec<Problem>)| {
                let (door, resource) = &set[position];
                Refusal { key: resource.key(), position, door: door.clone(), problems }
            };
            return Err(RegistryError::Refused(refusals.into_iter().map(refuse).collect()));
        }
        let rebound = bind_connections(fleet, &mut next, &places);
        let mut plan = Self { writes: Vec::new(), applied: Vec::new() };
        let mut order: Vec<_> = places.iter().collect();
        order.sort_by_key(|(_, position)| **position);
        for key in order.into_iter().map(|(key, _)| key).chain(rebound.iter().filter(|key| !places.contains_key(*key)))
        {
            plan.put(fleet, &next, key)?;
        }
        for key in &gone {
            plan.remove(fleet, &next, key)?;
        }
        Ok(plan)
    }

    /// Plans deleting one resource.
    pub(super) fn delete(fleet: &Fleet, key: &ResourceKey, door: &Door) -> Result<Self, RegistryError> {
        if fleet.get(key).is_none() {
            return Err(RegistryError::NotFound(key.clone()));
        }
        let problems = may_edit(fleet, key, door, None, None);
        if !problems.is_empty() {
            return Err(RegistryError::Refused(vec![Refusal {
                key: key.clone(),
                position: 0,
                door: door.clone(),
                problems,
            }]));
        }
        let mut next = fleet.clone();
        next.remove(key);
        let mut plan = Self { writes: Vec::new(), applied: Vec::new() };
        plan.remove(fleet, &next, key)?;
        Ok(plan)
    }

    fn put(&mut self, fleet: &Fleet, next: &Fleet, key: &ResourceKey) -> Result<(), RegistryError> {
        let (Some(resource), existing) = (next.get(key), fleet.get(key)) else {
            return Ok(());
        };
        let mut stored = Resource::clone(resource);
        stored.metadata.revision = None;
        let change = match existing {
            None => Outcome::Created,
            Some(existing) => {
                let mut before = Resource::clone(existing);
                before.metadata.revision = None;
                if before == stored { Outcome::Unchanged } else { Outcome::Updated }
            }
        };
        if change != Outcome::Unchanged {
            let value = serde_json::to_vec(&stored).map_err(|e| StoreError::Unavailable(e.to_string()))?;
            self.writes.push(Write::Put { key: keys::resource(key), value: value.into(), expect: expect(existing) });
        }
        let revision = existing.and_then(|r| r.metadata.revision).map(Revision);
        self.applied.push(Applied { key: key.clone(), change, revision, warnings: checks::warnings(next, resource) });
        Ok(())
    }

    fn remove(&mut self, fleet: &Fleet, next: &Fleet, key: &ResourceKey) -> Result<(), RegistryError> {
        self.writes.push(Write::Delete { key: keys::resource(key), expect: expect(fleet.get(key)) });
        if key.kind == Kind::Connection {
            // A later connection of that name must not come with somebody else's secrets or tokens.
            self.forget(&key.tenant, &key.name);
        }
        // Nor may a later owner of that name. What the manifest says stays: it is the operator's.
        for connection in next.connections(&key.tenant).filter(|c| owns(key, &c.spec.owner)) {
            self.forget(&key.tenant, &connection.metadata.name);
            self.empty(fleet, connection.resource)?;
        }
        let warnings = checks::left_dangling(next, key);
        self.applied.push(Applied { key: key.clone(), change: Outcome::Deleted, revision: None, warnings });
        Ok(())
    }

    /// Takes the values out of a connection that its owner gave them for: one that no file holds, and for which no operator said where
    /// its secrets lie. Such values may be an account of theirs, if no secret.
    fn empty(&mut self, fleet: &Fleet, connection: &Resource) -> Result<(), RegistryError> {
        let by_operator = connection.metadata.door.as_ref().is_some_and(Door::reads_again);
        let Spec::Connection(spec) = &connection.spec else { return Ok(()) };
        if by_operator || !spec.secrets.is_empty() || spec.values.is_empty() {
            return Ok(());
        }
        let key = connection.key();
        let mut emptied = connection.clone();
        emptied.metadata.revision = None;
        if let Spec::Connection(spec) = &mut emptied.spec {
            spec.values.clear();
        }
        let value = serde_json::to_vec(&emptied).map_err(|e| StoreError::Unavailable(e.to_string()))?;
        let place = keys::resource(&key);
        // Bound to its server in the same write, perhaps.
        self.writes.retain(|write| !matches!(write, Write::Put { key, .. } if *key == place));
        self.writes.push(Write::Put { key: place, value: value.into(), expect: expect(fleet.get(&key)) });
        Ok(())
    }

    /// Deletes what is kept beside a connection: its sealed secrets, its tokens, and who used it.
    fn forget(&mut self, tenant: &Name, connection: &Name) {
        let (secret, grant) = (keys::secret(tenant, connection), keys::upstream_grant(tenant, connection));
        for key in [secret, grant, keys::uses(tenant, connection)] {
            self.writes.push(Write::Delete { key, expect: Expect::Any });
        }
    }
}

/// Whether a door may edit what is there, and whether that is what the editor supposes.
fn may_edit(
    fleet: &Fleet,
    key: &ResourceKey,
    door: &Door,
    supposed: Option<u64>,
    scope: Option<Scope<'_>>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let Some(existing) = fleet.get(key) else {
        if supposed.is_some() {
            problems.push(Problem::new(
                "metadata.revision",
                format!("{key} does not exist any more; leave the revision out to create it"),
            ));
        }
        return problems;
    };
    if let Some(owner) = &existing.metadata.door
        && owner != door
        && !scope.is_some_and(|scope| scope(owner))
    {
        problems.push(Problem::new("metadata.door", format!("{key} came by {owner}: edit it there")));
    }
    if let (Some(supposed), Some(now)) = (supposed, existing.metadata.revision)
        && supposed != now
    {
        problems.push(Problem::new(
            "metadata.revision",
            format!(
                "{key} was changed since: it is at revision {now}, not {supposed}. Get it again and repeat the edit"
            ),
        ));
    }
    problems
}

/// Whether a resource is the owner that a connection names.
fn owns(key: &ResourceKey, owner: &Owner) -> bool {
    match owner {
        Owner::User(name) => key.kind == Kind::User && key.name == *name,
        Owner::Team(name) => key.kind == Kind::Team && key.name == *name,
        Owner::Agent(name) => key.kind == Kind::Agent && key.name == *name,
        Owner::Organization(_) => false,
    }
}

/// A connection stays with its server and its owner: otherwise an edit could send its secrets to another server, or put
/// somebody else in possession of what its owner sealed or signed in for.
fn moved(fleet: &Fleet, resource: &Resource) -> Vec<Problem> {
    let existing = fleet.get(&resource.key());
    let (Spec::Connection(new), Some(Spec::Connection(before))) = (&resource.spec, existing.map(|r| &r.spec)) else {
        return Vec::new();
    };
    let mut problems = Vec::new();
    if before.server != new.server {
        let message = format!(
            "the connection was made for {}: delete it and connect {} under a new one",
            before.server, new.server
        );
        problems.push(Problem::new("spec.server", message));
    }
    if before.owner != new.owner {
        let message = format!(
            "the connection is that of {}, and so are its secrets: delete it and make another for {}",
            before.owner.subject(),
            new.owner.subject()
        );
        problems.push(Problem::new("spec.owner", message));
    }
    problems
}

/// The resource with what the store adds.
fn complete(fleet: &Fleet, resource: &Resource, door: &Door, now_ms: u64) -> Resource {
    let existing = fleet.get(&resource.key());
    let mut resource = resource.clone();
    resource.metadata.door = Some(door.clone());
    resource.metadata.revision = existing.and_then(|r| r.metadata.revision);
    resource.metadata.created_ms = existing.and_then(|r| r.metadata.created_ms).or(Some(now_ms));
    resource
}

/// Binds connections to the origins that they are made for (security.md 4), and answers which were touched.
///
/// An origin that is written down is taken as it is. Otherwise a connection that is new, or that is applied again by the API
/// without its server, is bound to where its server is now: somebody looked at it. A set that holds the server as well
/// approves nothing, and neither does a file, because those are read again without anybody looking.
/// Connections that wait for a server to appear are bound when it does.
fn bind_connections(fleet: &Fleet, next: &mut Fleet, places: &BTreeMap<ResourceKey, usize>) -> Vec<ResourceKey> {
    let tenants: BTreeSet<_> = places.keys().map(|key| key.tenant.clone()).collect();
    let mut bound = Vec::new();
    for tenant in tenants {
        for connection in next.connections(&tenant) {
            let key = connection.resource.key();
            let Some(server) = next.server(&tenant, &connection.spec.server) else {
                continue;
            };
            let now = checks::server_origin(server.spec);
            let before = fleet.get(&key).and_then(|r| match &r.spec {
                Spec::Connection(spec) => Some(spec),
                _ => None,
            });
            let origin = if !places.contains_key(&key) {
                match &connection.spec.origin {
                    Some(_) => continue,
                    None => now,
                }
            } else if connection.spec.origin.is_some() {
                continue;
            } else {
                let kept = before.and_then(|b| b.origin.clone());
                let alone = !places.contains_key(&server.resource.key());
                let by_hand = connection.metadata.door == Some(Door::Api) && alone;
                if by_hand { now } else { kept.unwrap_or(now) }
            };
            bound.push((key, origin));
        }
    }
    for (key, origin) in &bound {
        if let Some(resource) = next.get(key) {
            let mut resource = Resource::clone(resource);
            if let Spec::Connection(connection) = &mut resource.spec {
                connection.origin = Some(origin.clone());
            }
            next.insert(resource);
        }
    }
    bound.into_iter().map(|(key, _)| key).collect()
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
