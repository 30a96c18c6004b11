//! One gateway, compiled: everything that a warm call reads, immutable and without locks.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Duration,
};

use http::HeaderName;
use portcullis_credential::CredentialPlan;
use portcullis_identity::Provider;
use portcullis_model::{
    Fault, Name,
    spec::{ComponentServer, Disclosure, Kubernetes, Process, Traffic},
};
use portcullis_plugin::Description;
use portcullis_telemetry::CallMetrics;
use portcullis_upstream::{Hosts, HttpEndpoint, Peer};
use quick_cache::sync::Cache;

use crate::{
    admit::PrincipalRate,
    catalogue::{Catalogue, Entry, Key, Kind},
    enrich::Enrich,
    pinned::Pinned,
    policy::Policies,
    routes::{Exposure, Known, Route, Routes},
    scopes::Scopes,
    uris::Labels,
    visits::Visits,
};

/// All gateways of all tenants.
#[derive(Default)]
pub struct Snapshot {
    gateways: HashMap<Name, HashMap<Name, Arc<View>>>,
}

impl Snapshot {
    /// Compiled gateways, by tenant and name.
    pub fn new(views: Vec<Arc<View>>) -> Self {
        let mut gateways: HashMap<Name, HashMap<Name, Arc<View>>> = HashMap::new();
        for view in views {
            gateways.entry(view.tenant.clone()).or_default().insert(view.name.clone(), view);
        }
        Self { gateways }
    }

    /// The gateway of this tenant and name.
    pub fn get(&self, tenant: &str, gateway: &str) -> Option<&Arc<View>> {
        self.gateways.get(tenant)?.get(gateway)
    }

    /// Every gateway.
    pub fn all(&self) -> impl Iterator<Item = &Arc<View>> {
        self.gateways.values().flat_map(HashMap::values)
    }
}

/// One gateway.
pub struct View {
    /// Its tenant.
    pub tenant: Name,
    /// Its name.
    pub name: Name,
    /// The revision of its spec.
    pub revision: u64,
    /// What people read.
    pub title: Option<String>,
    /// Instructions that clients pass to the model.
    pub instructions: Option<String>,
    /// Auth providers, in order.
    pub providers: Vec<Arc<Provider>>,
    /// The header in which a token of ours may come, where it is not `X-API-Key`.
    pub api_key: Option<HeaderName>,
    /// Whether callers without a credential are let in.
    pub anonymous: bool,
    /// Policies, in order.
    pub policies: Policies,
    /// What session policies have said of whom.
    pub visits: Visits,
    /// What the auth providers say of themselves: the first that says something.
    pub description: Option<Description>,
    /// Why nobody is served, where a plugin that has to be asked is not there (fail closed).
    pub broken: Option<Fault>,
    /// How often a principal may call.
    pub rate: Option<Arc<PrincipalRate>>,
    /// The assigned servers, in order.
    pub servers: Vec<Assigned>,
    /// Which of their tools are shown, at the same positions.
    pub exposures: Vec<Exposure>,
    /// Exposed name to server and tool or prompt.
    pub routes: Routes,
    /// What tells resource URIs of one server from another's, where that has to be told.
    pub labels: Labels,
    /// Whether callers can get in by OAuth, which a challenge tells them then.
    pub oauth: bool,
    /// Which tools need which scope of an OAuth client's token.
    pub scopes: Scopes,
    /// How tools are shown.
    pub disclosure: Disclosure,
}

/// An assigned server.
pub struct Assigned {
    /// The `McpServer`.
    pub server: Name,
    /// The revision of its spec.
    pub generation: u64,
    /// How it is reached.
    pub reach: Reach,
    /// Whether a child, or a deployment, holds a connection's values.
    pub child_per_connection: bool,
    /// How its traffic is treated.
    pub traffic: Arc<Traffic>,
    /// Arguments that are set whatever the caller sends.
    pub pinned: Pinned,
    /// Headers that its requests carry besides the credential; none where nothing is said of them.
    pub enrich: Option<Enrich>,
    /// How the credential of its calls is chosen; none where it needs none.
    pub plan: Option<Arc<CredentialPlan>>,
    /// Tools whose credential is chosen otherwise.
    pub tool_plans: HashMap<String, Arc<CredentialPlan>>,
    /// Metrics of its tools, by exposed name.
    pub metrics: Cache<Box<str>, Arc<CallMetrics>>,
    /// Whether it turned out to speak one era only, whatever it says.
    pub one_era: AtomicBool,
    /// For a server without credentials: the one peer and the one catalogue entry that everybody shares.
    pub shared: Option<Shared>,
}

/// How a server is reached.
#[derive(Clone)]
pub enum Reach {
    /// By HTTP.
    Http(Arc<HttpEndpoint>),
    /// As a child process.
    Process(Arc<Process>),
    /// As a component within the gateway, and what stands for its process.
    Component(Arc<ComponentServer>, Arc<Process>),
    /// By HTTP, in pods of a cluster that somebody keeps.
    Pods(Arc<Kubernetes>, Arc<dyn Hosts>),
}

impl Reach {
    /// Whether its requests have headers.
    pub fn is_http(&self) -> bool {
        matches!(self, Self::Http(_) | Self::Pods(..))
    }
}

/// What callers of a server without credentials share.
pub struct Shared {
    /// Its peer.
    pub peer: Arc<Peer>,
    /// The peer for legacy clients, of a server that speaks both eras.
    pub legacy: OnceLock<Arc<Peer>>,
    /// Its catalogue entry.
    pub entry: Arc<Entry>,
}

