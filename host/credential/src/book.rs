//! Which connections there are and whom each may serve: compiled from the fleet, read without a lock or the store.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use portcullis_model::{
    Door, Name, Principal, PrincipalKind, Secret,
    spec::{Connection, McpServer, Owner, SecretSource},
};
use portcullis_plugin::{ConnectionFacts, Connections};
use portcullis_store::{Fleet, Registry, StoreError, keys, registry::server_origin};
use sha2::{Digest, Sha256};

use crate::{
    Carried, Secrets, Use,
    carried::Health,
    eligible::{People, named, rank},
    oauth::{Grant, GrantStatus, Grants},
    resolver::placed,
    secrets::Opened,
    sources::{SecretSources, SourceError},
    uses::Uses,
};

type Sealed = BTreeMap<(Name, Name), Opened>;

/// Every tenant's connections. Implements what plugins ask ([`Connections`]).
pub struct ConnectionBook {
    pages: ArcSwap<Pages>,
    source: Option<(Arc<Registry>, Secrets, Arc<SecretSources>)>,
    uses: Option<Arc<Uses>>,
    /// One compilation at a time, and what it opened last.
    sealed: tokio::sync::Mutex<Sealed>,
    /// Tokens of connections with OAuth, where there is anybody who keeps them.
    grants: OnceLock<Arc<Grants>>,
    /// Counts compilations.
    changes: tokio::sync::watch::Sender<u64>,
    /// Whether no connection serves anybody but its owner, whatever it says: the operator's rule.
    owner_only: bool,
}

#[derive(Default)]
struct Pages {
    tenants: HashMap<Name, Page>,
    /// Counts contents that a server's shelf ever had.
    stamps: u64,
}

#[derive(Default)]
struct Page {
    people: People,
    shelves: HashMap<Name, Shelf>,
    /// Connections that stand on no shelf, and why.
    orphans: BTreeMap<Name, Orphaned>,
}

/// Why a connection that is there serves nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Orphaned {
    /// Its owner does not exist.
    #[error("its owner does not exist")]
    NoOwner,
    /// What is sealed for it was given to an earlier owner of the same name.
    #[error("it was connected for an earlier owner of the same name")]
    EarlierOwner,
}

/// The connections of one server.
#[derive(Clone, Default)]
pub(crate) struct Shelf {
    entries: Vec<Arc<Entry>>,
    /// Another content is another number.
    stamp: u64,
    epoch: Arc<AtomicU64>,
}

/// One connection, opened.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: Name,
    pub(crate) owner: Owner,
    pub(crate) owner_only: bool,
    pub(crate) created_ms: u64,
    /// Since when its owner exists; what was given before that was somebody else's.
    pub(crate) owner_since: u64,
    pub(crate) revision: u64,
    /// The origin that it is bound to; none was bound while its server was not there.
    pub(crate) origin: Option<String>,
    /// Whether its server is still where the connection was made for (security.md 4).
    pub(crate) suspended: bool,
    pub(crate) values: BTreeMap<String, String>,
    pub(crate) secrets: BTreeMap<String, Secret>,
    /// Why sources could not be read, by field, in sentences that quote nothing. They name paths and variables: for operators.
    pub(crate) unreadable: BTreeMap<String, String>,
    pub(crate) health: Arc<Health>,
}

/// How a connection is doing, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionStatus {
    /// Whether its last use was not refused by the server.
    pub healthy: bool,
    /// Whether its server moved to another origin since it was made, so that it serves nobody until it is connected again.
    pub suspended: bool,
    /// Why its secrets can't be read, with paths and variables: for operators.
    pub unreadable: Vec<String>,
    /// How its access to an authorization server is, where it has one.
    pub grant: Option<GrantStatus>,
}

/// Where a caller stands with a server: what belongs into the key of whatever is remembered about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Standing {
    stamp: u64,
    epoch: u64,
}

