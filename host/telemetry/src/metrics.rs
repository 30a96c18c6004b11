//! Every metric family, declared once. `docs/metrics.md` explains them; a golden file holds their names.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry},
};

mod declare;
mod handles;
mod lives;
mod own;

pub use prometheus_client::metrics::{counter::Counter as CounterHandle, gauge::Gauge as GaugeHandle};

pub use declare::{Declared, MetricKind};
use declare::{Declarer, HistogramFamily, Labels, labels};
pub use handles::{CallMetrics, Outcome, PluginMetrics};
use lives::Lives;
pub use own::NotKept;

/// The label value of whatever is beyond a bound.
pub const OTHER: &str = "other";
/// The most `(gateway, server, tool)` with series of their own; later ones share the tool `other`.
pub const MAX_TOOLS: usize = 2_000;
/// The most values of a label that operators' names fill (servers, plugins).
pub const MAX_NAMES: usize = 500;

/// Every metric family of the process.
pub struct Metrics {
    registry: Registry,
    declared: Vec<Declared>,
    calls: Family<Labels, Counter>,
    call_seconds: HistogramFamily,
    overhead_seconds: HistogramFamily,
    plugin_calls: Family<Labels, Counter>,
    plugin_seconds: HistogramFamily,
    plugin_traps: Family<Labels, Counter>,
    plugin_timeouts: Family<Labels, Counter>,
    plugin_overruns: Family<Labels, Counter>,
    plugin_denied: Family<Labels, Counter>,
    plugin_token_requests: Family<Labels, Counter>,
    plugin_fetches: Family<Labels, Counter>,
    plugin_signatures: Family<Labels, Counter>,
    plugin_compilations: Family<Labels, Counter>,
    plugin_disk_bytes: Family<Labels, Gauge>,
    plugin_under_way: Family<Labels, Gauge>,
    plugin_state: Family<Labels, Gauge>,
    plugin_own: own::Families,
    plugin_lives: Lives,
    upstream_requests: Family<Labels, Counter>,
    upstream_connects: Family<Labels, Counter>,
    child_restarts: Family<Labels, Counter>,
    refusals: Family<Labels, Counter>,
    sealed_rejected: Family<Labels, Counter>,
    config_loads: Family<Labels, Counter>,
    secret_reads: Family<Labels, Counter>,
    cluster_requests: Family<Labels, Counter>,
    questions: Family<Labels, Counter>,
    signins: Family<Labels, Counter>,
    oauth: Family<Labels, Counter>,
    kept: Family<Labels, Gauge>,
    workloads: Family<Labels, Gauge>,
    oauth_renewals: Family<Labels, Counter>,
    oauth_revocations: Family<Labels, Counter>,
    catalogue_refreshes: Family<Labels, Counter>,
    /// Requests being answered now.
    pub in_flight: Gauge,
    /// Connections of clients that are open now.
    pub connections: Gauge,
    /// Connections refused because their address had too many.
    pub connections_refused: Counter,
    /// Child processes running now.
    pub children: Gauge,
    /// Upstream connections and sessions kept in pools.
    pub upstream_pooled: Gauge,
    /// Plugin instances alive now.
    pub plugin_instances: Gauge,
    /// Streams of events that clients have open now.
    pub streams: Gauge,
    /// Legacy sessions that hold a stream, a question or a wish.
    pub sessions: Gauge,
    /// Bytes kept for legacy clients that may come again to a broken stream.
    pub replay_bytes: Gauge,
    /// Uses of a connection by others that its owner is not shown, because there were too many in a second.
    pub lent_uses_dropped: Counter,
    /// Events left out of what is kept for a broken stream, because the process keeps as much as it may.
    pub replay_dropped: Counter,
    /// Sessions and children that servers have for one client or one call alone.
    pub conversations: Gauge,
    /// Calls that wait for a person now.
    pub held_calls: Gauge,
    /// Calls and sessions that wait for somebody to connect an account.
    pub connecting: Gauge,
    /// Connections that hold tokens of their server's authorization server.
    pub oauth_grants: Gauge,
    /// Sign-ins at servers' authorization servers that are under way now.
    pub oauth_pending: Gauge,
    /// Transactions that the store in a database committed for this process.
    pub store_commits: Counter,
    /// Whether the store can be reached: 1 or 0.
    pub store_reachable: Gauge,
    /// Seconds since the store was known to hold nothing newer than what is served.
    pub store_age: Gauge,
    /// Audit records written.
    pub audit_records: Counter,
    /// Audit records dropped because the queue was full or the file could not be written; each run of them left a gap record.
    pub audit_dropped: Counter,
    /// Seconds that writing and syncing a batch of audit records took.
    pub audit_sync_seconds: Histogram,
    names: Mutex<Names>,
}

