//! The Kubernetes runtime: servers as pods of a cluster, kept as they are wished.
//!
//! What is wished comes in by [`Workloads::want`], whole. A task follows the objects of this installation in the cluster, applies what
//! is missing or was changed by others, deletes what nobody wishes any more, and keeps what is known for whoever asks: calls
//! ([`portcullis_upstream::Hosts`]) and operators. Of several gateways on one store each follows, and one applies.

mod epoch;
mod find;
mod operate;
mod reconcile;
mod run;
mod startups;
mod world;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use portcullis_cluster::{Cluster, ClusterError, Servers};
use portcullis_model::{
    Name, Secret,
    spec::{McpServer, is_network},
};
use portcullis_store::Leases;
use portcullis_telemetry::Metrics;
use portcullis_workload::{Identity, Inherited, Installation, Observed, Place, Planned, Values, plan};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

pub use operate::OperateError;
pub use startups::Startups;

/// What the runtime is made of.
pub struct WorkloadOptions {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// Where servers run, and who may call them.
    pub servers: Servers,
    /// Whose they are.
    pub installation: Installation,
    /// What pods inherit.
    pub inherited: Inherited,
    /// What is counted, and where.
    pub metrics: Arc<Metrics>,
    /// Where other gateways share the store: which of them applies.
    pub leases: Option<Leases>,
    /// Who knows what images start.
    pub startups: Arc<dyn Startups>,
}

/// A server, or a connection of one, that is to run.
#[derive(Clone)]
pub struct Wish {
    /// Which.
    pub identity: Identity,
    /// Its definition.
    pub server: Arc<McpServer>,
    /// What of the connection, and of logins at registries, reaches its pods; a sentence for operators where something lacks.
    pub values: Result<Values, String>,
}

/// The runtime. Cheap to clone. When the last one is dropped it ends; what runs in the cluster goes on.
#[derive(Clone)]
pub struct Workloads(Arc<Handle>);

struct Handle {
    inner: Arc<Inner>,
    task: JoinHandle<()>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Inner {
    cluster: Arc<Cluster>,
    servers: Servers,
    installation: Installation,
    inherited: Inherited,
    callers: Vec<Value>,
    metrics: Arc<Metrics>,
    startups: Arc<dyn Startups>,
    /// As it was said last; none until it was said the first time.
    said: Mutex<Option<Vec<Wish>>>,
    /// None until it was said the first time.
    wishes: watch::Sender<Option<Arc<Wishes>>>,
    known: ArcSwap<Knowledge>,
    /// Counts changes of what is known.
    news: watch::Sender<u64>,
    /// Chooses among pods: each gateway its own.
    nonce: u64,
    /// The pod that was chosen last, by the name of the workload.
    chosen: Mutex<HashMap<String, String>>,
    findings: Mutex<Vec<String>>,
}

/// By the name of their objects.
type Wishes = BTreeMap<String, Granted>;

/// A wish that was looked at.
struct Granted {
    identity: Identity,
    namespace: Name,
    /// The objects, and a hash of each; or why there are none.
    planned: Result<(Planned, Vec<u64>), String>,
    start: Duration,
    /// Whether a bridge is before it.
    bridged: bool,
}

impl Granted {
    /// What must not show in its words and logs.
    fn secrets(&self) -> Vec<Secret> {
        let objects = self.planned.iter().flat_map(|(planned, _)| &planned.objects);
        objects.flat_map(|object| object.data.values().cloned()).collect()
    }
}

/// What is known of all workloads, as calls and operators read it.
#[derive(Default)]
struct Knowledge {
    /// Whether all objects were heard of once.
    complete: bool,
    workloads: BTreeMap<String, Known>,
}

/// What is known of a workload.
#[derive(Clone)]
struct Known {
    identity: Identity,
    namespace: Name,
    observed: Observed,
    relaxed: Vec<&'static str>,
    /// Names and addresses of pods that can be called.
    ready: Vec<(String, IpAddr)>,
    /// Names of all pods, the newest last.
    pods: Vec<String>,
    start: Duration,
    /// What a bridge before it has to prove; none where there is no bridge.
    epochs: Option<epoch::Epochs>,
}

/// The state of a workload, for whoever asks.
#[derive(Clone, Debug)]
pub struct WorkloadStatus {
    /// Which.
    pub identity: Identity,
    /// The name of its objects.
    pub name: String,
    /// Where they are.
    pub namespace: Name,
    /// Its state.
    pub observed: Observed,
    /// What of the hardening it gives up.
    pub relaxed: Vec<&'static str>,
}

impl Workloads {
    /// A runtime that knows no wish yet, and does nothing before the first.
    ///
    /// # Errors
    /// Where there is no randomness.
    pub fn open(options: WorkloadOptions) -> std::io::Result<Self> {
        let WorkloadOptions { cluster, servers, installation, inherited, metrics, leases, startups } = options;
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(std::io::Error::other)?;
        let callers = callers(&servers, cluster.own_namespace());
        let inner = Arc::new(Inner {
            cluster,
            servers,
            installation,
            inherited,
            callers,
            metrics,
            startups,
            said: Mutex::default(),
            wishes: watch::Sender::new(None),
            known: ArcSwap::default(),
            news: watch::Sender::new(0),
            nonce: u64::from_ne_bytes(nonce),
            chosen: Mutex::default(),
            findings: Mutex::default(),
        });
        let task = tokio::spawn(run::run(Arc::clone(&inner), leases));
        Ok(Self(Arc::new(Handle { inner, task })))
    }