impl ConnectionBook {
    /// Compiles the book and keeps it up to date, on the current tokio runtime, for as long as it lives.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn open(
        registry: Arc<Registry>,
        secrets: Secrets,
        sources: Arc<SecretSources>,
    ) -> Result<Arc<Self>, StoreError> {
        Self::open_with(registry, secrets, sources, false).await
    }

    /// The same; with `owner_only`, every connection serves its owner only (security.md 20): the operator's rule.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn open_with(
        registry: Arc<Registry>,
        secrets: Secrets,
        sources: Arc<SecretSources>,
        owner_only: bool,
    ) -> Result<Arc<Self>, StoreError> {
        let book = Arc::new(Self {
            pages: ArcSwap::default(),
            uses: Some(Uses::open(Arc::clone(&registry))),
            source: Some((Arc::clone(&registry), secrets.clone(), sources)),
            sealed: tokio::sync::Mutex::default(),
            grants: OnceLock::new(),
            changes: tokio::sync::watch::Sender::new(0),
            owner_only,
        });
        let fleet_changes = registry.watch();
        let from = secrets.store().revision();
        book.refresh().await?;
        tokio::spawn(follow(Arc::downgrade(&book), secrets, fleet_changes, from));
        Ok(book)
    }

    /// A book of a fleet whose secrets all lie outside the store; it never changes. Blocks while reading files.
    pub fn of(fleet: &Fleet) -> Arc<Self> {
        let pages = Pages::compile(fleet, &Sealed::new(), &SecretSources::local(), &Pages::default(), false);
        Arc::new(Self {
            pages: ArcSwap::from_pointee(pages),
            source: None,
            uses: None,
            sealed: tokio::sync::Mutex::default(),
            grants: OnceLock::new(),
            changes: tokio::sync::watch::Sender::new(0),
            owner_only: false,
        })
    }

    /// Hears of every compilation from now on: a connection or somebody's teams may have changed.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Why a secret can't be read that a resource of this tenant names, in a sentence that quotes nothing of it; none where it can.
    /// Blocks while reading a file.
    pub fn unreadable(&self, tenant: &Name, source: &SecretSource) -> Option<String> {
        let (_, _, sources) = self.source.as_ref()?;
        sources.read(tenant, source).err().map(|why| why.to_string())
    }

    /// A secret that a resource of this tenant names. Blocks while reading a file.
    ///
    /// # Errors
    /// [`SourceError`], which quotes nothing of it.
    pub fn read(&self, tenant: &Name, source: &SecretSource) -> Result<Secret, SourceError> {
        match &self.source {
            Some((_, _, sources)) => sources.read(tenant, source),
            None => SecretSources::local().read(tenant, source),
        }
    }

    /// Says who keeps the tokens of connections with OAuth. Once; later ones are not heard.
    pub fn keep_grants(&self, grants: Arc<Grants>) {
        let _ = self.grants.set(grants);
    }

    /// A connection's tokens; none where an earlier owner of the same name signed in for them.
    pub(crate) fn grant(&self, tenant: &Name, entry: &Entry) -> Option<Arc<Grant>> {
        let grant = self.grants.get()?.get(tenant, &entry.name)?;
        entry.belongs(grant.held().given_ms).then_some(grant)
    }

    /// Why a connection that is there serves nobody; none where it serves, or is not there.
    pub fn orphaned(&self, tenant: &Name, connection: &Name) -> Option<Orphaned> {
        self.pages.load().tenants.get(tenant)?.orphans.get(connection).copied()
    }

    /// A connection was connected again: whatever was refused before says nothing any more.
    pub(crate) fn reconnected(&self, tenant: &Name, connection: &Name) {
        let pages = self.pages.load();
        let Some(page) = pages.tenants.get(tenant) else { return };
        for entry in page.shelves.values().flat_map(|shelf| &shelf.entries).filter(|e| e.name == *connection) {
            entry.health.mark(true);
        }
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Compiles again from what is durable now. Changes are followed anyway; whoever answers "connected" waits for this, so
    /// that the next call finds it. Secrets in variables and files are read again, too.
    ///
    /// # Errors
    /// Those of the store; what served goes on serving.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let Some((registry, secrets, sources)) = &self.source else { return Ok(()) };
        let mut sealed = self.sealed.lock().await;
        *sealed = secrets.all(&sealed).await?;
        let (fleet, opened, before) = (registry.snapshot(), sealed.clone(), self.pages.load_full());
        sources.follow(&fleet).await;
        let (sources, owner_only) = (Arc::clone(sources), self.owner_only);
        let compile = move || Pages::compile(&fleet, &opened, &sources, &before, owner_only);
        let compiled = tokio::task::spawn_blocking(compile).await;
        let pages = compiled.map_err(|e| StoreError::Unavailable(format!("connections were not compiled: {e}")))?;
        self.pages.store(Arc::new(pages));
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }

    /// Notes that a call of somebody runs under a connection that is not theirs, without waiting. False where it could not be
    /// noted because there were too many just now.
    pub fn lent(&self, connection: &Name, by: &Principal, tool: &str, gateway: &Name) -> bool {
        self.uses.as_ref().is_none_or(|uses| uses.note(&by.tenant, connection, by, tool, gateway))
    }

    /// The last uses of a connection by others than its owner, the latest first; [`crate::MAX_USES`] at most.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn uses(&self, tenant: &Name, connection: &Name) -> Result<Vec<Use>, StoreError> {
        match &self.uses {
            Some(uses) => uses.of(tenant, connection).await,
            None => Ok(Vec::new()),
        }
    }

    /// How a connection is doing.
    pub fn status(&self, tenant: &Name, connection: &Name) -> Option<ConnectionStatus> {
        let pages = self.pages.load();
        let mut entries = pages.tenants.get(tenant)?.shelves.values().flat_map(|shelf| &shelf.entries);
        let entry = entries.find(|entry| entry.name == *connection)?;
        Some(ConnectionStatus {
            healthy: entry.health.is_healthy(),
            suspended: entry.suspended,
            unreadable: entry.unreadable.iter().map(|(field, why)| format!("{field}: {why}")).collect(),
            grant: self.grant(tenant, entry).and_then(|_| self.grants.get()?.status(tenant, connection)),
        })
    }

    /// Why no call can be made under a connection although it serves somebody: which fields its server asks for that it does not have.
    pub fn lacks(&self, tenant: &Name, server: &Name, spec: &McpServer, connection: &Name) -> Option<String> {
        let entry = self.find(tenant, server, connection).filter(|entry| is_usable(entry, &server_origin(spec)))?;
        bring(spec, &entry).err()
    }

    pub(crate) fn standing(&self, tenant: &Name, server: &Name) -> Standing {
        let pages = self.pages.load();
        match pages.tenants.get(tenant).and_then(|page| page.shelves.get(server)) {
            Some(shelf) => Standing { stamp: shelf.stamp, epoch: shelf.epoch.load(Ordering::Acquire) },
            None => Standing { stamp: 0, epoch: 0 },
        }
    }

    /// Connections that the caller may run under, the best first, suspended ones left out; `named` comes last where only its
    /// name in the assignment makes it eligible.
    pub(crate) fn eligible(&self, principal: &Principal, server: &Name, named_one: Option<&Name>) -> Vec<Arc<Entry>> {
        let usable = |entry: &Entry| !entry.suspended;
        self.ranked(principal, server, named_one, usable)
    }

    /// Those that [`ConnectionBook::eligible`] would hold, were they not suspended.
    pub(crate) fn suspended(&self, principal: &Principal, server: &Name, named_one: Option<&Name>) -> Vec<Arc<Entry>> {
        self.ranked(principal, server, named_one, |entry| entry.suspended)
    }

    /// Every connection of a server, by name.
    pub(crate) fn others(&self, principal: &Principal, server: &Name) -> Vec<Arc<Entry>> {
        let pages = self.pages.load();
        let shelf = pages.tenants.get(&principal.tenant).and_then(|page| page.shelves.get(server));
        let mut all: Vec<Arc<Entry>> = shelf.into_iter().flat_map(|shelf| &shelf.entries).cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Asks something of a tenant's people.
    pub(crate) fn people<T>(&self, tenant: &Name, ask: impl FnOnce(&People) -> Option<T>) -> Option<T> {
        ask(&self.pages.load().tenants.get(tenant)?.people)
    }

    /// A connection of the server, whoever may use it.
    pub(crate) fn find(&self, tenant: &Name, server: &Name, name: &Name) -> Option<Arc<Entry>> {
        let pages = self.pages.load();
        let shelf = pages.tenants.get(tenant)?.shelves.get(server)?;
        shelf.entries.iter().find(|entry| entry.name == *name).cloned()
    }

    /// What each connection of a server brings to the process or deployment that is its own, whoever calls: placed as the server
    /// wants it. Those that serve nobody are left out; of one that lacks something it is said what.
    pub fn brought(&self, tenant: &Name, server: &Name, spec: &McpServer) -> Vec<(Name, Result<Carried, String>)> {
        let pages = self.pages.load();
        let Some(shelf) = pages.tenants.get(tenant).and_then(|page| page.shelves.get(server)) else {
            return Vec::new();
        };
        // Fleet and book may be of different revisions: what was given for another place does not go to this one.
        let origin = server_origin(spec);
        let usable = shelf.entries.iter().filter(|entry| is_usable(entry, &origin));
        usable.map(|entry| (entry.name.clone(), bring(spec, entry))).collect()
    }

    fn ranked(
        &self,
        principal: &Principal,
        server: &Name,
        named_one: Option<&Name>,
        usable: impl Fn(&Entry) -> bool,
    ) -> Vec<Arc<Entry>> {
        let pages = self.pages.load();
        // The principal's own tenant, whatever else was asked for: another one's connections are out of reach.
        let Some(page) = pages.tenants.get(&principal.tenant) else { return Vec::new() };
        let Some(shelf) = page.shelves.get(server) else { return Vec::new() };
        let place = |entry: &Arc<Entry>| {
            let by_name = || {
                let is_named =
                    named_one == Some(&entry.name) && named(&page.people, principal, &entry.owner, entry.owner_only);
                is_named.then_some(u8::MAX)
            };
            rank(&page.people, principal, &entry.owner, entry.owner_only).or_else(by_name)
        };
        let mut found: Vec<_> = shelf
            .entries
            .iter()
            .filter(|entry| usable(entry))
            .filter_map(|entry| Some((place(entry)?, !entry.health.is_healthy(), entry.created_ms, Arc::clone(entry))))
            .collect();
        found.sort_by(|a, b| (a.0, a.1, a.2, &a.3.name).cmp(&(b.0, b.1, b.2, &b.3.name)));
        found.into_iter().map(|(_, _, _, entry)| entry).collect()
    }
}

