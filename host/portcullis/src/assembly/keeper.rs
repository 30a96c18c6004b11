//! Keeps what is served in step with the resources: plugins first, then the gateways that name them.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use portcullis_console::{files::FileDoor, wishes};
use portcullis_credential::{ConnectionBook, SecretSources};
use portcullis_gateway::{Condition, Gateways, Sources, explain::Wanted};
use portcullis_model::{
    Door, Name, Resource, Spec,
    explain::Explanation,
    spec::{SecretSource, Source},
};
use portcullis_orchestrator::{Orchestrator, Workloads};
use portcullis_plugin::manager::{self, Manager, Stage, Standing, Trouble};
use portcullis_store::{Fleet, Registry};
use portcullis_upstream::Hosts;
use tokio::sync::{MutexGuard, watch};
use tokio_util::sync::CancellationToken;

/// How soon what did not work is tried again without a change: a file may have appeared that nobody told of.
const RETRY: Duration = Duration::from_secs(10);
/// How long the first round waits for plugins that are compiled: before it nothing is served, and a change can't come in between.
const AT_FIRST: Duration = Duration::from_secs(30);
/// The longest that a rollback waits for its version, which was compiled before and may have to be again.
const GOING_BACK: Duration = Duration::from_secs(240);

/// What does not work as the resources want it.
#[derive(Default)]
pub struct Shortcomings {
    /// Gateways.
    pub conditions: Vec<Condition>,
    /// Plugins.
    pub troubles: Vec<Trouble>,
}

impl Shortcomings {
    /// Logs what did not stand in `before`: what stays broken is tried again and again, and said once.
    fn tell(&self, before: &Self) {
        for trouble in &self.troubles {
            let known = before.troubles.iter().any(|b| b.place == trouble.place && b.problem == trouble.problem);
            if known {
                continue;
            }
            let (place, previous, candidate) = (&trouble.place, trouble.previous, trouble.candidate);
            if trouble.under_way.is_some() {
                tracing::info!(plugin = place.plugin, tenant = %place.tenant, previous, candidate, trouble.problem, "a plugin is not waited for");
            } else {
                tracing::error!(plugin = place.plugin, tenant = %place.tenant, previous, candidate, problem = trouble.problem, "a plugin can't be loaded");
            }
        }
        for condition in &self.conditions {
            let known = before.conditions.iter().any(|b| b.key == condition.key && b.problem == condition.problem);
            if !known {
                tracing::warn!(resource = %condition.key, fatal = condition.fatal, problem = condition.problem, "not as written");
            }
        }
    }
}

/// Compiles whenever something changes.
pub struct Keeper {
    registry: Arc<Registry>,
    manager: Manager,
    gateways: Arc<Gateways>,
    files: Option<Arc<FileDoor>>,
    book: Arc<ConnectionBook>,
    sources: Arc<SecretSources>,
    orchestrator: Orchestrator,
    workloads: Option<Workloads>,
    shortcomings: ArcSwap<Shortcomings>,
    rounds: AtomicU64,
    turn: tokio::sync::Mutex<()>,
    /// How many wait for their turn: whoever has it waits for no plugin meanwhile.
    asking: watch::Sender<usize>,
    /// How long a round waits for what is fetched or compiled for it.
    patience: Duration,
}

/// Counts as waiting until it is dropped.
struct Asking<'a>(&'a watch::Sender<usize>);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|asking| *asking -= 1);
    }
}

