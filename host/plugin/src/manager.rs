//! The plugins in use: resources, built-ins and places become loaded plugins, and stay loaded until better ones are.
//!
//! A place is where a plugin is named: by itself, or in a gateway with a configuration of its own. [`Manager::reconcile`] loads
//! what places want and swaps it in all at once; whatever fails to load leaves the previous one serving and is reported.

mod fetch;
mod places;
mod stand;
mod standing;
mod versions;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
};

use arc_swap::ArcSwap;
use futures_util::{StreamExt as _, stream};
use portcullis_model::{
    Name,
    spec::{Candidate as CandidateSpec, Grants, Plugin as Spec},
};
use portcullis_package::Packages;
use portcullis_telemetry::Metrics;
use serde_json::Value;

use crate::{BoxFuture, Host, Placed, Services};
use fetch::Fetched;
use places::{Loaded, Slot};
pub use standing::{CandidateStanding, Standing, State};
pub use versions::KEPT;
use versions::Versions;

/// How many plugins are loaded at once; what is compiled at once is bounded by the host.
const AT_ONCE: usize = 8;

/// A plugin that Portcullis brings.
#[derive(Clone, Debug)]
pub struct BuiltIn {
    /// Its name in resources.
    pub name: &'static str,
    /// The component.
    pub wasm: &'static [u8],
    /// What it may do where no `Plugin` resource says otherwise.
    pub grants: Grants,
}

/// A `Plugin` resource.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Its tenant.
    pub tenant: Name,
    /// Its name.
    pub name: Name,
    /// What it says.
    pub spec: Spec,
    /// The directory that a relative path in it starts from.
    pub base: Option<PathBuf>,
}

/// Where a plugin is named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The tenant.
    pub tenant: Name,
    /// A `Plugin` resource of the tenant, or a built-in.
    pub plugin: String,
    /// The configuration here as JSON text; the resource's own where none.
    pub config: Option<String>,
}

/// A place whose plugin is not as the resources want it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The place.
    pub place: Place,
    /// Why.
    pub problem: String,
    /// Whether an earlier one serves in its stead.
    pub previous: bool,
    /// Whether it is about the version that is tried: what serves is as it should be.
    pub candidate: bool,
}

/// All plugins in use.
pub struct Manager {
    host: Arc<Host>,
    built_ins: HashMap<&'static str, BuiltIn>,
    services: Services,
    packages: Option<Arc<Packages>>,
    metrics: Arc<Metrics>,
    active: ArcSwap<HashMap<Place, Slot>>,
    standings: ArcSwap<BTreeMap<(Name, Name), Standing>>,
    versions: Arc<tokio::sync::Mutex<Versions>>,
}

/// What a resource comes to, before any place is looked at.
struct Wanted<'r> {
    resource: &'r Resource,
    /// The version that is to serve: the pinned one, or what the resource says.
    version: Result<(Fetched, Value), String>,
    /// What the resource says.
    desired: Option<String>,
    pinned: bool,
    candidate: Option<(&'r CandidateSpec, Result<Fetched, String>)>,
}

/// The components that a resource names.
struct Found<'r> {
    active: Result<Fetched, String>,
    candidate: Option<(&'r CandidateSpec, Result<Fetched, String>)>,
}

impl Manager {
    /// A manager with nothing loaded. Earlier versions are kept in `versions` (made with mode 0700 where it is not there), or in
    /// memory.
    pub fn new(host: Arc<Host>, built_ins: Vec<BuiltIn>, services: Services, versions: Option<PathBuf>) -> Self {
        let built_ins = built_ins.into_iter().map(|b| (b.name, b)).collect();
        let metrics = Arc::clone(&host.metrics);
        let versions = Arc::new(tokio::sync::Mutex::new(Versions::open(versions)));
        let (active, standings) = (ArcSwap::default(), ArcSwap::default());
        Self { host, built_ins, services, packages: None, metrics, active, standings, versions }
    }

    /// With components of registries, and signatures.
    #[must_use]
    pub fn with_packages(self, packages: Arc<Packages>) -> Self {
        Self { packages: Some(packages), ..self }
    }

    /// The plugin at a place.
    ///
    /// # Errors
    /// In words for operators, where none could be loaded: whoever needs it refuses.
    pub fn get(&self, place: &Place) -> Result<Placed, String> {
        match self.active.load().get(place) {
            Some(slot) => slot.serving.clone(),
            None => Err(format!("plugin \"{}\" is not loaded", place.plugin)),
        }
    }

    /// How a `Plugin` resource stands; none where there was none at the last round.
    pub fn standing(&self, tenant: &Name, name: &Name) -> Option<Standing> {
        let mut standing = self.standings.load().get(&(tenant.clone(), name.clone())).cloned()?;
        let active = self.active.load();
        let places = active.iter().filter(|(place, _)| place.tenant == *tenant && place.plugin == name.as_str());
        let serving = places.filter_map(|(_, slot)| slot.serving.as_ref().ok());
        standing.quarantined = serving.filter_map(|placed| placed.plugin.quarantine()).collect();
        Some(standing)
    }