impl Connections for ConnectionBook {
    fn candidates(&self, principal: &Principal, server: &Name, named: Option<&Name>) -> Vec<ConnectionFacts> {
        self.eligible(principal, server, named).iter().map(|entry| entry.facts()).collect()
    }
}

impl std::fmt::Debug for ConnectionBook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionBook").finish_non_exhaustive()
    }
}

impl Entry {
    fn facts(&self) -> ConnectionFacts {
        let (owner_kind, owner) = match &self.owner {
            Owner::User(name) => (PrincipalKind::User, name.to_string()),
            Owner::Team(name) => (PrincipalKind::Team, name.to_string()),
            Owner::Agent(name) => (PrincipalKind::Agent, name.to_string()),
            Owner::Organization(_) => (PrincipalKind::Organization, String::new()),
        };
        ConnectionFacts {
            id: self.name.clone(),
            owner_kind,
            owner,
            owner_only: self.owner_only,
            healthy: self.health.is_healthy(),
            created_ms: self.created_ms,
        }
    }

    /// Whether what was given for the connection then was given by its owner, and not by an earlier one of the same name. What is
    /// older than that was noted is as old as the connection.
    fn belongs(&self, given_ms: Option<u64>) -> bool {
        given_ms.unwrap_or(self.created_ms) >= self.owner_since
    }