impl Keeper {
    /// One that has compiled nothing yet.
    pub fn new(
        registry: Arc<Registry>,
        manager: Manager,
        gateways: Arc<Gateways>,
        files: Option<Arc<FileDoor>>,
        (book, sources): (Arc<ConnectionBook>, Arc<SecretSources>),
        (orchestrator, workloads): (Orchestrator, Option<Workloads>),
        patience: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            registry,
            manager,
            gateways,
            files,
            book,
            sources,
            orchestrator,
            workloads,
            shortcomings: ArcSwap::default(),
            rounds: AtomicU64::new(0),
            turn: tokio::sync::Mutex::default(),
            asking: watch::Sender::new(0),
            patience,
        })
    }

    /// What did not work at the last round.
    pub fn shortcomings(&self) -> Arc<Shortcomings> {
        self.shortcomings.load_full()
    }

    /// A gateway of the tenant that has the server, where there is one.
    pub fn gateway_with(&self, tenant: &Name, server: &Name) -> Option<Name> {
        let fleet = self.registry.snapshot();
        let mut gateways = fleet.gateways(tenant);
        gateways.find(|g| g.spec.servers.iter().any(|s| s.server == *server)).map(|g| g.metadata.name.clone())
    }

    /// What a call would meet; none where there is no such gateway.
    pub async fn explain(&self, wanted: Wanted) -> Option<Explanation> {
        self.gateways.explain(wanted).await
    }

    /// Why a server could not be asked what it offers the last time that somebody did, if so.
    pub fn unreachable(&self, tenant: &Name, server: &Name) -> Option<String> {
        self.gateways.unreachable(tenant, server)
    }

    /// How many rounds there were; nothing is served before the first.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Acquire)
    }

    /// Asks whoever has the turn to be quick, until what this gives is dropped.
    fn asking(&self) -> Asking<'_> {
        self.asking.send_modify(|asking| *asking += 1);
        Asking(&self.asking)
    }

    async fn turn(&self) -> MutexGuard<'_, ()> {
        let _asking = self.asking();
        self.turn.lock().await
    }

    /// Loads plugins and compiles gateways as the resources are now. What takes long is not waited for: there is another round when
    /// it is done.
    pub async fn round(&self) {
        let _turn = self.turn().await;
        let first = self.rounds() == 0;
        let changes = self.registry.watch();
        let fleet = self.registry.snapshot();
        let resources = plugins(&fleet);
        if let Some(files) = &self.files {
            files.also_watch(resources.iter().flat_map(component_files).chain(secret_files(&fleet)).collect());
        }
        self.sources.follow(&fleet).await;
        // Pods come up while plugins are compiled, and before anybody is led there.
        self.wish(&fleet).await;
        let places = portcullis_gateway::places(&fleet);
        let patience = |stage: Stage| {
            let (mut changes, mut asking) = (changes.clone(), self.asking.subscribe());
            let most = if first && stage == Stage::Compiling { AT_FIRST } else { self.patience };
            async move {
                tokio::select! {
                    () = tokio::time::sleep(most) => {}
                    _ = changes.changed(), if !first => {}
                    _ = asking.wait_for(|asking| *asking > 0) => {}
                }
            }
        };
        let troubles = self.manager.reconcile_within(&resources, &places, patience).await;
        let hosts = self.workloads.clone().map(|workloads| Arc::new(workloads) as Arc<dyn Hosts>);
        let conditions = self.gateways.compile(&Sources { fleet: &fleet, plugins: &self.manager, hosts });
        self.orchestrator.retain(|key| {
            fleet.server(&key.tenant, &key.server).is_some_and(|s| s.metadata.revision.unwrap_or(0) == key.generation)
        });
        self.orchestrator.retain_homes(|home| {
            let connected = |name: &Name| fleet.connection(&home.tenant, name).is_some();
            fleet.server(&home.tenant, &home.server).is_some()
                && home.connection.as_ref().is_none_or(|(name, _)| connected(name))
        });
        let now = Shortcomings { conditions, troubles };
        now.tell(&self.shortcomings.load());
        self.shortcomings.store(Arc::new(now));
        self.rounds.fetch_add(1, Ordering::Release);
    }

    /// How a plugin stands.
    pub fn standing(&self, tenant: &Name, name: &Name) -> Option<manager::Standing> {
        self.manager.standing(tenant, name)
    }

    /// Goes back to the version of a plugin that was active before. Calls see it when this returns.
    ///
    /// # Errors
    /// Why that can't be, for operators; then what served goes on serving.
    pub async fn roll_back(&self, tenant: &Name, name: &Name) -> Result<(), String> {
        let fleet = self.registry.snapshot();
        let found = plugins(&fleet).into_iter().find(|p| p.tenant == *tenant && p.name == *name);
        let resource = found.ok_or_else(|| format!("there is no Plugin \"{name}\""))?;
        let digest = {
            let _asking = self.asking();
            self.manager.roll_back(&resource).await?
        };
        let standing = self.settled(tenant, name).await;
        if standing
            .as_ref()
            .is_some_and(|s| s.state == manager::State::RolledBack && s.active.as_ref() == Some(&digest))
        {
            return Ok(());
        }
        self.manager.resume(tenant, name).await;
        self.round().await;
        let why = standing.and_then(|s| s.problem).unwrap_or_default();
        Err(format!("the earlier version {digest} can't be loaded any more: {why}"))
    }

    /// Takes that back.
    ///
    /// # Errors
    /// Where there was nothing to take back.
    pub async fn resume(&self, tenant: &Name, name: &Name) -> Result<(), String> {
        let there_was = {
            let _asking = self.asking();
            self.manager.resume(tenant, name).await
        };
        if !there_was {
            return Err(format!("plugin \"{name}\" was not rolled back"));
        }
        self.round().await;
        Ok(())
    }

    /// How a plugin stands after a round, and after as many more as it takes until nothing of it is under way.
    async fn settled(&self, tenant: &Name, name: &Name) -> Option<Standing> {
        let mut told = self.manager.told();
        let rounds = async {
            loop {
                told.mark_unchanged();
                self.round().await;
                let standing = self.manager.standing(tenant, name);
                if standing.as_ref().is_none_or(|standing| standing.under_way.is_none())
                    || told.changed().await.is_err()
                {
                    return standing;
                }
            }
        };
        match tokio::time::timeout(GOING_BACK, rounds).await {
            Ok(standing) => standing,
            Err(_) => self.manager.standing(tenant, name),
        }
    }

    /// Says what is to run in the cluster.
    async fn wish(&self, fleet: &Arc<Fleet>) {
        let Some(workloads) = &self.workloads else { return };
        let (fleet, book) = (Arc::clone(fleet), Arc::clone(&self.book));
        match tokio::task::spawn_blocking(move || wishes::all(&fleet, &book)).await {
            Ok(wishes) => workloads.want(wishes),
            Err(error) => tracing::error!(%error, "what is to run in the cluster could not be found out"),
        }
    }

    async fn read_again(&self) {
        if let Err(error) = self.book.refresh().await {
            tracing::error!(%error, "the connections could not be read again; those that were known go on serving");
        }
    }

    /// Runs a round after each change, until `stop` is cancelled.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut changes = self.registry.watch();
        let mut components = self.files.as_ref().map(|f| f.referred());
        let mut secrets = self.sources.changes();
        let mut connections = self.book.changes();
        let mut told = self.manager.told();
        // What a round went on without before this subscription.
        told.mark_changed();
        // The registry may have changed between the first round and this subscription.
        changes.mark_changed();
        loop {
            let component = async {
                match &mut components {
                    Some(components) => components.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            let retry = async {
                if self.shortcomings.load().troubles.is_empty() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(RETRY).await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                changed = component => {
                    if !changed {
                        return;
                    }
                    // It may have been a secret in a file: the next call carries the new one.
                    self.read_again().await;
                }
                changed = secrets.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.read_again().await;
                }
                // It compiles by itself, and later than the resources are known.
                changed = connections.changed(), if self.workloads.is_some() => {
                    if changed.is_err() {
                        return;
                    }
                    let _turn = self.turn.lock().await;
                    self.wish(&self.registry.snapshot()).await;
                    continue;
                }
                changed = told.changed() => if changed.is_err() { return },
                () = retry => {}
            }
            self.round().await;
        }
    }
}