/// What the tool is called that stands in place of a server's own until somebody has connected an account.
pub const CONNECT: &str = "connect";
/// The same as policies hear of it: no tool of a server goes by this name, so that one that is called `connect` is not taken for it.
pub const STAND_IN: &str = "portcullis.dev/connect";

impl Assigned {
    /// How that tool is called towards clients.
    pub fn connect_name(&self, exposure: &Exposure) -> String {
        if exposure.prefix.is_empty() {
            format!("{}_{CONNECT}", self.server)
        } else {
            format!("{}{CONNECT}", exposure.prefix)
        }
    }

    /// Whether a call of this tool is one of what stands in place of the server's own. It goes no further than to us.
    pub fn stands_in(&self, tool: &str, view: &View, catalogue: &Catalogue) -> bool {
        tool == CONNECT && self.plan.is_some() && !view.has_tool(self, tool, catalogue)
    }

    /// How the credential of this tool's calls is chosen.
    pub fn plan_for(&self, tool: &str) -> Option<&Arc<CredentialPlan>> {
        if self.tool_plans.is_empty() {
            return self.plan.as_ref();
        }
        self.tool_plans.get(tool).or(self.plan.as_ref())
    }

    /// How long the server may take to say what it offers: package runners download first.
    pub fn patience(&self) -> Duration {
        let start = match &self.reach {
            Reach::Process(process) | Reach::Component(_, process) => process.start_timeout.get(),
            Reach::Pods(pods, _) => pods.start_timeout.get(),
            Reach::Http(_) => Duration::ZERO,
        };
        self.traffic.timeout.get().max(start)
    }

    /// The catalogue's key for this server under a connection.
    pub fn catalogue_key(&self, tenant: &Name, connection: Option<(Arc<str>, u64)>) -> Key {
        Key { tenant: tenant.clone(), server: self.server.clone(), generation: self.generation, connection }
    }
}

impl View {
    /// Where a call of this exposed tool goes.
    pub fn route<'a>(&self, exposed: &'a str, catalogue: &Catalogue) -> Option<Route<'a>> {
        self.find(Kind::Tools, exposed, catalogue).or_else(|| self.connect(exposed))
    }

    /// Where a request for this exposed prompt goes.
    pub fn prompt<'a>(&self, exposed: &'a str, catalogue: &Catalogue) -> Option<Route<'a>> {
        self.find(Kind::Prompts, exposed, catalogue)
    }

    fn find<'a>(&self, kind: Kind, exposed: &'a str, catalogue: &Catalogue) -> Option<Route<'a>> {
        self.routes.find(&self.exposures, exposed, &Names { view: self, catalogue, kind })
    }

    /// The tool that stands in place of a server's own until somebody has connected an account.
    fn connect<'a>(&self, exposed: &'a str) -> Option<Route<'a>> {
        let server = self
            .servers
            .iter()
            .zip(&self.exposures)
            .position(|(server, exposure)| server.plan.is_some() && server.connect_name(exposure) == exposed)?;
        Some(Route { server, name: CONNECT.into() })
    }

    /// Whether the catalogue knows this tool of this server.
    pub fn has_tool(&self, assigned: &Assigned, tool: &str, catalogue: &Catalogue) -> bool {
        let at = self.servers.iter().position(|s| std::ptr::eq(s, assigned));
        at.is_some_and(|at| Names { view: self, catalogue, kind: Kind::Tools }.has(at, tool) == Some(true))
    }

    /// Whether everybody is let in and given the same.
    pub fn is_open(&self) -> bool {
        self.anonymous && !self.policies.enforce()
    }

    /// Whether what it lists is made of the same: its own spec and its servers'.
    pub fn lists_as(&self, other: &Self) -> bool {
        let servers = |view: &Self| view.servers.iter().map(|s| (s.server.clone(), s.generation)).collect::<Vec<_>>();
        self.revision == other.revision && servers(self) == servers(other)
    }

    /// The catalogue's entry of an assignment, whatever the account.
    pub fn any_entry(&self, at: usize, catalogue: &Catalogue) -> Option<Arc<Entry>> {
        let assigned = self.servers.get(at)?;
        match &assigned.shared {
            Some(shared) => Some(Arc::clone(&shared.entry)),
            None => catalogue.any_of(&assigned.catalogue_key(&self.tenant, None)),
        }
    }
}

/// What the catalogue knows of names, for routing. A server with credentials is asked through any connection's view of it.
struct Names<'a> {
    view: &'a View,
    catalogue: &'a Catalogue,
    kind: Kind,
}

impl Names<'_> {
    fn any<T>(&self, server: usize, find: impl Fn(&Entry) -> Option<T>) -> Option<T> {
        match &self.view.servers.get(server)?.shared {
            Some(shared) => find(&shared.entry),
            None => self.view.any_entry(server, self.catalogue).and_then(|e| find(&e)),
        }
    }
}

impl Known for Names<'_> {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn has(&self, server: usize, name: &str) -> Option<bool> {
        self.any(server, |entry| entry.has(self.kind, name))
    }

    fn by_exposed(&self, server: usize, exposed: &str) -> Option<String> {
        let exposure = self.view.exposures.get(server)?;
        self.any(server, |entry| {
            let listing = entry.listing(self.kind)?;
            let mut names = listing.items.iter().map(|item| &*item.key);
            names.find(|name| exposure.exposed(self.kind, name) == exposed).map(str::to_owned)
        })
    }
}