    fn same_as(&self, other: &Self) -> bool {
        self.name == other.name
            && self.revision == other.revision
            && self.owner_only == other.owner_only
            && self.suspended == other.suspended
            && self.unreadable == other.unreadable
    }
}

impl Pages {
    fn compile(fleet: &Fleet, sealed: &Sealed, sources: &SecretSources, before: &Self, owner_only: bool) -> Self {
        let mut stamps = before.stamps;
        let mut tenants = HashMap::new();
        for tenant in fleet.tenants() {
            let old = before.tenants.get(&tenant);
            let people = People {
                teams: fleet
                    .teams(&tenant)
                    .map(|t| (t.metadata.name.clone(), t.spec.members.iter().cloned().collect()))
                    .collect(),
                agents: fleet.agents(&tenant).map(|a| (a.metadata.name.clone(), a.spec.team.clone())).collect(),
            };
            let (mut shelves, mut orphans): (HashMap<Name, Shelf>, _) = (HashMap::new(), BTreeMap::new());
            for connection in fleet.connections(&tenant) {
                let server = &connection.spec.server;
                let known = old.and_then(|page| page.shelves.get(server));
                let shelf = shelves.entry(server.clone()).or_insert_with(|| Shelf {
                    entries: Vec::new(),
                    stamp: 0,
                    epoch: known.map_or_else(Arc::default, |k| Arc::clone(&k.epoch)),
                });
                match entry(fleet, &tenant, &connection, (sealed, sources), shelf, known) {
                    Ok(mut entry) => {
                        entry.owner_only |= owner_only;
                        shelf.entries.push(Arc::new(entry));
                    }
                    Err(why) => {
                        orphans.insert(connection.metadata.name.clone(), why);
                    }
                }
            }
            for (server, shelf) in &mut shelves {
                let same =
                    old.and_then(|page| page.shelves.get(server).map(|known| (page, known))).filter(|(page, known)| {
                        page.people == people
                            && known.entries.len() == shelf.entries.len()
                            && known.entries.iter().zip(&shelf.entries).all(|(a, b)| a.same_as(b))
                    });
                shelf.stamp = same.map_or_else(
                    || {
                        stamps += 1;
                        stamps
                    },
                    |(_, known)| known.stamp,
                );
            }
            tenants.insert(tenant, Page { people, shelves, orphans });
        }
        Self { tenants, stamps }
    }
}

