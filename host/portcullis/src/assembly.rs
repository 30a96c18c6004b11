//! Assembly: opens everything in the order in which it depends on each other, serves, and closes in reverse.

mod entrance;
mod health;
mod keeper;
mod people;
mod plugins;
mod pods;
mod schemas;
mod session_key;
mod startups;
mod state;
mod status;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use axum::Router;
use portcullis_cluster::Cluster;
use portcullis_console::{
    files::{FileDoor, FileOptions},
    kubernetes::ClusterDoor,
    server::{Admin, AdminSocket, http_router},
    web::{self, Web, WebParts},
};
use portcullis_credential::{
    CACHE_ENTRIES, ConnectionBook, Grants, KeySource, Resolver, SecretServices, SecretSources, Secrets, UpstreamOAuth,
    Vault,
};
use portcullis_gateway::{Currency, Gateways, Parts};
use portcullis_identity::{
    AdminDoor, AuthOptions, Authenticator, ClientAssertions, Directories, Failures, JwtOptions, JwtService,
    LimitOptions, SignIn, TokenOptions, TokenService,
};
use portcullis_orchestrator::{Options as OrchestratorOptions, Orchestrator};
use portcullis_package::Packages;
use portcullis_plugin::{
    Compiler, Host, HostOptions, Services, Toolshed,
    manager::{BuiltIn, Manager},
};
use portcullis_store::{Registry, Revision};
use portcullis_telemetry::{Audit, Metrics, audit::AuditOptions};
use portcullis_tools::Components;
use portcullis_upstream::{Options as UpstreamOptions, Upstreams};
use tokio_util::sync::CancellationToken;

use crate::{
    lanes::Lanes,
    listener::{Listener, Room, Served},
    settings::{SealingKey, Settings},
};
use health::Readers;
use keeper::Keeper;
use people::{People, PeopleParts, Renewing};
use status::Assembled;

/// A gateway that is open and not serving yet.
pub struct Assembly {
    settings: Settings,
    metrics: Arc<Metrics>,
    audit: Arc<Audit>,
    orchestrator: Orchestrator,
    keeper: Arc<Keeper>,
    sources: Arc<SecretSources>,
    admin: Admin,
    socket: AdminSocket,
    data: Listener,
    metrics_listener: Option<Listener>,
    admin_listener: Option<Listener>,
    address: SocketAddr,
    lanes: Arc<Lanes>,
    leaving: Arc<AtomicBool>,
    first: bool,
}

/// How long requests to the admin listener may take to end; whoever follows a log is cut off then.
const ADMIN_DRAIN: Duration = Duration::from_secs(2);
/// The longest that anybody waits for a compilation: it goes last, on a machine that may be busy.
const COMPILE_PATIENCE: Duration = Duration::from_secs(180);
/// How long lanes may take to end what was under way beyond the time to drain.
const LANES_END: Duration = Duration::from_secs(1);

