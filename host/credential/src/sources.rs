//! Secrets that lie outside the store: variables, files, HashiCorp Vault, Kubernetes.
//!
//! Variables and files are read when they are asked for. What other services keep is fetched when a resource names it and
//! again and again from then on, so that whoever reads waits for nobody. A service that can't be reached is an error: what it
//! said before holds for a bounded time, and nothing else ever takes its place.

mod error;
mod kubernetes;
mod local;
mod vault;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures_util::{StreamExt as _, future::BoxFuture, stream};
use portcullis_cluster::Cluster;
use portcullis_model::{Name, Secret, spec::SecretSource};
use portcullis_outbound::Client;
use portcullis_plugin::SecretReader;
use portcullis_store::Fleet;
use portcullis_telemetry::Metrics;
use serde::Deserialize;
use tokio::sync::watch;

pub use error::{ServiceError, ServiceSettingsError, SourceError};
pub use vault::{VaultAuth, VaultOptions, VaultReadError};

use vault::Vault;

/// How many secrets are fetched at once.
const AT_ONCE: usize = 8;
/// How long a change of resources waits for secrets that were never fetched.
const FIRST: Duration = Duration::from_secs(10);
/// How soon what could not be fetched is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// The most secrets of other services.
pub const MAX_SOURCES: usize = 10_000;

/// How secrets of other services are kept up to date.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Freshness {
    /// How often each is fetched: a secret that was exchanged there is used after so long at the latest.
    pub refresh: portcullis_model::Span,
    /// How long the last known value is used while the service can't be reached.
    pub max_stale: portcullis_model::Span,
}

impl Default for Freshness {
    fn default() -> Self {
        Self { refresh: portcullis_model::Span::seconds(30), max_stale: portcullis_model::Span::seconds(600) }
    }
}

/// Which services there are.
#[derive(Default)]
pub struct Services {
    /// HashiCorp Vault, or OpenBao.
    pub vault: Option<VaultOptions>,
    /// A Kubernetes cluster.
    pub cluster: Option<Arc<Cluster>>,
    /// How up to date their secrets are.
    pub freshness: Freshness,
}

/// A secret of another service, as a tenant's resource names it.
type Wanted = (Name, SecretSource);

/// What its service said; nothing where there is none.
type Answered = (Wanted, Result<Option<Secret>, SourceError>);

/// What is known of one.
#[derive(Clone)]
struct Known {
    value: Result<Secret, SourceError>,
    /// When the service last said so.
    said: Instant,
}

/// All secrets outside the store.
pub struct SecretSources {
    vault: Option<Vault>,
    cluster: Option<Arc<Cluster>>,
    freshness: Freshness,
    metrics: Arc<Metrics>,
    wanted: Mutex<HashSet<Wanted>>,
    known: ArcSwap<HashMap<Wanted, Known>>,
    /// One fetch at a time, so that an older answer never replaces a newer one.
    turn: tokio::sync::Mutex<()>,
    changes: watch::Sender<u64>,
}

