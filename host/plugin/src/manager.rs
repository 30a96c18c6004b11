//! The plugins in use: resources, built-ins and places become loaded plugins, and stay loaded until better ones are.
//!
//! A place is where a plugin is named: by itself, or in a gateway with a configuration of its own. A round ([`Manager::reconcile`]) loads
//! what places want and swaps it in all at once; whatever fails to load leaves the previous one serving and is reported. Fetching and
//! compiling go on beside the rounds (decision 53): a round that has waited enough goes on without them.

mod fetch;
mod places;
mod stand;
mod standing;
mod versions;
mod works;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use portcullis_model::{
    Name,
    spec::{Candidate as CandidateSpec, Grants, Plugin as Spec},
};
use portcullis_package::Packages;
use portcullis_telemetry::Metrics;
use serde_json::Value;
use tokio::sync::watch;

use crate::{Host, LoadError, Placed, Plugin, Services};
use fetch::{Fetched, Unready};
use places::{Loaded, Slot};
pub use standing::{CandidateStanding, Stage, Standing, State};
pub use versions::KEPT;
use versions::Versions;
use works::{Wait, Works};

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
    /// What still goes on, where it is nothing worse than that.
    pub under_way: Option<Stage>,
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
    rounds: AtomicU64,
    fetches: Works<Fetched, String>,
    loads: Works<Arc<Plugin>, LoadError>,
    /// Grows whenever something is done that a round went on without.
    told: Arc<watch::Sender<u64>>,
}

/// What a resource comes to, before any place is looked at.
struct Wanted<'r> {
    resource: &'r Resource,
    /// The version that is to serve: the pinned one, or what the resource says.
    version: Result<(Fetched, Value), Unready>,
    /// What the resource says.
    desired: Option<String>,
    pinned: bool,
    candidate: Option<(&'r CandidateSpec, Result<Fetched, Unready>)>,
}

/// The components that a resource names.
struct Found<'r> {
    active: Result<Fetched, Unready>,
    candidate: Option<(&'r CandidateSpec, Result<Fetched, Unready>)>,
}

impl Manager {
    /// A manager with nothing loaded. Earlier versions are kept in `versions` (made with mode 0700 where it is not there), or in
    /// memory.
    pub fn new(host: Arc<Host>, built_ins: Vec<BuiltIn>, services: Services, versions: Option<PathBuf>) -> Self {
        let built_ins = built_ins.into_iter().map(|b| (b.name, b)).collect();
        let metrics = Arc::clone(&host.metrics);
        let versions = Arc::new(tokio::sync::Mutex::new(Versions::open(versions)));
        let (active, standings) = (ArcSwap::default(), ArcSwap::default());
        let told = Arc::new(watch::Sender::new(0));
        let fetches = Works::new(Stage::Fetching, Arc::clone(&told), Arc::clone(&metrics));
        let loads = Works::new(Stage::Compiling, Arc::clone(&told), Arc::clone(&metrics));
        let (packages, rounds) = (None, AtomicU64::new(0));
        Self { host, built_ins, services, packages, metrics, active, standings, versions, rounds, fetches, loads, told }
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

    /// Changes whenever something is done that a round went on without: another round has it.
    pub fn told(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }

    /// Loads what these places want, however long that takes. Calls under way finish on the plugins they began with.
    pub async fn reconcile(&self, resources: &[Resource], places: &BTreeSet<Place>) -> Vec<Trouble> {
        self.reconcile_within(resources, places, |_| std::future::pending()).await
    }

    /// The same within the time of `patience`, which is asked for each stage: what is not fetched or loaded then goes on beside the
    /// rounds, and what serves at its places goes on serving. What an earlier round began is not waited for.
    pub async fn reconcile_within<P>(
        &self,
        resources: &[Resource],
        places: &BTreeSet<Place>,
        patience: impl Fn(Stage) -> P,
    ) -> Vec<Trouble>
    where
        P: Future<Output = ()>,
    {
        let round = self.rounds.fetch_add(1, Relaxed) + 1;
        let found = within(round, patience(Stage::Fetching), |wait| {
            join_all(resources.iter().map(move |resource| {
                let wait = wait.clone();
                async move { (resource, self.found(resource, &wait).await) }
            }))
        });
        let found = found.await;
        let mut versions = Arc::clone(&self.versions).lock_owned().await;
        let mut wanted = BTreeMap::new();
        for (resource, found) in found {
            let key = (resource.tenant.as_str(), resource.name.as_str());
            wanted.insert(key, wanted_of(resource, found, &mut versions));
        }
        let before = self.active.load_full();
        let (the_wanted, the_former) = (&wanted, &before);
        let loaded = within(round, patience(Stage::Compiling), |wait| {
            join_all(places.iter().map(move |place| {
                let wait = wait.clone();
                let wanted = the_wanted.get(&(place.tenant.as_str(), place.plugin.as_str()));
                async move { (place, self.place(place, wanted, the_former.get(place), &wait).await) }
            }))
        });
        let loaded: BTreeMap<&Place, Loaded> = loaded.await.into_iter().collect();
        self.fetches.sweep(round);
        self.loads.sweep(round);
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
    async fn found<'r>(&self, resource: &'r Resource, wait: &Wait) -> Found<'r> {
        let spec = &resource.spec;
        let candidate = async {
            let candidate = spec.candidate.as_ref()?;
            Some((candidate, self.fetch(&candidate.source, resource, wait).await))
        };
        let (active, candidate) = tokio::join!(self.fetch(&spec.source, resource, wait), candidate);
        Found { active, candidate }
    }
}

/// Does work that waits for what goes on beside the round, until `patience` is over.
async fn within<T, W>(round: u64, patience: impl Future<Output = ()>, work: impl FnOnce(Wait) -> W) -> T
where
    W: Future<Output = T>,
{
    let (tell, over) = watch::channel(false);
    let work = work(Wait { round, over });
    let ends = async {
        patience.await;
        let _ = tell.send(true);
        std::future::pending::<T>().await
    };
    tokio::select! {
        biased;
        done = work => done,
        done = ends => done,
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
            .map(|wasm| (Fetched::new(wasm, usual), serde_json::from_str(&pin.config).unwrap_or(Value::Null)))
            .map_err(Unready::Failed),
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