#[derive(Default)]
struct Names {
    calls: HashMap<[String; 4], Arc<CallMetrics>>,
    plugins: HashMap<[String; 2], Arc<PluginMetrics>>,
    seen: HashMap<&'static str, std::collections::HashSet<String>>,
}

impl Metrics {
    /// All families, registered.
    pub fn new() -> Arc<Self> {
        let mut d = Declarer::new();
        let calls = d.counters(
            "calls",
            "Calls of tools, by how they ended",
            &["tenant", "gateway", "server", "tool", "outcome"],
        );
        let call_seconds = d.histograms(
            "call_duration_seconds",
            "Time from a call's first byte to its answer's last",
            &["tenant", "gateway", "server"],
        );
        let overhead_seconds = d.histograms(
            "call_overhead_seconds",
            "Time of a call that was not spent waiting for the server",
            &["tenant", "gateway"],
        );
        let plugin_calls = d.counters("plugin_calls", "Calls of plugins", &["tenant", "plugin", "hook", "outcome"]);
        let plugin_seconds = d.histograms("plugin_duration_seconds", "Time in plugins", &["tenant", "plugin", "hook"]);
        let plugin_traps = d.counters("plugin_traps", "Plugin calls that trapped", &["tenant", "plugin"]);
        let plugin_timeouts =
            d.counters("plugin_timeouts", "Plugin calls stopped for their time", &["tenant", "plugin", "clock"]);
        let plugin_overruns = d.counters(
            "plugin_overruns",
            "Plugin calls that were let use more processor time than their limit",
            &["tenant", "plugin"],
        );
        let plugin_denied = d.counters(
            "plugin_capability_denied",
            "Uses of a host function that the plugin was not granted",
            &["tenant", "plugin", "capability"],
        );
        let plugin_token_requests = d.counters(
            "plugin_token_requests",
            "Requests of plugins to token endpoints",
            &["tenant", "plugin", "outcome"],
        );
        let plugin_fetches =
            d.counters("plugin_fetches", "Components of registries, by where they came from", &["outcome"]);
        let plugin_signatures =
            d.counters("plugin_signatures", "Signatures of components looked at, by what they were", &["outcome"]);
        let plugin_compilations =
            d.counters("plugin_compilations", "Compilations of components, by how they ended", &["outcome"]);
        let plugin_disk_bytes = d.gauges("plugin_disk_bytes", "Bytes kept on disk for plugins", &["what"]);
        let plugin_under_way =
            d.gauges("plugin_under_way", "Plugins that are fetched or compiled now, beside what serves", &["stage"]);
        let plugin_state =
            d.gauges("plugin_state_bytes", "Bytes that a plugin has remembered in this replica", &["tenant", "plugin"]);
        let plugin_own = own::Families::declare(&mut d);
        let plugin_lives = Lives::declare(&mut d);
        let upstream_requests =
            d.counters("upstream_requests", "Requests to servers", &["tenant", "server", "era", "outcome"]);
        let upstream_connects =
            d.counters("upstream_connects", "Connections and sessions opened", &["tenant", "server", "outcome"]);
        let child_restarts = d.counters("child_restarts", "Restarts of child processes", &["tenant", "server"]);
        let refusals = d.counters("refusals", "Requests refused, by whose fault and why", &["side", "code"]);
        let sealed_rejected = d.counters("sealed_rejected", "Session ids and cursors refused", &["kind", "reason"]);
        let config_loads = d.counters("config_loads", "Changes of resources read", &["door", "outcome"]);
        let cluster_requests =
            d.counters("cluster_requests", "Requests to the API of the Kubernetes cluster", &["verb"]);
        let secret_reads = d.counters("secret_reads", "Secrets fetched from other services", &["service", "outcome"]);
        let in_flight = d.gauge("requests_in_flight", "Requests being answered now");
        let connections = d.gauge("client_connections", "Connections of clients that are open now");
        let connections_refused =
            d.counter("client_connections_refused", "Connections refused because their address had too many");
        let children = d.gauge("children", "Child processes running now");
        let workloads = d.gauges("workloads", "Deployments of servers in the cluster, by their state", &["state"]);
        let upstream_pooled = d.gauge("upstream_pooled", "Connections and sessions to servers kept in pools");
        let plugin_instances = d.gauge("plugin_instances", "Plugin instances alive now");
        let streams = d.gauge("client_streams", "Streams of events that clients have open now");
        let sessions = d.gauge("client_sessions", "Legacy sessions that hold a stream, a question or a wish");
        let replay_bytes = d.gauge("replay_bytes", "Bytes kept for clients that may come again to a broken stream");
        let lent_uses_dropped = d.counter(
            "lent_uses_dropped",
            "Uses of a connection by others that its page does not show; the audit has them",
        );
        let replay_dropped =
            d.counter("replay_dropped", "Events not kept for a broken stream, because too much is kept already");
        let conversations = d.gauge("conversations", "Sessions and children that servers have for one client alone");
        let held_calls = d.gauge("held_calls", "Calls that wait for a person now");
        let connecting = d.gauge("connecting", "Calls and sessions that wait for somebody to connect an account");
        let questions = d.counters("questions", "Requests of servers to clients, by how they ended", &["outcome"]);
        let signins = d.counters("signins", "Sign-ins to the pages, by how they ended", &["method", "outcome"]);
        let oauth =
            d.counters("oauth_requests", "Requests of OAuth clients, by how they ended", &["endpoint", "outcome"]);
        let kept = d.gauges("kept_records", "Sessions, codes and other records that end by themselves", &["what"]);
        let oauth_renewals =
            d.counters("upstream_oauth_renewals", "Renewals of connections' tokens, by how they ended", &["outcome"]);
        let oauth_revocations = d.counters(
            "upstream_oauth_revocations",
            "Tokens of deleted connections taken back at their authorization servers, by how it ended",
            &["outcome"],
        );
        let oauth_grants = d.gauge("upstream_oauth_grants", "Connections that hold tokens of an authorization server");
        let oauth_pending =
            d.gauge("upstream_oauth_pending", "Sign-ins at servers' authorization servers that are under way now");
        let catalogue_refreshes = d.counters(
            "catalogue_refreshes",
            "Fetches of what servers offer, by how they ended",
            &["tenant", "server", "kind", "outcome"],
        );
        let store_commits =
            d.counter("store_commits", "Transactions that the store in a database committed for this process");
        let store_reachable = d.gauge("store_reachable", "Whether the store can be reached: 1 or 0");
        let store_age =
            d.gauge("store_age_seconds", "Seconds since the store was known to hold nothing newer than what is served");
        // The embedded one always can; one in a database says so itself.
        store_reachable.set(1);
        let audit_records = d.counter("audit_records", "Audit records written");
        let audit_dropped = d.counter("audit_dropped", "Audit records dropped; each run of them left a gap record");
        let audit_sync_seconds = d.histogram("audit_sync_seconds", "Time to write and sync a batch of audit records");
        let build = d.info("build_info", "The version that is running", &["version"]);
        build.get_or_create(&labels(&["version"], &[env!("CARGO_PKG_VERSION")])).set(1);
        let (registry, declared) = d.finish();
        Arc::new(Self {
            registry,
            declared,
            calls,
            call_seconds,
            overhead_seconds,
            plugin_calls,
            plugin_seconds,
            plugin_traps,
            plugin_timeouts,
            plugin_overruns,
            plugin_denied,
            plugin_token_requests,
            plugin_fetches,
            plugin_signatures,
            plugin_compilations,
            plugin_disk_bytes,
            plugin_under_way,
            plugin_state,
            plugin_own,
            plugin_lives,
            upstream_requests,
            upstream_connects,
            child_restarts,
            refusals,
            sealed_rejected,
            config_loads,
            secret_reads,
            cluster_requests,
            in_flight,
            connections,
            connections_refused,
            children,
            workloads,
            upstream_pooled,
            plugin_instances,
            streams,
            sessions,
            replay_bytes,
            lent_uses_dropped,
            replay_dropped,
            conversations,
            held_calls,
            connecting,
            questions,
            signins,
            oauth,
            kept,
            oauth_renewals,
            oauth_revocations,
            oauth_grants,
            oauth_pending,
            catalogue_refreshes,
            store_commits,
            store_reachable,
            store_age,
            audit_records,
            audit_dropped,
            audit_sync_seconds,
            names: Mutex::default(),
        })
    }