impl Assembly {
    /// Opens everything. What can't be opened is named, and nothing is served.
    ///
    /// # Errors
    /// The first thing that can't be opened.
    pub async fn open(settings: Settings) -> Result<Self> {
        let metrics = Metrics::new();
        // Before any server is known: each keeps connections for the lanes that there are.
        let count =
            settings.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
        let lanes = Arc::new(Lanes::start(count).context("no threads for calls")?);
        let store = state::open(&settings, &metrics).await?;
        // Of several that begin at once on an empty database, the first to write is the first.
        let first = store.revision() == Revision(0);
        let currency = Currency::new(Arc::clone(&store), state::stale_for(&settings));
        let audit = Audit::open(AuditOptions::new(settings.data_dir.join("audit")), Arc::clone(&metrics))
            .context("the audit stream can't be opened")?;
        let vault = Arc::new(Vault::open(&key_source(&settings)).context("the vault can't be opened")?);
        let sealer = Arc::new(session_key::sealer(&*store, &vault).await?);
        let links = Arc::clone(&sealer);
        let secrets = Secrets::new(Arc::clone(&store), Arc::clone(&vault));
        secrets.verify().await.context("the vault can't open what is sealed in the store")?;
        let registry = Registry::open(Arc::clone(&store)).await.context("the resources can't be read")?;
        registry.also_asks(Arc::new(schemas::Schemas::new(settings.plugins.signatures)));

        // Also where nothing is watched yet: components of plugins are, and what files brought that are no longer named goes.
        let options = FileOptions::new(settings.resources.clone());
        let files = Some(Arc::new(
            FileDoor::open(Arc::clone(&registry), Arc::clone(&metrics), Arc::clone(&audit), options).await,
        ));

        let directories = Directories::follow(&registry);
        let tokens = TokenService::open(Arc::clone(&store), Arc::clone(&directories), TokenOptions::default())
            .await
            .context("the tokens can't be read")?;
        let signin = SignIn::open(Arc::clone(&store), Arc::clone(&directories), Arc::clone(&metrics))
            .await
            .context("the sessions can't be read")?;
        let trust = trust(&settings)?;
        let outbound = portcullis_outbound::Client::with(trust.clone());
        let cluster = match &settings.kubernetes {
            Some(options) => {
                let opened = Cluster::open(options.clone(), Arc::clone(&metrics)).await;
                Some(opened.context("the cluster can't be used")?)
            }
            None => None,
        };
        let customs =
            ClusterDoor::open(Arc::clone(&registry), Arc::clone(&metrics), Arc::clone(&audit), cluster.clone()).await;
        let services = SecretServices {
            vault: settings.vault.clone(),
            cluster: cluster.clone(),
            freshness: settings.secrets.clone(),
        };
        let sources = SecretSources::new(services, &outbound, Arc::clone(&metrics))
            .context("secrets of other services can't be had")?;
        let open = ConnectionBook::open_with(
            Arc::clone(&registry),
            secrets.clone(),
            Arc::clone(&sources),
            settings.owner_only,
        );
        let book = open.await.context("the connections can't be read")?;
        let grants = Grants::open(
            Arc::clone(&registry),
            secrets.clone(),
            Arc::clone(&sources),
            Arc::clone(&outbound),
            (Arc::clone(&metrics), Arc::clone(&audit)),
        )
        .await
        .context("the connections' tokens can't be read")?;
        book.keep_grants(Arc::clone(&grants));
        let oauth = UpstreamOAuth::new(Arc::clone(&registry), grants, Arc::clone(&book));
        let jwt = JwtService::new(JwtOptions {
            allow_private: settings.allow_private_issuers,
            ..JwtOptions::new(Arc::clone(&outbound))
        });

        let host = Host::new(HostOptions {
            cache_dir: Some(settings.data_dir.join("compiled")),
            compiler: Compiler::Child(own_program()),
            compile_timeout: COMPILE_PATIENCE,
            pool_instances: settings.plugin_instances,
            max_component: settings.plugins.max_component.as_usize(),
            metrics: Arc::clone(&metrics),
            ..HostOptions::default()
        })
        .context("the plugin host can't start")?;
        let services = Services {
            tokens: Some(Arc::clone(&tokens) as _),
            jwt: Some(Arc::clone(&jwt) as _),
            connections: Some(Arc::clone(&book) as _),
            http: Some(Arc::clone(&outbound) as _),
            secrets: Some(Arc::clone(&sources) as _),
            audit: Some(Arc::new(status::Reveals(Arc::clone(&audit))) as _),
            assertions: Some(Arc::new(ClientAssertions) as _),
            still: None,
        };
        let components = settings.data_dir.join("components");
        let packages = Packages::open(&settings.plugins, &components, Arc::clone(&outbound), Arc::clone(&metrics))
            .map_err(|why| anyhow::anyhow!(why))?;
        let shed = Toolshed::new(Arc::clone(&host), services.clone(), Arc::clone(&packages));
        let manager =
            Manager::new(host, built_ins(), services, Some(settings.data_dir.join("plugins"))).with_packages(packages);

        let orchestrator = Orchestrator::new(OrchestratorOptions {
            metrics: Arc::clone(&metrics),
            hidden: settings.hidden(),
            ..OrchestratorOptions::new(settings.data_dir.join("run"))
        })
        .context("processes can't be run")?;
        let workloads = pods::open(cluster.as_ref(), &store, &vault, &metrics, &outbound).await?;
        let upstreams = Upstreams::new(UpstreamOptions {
            tls: Some(Arc::new(trust)),
            metrics: Arc::clone(&metrics),
            ..UpstreamOptions::new(Arc::new(Components::new(shed, Arc::new(orchestrator.clone()))))
        })?;
        let door = portcullis_gateway::Settings {
            allowed_hosts: settings.allowed_hosts.clone(),
            allowed_origins: settings.allowed_origins.clone(),
            trusted_proxies: settings.trusted_proxies.clone(),
            public_url: settings.public_url.clone(),
            tls: settings.tls.is_some(),
            max_body: settings.max_body.as_usize(),
            max_streams_of_caller: settings.max_streams_per_caller,
            answer_within: settings.answer_within.get(),
        };
        // Bound before anything is told where clients reach us; served at the end.
        let room = Room {
            most: settings.max_connections,
            most_of_one: settings.max_connections_per_address,
            trusted: settings.trusted_proxies.clone(),
        };
        let data = Listener::bind(settings.listen, settings.tls.as_ref(), room, Arc::clone(&metrics)).await?;
        let address = data.address()?;
        let people = PeopleParts {
            registry: Arc::clone(&registry),
            directories: Arc::clone(&directories),
            tokens: Arc::clone(&tokens),
            signin: Arc::clone(&signin),
            jwt: Arc::clone(&jwt),
            outbound,
            secrets: Arc::clone(&sources) as _,
            audit: Arc::clone(&audit),
            metrics: Arc::clone(&metrics),
            vault,
        };
        let People { oidc, authorization, kept } = people::open(&settings, settings.base_url(address), people).await?;
        let gateways = Gateways::new(Parts {
            settings: door.clone(),
            metrics: Arc::clone(&metrics),
            audit: Arc::clone(&audit),
            sealer: Arc::clone(&sealer),
            base_url: settings.base_url(address),
            upstreams: Arc::clone(&upstreams),
            authenticator: Authenticator::keeping(
                Arc::clone(&directories),
                Arc::clone(&tokens),
                jwt,
                AuthOptions::default(),
                Arc::clone(&kept),
            ),
            credentials: Resolver::of_callers(
                Arc::clone(&book),
                CACHE_ENTRIES,
                Arc::new(status::Passing(Arc::clone(&audit))),
                Arc::new(Renewing(Arc::clone(&oidc))),
            ),
            currency: currency.clone(),
        });
        gateways.reached_at(&settings.base_url(address));
        let keeper = Keeper::new(
            Arc::clone(&registry),
            manager,
            Arc::clone(&gateways),
            files.clone(),
            (Arc::clone(&book), Arc::clone(&sources)),
            (orchestrator.clone(), workloads.clone()),
            settings.plugins.wait.get(),
        );

        let leaving = Arc::new(AtomicBool::new(false));
        let watched =
            health::Watched { keeper: Arc::clone(&keeper), currency: currency.clone(), leaving: Arc::clone(&leaving) };
        let known = Arc::downgrade(&gateways);
        authorization
            .described_by(Arc::new(move |target| known.upgrade()?.description(&target.tenant, &target.gateway)));
        // Where others than loopback may read metrics, the listener is one of its own.
        let readers = match settings.metrics_listen {
            None => Readers::LoopbackAnd(Vec::new()),
            Some(_) => Readers::None,
        };
        let health = health::router(watched.clone(), Arc::clone(&metrics), door.clone(), readers);
        let admin = Admin {
            registry: Arc::clone(&registry),
            directories: Arc::clone(&directories),
            tokens: Arc::clone(&tokens),
            signin: Arc::clone(&signin),
            authorization: Some(Arc::clone(&authorization)),
            secrets: secrets.clone(),
            book: Arc::clone(&book),
            oauth: Some(Arc::clone(&oauth)),
            orchestrator: orchestrator.clone(),
            workloads: workloads.clone(),
            files,
            audit: Arc::clone(&audit),
            metrics: Arc::clone(&metrics),
            view: Arc::new(Assembled::new(
                &settings,
                address,
                watched.clone(),
                (customs, workloads),
                links,
                data.certificates(),
            )),
        };
        let pages = Web::new(WebParts {
            admin: admin.clone(),
            sealer,
            registry: Arc::clone(&registry),
            directories: Arc::clone(&directories),
            tokens: Arc::clone(&tokens),
            secrets: secrets.clone(),
            book: Arc::clone(&book),
            oauth: Arc::clone(&oauth),
            signin: Arc::clone(&signin),
            oidc,
            kept,
            authorization,
            failures: failures(10, 10),
            oauth_failures: failures(60, 1),
            registrations: failures(30, 10),
            audit: Arc::clone(&audit),
            metrics: Arc::clone(&metrics),
            base_url: settings.base_url(address),
            entrance: Arc::new(entrance::Entrance(door.clone())),
        });
        let router = health.merge(web::router(pages));
        let data = data.serving(Served { gateways: Some(gateways), router, leaving: Arc::clone(&leaving) });
        let metrics_listener = match settings.metrics_listen {
            None => None,
            Some(listen) => {
                let readers = Readers::LoopbackAnd(settings.metrics_from.clone());
                let router: Router = health::router(watched, Arc::clone(&metrics), door.clone(), readers);
                let room = Room { most: 64, most_of_one: 64, trusted: Vec::new() };
                let served = Served { gateways: None, router, leaving: Arc::clone(&leaving) };
                Some(Listener::bind(listen, None, room, Arc::clone(&metrics)).await?.serving(served))
            }
        };
        let socket = AdminSocket::bind(&settings.socket_path())?;
        let admin_listener = admin_listener(&settings, &admin, &metrics, currency).await?;
        Ok(Self {
            settings,
            metrics,
            audit,
            orchestrator,
            keeper,
            sources,
            admin,
            socket,
            data,
            metrics_listener,
            admin_listener,
            address,
            lanes,
            leaving,
            first,
        })
    }