/// Opens a connection, unless it is nobody's: secrets that were sealed before its owner was there belong to an earlier one of the
/// same name. Those that the manifest names by where they are, with the owner, are the operator's to give
/// (decision 34).
fn entry(
    fleet: &Fleet,
    tenant: &Name,
    connection: &portcullis_store::registry::Typed<'_, Connection>,
    (sealed, sources): (&Sealed, &SecretSources),
    shelf: &Shelf,
    known: Option<&Shelf>,
) -> Result<Entry, Orphaned> {
    let spec = connection.spec;
    let name = connection.metadata.name.clone();
    let owner_since = fleet.owner_since(tenant, &spec.owner).ok_or(Orphaned::NoOwner)?;
    let created_ms = connection.metadata.created_ms.unwrap_or_default();
    let mut hash = Sha256::new();
    hash.update(connection.metadata.revision.unwrap_or_default().to_be_bytes());
    // Sessions, children and their directories of an earlier owner are not this one's.
    hash.update(owner_since.to_be_bytes());
    let mut secrets = BTreeMap::new();
    if let Some(opened) = sealed.get(&(tenant.clone(), name.clone())) {
        let earlier = opened.given_ms.unwrap_or(created_ms) < owner_since;
        // What the manifest says itself takes the place of what is sealed, whosever that was.
        // And what holds values alone was given as a whole, unless a file says it.
        let by_operator = connection.metadata.door.as_ref().is_some_and(Door::reads_again) || !spec.secrets.is_empty();
        let values = !spec.values.is_empty() && !by_operator;
        if earlier && (values || opened.fields.keys().any(|field| !spec.secrets.contains_key(field))) {
            return Err(Orphaned::EarlierOwner);
        }
        for (field, secret) in opened.fields.iter() {
            // By what they are and not by when they were sealed: sealed again with another key, they are the same, and no
            // child has to start anew.
            hash.update(field.len().to_be_bytes());
            hash.update(field);
            hash.update(Sha256::digest(secret.expose()));
            secrets.insert(field.clone(), secret.clone());
        }
    }
    let mut unreadable = BTreeMap::new();
    for (field, source) in &spec.secrets {
        match sources.read(tenant, source) {
            Ok(secret) => {
                hash.update(Sha256::digest(secret.expose()));
                secrets.insert(field.clone(), secret);
            }
            Err(why) => {
                // What is sealed under the same name is not what the operator wrote down.
                secrets.remove(field);
                unreadable.insert(field.clone(), why.to_string());
            }
        }
    }
    let earlier = known.and_then(|k| k.entries.iter().find(|e| e.name == name));
    if !unreadable.is_empty() && earlier.is_none_or(|e| e.unreadable != unreadable) {
        tracing::warn!(%tenant, server = %spec.server, connection = %name, why = ?unreadable, "a connection's secrets can't be read");
    }
    let digest = hash.finalize();
    let revision = digest.iter().take(8).fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
    let server = fleet.server(tenant, &spec.server);
    let ruled = server.and_then(|s| s.spec.credential.as_ref()).is_some_and(|need| need.owner_only);
    let same = known.and_then(|k| k.entries.iter().find(|e| e.name == name && e.revision == revision));
    Ok(Entry {
        owner: spec.owner.clone(),
        owner_only: spec.owner_only || ruled,
        created_ms,
        owner_since,
        revision,
        origin: spec.origin.clone(),
        // A connection that was never bound was made for nothing that exists.
        suspended: server.is_some_and(|s| spec.origin.as_deref() != Some(&*server_origin(s.spec))),
        values: spec.values.clone(),
        secrets,
        unreadable,
        health: same.map_or_else(|| Arc::new(Health::new(Arc::clone(&shelf.epoch))), |e| Arc::clone(&e.health)),
        name,
    })
}