impl SecretSources {
    /// SecretSources that have fetched nothing yet.
    ///
    /// # Errors
    /// Where a service is not configured right.
    pub fn new(
        services: Services,
        client: &Arc<Client>,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, ServiceSettingsError> {
        let vault = services.vault.map(|options| Vault::new(options, client)).transpose()?;
        Ok(Arc::new(Self {
            vault,
            cluster: services.cluster,
            freshness: services.freshness,
            metrics,
            wanted: Mutex::default(),
            known: ArcSwap::default(),
            turn: tokio::sync::Mutex::default(),
            changes: watch::Sender::new(0),
        }))
    }

    /// Variables and files alone.
    pub fn local() -> Arc<Self> {
        Arc::new(Self {
            vault: None,
            cluster: None,
            freshness: Freshness::default(),
            metrics: Metrics::new(),
            wanted: Mutex::default(),
            known: ArcSwap::default(),
            turn: tokio::sync::Mutex::default(),
            changes: watch::Sender::new(0),
        })
    }

    /// The secret now. Blocks while reading a file, for nothing else.
    ///
    /// # Errors
    /// [`SourceError`], which names the source and never what is in it.
    pub fn read(&self, tenant: &Name, source: &SecretSource) -> Result<Secret, SourceError> {
        if matches!(source, SecretSource::Env(_) | SecretSource::File(_)) {
            return local::read(source);
        }
        match self.known.load().get(&(tenant.clone(), source.clone())) {
            Some(known) => known.value.clone(),
            None => Err(SourceError::NotYet(place(source))),
        }
    }

    /// Takes note of what a fleet's resources name, and fetches what is new among it, waiting for that a bounded time.
    pub async fn follow(&self, fleet: &Fleet) {
        let wanted: HashSet<Wanted> = fleet
            .iter()
            .flat_map(|(key, resource)| {
                resource.spec.secret_sources().into_iter().map(|source| (key.tenant.clone(), source.clone()))
            })
            .filter(|(_, source)| !matches!(source, SecretSource::Env(_) | SecretSource::File(_)))
            .take(MAX_SOURCES)
            .collect();
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = wanted.clone();
        let new = |known: &HashMap<Wanted, Known>| wanted.iter().any(|w| !known.contains_key(w));
        if !new(&self.known.load()) && self.known.load().len() == wanted.len() {
            return;
        }
        let fetched = self.fetch(|known, wanted| !known.contains_key(wanted));
        if tokio::time::timeout(FIRST, fetched).await.is_err() {
            tracing::warn!("secrets of other services are slow; what needs them waits for them");
        }
    }

    /// Changes when any value did.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Keeps everything up to date, until it is dropped or cancelled.
    pub async fn keep(&self) {
        let mut round = Instant::now();
        loop {
            let failing = self.known.load().values().any(|known| known.value.is_err() || known.said < round);
            let wait = self.freshness.refresh.get().min(if failing { AGAIN } else { Duration::MAX });
            tokio::time::sleep(wait).await;
            let due = Instant::now();
            let all = due.duration_since(round) >= self.freshness.refresh.get();
            self.fetch(|known, wanted| all || known.get(wanted).is_none_or(|k| k.value.is_err() || k.said < round))
                .await;
            if all {
                round = due;
            }
        }
    }

    /// Fetches those that `which` says, and forgets those that nobody names any more.
    async fn fetch(&self, which: impl Fn(&HashMap<Wanted, Known>, &Wanted) -> bool) {
        let _turn = self.turn.lock().await;
        let before = self.known.load_full();
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let due: Vec<BoxFuture<'_, Answered>> =
            wanted.iter().filter(|w| which(&before, w)).map(|w| self.answered(w.clone())).collect();
        let fetched: Vec<Answered> = stream::iter(due).buffer_unordered(AT_ONCE).collect().await;
        let mut after: HashMap<Wanted, Known> =
            before.iter().filter(|(w, _)| wanted.contains(w)).map(|(w, k)| (w.clone(), k.clone())).collect();
        let mut changed = false;
        for (wanted, answer) in fetched {
            let now = Instant::now();
            let earlier = before.get(&wanted);
            let known = match answer {
                Ok(Some(secret)) => Known { value: Ok(secret), said: now },
                // The service says that it is not there, which is an answer: nothing goes on under the old one.
                Ok(None) => Known { value: Err(SourceError::Missing(place(&wanted.1))), said: now },
                Err(why) => match earlier {
                    Some(known)
                        if known.value.is_ok() && now.duration_since(known.said) < self.freshness.max_stale.get() =>
                    {
                        tracing::warn!(
                            source = place(&wanted.1),
                            %why,
                            "a secret can't be read again; the last one is used"
                        );
                        known.clone()
                    }
                    _ => Known { value: Err(why), said: earlier.map_or(now, |k| k.said) },
                },
            };
            changed |= earlier.is_none_or(|earlier| !same(earlier, &known));
            after.insert(wanted, known);
        }
        self.known.store(Arc::new(after));
        if changed {
            self.changes.send_modify(|n| *n += 1);
        }
    }

    fn answered(&self, wanted: Wanted) -> BoxFuture<'_, Answered> {
        Box::pin(async move {
            let answer = self.ask(&wanted.0, &wanted.1).await;
            (wanted, answer)
        })
    }

    async fn ask(&self, tenant: &Name, source: &SecretSource) -> Result<Option<Secret>, SourceError> {
        let (service, answer) = match source {
            SecretSource::Env(_) | SecretSource::File(_) => return local::read(source).map(Some),
            SecretSource::Vault(secret) => match &self.vault {
                Some(vault) => ("vault", vault.read(tenant, secret).await.map_err(ServiceError::Vault)),
                None => ("vault", Err(ServiceError::NotConfigured("vault"))),
            },
            SecretSource::Kubernetes(secret) => match &self.cluster {
                Some(cluster) => ("kubernetes", kubernetes::read(cluster, tenant, secret).await),
                None => ("kubernetes", Err(ServiceError::NotConfigured("kubernetes"))),
            },
        };
        self.metrics.secret_read(service, answer.is_ok());
        answer.map_err(|why| SourceError::Service { place: place(source), why })
    }
}

impl SecretReader for SecretSources {
    fn read(&self, tenant: &Name, source: &SecretSource) -> Result<Secret, String> {
        Self::read(self, tenant, source).map_err(|why| why.to_string())
    }
}

impl std::fmt::Debug for SecretSources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretSources").field("known", &self.known.load().len()).finish_non_exhaustive()
    }
}

fn same(a: &Known, b: &Known) -> bool {
    match (&a.value, &b.value) {
        (Ok(a), Ok(b)) => a.expose() == b.expose(),
        (Err(a), Err(b)) => a == b,
        _ => false,
    }
}

/// Where a secret is, in words; never what it is.
fn place(source: &SecretSource) -> String {
    match source {
        SecretSource::Env(name) => format!("the variable {name}"),
        SecretSource::File(path) => format!("the file {path}"),
        SecretSource::Vault(s) => format!("the key {} of {}/{} in Vault", s.key, s.mount, s.path),
        SecretSource::Kubernetes(s) => match &s.namespace {
            Some(namespace) => format!("the key {} of the Secret {namespace}/{} in Kubernetes", s.key, s.name),
            None => format!("the key {} of the Secret {} in Kubernetes", s.key, s.name),
        },
    }
}