    /// Where clients connect: the URL without a slash at its end.
    pub fn url(&self) -> String {
        self.settings.base_url(self.address)
    }

    /// Whether nothing was kept in the store before.
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// Loads plugins and compiles gateways once, so that the first request finds them.
    pub async fn prepare(&self) {
        self.keeper.round().await;
    }

    /// Serves until `stop` is cancelled; then says that it is not ready and goes on for `drainDelay`, lets calls under way end, ends
    /// children, and flushes the audit stream.
    ///
    /// # Errors
    /// When the admin socket fails for good.
    pub async fn serve(self, asked: CancellationToken) -> Result<()> {
        self.prepare().await;
        let drain = self.settings.drain.get();
        let stop = CancellationToken::new();
        let leaving = leave(asked, Arc::clone(&self.leaving), self.settings.drain_delay.get(), stop.clone());
        let leaving = tokio::spawn(leaving);
        let keeping = tokio::spawn(Arc::clone(&self.keeper).follow(stop.clone()));
        let (sources, until) = (self.sources, stop.clone());
        let fetching = tokio::spawn(async move { until.run_until_cancelled(sources.keep()).await });
        let metrics = self
            .metrics_listener
            .map(|l| tokio::spawn(l.serve(Arc::clone(&self.lanes), stop.clone().cancelled_owned(), drain)));
        let admin_listener = self
            .admin_listener
            .map(|l| tokio::spawn(l.serve(Arc::clone(&self.lanes), stop.clone().cancelled_owned(), ADMIN_DRAIN)));
        let admin =
            tokio::spawn(portcullis_console::server::serve(self.socket, self.admin, stop.clone().cancelled_owned()));
        tracing::info!(url = self.settings.base_url(self.address), "serving");
        self.data.serve(Arc::clone(&self.lanes), stop.clone().cancelled_owned(), drain).await;

        // Whatever made the data listener end, the rest ends with it.
        stop.cancel();
        leaving.abort();
        let _ = keeping.await;
        let _ = fetching.await;
        for listener in metrics.into_iter().chain(admin_listener) {
            let _ = listener.await;
        }
        self.orchestrator.shutdown(drain).await;
        let admin = admin.await;
        // After the servers, whose pipes may be read by a lane, and before the last record is written.
        if let Some(lanes) = Arc::into_inner(self.lanes) {
            lanes.end(LANES_END).await;
        }
        if let Err(error) = self.audit.flush().await {
            tracing::error!(%error, "the last audit records could not be written");
        }
        drop(self.metrics);
        admin?.context("the admin socket failed")
    }
}