    /// These are to run, and nothing else of this installation.
    pub fn want(&self, wishes: Vec<Wish>) {
        let inner = &self.0.inner;
        *inner.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(wishes);
        inner.grant_all();
    }

    /// The objects that a wish becomes.
    ///
    /// # Errors
    /// Why there are none, in a sentence for operators.
    pub fn plan(&self, wish: &Wish) -> Result<Planned, String> {
        self.0.inner.plan(wish)
    }

    /// Asks the cluster whether it would take a plan's objects, and changes nothing.
    ///
    /// # Errors
    /// What it says of the first that it would not take.
    pub async fn check(&self, planned: &Planned) -> Result<(), ClusterError> {
        let inner = &self.0.inner;
        let namespace = inner.namespace(&planned.identity.tenant);
        for object in &planned.objects {
            inner.cluster.apply(namespace, object, None, true).await?;
        }
        Ok(())
    }

    /// The states of a server's workloads, in the order of their connections.
    pub fn status(&self, tenant: &Name, server: &Name) -> Vec<WorkloadStatus> {
        let known = self.0.inner.known.load();
        let ours = known.workloads.iter().filter(|(_, k)| k.identity.tenant == *tenant && k.identity.server == *server);
        let mut found: Vec<WorkloadStatus> = ours
            .map(|(name, known)| WorkloadStatus {
                identity: known.identity.clone(),
                name: name.clone(),
                namespace: known.namespace.clone(),
                observed: known.observed.clone(),
                relaxed: known.relaxed.clone(),
            })
            .collect();
        found.sort_by(|a, b| a.identity.cmp(&b.identity));
        found
    }

    /// What keeps it from its work, in sentences for operators.
    pub fn findings(&self) -> Vec<String> {
        self.0.inner.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for Workloads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workloads").field("installation", &self.0.inner.installation.id()).finish_non_exhaustive()
    }
}

impl Inner {
    fn namespace(&self, tenant: &Name) -> &Name {
        self.servers.namespace_of(tenant, self.cluster.own_namespace())
    }

    fn place(&self, tenant: &Name) -> Place {
        Place {
            installation: self.installation.clone(),
            namespace: self.namespace(tenant).clone(),
            callers: self.callers.clone(),
            inherited: self.inherited.clone(),
            bridge: self.servers.bridge.clone(),
        }
    }

    fn plan(&self, wish: &Wish) -> Result<Planned, String> {
        let mut values = wish.values.clone()?;
        values.startup = self.startup(wish, &values.passwords)?;
        plan(&self.place(&wish.identity.tenant), wish.identity.clone(), &wish.server, &values)
            .map_err(|e| e.to_string())
    }

    /// Looks at what was said last, again.
    fn grant_all(&self) {
        // Held until they are told, so that an older list never takes the place of a newer one.
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        // To wish nothing is to have everything deleted, so nobody does so before it was said.
        let Some(wishes) = &*said else { return };
        let granted = wishes.iter().map(|wish| self.grant(wish)).collect();
        self.wishes.send_replace(Some(Arc::new(granted)));
    }

    fn grant(&self, wish: &Wish) -> (String, Granted) {
        let planned = self.plan(wish).map(|planned| {
            let hashes = planned.objects.iter().map(|object| reconcile::hash(&self.installation, object)).collect();
            (planned, hashes)
        });
        let spec = wish.server.kubernetes.as_ref();
        let start = spec.map_or(Duration::ZERO, |k| k.start_timeout.get());
        let bridged = spec.is_some_and(|k| !k.transport.is_http());
        let namespace = self.namespace(&wish.identity.tenant).clone();
        let name = wish.identity.name(&self.installation);
        (name, Granted { identity: wish.identity.clone(), namespace, planned, start, bridged })
    }

    fn find_out(&self, findings: Vec<String>) {
        *self.findings.lock().unwrap_or_else(PoisonError::into_inner) = findings;
    }
}

/// Who may call, as a NetworkPolicy says it.
fn callers(servers: &Servers, own: &Name) -> Vec<Value> {
    let pods = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": own}},
        "podSelector": {"matchLabels": servers.callers.labels},
    });
    let networks = servers.callers.networks.iter().filter(|n| is_network(n)).map(|n| json!({"ipBlock": {"cidr": n}}));
    std::iter::once(pods).chain(networks).collect()
}