    /// Every family's name, type, help and labels.
    pub fn declared(&self) -> &[Declared] {
        &self.declared
    }

    /// All metrics as OpenMetrics text, for `/metrics`.
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(16 << 10);
        // Writing into a string can't fail; what was written before a failure would still be worth having.
        let _ = text::encode(&mut out, &self.registry);
        out
    }

    /// The media type of [`Metrics::encode`].
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// The metrics of one tool behind one gateway. Get them when a snapshot is compiled, not per call. Beyond
    /// [`MAX_TOOLS`] the tool is `other`.
    pub fn call_handle(&self, tenant: &str, gateway: &str, server: &str, tool: &str) -> Arc<CallMetrics> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = [tenant, gateway, server, tool].map(str::to_owned);
        if let Some(found) = names.calls.get(&key) {
            return Arc::clone(found);
        }
        if names.calls.len() >= MAX_TOOLS {
            key[3] = OTHER.to_owned();
            if names.calls.len() >= MAX_TOOLS + MAX_NAMES {
                key[2] = OTHER.to_owned();
                key[1] = OTHER.to_owned();
            }
            if let Some(found) = names.calls.get(&key) {
                return Arc::clone(found);
            }
            if names.calls.len() >= MAX_TOOLS + 2 * MAX_NAMES {
                key[0] = OTHER.to_owned();
            }
        }
        let made = names.calls.entry(key).or_insert_with_key(|key| {
            let key = key.each_ref().map(String::as_str);
            Arc::new(CallMetrics::new(&self.calls, &self.call_seconds, &self.overhead_seconds, key))
        });
        Arc::clone(made)
    }

    /// The metrics of one plugin. Beyond [`MAX_NAMES`] the plugin is `other`.
    pub fn plugin_handle(&self, tenant: &str, plugin: &str) -> Arc<PluginMetrics> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = [tenant, plugin].map(str::to_owned);
        if !names.plugins.contains_key(&key) && names.plugins.len() >= MAX_NAMES {
            key = [OTHER, OTHER].map(str::to_owned);
        }
        let made = names.plugins.entry(key).or_insert_with_key(|[tenant, plugin]| {
            Arc::new(PluginMetrics::new(
                tenant,
                plugin,
                (&self.plugin_calls, &self.plugin_seconds),
                [
                    &self.plugin_traps,
                    &self.plugin_timeouts,
                    &self.plugin_overruns,
                    &self.plugin_denied,
                    &self.plugin_token_requests,
                ],
                &self.plugin_state,
                self.plugin_own.of(tenant, plugin),
                &self.plugin_lives,
            ))
        });
        Arc::clone(made)
    }

    /// A name that an operator gave, or `other` once there are [`MAX_NAMES`] of its sort.
    fn bounded<'n>(&self, sort: &'static str, tenant: &'n str, name: &'n str) -> [&'n str; 2] {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = names.seen.entry(sort).or_default();
        let key = format!("{tenant}/{name}");
        if seen.contains(&key) || (seen.len() < MAX_NAMES && seen.insert(key)) {
            [tenant, name]
        } else {
            [OTHER, OTHER]
        }
    }

    /// Counter of requests to a server, to be kept with the server's pool. `era` and `outcome` are fixed words.
    pub fn upstream_requests(&self, tenant: &str, server: &str, era: &'static str, outcome: &'static str) -> Counter {
        let [tenant, server] = self.bounded("server", tenant, server);
        self.upstream_requests
            .get_or_create_owned(&labels(&["tenant", "server", "era", "outcome"], &[tenant, server, era, outcome]))
    }

    /// Counter of connections and sessions opened.
    pub fn upstream_connects(&self, tenant: &str, server: &str, outcome: &'static str) -> Counter {
        let [tenant, server] = self.bounded("server", tenant, server);
        by_outcome(&self.upstream_connects, "server", tenant, server, outcome)
    }

    /// Counter of a child's restarts.
    pub fn child_restarts(&self, tenant: &str, server: &str) -> Counter {
        let [tenant, server] = self.bounded("server", tenant, server);
        self.child_restarts.get_or_create_owned(&labels(&["tenant", "server"], &[tenant, server]))
    }

    /// Counts a refusal.
    pub fn refused(&self, fault: &portcullis_model::Fault) {
        self.refusals.get_or_create(&labels(&["side", "code"], &[fault.side.as_str(), fault.code])).inc();
    }

    /// Counts a session id or cursor that was refused, for a reason that its sender does not learn.
    pub fn sealed_rejected(&self, kind: &'static str, reason: &'static str) {
        self.sealed_rejected.get_or_create(&labels(&["kind", "reason"], &[kind, reason])).inc();
    }

    /// Counts a request of a server to a client that ended: `answered`, `unanswered`, `refused`, `late`.
    pub fn question(&self, outcome: &'static str) {
        self.questions.get_or_create(&labels(&["outcome"], &[outcome])).inc();
    }

    /// Counts a sign-in: `method` is `code` or `provider`, `outcome` is `ok`, `refused`, `limited` or `failed`.
    pub fn signed_in(&self, method: &'static str, outcome: &'static str) {
        self.signins.get_or_create(&labels(&["method", "outcome"], &[method, outcome])).inc();
    }

    /// Counts a request of an OAuth client: `endpoint` is `authorize`, `token`, `revoke` or `register`, `outcome` is `ok`,
    /// `denied`, `refused` or `limited`.
    pub fn oauth(&self, endpoint: &'static str, outcome: &'static str) {
        self.oauth.get_or_create(&labels(&["endpoint", "outcome"], &[endpoint, outcome])).inc();
    }

    /// Says how many records of a sort are kept that end by themselves.
    pub fn kept(&self, what: &'static str, count: usize) {
        self.kept.get_or_create(&labels(&["what"], &[what])).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a renewal of a connection's token that ended: `renewed`, `refused`, `failed`, `gone`.
    pub fn oauth_renewal(&self, outcome: &'static str) {
        self.oauth_renewals.get_or_create(&labels(&["outcome"], &[outcome])).inc();
    }

    /// Counts a deleted connection whose tokens were taken back at their authorization server: `revoked`, `refused`, `failed`,
    /// `nowhere` (it has no place for it), `left-out` (too many waited).
    pub fn oauth_revocation(&self, outcome: &'static str) {
        self.oauth_revocations.get_or_create(&labels(&["outcome"], &[outcome])).inc();
    }

    /// Counts a fetch of what a server offers: `kind` is such as `tools`, `outcome` is `fetched` or `failed`.
    pub fn catalogue_refreshed(&self, tenant: &str, server: &str, kind: &'static str, outcome: &'static str) {
        let [tenant, server] = self.bounded("server", tenant, server);
        let values = [tenant, server, kind, outcome];
        self.catalogue_refreshes.get_or_create(&labels(&["tenant", "server", "kind", "outcome"], &values)).inc();
    }

    /// Counts a component of a registry: `fetched`, `kept` (it was here already), or `failed`.
    pub fn plugin_fetched(&self, outcome: &'static str) {
        self.plugin_fetches.get_or_create(&labels(&["outcome"], &[outcome])).inc();
    }

    /// Counts a component whose signature was looked at: `verified`, `unsigned`, `wrong-key` or `altered`.
    pub fn plugin_signature(&self, outcome: &'static str) {
        self.plugin_signatures.get_or_create(&labels(&["outcome"], &[outcome])).inc();
    }

    /// Counts a compilation: `compiled`, `cached` (it was not needed), `refused` (the component is at fault), or `failed` (a limit
    /// was met, or the machine is at fault).
    pub fn plugin_compiled(&self, outcome: &'static str) {
        self.plugin_compilations.get_or_create(&labels(&["outcome"], &[outcome])).inc();
    }

    /// So many plugins are being fetched or compiled: `stage` is a fixed word.
    pub fn plugin_under_way(&self, stage: &'static str, now: usize) {
        self.plugin_under_way.get_or_create(&labels(&["stage"], &[stage])).set(i64::try_from(now).unwrap_or(i64::MAX));
    }

    /// Says how many bytes are kept on disk: of `components`, or of `compiled` ones.
    pub fn plugin_disk(&self, what: &'static str, bytes: u64) {
        self.plugin_disk_bytes.get_or_create(&labels(&["what"], &[what])).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Counts a change of resources: `door` is such as `file` or `api`, `outcome` such as `applied` or `refused`.
    pub fn config_loaded(&self, door: &'static str, outcome: &'static str) {
        self.config_loads.get_or_create(&labels(&["door", "outcome"], &[door, outcome])).inc();
    }

    /// Counts a request to the API of the Kubernetes cluster, such as `get` or `watch`.
    pub fn cluster_request(&self, verb: &'static str) {
        self.cluster_requests.get_or_create(&labels(&["verb"], &[verb])).inc();
    }

    /// Says how many deployments of servers are in a state, such as `ready`.
    pub fn workloads(&self, state: &'static str, count: usize) {
        self.workloads.get_or_create(&labels(&["state"], &[state])).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a fetch of a secret from another service, such as `vault`: `ok`, also where there is no such secret, or `failed`.
    pub fn secret_read(&self, service: &'static str, ok: bool) {
        let outcome = if ok { "ok" } else { "failed" };
        self.secret_reads.get_or_create(&labels(&["service", "outcome"], &[service, outcome])).inc();
    }
}

fn by_outcome(family: &Family<Labels, Counter>, key: &'static str, tenant: &str, name: &str, outcome: &str) -> Counter {
    family.get_or_create_owned(&labels(&["tenant", key, "outcome"], &[tenant, name, outcome]))
}

/// Seconds, for histograms.
pub(crate) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// What can be registered.
pub(crate) trait Registrable: Metric {}
impl<M: Metric> Registrable for M {}
