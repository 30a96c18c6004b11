//! All gateways of the process: the snapshot that calls read, what they share, and the routes.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::{Router, routing::any};
use portcullis_credential::{Carried, Resolver};
use portcullis_identity::Authenticator;
use portcullis_protocol::seal::Sealer;
use portcullis_telemetry::{Audit, Metrics};
use portcullis_upstream::{Changed, ListKind, Peer, UpstreamError, Upstreams};
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;

use crate::{
    accept::Settings,
    admit::PrincipalRate,
    catalogue::{self, Catalogue, Entry, Fetched, Key},
    in_flight::InFlight,
    serve, targets,
    view::{Assigned, Shared, Snapshot, View},
};

/// Memory that the bodies of all requests may take together, in kibibytes: 256 MiB.
const BODIES_KIB: usize = 256 << 10;

/// What gateways work with.
pub struct Parts {
    /// What the operator says about the door.
    pub settings: Settings,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// The audit stream.
    pub audit: Arc<Audit>,
    /// Seals session ids and cursors.
    pub sealer: Sealer,
    /// Servers.
    pub upstreams: Arc<Upstreams>,
    /// Who is calling.
    pub authenticator: Arc<Authenticator>,
    /// Whose credential.
    pub credentials: Arc<Resolver>,
}

/// All gateways.
pub struct Gateways {
    pub(crate) settings: Settings,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) audit: Arc<Audit>,
    pub(crate) sealer: Sealer,
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) credentials: Arc<Resolver>,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) in_flight: Arc<InFlight>,
    /// Room for the bodies of requests, in kibibytes.
    pub(crate) bodies: Arc<Semaphore>,
    pub(crate) rates: Cache<(String, u32), Arc<PrincipalRate>>,
    pub(crate) snapshot: ArcSwap<Snapshot>,
}

impl Gateways {
    /// Gateways that serve nothing until [`Gateways::compile`] has run.
    pub fn new(parts: Parts) -> Arc<Self> {
        let gateways = Arc::new(Self {
            settings: parts.settings,
            metrics: parts.metrics,
            audit: parts.audit,
            sealer: parts.sealer,
            upstreams: parts.upstreams,
            authenticator: parts.authenticator,
            credentials: parts.credentials,
            catalogue: Arc::default(),
            in_flight: Arc::default(),
            bodies: Arc::new(Semaphore::new(BODIES_KIB)),
            rates: Cache::new(10_000),
            snapshot: ArcSwap::default(),
        });
        tokio::spawn(follow_changes(Arc::downgrade(&gateways)));
        gateways
    }

    /// The data routes: `/mcp/{gateway}` for the default tenant and `/t/{tenant}/mcp/{gateway}`. Needs
    /// `ConnectInfo<SocketAddr>`.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/mcp/{gateway}", any(serve::default_tenant))
            .route("/t/{tenant}/mcp/{gateway}", any(serve::any_tenant))
            .with_state(Arc::clone(self))
    }

    /// The catalogue's entry for a server under what a caller carries; a fetch is started where it is due.
    pub(crate) fn catalogue_entry(
        &self,
        view: &View,
        assigned: &Assigned,
        carried: Option<&Arc<Carried>>,
    ) -> Arc<Entry> {
        if let Some(shared) = &assigned.shared {
            self.refresh_shared(assigned, shared, view);
            return Arc::clone(&shared.entry);
        }
        let connection = carried.map(|c| match &c.connection {
            Some(name) => (name.shared(), c.connection_revision),
            None => (Arc::clone(&c.executed_as), 0),
        });
        let key = assigned.catalogue_key(&view.tenant, connection);
        let entry = self.catalogue.entry(&key);
        let upstreams = Arc::clone(&self.upstreams);
        let target = targets::target(view, assigned, carried.map(Arc::as_ref));
        let carried = carried.cloned();
        self.catalogue.refresh(&key, &entry, assigned.traffic.catalogue_ttl.get(), || async move {
            let headers = carried.as_ref().map_or(&[][..], |c| &c.headers);
            fetched(upstreams.list(&target, ListKind::Tools, headers).await)
        });
        entry
    }

    /// Starts a fetch for a server that everybody shares, where it is due.
    pub(crate) fn refresh_shared(&self, assigned: &Assigned, shared: &Shared, view: &View) {
        let key = assigned.catalogue_key(&view.tenant, None);
        let peer: Arc<Peer> = Arc::clone(&shared.peer);
        self.catalogue.refresh(&key, &shared.entry, assigned.traffic.catalogue_ttl.get(), || async move {
            fetched(peer.list(ListKind::Tools, &[]).await)
        });
    }
}

fn fetched(listing: Result<portcullis_upstream::Listing, UpstreamError>) -> Result<Fetched, UpstreamError> {
    let listing = listing?;
    let tool = |t: portcullis_upstream::Item| catalogue::Tool { name: Arc::from(t.key), raw: t.raw };
    Ok(Fetched { tools: listing.items.into_iter().map(tool).collect(), ttl: listing.ttl })
}

/// Expires what servers say has changed; the next list fetches it again.
async fn follow_changes(gateways: std::sync::Weak<Gateways>) {
    use tokio::sync::broadcast::error::RecvError;
    let Some(mut changes) = gateways.upgrade().map(|g| g.upstreams.changes()) else { return };
    loop {
        let changed = match changes.recv().await {
            Ok(change) if change.what == Changed::Tools => Some(change.key),
            Ok(_) => continue,
            Err(RecvError::Lagged(_)) => None,
            Err(RecvError::Closed) => return,
        };
        let Some(gateways) = gateways.upgrade() else { return };
        match changed {
            Some(key) => gateways.catalogue.expire(|k: &Key| k.tenant == key.tenant && k.server == key.server),
            None => gateways.catalogue.expire(|_| true),
        }
    }
}
