//! All resources at one revision, immutable, with the look-ups that compiling a snapshot needs.

use std::{collections::BTreeMap, sync::Arc};

use portcullis_model::{
    Kind, Metadata, Name, Resource, ResourceKey, Spec,
    spec::{Agent, Connection, Gateway, IdentityProvider, McpServer, OAuthClient, Owner, Plugin, Role, Team, User},
};

use crate::{Change, Record, Revision, StoreError, keys};

/// All resources of all tenants at one revision.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    /// The revision up to which changes are in it.
    pub revision: Revision,
    resources: BTreeMap<ResourceKey, Arc<Resource>>,
}

/// A resource of a known kind.
#[derive(Debug)]
pub struct Typed<'a, T> {
    /// Name, tenant, revision.
    pub metadata: &'a Metadata,
    /// What it says.
    pub spec: &'a T,
    /// The whole.
    pub resource: &'a Arc<Resource>,
}

impl<T> Clone for Typed<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Typed<'_, T> {}

macro_rules! kinds {
    ($($one:ident, $many:ident, $kind:ident, $what:literal;)*) => {
        impl Fleet {
            $(
                #[doc = concat!("The ", $what, " of this name.")]
                pub fn $one(&self, tenant: &Name, name: &Name) -> Option<Typed<'_, $kind>> {
                    let key = ResourceKey { tenant: tenant.clone(), kind: Kind::$kind, name: name.clone() };
                    let resource = self.resources.get(&key)?;
                    match &resource.spec {
                        Spec::$kind(spec) => Some(Typed { metadata: &resource.metadata, spec, resource }),
                        _ => None,
                    }
                }

                #[doc = concat!("Every ", $what, " of a tenant, by name.")]
                pub fn $many(&self, tenant: &Name) -> impl Iterator<Item = Typed<'_, $kind>> {
                    self.of_kind(tenant, Kind::$kind).filter_map(|resource| match &resource.spec {
                        Spec::$kind(spec) => Some(Typed { metadata: &resource.metadata, spec, resource }),
                        _ => None,
                    })
                }
            )*
        }
    };
}
kinds! {
    server, servers, McpServer, "`McpServer`";
    connection, connections, Connection, "`Connection`";
    gateway, gateways, Gateway, "`Gateway`";
    agent, agents, Agent, "`Agent`";
    plugin, plugins, Plugin, "`Plugin`";
    team, teams, Team, "`Team`";
    user, users, User, "`User`";
    role, roles, Role, "`Role`";
    identity_provider, identity_providers, IdentityProvider, "`IdentityProvider`";
    oauth_client, oauth_clients, OAuthClient, "`OAuthClient`";
}

impl Fleet {
    /// A fleet of these resources, as if they had been written one after another; for tests and dry runs.
    pub fn of(resources: impl IntoIterator<Item = Resource>) -> Self {
        let mut fleet = Self::default();
        for mut resource in resources {
            fleet.revision.0 += 1;
            resource.metadata.revision.get_or_insert(fleet.revision.0);
            fleet.insert(resource);
        }
        fleet
    }

    /// One resource.
    pub fn get(&self, key: &ResourceKey) -> Option<&Arc<Resource>> {
        self.resources.get(key)
    }

    /// All resources, in the order of tenant, kind and name.
    pub fn iter(&self) -> impl Iterator<Item = (&ResourceKey, &Arc<Resource>)> {
        self.resources.iter()
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// Tenants that have a resource, in order.
    pub fn tenants(&self) -> Vec<Name> {
        let mut tenants: Vec<Name> = self.resources.keys().map(|k| k.tenant.clone()).collect();
        tenants.dedup();
        tenants
    }

    /// Resources of one kind of a tenant, by name.
    pub fn of_kind(&self, tenant: &Name, kind: Kind) -> impl Iterator<Item = &Arc<Resource>> {
        // "0" is a valid name and sorts before every other one.
        let first: Option<Name> = "0".parse().ok();
        let start = first.map(|name| ResourceKey { tenant: tenant.clone(), kind, name });
        let tenant = tenant.clone();
        start
            .into_iter()
            .flat_map(|start| self.resources.range(start..))
            .take_while(move |(key, _)| key.tenant == tenant && key.kind == kind)
            .map(|(_, resource)| resource)
    }

    /// Connections of a server, by name.
    pub fn connections_of<'a>(
        &'a self,
        tenant: &Name,
        server: &'a Name,
    ) -> impl Iterator<Item = Typed<'a, Connection>> {
        self.connections(tenant).filter(move |c| c.spec.server == *server)
    }

    /// Since when the owner of a connection exists, in milliseconds since 1970 (0 where nobody recorded it, and for the
    /// organization); none where it does not. What was given to an earlier one of the same name is not its.
    pub fn owner_since(&self, tenant: &Name, owner: &Owner) -> Option<u64> {
        let metadata = match owner {
            Owner::User(name) => self.user(tenant, name)?.metadata,
            Owner::Team(name) => self.team(tenant, name)?.metadata,
            Owner::Agent(name) => self.agent(tenant, name)?.metadata,
            Owner::Organization(_) => return Some(0),
        };
        Some(metadata.created_ms.unwrap_or_default())
    }

    pub(super) fn insert(&mut self, resource: Resource) {
        self.resources.insert(resource.key(), Arc::new(resource));
    }

    pub(super) fn remove(&mut self, key: &ResourceKey) {
        self.resources.remove(key);
    }

    /// A fleet as the store holds it.
    pub(super) fn read(revision: Revision, records: &[Record]) -> Result<Self, StoreError> {
        let mut fleet = Self { revision, resources: BTreeMap::new() };
        for record in records {
            fleet.insert(resource(record)?);
        }
        // Records that were written while these were read come again in the watch, which starts at `revision`.
        Ok(fleet)
    }

    /// The fleet after some changes.
    pub(super) fn with(&self, changes: &[&Change]) -> Result<Self, StoreError> {
        let mut next = self.clone();
        for change in changes {
            match change {
                Change::Put(record) => next.insert(resource(record)?),
                Change::Deleted { key, .. } => {
                    if let Some(key) = keys::parse_resource(key) {
                        next.remove(&key);
                    }
                }
            }
            next.revision = next.revision.max(change.revision());
        }
        Ok(next)
    }
}

fn resource(record: &Record) -> Result<Resource, StoreError> {
    let wrong = |why: String| StoreError::Corrupt(format!("the resource at {} can't be read: {why}", record.key));
    let mut resource: Resource = serde_json::from_slice(&record.value).map_err(|e| wrong(e.to_string()))?;
    if keys::parse_resource(&record.key) != Some(resource.key()) {
        return Err(wrong("it belongs to another key".to_owned()));
    }
    resource.metadata.revision = Some(record.revision.0);
    Ok(resource)
}