/// Once the end is `asked` for, says that it comes and waits until whoever sends calls here has heard of it: a load balancer goes on
/// sending some for a moment.
async fn leave(asked: CancellationToken, leaving: Arc<AtomicBool>, delay: Duration, stop: CancellationToken) {
    asked.cancelled().await;
    leaving.store(true, Ordering::Relaxed);
    if !delay.is_zero() {
        tracing::info!(?delay, "not ready any more; calls that still come are taken for a while");
        tokio::time::sleep(delay).await;
    }
    stop.cancel();
}

/// The admin API over TCP, where the operator asks for it.
async fn admin_listener(
    settings: &Settings,
    admin: &Admin,
    metrics: &Arc<Metrics>,
    currency: Currency,
) -> Result<Option<Listener>> {
    let Some(listen) = settings.admin_listen else { return Ok(None) };
    // A person tries a few tokens, a guesser many.
    let limit = LimitOptions { burst: 20, every: Duration::from_secs(5), addresses: 65_536 };
    let door = AdminDoor::new(Arc::clone(&admin.tokens), Arc::clone(&admin.directories), &limit);
    let router = state::asking(http_router(admin.clone(), Arc::new(door)), currency);
    let room = Room { most: 256, most_of_one: 64, trusted: Vec::new() };
    let listener = Listener::bind(listen, settings.tls.as_ref(), room, Arc::clone(metrics)).await?;
    tracing::info!(address = %listener.address()?, "the admin API is served to callers with tokens");
    let leaving = Arc::new(AtomicBool::new(false));
    Ok(Some(listener.serving(Served { gateways: None, router, leaving })))
}

