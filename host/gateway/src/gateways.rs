//! All gateways of the process: the snapshot that calls read, what they share, and the routes.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use portcullis_credential::{Carried, Resolver};
use portcullis_identity::Authenticator;
use portcullis_model::{Fault, Name, Principal, Side};
use portcullis_plugin::Description;
use portcullis_protocol::{Era, Version, seal::Sealer};
use portcullis_telemetry::{Audit, Metrics};
use portcullis_upstream::{ListKind, Peer, UpstreamError, Upstreams};
use quick_cache::sync::Cache;
use tokio::sync::{Notify, Semaphore, watch};

use crate::{
    accept::Settings,
    admit::PrincipalRate,
    asked::Asked,
    catalogue::{self, Catalogue, Entry, Fetched, Key, Kind},
    connecting::{self, Connecting},
    conversation::pool::Pool,
    currency::Currency,
    held::Held,
    in_flight::InFlight,
    offer::Facts,
    reads::Reads,
    revoked, serve,
    session::{Live, Sessions},
    subscriptions::{self, Subscriptions},
    targets,
    tasks::made::Made,
    view::{Assigned, Shared, Snapshot, View},
    visits,
};

/// Memory that the bodies of all requests may take together, in kibibytes: 256 MiB.
const BODIES_KIB: usize = 256 << 10;

/// How often what is over is forgotten.
const SWEEP: Duration = Duration::from_secs(10);

/// What gateways work with.
pub struct Parts {
    /// What the operator says about the door.
    pub settings: Settings,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// The audit stream.
    pub audit: Arc<Audit>,
    /// Seals session ids, cursors and connect links.
    pub sealer: Arc<Sealer>,
    /// Servers.
    pub upstreams: Arc<Upstreams>,
    /// Who is calling.
    pub authenticator: Arc<Authenticator>,
    /// Where clients reach us, without a slash at its end.
    pub base_url: String,
    /// Whose credential.
    pub credentials: Arc<Resolver>,
    /// Whether what is served is up to date.
    pub currency: Currency,
}

/// All gateways.
pub struct Gateways {
    pub(crate) settings: Settings,
    pub(crate) base_url: String,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) audit: Arc<Audit>,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) credentials: Arc<Resolver>,
    pub(crate) currency: Currency,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) reads: Arc<Reads>,
    /// Who made which task.
    pub(crate) made: Arc<Made>,
    pub(crate) in_flight: Arc<InFlight>,
    /// Legacy sessions that hold something.
    pub(crate) sessions: Sessions,
    /// Conversations of modern clients with legacy servers.
    pub(crate) pool: Arc<Pool>,
    /// Calls that wait for their clients.
    pub(crate) held: Held,
    /// Streams of modern clients that want to hear of changes.
    pub(crate) subscriptions: Subscriptions,
    /// Who waits for accounts to be connected.
    pub(crate) connecting: Connecting,
    /// Room for the bodies of requests, in kibibytes.
    pub(crate) bodies: Arc<Semaphore>,
    pub(crate) rates: Cache<(String, u32), Arc<PrincipalRate>>,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    /// How the clients of sessions call themselves, where a session policy may ask.
    pub(crate) introduced: Cache<[u8; 12], visits::Introduced>,
    /// Counts snapshots.
    pub(crate) compiled: watch::Sender<u64>,
    /// Woken when somebody holds something that ends with their credential.
    pub(crate) holds: Arc<Notify>,
}

impl Gateways {
    /// What the auth providers of a gateway say of themselves.
    pub fn description(&self, tenant: &Name, gateway: &Name) -> Option<Description> {
        self.snapshot.load().get(tenant.as_str(), gateway.as_str())?.description.clone()
    }

    /// Gateways that serve nothing until [`Gateways::compile`] has run.
    pub fn new(parts: Parts) -> Arc<Self> {
        let held = Held::new(parts.metrics.held_calls.clone());
        let sessions = Sessions::new(parts.metrics.replay_dropped.clone(), parts.settings.max_streams_of_caller);
        let pool = Pool::new(parts.metrics.conversations.clone());
        let subscriptions = Subscriptions::new(parts.settings.max_streams_of_caller);
        let connecting = Connecting::new(parts.metrics.connecting.clone());
        let gateways = Arc::new(Self {
            connecting,
            settings: parts.settings,
            base_url: parts.base_url,
            metrics: parts.metrics,
            audit: parts.audit,
            sealer: parts.sealer,
            upstreams: parts.upstreams,
            authenticator: parts.authenticator,
            credentials: parts.credentials,
            currency: parts.currency,
            catalogue: Arc::default(),
            reads: Arc::default(),
            made: Arc::default(),
            in_flight: Arc::default(),
            sessions,
            pool,
            held,
            subscriptions,
            bodies: Arc::new(Semaphore::new(BODIES_KIB)),
            rates: Cache::new(10_000),
            snapshot: ArcSwap::default(),
            introduced: visits::introductions(),
            compiled: watch::Sender::new(0),
            holds: Arc::default(),
        });
        tokio::spawn(follow_changes(Arc::downgrade(&gateways)));
        tokio::spawn(subscriptions::announce(Arc::downgrade(&gateways)));
        tokio::spawn(connecting::complete(Arc::downgrade(&gateways)));
        tokio::spawn(sweep(Arc::downgrade(&gateways)));
        tokio::spawn(revoked::watch(Arc::downgrade(&gateways)));
        gateways
    }