/// The `Plugin` resources. Paths in a file's resource start from that file's directory.
fn plugins(fleet: &Fleet) -> Vec<manager::Resource> {
    let base = |resource: &Resource| match &resource.metadata.door {
        Some(Door::File(file)) => Path::new(file).parent().map(Path::to_owned),
        _ => None,
    };
    fleet
        .iter()
        .filter_map(|(key, resource)| match &resource.spec {
            Spec::Plugin(spec) => Some(manager::Resource {
                tenant: key.tenant.clone(),
                name: key.name.clone(),
                spec: spec.clone(),
                base: base(resource),
            }),
            _ => None,
        })
        .collect()
}

/// Files that hold secrets.
fn secret_files(fleet: &Fleet) -> Vec<PathBuf> {
    let sources = fleet.iter().flat_map(|(_, resource)| resource.spec.secret_sources());
    let files = sources.filter_map(|source| match source {
        SecretSource::File(path) => std::path::absolute(path).ok(),
        SecretSource::Env(_) | SecretSource::Vault(_) | SecretSource::Kubernetes(_) => None,
    });
    files.collect()
}

/// The files of a plugin's component and of its candidate's, and their signatures.
fn component_files(resource: &manager::Resource) -> impl Iterator<Item = PathBuf> {
    resource.spec.sources().flat_map(|source| match source {
        Source::File { path, .. } => {
            let path = resource.base.as_deref().map_or_else(|| PathBuf::from(path), |base| base.join(path));
            vec![portcullis_plugin::signature_of(&path), path]
        }
        Source::Oci(_) | Source::BuiltIn(_) => Vec::new(),
    })
}
