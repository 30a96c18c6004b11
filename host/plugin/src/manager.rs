//! The plugins in use: resources, built-ins and places become loaded plugins, and stay loaded until better ones are.
//!
//! A place is where a plugin is named: by itself, or in a gateway with a configuration of its own. [`Manager::reconcile`] loads
//! what places want and swaps it in all at once; whatever fails to load leaves the previous one serving and is reported.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use portcullis_model::{
    Name,
    spec::{Grants, Limits, Plugin as Spec, SecretGrant, Source},
};
use portcullis_package::Packages;
use sha2::{Digest, Sha256};

use crate::{
    GrantedSecret, Host, LoadError, LoadPlan, Plugin, SecretReader, Services, distribution, survey::MAX_BYTES,
};

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
#[derive(Clone, Debug)]
pub struct Trouble {
    /// The place.
    pub place: Place,
    /// Why.
    pub problem: String,
    /// Whether an earlier one serves in its stead.
    pub previous: bool,
}

/// A plugin at its place.
#[derive(Clone, Debug)]
pub struct InUse {
    /// The plugin.
    pub plugin: Arc<Plugin>,
    /// Tells it from any other component, configuration, grant or secret at this place: answers of another one must not be
    /// used any more. A digest, no secret.
    pub identity: Arc<str>,
}

/// All plugins in use.
pub struct Manager {
    host: Arc<Host>,
    built_ins: HashMap<&'static str, BuiltIn>,
    services: Services,
    packages: Option<Arc<Packages>>,
    active: ArcSwap<HashMap<Place, Result<InUse, String>>>,
    turn: tokio::sync::Mutex<()>,
}