/// So many failures of one address at once, and one more each time that these seconds have passed.
fn failures(burst: u32, seconds: u64) -> Failures {
    Failures::new(&LimitOptions { burst, every: Duration::from_secs(seconds), addresses: 65_536 })
}

/// Whose certificates are believed where we connect to.
fn trust(settings: &Settings) -> Result<rustls::ClientConfig> {
    let Some(file) = &settings.trusted_certificates else {
        return portcullis_outbound::roots().context("TLS can't be set up");
    };
    let wrong = || format!("trustedCertificates: {}", file.display());
    let pem = std::fs::read(file).with_context(wrong)?;
    portcullis_outbound::roots_and(&pem).with_context(wrong)
}

/// This very program, also where its file was replaced since.
fn own_program() -> PathBuf {
    match std::env::current_exe() {
        Ok(path) if !cfg!(target_os = "linux") => path,
        _ => PathBuf::from("/proc/self/exe"),
    }
}

fn key_source(settings: &Settings) -> KeySource {
    match &settings.sealing_key {
        Some(SealingKey::Env(name)) => KeySource::Env(name.clone()),
        Some(SealingKey::File(path)) => KeySource::File { path: path.clone(), create: false },
        // The store is embedded and this machine's own, so its key may be made here (security decision 5).
        None => KeySource::File { path: settings.data_dir.join("sealing.key"), create: true },
    }
}

fn built_ins() -> Vec<BuiltIn> {
    portcullis_plugins::built_ins()
        .iter()
        .map(|built_in| BuiltIn {
            name: built_in.name,
            wasm: built_in.wasm,
            grants: portcullis_model::spec::Grants {
                tokens: built_in.tokens,
                connections: built_in.connections,
                ..portcullis_model::spec::Grants::default()
            },
        })
        .collect()
}