/// Compiles again when a resource or a sealed secret changes, until book or store are gone.
async fn follow(
    book: Weak<ConnectionBook>,
    secrets: Secrets,
    mut fleet: tokio::sync::watch::Receiver<portcullis_store::Revision>,
    mut from: portcullis_store::Revision,
) {
    loop {
        let mut sealed = match secrets.store().watch(keys::SECRETS, from) {
            Ok(sealed) => sealed,
            Err(StoreError::TooOld) => {
                from = secrets.store().revision();
                continue;
            }
            Err(_) => return,
        };
        loop {
            let lost = tokio::select! {
                changed = fleet.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    false
                }
                change = sealed.next() => match change {
                    Ok(change) => {
                        from = change.revision();
                        false
                    }
                    Err(StoreError::TooOld) => true,
                    Err(_) => return,
                },
            };
            let Some(book) = book.upgrade() else { return };
            if lost {
                from = secrets.store().revision();
            }
            if let Err(error) = book.refresh().await {
                tracing::error!(%error, "connections could not be compiled; what was serving goes on");
            }
            if lost {
                break;
            }
        }
    }
}
/// Whether a connection may be used for a server at this origin.
fn is_usable(entry: &Entry, origin: &str) -> bool {
    !entry.suspended && entry.origin.as_deref() == Some(origin)
}

/// What a connection brings to its server, whoever calls.
///
/// # Errors
/// What it lacks, or why it can't be placed.
fn bring(spec: &McpServer, entry: &Entry) -> Result<Carried, String> {
    let mut carried = Carried {
        connection: Some(entry.name.clone()),
        connection_revision: entry.revision,
        executed_as: format!("connection {} of {}", entry.name, entry.owner.subject()).into(),
        ..Carried::nothing()
    };
    let lacking = placed(spec, entry, &mut carried)?;
    if lacking.is_empty() { Ok(carried) } else { Err(format!("it lacks {}", lacking.join(", "))) }
}