    /// The URL of the address that is listened on, for links where neither the operator nor a request says better.
    pub fn reached_at(&self, base: &str) {
        self.connecting.reached_at(base);
    }

    /// Changes of what is offered to clients, from now on.
    pub(crate) fn changed(&self) -> tokio::sync::broadcast::Receiver<catalogue::Changed> {
        self.catalogue.changes()
    }

    /// What the session of this request holds, from now on.
    pub(crate) fn live(&self, asked: &Asked<'_>) -> Result<Arc<Live>, Fault> {
        let session = asked.client.session.ok_or_else(|| {
            Fault::new(Side::Caller, "missing-session", "there is no session").next("Send initialize first")
        })?;
        self.open_session(session, asked.client.version, (&asked.view.tenant, &asked.view.name), asked.principal)
    }

    /// What a session of this caller holds, from now on.
    pub(crate) fn open_session(
        &self,
        nonce: [u8; 12],
        version: Version,
        at: (&Name, &Name),
        whose: &Arc<Principal>,
    ) -> Result<Arc<Live>, Fault> {
        let live = self.sessions.open(nonce, version, at, whose)?;
        self.holds.notify_one();
        Ok(live)
    }

    /// Ends what a session holds, here and at its servers.
    pub(crate) fn end_session(&self, session: &[u8; 12]) {
        if let Some(live) = self.sessions.end(session) {
            self.release(&live);
        }
    }

    fn release(&self, live: &Live) {
        for key in live.take_own_peers() {
            self.pool.left(&key);
            self.upstreams.release(&key);
        }
    }

    /// Ends streams in good order, and calls that wait for a person: the process is about to stop. Modern clients open
    /// another stream elsewhere; legacy ones come back with the last event that they have seen.
    pub fn drain(&self) {
        self.subscriptions.end_all();
        self.held.end_all();
        for live in self.sessions.all() {
            live.end_streams();
        }
    }

    /// Whether a request to this path is for a gateway: `/mcp/{gateway}` of the default tenant, and `/t/{tenant}/mcp/{gateway}`.
    pub fn is_for(path: &str) -> bool {
        serve::place(path).is_some()
    }

    /// Answers a request whose path [is for a gateway](Gateways::is_for). What its client proved in the TLS handshake is an extension
    /// of the request: an `Arc<ClientCertificate>`.
    pub async fn answer<B>(self: &Arc<Self>, peer: SocketAddr, request: Request<B>) -> Response
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        serve::endpoint(self, peer, request).await
    }

    /// What a server offers under what a caller carries; fetches of these kinds are started where they are due.
    pub(crate) fn catalogue_entry(
        &self,
        view: &View,
        assigned: &Assigned,
        carried: Option<&Arc<Carried>>,
        kinds: &[Kind],
    ) -> (Key, Arc<Entry>) {
        if let Some(shared) = &assigned.shared {
            for kind in kinds {
                self.refresh_shared_kind(assigned, shared, view, *kind);
            }
            return (assigned.catalogue_key(&view.tenant, None), Arc::clone(&shared.entry));
        }
        let connection = carried.map(|c| match &c.connection {
            Some(name) => (name.shared(), c.connection_revision),
            None => (Arc::clone(&c.executed_as), 0),
        });
        let key = assigned.catalogue_key(&view.tenant, connection);
        let entry = self.catalogue.entry(&key);
        for kind in kinds {
            let ttl = assigned.traffic.catalogue_ttl.get();
            self.catalogue.refresh(&key, &entry, *kind, ttl, || {
                let target = targets::target(view, assigned, carried.map(Arc::as_ref));
                let peer = target.and_then(|target| self.upstreams.peer(&target));
                let (fetch, entry, carried) = (Fetch::new(assigned, *kind), Arc::clone(&entry), carried.cloned());
                let credentials = Arc::clone(&self.credentials);
                let counts = self.counts(view, assigned, *kind);
                async move {
                    let peer = peer?;
                    let headers = carried.as_ref().map_or(&[][..], |c| &c.headers);
                    let fetched = fetch.run(&peer, &entry, headers).await;
                    let fetched = match (&fetched, &carried) {
                        (Err(UpstreamError::Status { code: 401, .. }), Some(carried)) => {
                            match credentials.renewed(carried).await {
                                Some(another) => fetch.run(&peer, &entry, &another.headers).await,
                                None => fetched,
                            }
                        }
                        _ => fetched,
                    };
                    counts(&fetched);
                    fetched
                }
            });
        }
        (key, entry)
    }

    /// Starts a fetch of the tools of a server that everybody shares, where it is due.
    pub(crate) fn refresh_shared(&self, assigned: &Assigned, shared: &Shared, view: &View) {
        self.refresh_shared_kind(assigned, shared, view, Kind::Tools);
    }

    /// The same for another kind.
    pub(crate) fn refresh_shared_kind(&self, assigned: &Assigned, shared: &Shared, view: &View, kind: Kind) {
        let key = assigned.catalogue_key(&view.tenant, None);
        self.catalogue.refresh(&key, &shared.entry, kind, assigned.traffic.catalogue_ttl.get(), || {
            let (fetch, peer, entry) =
                (Fetch::new(assigned, kind), Arc::clone(&shared.peer), Arc::clone(&shared.entry));
            let counts = self.counts(view, assigned, kind);
            async move {
                let fetched = fetch.run(&peer, &entry, &[]).await;
                counts(&fetched);
                fetched
            }
        });
    }

    /// Counts a fetch when it ends.
    fn counts(
        &self,
        view: &View,
        assigned: &Assigned,
        kind: Kind,
    ) -> impl FnOnce(&Result<Fetched, UpstreamError>) + Send + use<> {
        let (metrics, tenant, server) = (Arc::clone(&self.metrics), view.tenant.clone(), assigned.server.clone());
        move |fetched| {
            let outcome = if fetched.is_ok() { "fetched" } else { "failed" };
            metrics.catalogue_refreshed(tenant.as_str(), server.as_str(), kind.member(), outcome);
        }
    }
}