impl Manager {
    /// A manager with nothing loaded.
    pub fn new(host: Arc<Host>, built_ins: Vec<BuiltIn>, services: Services) -> Self {
        let built_ins = built_ins.into_iter().map(|b| (b.name, b)).collect();
        let (active, turn) = (ArcSwap::default(), tokio::sync::Mutex::default());
        Self { host, built_ins, services, packages: None, active, turn }
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
    pub fn get(&self, place: &Place) -> Result<InUse, String> {
        match self.active.load().get(place) {
            Some(in_use) => in_use.clone(),
            None => Err(format!("plugin \"{}\" is not loaded", place.plugin)),
        }
    }

    /// Loads what these places want. Calls under way finish on the plugins they began with.
    pub async fn reconcile(&self, resources: &[Resource], places: &BTreeSet<Place>) -> Vec<Trouble> {
        let _turn = self.turn.lock().await;
        let by_name: BTreeMap<(&str, &str), &Resource> =
            resources.iter().map(|r| ((r.tenant.as_str(), r.name.as_str()), r)).collect();
        let before = self.active.load_full();
        let mut after = HashMap::with_capacity(places.len());
        let mut troubles = Vec::new();
        for place in places {
            let resource = by_name.get(&(place.tenant.as_str(), place.plugin.as_str())).copied();
            let earlier = before.get(place).and_then(|l| l.as_ref().ok());
            let loaded = match self.load(place, resource, earlier).await {
                Ok(loaded) => Ok(loaded),
                Err(problem) => {
                    troubles.push(Trouble {
                        place: place.clone(),
                        problem: problem.clone(),
                        previous: earlier.is_some(),
                    });
                    earlier.cloned().ok_or(problem)
                }
            };
            after.insert(place.clone(), loaded);
        }
        self.active.store(Arc::new(after));
        troubles
    }

    async fn load(&self, place: &Place, resource: Option<&Resource>, earlier: Option<&InUse>) -> Result<InUse, String> {
        let built_in = |name: &str| {
            self.built_ins.get(name).ok_or_else(|| {
                let mut known: Vec<_> = self.built_ins.keys().copied().collect();
                known.sort_unstable();
                format!("there is no plugin \"{name}\"; built in are {}", known.join(", "))
            })
        };
        let mut signer = None;
        let (wasm, grants, spec): (Arc<[u8]>, Grants, Option<&Spec>) = match resource {
            None => {
                let found = built_in(&place.plugin)?;
                (Arc::from(found.wasm), found.grants.clone(), None)
            }
            Some(resource) => match &resource.spec.source {
                Source::BuiltIn(name) => {
                    // What a resource grants to a built-in is all that it gets, as with anybody else's.
                    let found = built_in(name)?;
                    let asked = &resource.spec.grants;
                    let grants = if *asked == Grants::default() { found.grants.clone() } else { asked.clone() };
                    (Arc::from(found.wasm), grants, Some(&resource.spec))
                }
                Source::File { path, sha256 } => {
                    let full = resource.base.as_deref().map_or_else(|| PathBuf::from(path), |base| base.join(path));
                    let wasm = read(&full, sha256.as_deref()).await?;
                    let believed = distribution::from_file(self.packages.as_deref(), &full, wasm).await?;
                    signer = believed.signer;
                    (believed.wasm, resource.spec.grants.clone(), Some(&resource.spec))
                }
                Source::Oci(oci) => {
                    let secrets = self.services.secrets.as_deref();
                    let fetched = distribution::from_registry(self.packages.as_deref(), secrets, &place.tenant, oci);
                    let believed = fetched.await?;
                    signer = believed.signer;
                    (believed.wasm, resource.spec.grants.clone(), Some(&resource.spec))
                }
            },
        };
        let config = match (&place.config, spec.and_then(|s| s.config.as_ref())) {
            (Some(here), _) => here.clone(),
            (None, Some(own)) => own.to_string(),
            (None, None) => "{}".to_owned(),
        };
        let secrets = granted(&place.tenant, &grants, self.services.secrets.as_deref())?;
        let limits = spec.map(|s| s.limits.clone()).unwrap_or_default();
        let isolation = spec.map(|s| s.isolation).unwrap_or_default();
        let identity = identity(&wasm, &config, &grants, &secrets, &limits, isolation);
        if let Some(earlier) = earlier.filter(|e| *e.identity == *identity) {
            return Ok(earlier.clone());
        }
        let component = self.host.compile(wasm).await.map_err(|e: LoadError| e.to_string())?;
        let plan = LoadPlan {
            name: place.plugin.clone(),
            tenant: place.tenant.clone(),
            component,
            config,
            grants,
            secrets,
            limits,
            isolation,
            services: self.services.clone(),
        };
        let plugin = self.host.load(plan).await.map_err(|e| e.to_string())?;
        let key = signer.as_ref().map_or("none", |s| &*s.name);
        tracing::info!(plugin = place.plugin, tenant = %place.tenant, digest = %plugin.digest(), key, "plugin is serving");
        Ok(InUse { plugin, identity: Arc::from(identity) })
    }
}

async fn read(full: &Path, sha256: Option<&str>) -> Result<Arc<[u8]>, String> {
    let size = tokio::fs::metadata(full).await.map_err(|e| format!("can't read {}: {e}", full.display()))?.len();
    if size > MAX_BYTES as u64 {
        return Err(
            LoadError::TooLarge { size: usize::try_from(size).unwrap_or(usize::MAX), max: MAX_BYTES }.to_string()
        );
    }
    let bytes = tokio::fs::read(full).await.map_err(|e| format!("can't read {}: {e}", full.display()))?;
    if let Some(wanted) = sha256 {
        let found = hex(&Sha256::digest(&bytes));
        if !found.eq_ignore_ascii_case(wanted) {
            return Err(format!("{} has the SHA-256 {found}, not {wanted}", full.display()));
        }
    }
    Ok(Arc::from(bytes))
}

fn granted(
    tenant: &Name,
    grants: &Grants,
    reader: Option<&dyn SecretReader>,
) -> Result<BTreeMap<String, GrantedSecret>, String> {
    let granted = |(name, grant): (&String, &SecretGrant)| {
        let value = reader.ok_or("secrets can't be read here")?.read(tenant, &grant.from)?;
        Ok((name.clone(), GrantedSecret { value, origins: grant.origins.clone() }))
    };
    grants.secrets.iter().map(granted).collect()
}

fn identity(
    wasm: &[u8],
    config: &str,
    grants: &Grants,
    secrets: &BTreeMap<String, GrantedSecret>,
    limits: &Limits,
    isolation: portcullis_model::spec::Isolation,
) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(&Sha256::digest(wasm));
    part(config.as_bytes());
    part(&serde_json::to_vec(grants).unwrap_or_default());
    part(&serde_json::to_vec(&(limits, isolation)).unwrap_or_default());
    for (name, secret) in secrets {
        part(name.as_bytes());
        // Exit: only the digest of the digest stays, to notice a rotated secret.
        part(&Sha256::digest(secret.value.expose()));
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