    /// Goes back to the version that was active before, from the next round on: until the resource names another source or
    /// configuration, or [`Manager::resume`].
    ///
    /// # Errors
    /// In words for operators, where there is nothing to go back to.
    pub async fn roll_back(&self, resource: &Resource) -> Result<String, String> {
        let mut versions = self.versions.lock().await;
        let life = versions.lives.get_mut(&life_of(&resource.tenant, resource.name.as_str()));
        let nothing = || format!("no earlier version of plugin \"{}\" is kept", resource.name);
        let digest = life.and_then(|life| life.roll_back(&resource.spec)).ok_or_else(nothing)?.digest;
        Ok(digest)
    }

    /// Takes a rollback back, from the next round on. False where there was none.
    pub async fn resume(&self, tenant: &Name, name: &Name) -> bool {
        let mut versions = self.versions.lock().await;
        versions.lives.get_mut(&life_of(tenant, name.as_str())).is_some_and(|life| life.pin.take().is_some())
    }

    /// Loads what these places want. Calls under way finish on the plugins they began with.
    pub async fn reconcile(&self, resources: &[Resource], places: &BTreeSet<Place>) -> Vec<Trouble> {
        let mut fetches: Vec<BoxFuture<'_, (&Resource, Found<'_>)>> = Vec::with_capacity(resources.len());
        for resource in resources {
            fetches.push(Box::pin(async move { (resource, self.found(resource).await) }));
        }
        let found: Vec<_> = stream::iter(fetches).buffer_unordered(AT_ONCE).collect().await;
        let mut versions = Arc::clone(&self.versions).lock_owned().await;
        let mut wanted = BTreeMap::new();
        for (resource, found) in found {
            let key = (resource.tenant.as_str(), resource.name.as_str());
            wanted.insert(key, wanted_of(resource, found, &mut versions));
        }
        let before = self.active.load_full();
        let mut loads: Vec<BoxFuture<'_, (&Place, Loaded)>> = Vec::with_capacity(places.len());
        for place in places {
            let wanted = wanted.get(&(place.tenant.as_str(), place.plugin.as_str()));
            let earlier = before.get(place);
            loads.push(Box::pin(async move { (place, self.place(place, wanted, earlier).await) }));
        }
        let loaded: BTreeMap<&Place, Loaded> = stream::iter(loads).buffer_unordered(AT_ONCE).collect().await;
        let troubles: Vec<Trouble> = loaded.values().flat_map(|(_, troubles)| troubles.clone()).collect();
        let after = loaded.into_iter().map(|(place, (slot, _))| (place.clone(), slot)).collect();
        let serving = self.stand(&wanted, &after, &troubles, &mut versions);
        self.active.store(Arc::new(after));
        let current = resources.iter().map(|r| life_of(&r.tenant, r.name.as_str())).collect();
        let kept = tokio::task::spawn_blocking(move || {
            for (digest, wasm) in serving {
                versions.keep(&digest, &wasm);
            }
            versions.save(&current);
        });
        if let Err(error) = kept.await {
            tracing::error!(%error, "versions of plugins can't be kept");
        }
        troubles
    }

    /// The components that a resource names.
    async fn found<'r>(&self, resource: &'r Resource) -> Found<'r> {
        let spec = &resource.spec;
        let candidate = match &spec.candidate {
            Some(candidate) => Some((candidate, self.fetch(&candidate.source, resource).await)),
            None => None,
        };
        Found { active: self.fetch(&spec.source, resource).await, candidate }
    }
}

/// What a resource comes to.
fn wanted_of<'r>(resource: &'r Resource, found: Found<'r>, versions: &mut Versions) -> Wanted<'r> {
    let spec = &resource.spec;
    let Found { active: found, candidate } = found;
    let desired = found.as_ref().ok().map(|fetched| fetched.digest.clone());
    let life = versions.lives.entry(life_of(&resource.tenant, resource.name.as_str())).or_default();
    let had = life.pin.is_some();
    let pin = life.pinned(spec).cloned();
    if had && pin.is_none() {
        let (plugin, tenant) = (&resource.name, &resource.tenant);
        tracing::info!(%plugin, %tenant, "the resource names another version, which ends the rollback");
    }
    let usual = found.as_ref().ok().and_then(|fetched| fetched.usual.clone());
    let pinned = pin.is_some();
    let version = match pin {
        Some(pin) => versions
            .component(&pin.digest)
            .map(|wasm| (Fetched::new(wasm, usual), serde_json::from_str(&pin.config).unwrap_or(Value::Null))),
        None => found.map(|fetched| (fetched, config_of(spec.config.as_ref()))),
    };
    Wanted { resource, version, desired, pinned, candidate }
}

/// A configuration as the plugin reads it.
fn config_text(config: &Value) -> String {
    if config.is_null() { "{}".to_owned() } else { config.to_string() }
}

fn config_of(config: Option<&Value>) -> Value {
    config.cloned().unwrap_or(Value::Null)
}

fn life_of(tenant: &Name, plugin: &str) -> String {
    format!("{tenant}/{plugin}")
}