/// How one kind of what a server offers is fetched.
struct Fetch {
    kind: Kind,
    patience: Duration,
    public: bool,
    http: bool,
}

impl Fetch {
    fn new(assigned: &Assigned, kind: Kind) -> Self {
        Self {
            kind,
            patience: assigned.patience(),
            public: assigned.traffic.catalogue_public,
            http: assigned.reach.is_http(),
        }
    }

    async fn run(
        &self,
        peer: &Peer,
        entry: &Entry,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Fetched, UpstreamError> {
        let facts = peer.connect(headers, Instant::now() + self.patience).await?;
        let facts = Arc::new(Facts::of(&facts));
        let offered = facts.offers(self.kind);
        // Whoever calls a server's tools over HTTP has to mirror some arguments, and to leave out tools whose
        // annotations can't be followed (2026-07-28, transports).
        let strict_headers = self.http && facts.version.era() == Era::Modern;
        entry.learn(facts);
        if !offered {
            return Ok(Fetched { public: self.public, strict_headers, ..Fetched::default() });
        }
        let kind = match self.kind {
            Kind::Tools => ListKind::Tools,
            Kind::Prompts => ListKind::Prompts,
            Kind::Resources => ListKind::Resources,
            Kind::Templates => ListKind::Templates,
        };
        let listing = peer.list(kind, headers).await?;
        let item = |i: portcullis_upstream::Item| catalogue::Item { key: Arc::from(i.key), raw: i.raw };
        Ok(Fetched {
            items: listing.items.into_iter().map(item).collect(),
            ttl: listing.ttl,
            public: listing.public || self.public,
            strict_headers,
        })
    }
}

/// Expires what servers say has changed, and tells clients: whoever lists then waits a moment for what is new.
async fn follow_changes(gateways: std::sync::Weak<Gateways>) {
    use portcullis_upstream::Changed;
    use tokio::sync::broadcast::error::RecvError;
    let Some(mut changes) = gateways.upgrade().map(|g| g.upstreams.changes()) else { return };
    loop {
        let change = match changes.recv().await {
            Ok(change) => Some(change),
            Err(RecvError::Lagged(_)) => None,
            Err(RecvError::Closed) => return,
        };
        let Some(gateways) = gateways.upgrade() else { return };
        let Some(change) = change else {
            for kind in Kind::ALL {
                gateways.catalogue.expire(kind, |_| true);
            }
            continue;
        };
        let kinds: &[Kind] = match change.what {
            Changed::Tools => &[Kind::Tools],
            Changed::Prompts => &[Kind::Prompts],
            Changed::Resources => &[Kind::Resources, Kind::Templates],
        };
        let (tenant, server) = (change.key.tenant, change.key.server);
        if change.what == Changed::Resources {
            gateways.reads.forget(&tenant, &server, None);
        }
        for kind in kinds {
            gateways.catalogue.expire(*kind, |k: &Key| k.tenant == tenant && k.server == server);
        }
        if let Some(kind) = kinds.first() {
            gateways.catalogue.announce(catalogue::Changed::Server { tenant, server, kind: *kind });
        }
    }
}

/// Forgets what is over, now and then.
async fn sweep(gateways: std::sync::Weak<Gateways>) {
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        tick.tick().await;
        let Some(gateways) = gateways.upgrade() else { return };
        gateways.sessions.sweep().iter().for_each(|live| gateways.release(live));
        let bytes = gateways.sessions.replay_bytes();
        gateways.metrics.replay_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        gateways.metrics.sessions.set(i64::try_from(gateways.sessions.len()).unwrap_or(i64::MAX));
        gateways.pool.sweep(&gateways.upstreams);
        gateways.held.sweep();
    }
}
