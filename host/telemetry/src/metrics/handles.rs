//! Metrics looked up once and kept: counting through them takes no map and no label.

use std::{array, sync::OnceLock, time::Duration};

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};

use super::{
    declare::{HistogramFamily, Labels, labels},
    lives::Lives,
    own::{NotKept, OwnSeries},
    seconds,
};

/// How a call of a tool ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The server answered with a result.
    Ok,
    /// The server answered with a result that says `isError`, or with an error of the tool's own.
    ToolError,
    /// A policy denied it.
    Denied,
    /// The request was wrong.
    CallerError,
    /// We or a plugin failed.
    GatewayError,
    /// The server failed, or answered nonsense.
    ServerError,
    /// Nobody answered in time.
    Timeout,
    /// The client went away or cancelled.
    Cancelled,
}

impl Outcome {
    /// The word in metrics, logs and audit records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ToolError => "tool-error",
            Self::Denied => "denied",
            Self::CallerError => "caller-error",
            Self::GatewayError => "gateway-error",
            Self::ServerError => "server-error",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
        }
    }

    /// How a call that ended in a fault ended.
    pub fn of_fault(fault: &portcullis_model::Fault) -> Self {
        use portcullis_model::Side;
        match (fault.side, fault.code) {
            (_, "timeout" | "server-timeout") => Self::Timeout,
            (_, "cancelled") => Self::Cancelled,
            (Side::Caller, _) => Self::CallerError,
            (Side::Policy, _) => Self::Denied,
            (Side::Gateway, _) => Self::GatewayError,
            (Side::Server, _) => Self::ServerError,
        }
    }
}

/// The metrics of one tool behind one gateway.
#[derive(Debug)]
pub struct CallMetrics {
    /// Made when first counted: most tools never end in most of the ways there are.
    outcomes: [OnceLock<Counter>; 8],
    calls: Family<Labels, Counter>,
    key: [String; 4],
    total: Histogram,
    overhead: Histogram,
}

impl CallMetrics {
    pub(super) fn new(
        calls: &Family<Labels, Counter>,
        total: &HistogramFamily,
        overhead: &HistogramFamily,
        [tenant, gateway, server, tool]: [&str; 4],
    ) -> Self {
        Self {
            outcomes: array::from_fn(|_| OnceLock::new()),
            calls: calls.clone(),
            key: [tenant, gateway, server, tool].map(str::to_owned),
            total: total.get_or_create_owned(&labels(&["tenant", "gateway", "server"], &[tenant, gateway, server])),
            overhead: overhead.get_or_create_owned(&labels(&["tenant", "gateway"], &[tenant, gateway])),
        }
    }

    /// Counts a call: how it ended, how long it took, and how much of that was waiting for the server.
    pub fn record(&self, outcome: Outcome, total: Duration, waited: Duration) {
        self.outcome(outcome).inc();
        self.total.observe(seconds(total));
        self.overhead.observe(seconds(total.saturating_sub(waited)));
    }

    /// How many calls ended so.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].get().map_or(0, |c| c.get())
    }

    fn outcome(&self, outcome: Outcome) -> &Counter {
        self.outcomes[outcome as usize].get_or_init(|| {
            let [tenant, gateway, server, tool] = self.key.each_ref().map(String::as_str);
            let values = [tenant, gateway, server, tool, outcome.as_str()];
            self.calls.get_or_create_owned(&labels(&["tenant", "gateway", "server", "tool", "outcome"], &values))
        })
    }
}

/// The metrics of one plugin.
#[derive(Debug)]
pub struct PluginMetrics {
    /// Made at a hook's first call: few plugins serve more than two.
    hooks: [OnceLock<HookMetrics>; HOOKS.len()],
    calls: Family<Labels, Counter>,
    times: HistogramFamily,
    traps: Counter,
    cpu_timeouts: Counter,
    overruns: Counter,
    wall_timeouts: Counter,
    denied: Family<Labels, Counter>,
    token_requests: Family<Labels, Counter>,
    state: Gauge,
    own: OwnSeries,
    lives: Lives,
    tenant: String,
    plugin: String,
}

#[derive(Debug)]
struct HookMetrics {
    ok: Counter,
    failed: Counter,
    seconds: Histogram,
}

/// The hooks of `wit/`, as metrics call them.
const HOOKS: [&str; 12] = [
    "authenticate",
    "resolve",
    "refresh",
    "rejected",
    "tool-call",
    "tool-result",
    "resource-read",
    "prompt-get",
    "server-request",
    "list-filter",
    "session",
    "described",
];

impl PluginMetrics {
    pub(super) fn new(
        tenant: &str,
        plugin: &str,
        (calls, times): (&Family<Labels, Counter>, &HistogramFamily),
        [traps, timeouts, overruns, denied, token_requests]: [&Family<Labels, Counter>; 5],
        state: &Family<Labels, Gauge>,
        own: OwnSeries,
        lives: &Lives,
    ) -> Self {
        let timeout =
            |clock| timeouts.get_or_create_owned(&labels(&["tenant", "plugin", "clock"], &[tenant, plugin, clock]));
        Self {
            hooks: array::from_fn(|_| OnceLock::new()),
            calls: calls.clone(),
            times: times.clone(),
            traps: traps.get_or_create_owned(&labels(&["tenant", "plugin"], &[tenant, plugin])),
            cpu_timeouts: timeout("cpu"),
            overruns: overruns.get_or_create_owned(&labels(&["tenant", "plugin"], &[tenant, plugin])),
            wall_timeouts: timeout("wall"),
            denied: denied.clone(),
            token_requests: token_requests.clone(),
            state: state.get_or_create_owned(&labels(&["tenant", "plugin"], &[tenant, plugin])),
            own,
            lives: lives.clone(),
            tenant: tenant.to_owned(),
            plugin: plugin.to_owned(),
        }
    }

    /// Counts a call of `hook`, one of those that `docs/metrics.md` lists. `ok` is false where the plugin failed, not where it
    /// denied.
    pub fn record(&self, hook: &str, ok: bool, took: Duration) {
        if let Some(i) = HOOKS.iter().position(|h| *h == hook) {
            let hook = self.hooks[i].get_or_init(|| self.hook(HOOKS[i]));
            if ok { &hook.ok } else { &hook.failed }.inc();
            hook.seconds.observe(seconds(took));
        }
    }

    fn hook(&self, hook: &str) -> HookMetrics {
        let (tenant, plugin) = (self.tenant.as_str(), self.plugin.as_str());
        let call = |outcome| {
            let values = [tenant, plugin, hook, outcome];
            self.calls.get_or_create_owned(&labels(&["tenant", "plugin", "hook", "outcome"], &values))
        };
        HookMetrics {
            ok: call("ok"),
            failed: call("failed"),
            seconds: self.times.get_or_create_owned(&labels(&["tenant", "plugin", "hook"], &[tenant, plugin, hook])),
        }
    }

    /// Counts a trap.
    pub fn trapped(&self) {
        self.traps.inc();
    }

    /// Counts a call stopped for its processor time, or (`wall`) for the time that passed.
    pub fn timed_out(&self, wall: bool) {
        if wall { &self.wall_timeouts } else { &self.cpu_timeouts }.inc();
    }

    /// Counts a call that was let use more processor time than its limit.
    pub fn overran(&self) {
        self.overruns.inc();
    }

    /// Counts the use of a host function that was not granted.
    pub fn capability_denied(&self, capability: &'static str) {
        let values = [self.tenant.as_str(), self.plugin.as_str(), capability];
        self.denied.get_or_create(&labels(&["tenant", "plugin", "capability"], &values)).inc();
    }

    /// Notes how many bytes the plugin remembers in this process.
    pub fn remembers(&self, bytes: usize) {
        self.state.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Adds to a counter of the plugin's own.
    ///
    /// # Errors
    /// Why it is not counted.
    pub fn count(&self, name: &str, labels: &[(String, String)], add: u64) -> Result<(), NotKept> {
        self.own.count(name, labels, add)
    }

    /// Notes a value in a histogram of the plugin's own.
    ///
    /// # Errors
    /// Why it is not noted.
    pub fn observe(&self, name: &str, labels: &[(String, String)], value: f64) -> Result<(), NotKept> {
        self.own.observe(name, labels, value)
    }

    /// Counts a request to a token endpoint: `ok`, `refused`, `unavailable`, `timeout`, `malformed` or `denied`.
    pub fn token_request(&self, outcome: &'static str) {
        let values = [self.tenant.as_str(), self.plugin.as_str(), outcome];
        self.token_requests.get_or_create(&labels(&["tenant", "plugin", "outcome"], &values)).inc();
    }

    /// Counts what became of the plugin, such as `active`, `refused` or `quarantined`: the words of `docs/metrics.md`.
    pub fn transition(&self, to: &'static str) {
        self.lives.transition([&self.tenant, &self.plugin], to);
    }

    /// One more place of the plugin is in quarantine, or one less.
    pub fn quarantined(&self, begins: bool) {
        self.lives.quarantined([&self.tenant, &self.plugin], begins);
    }

    /// Counts an answer of its candidate beside the active version's: `none` where they agree.
    pub fn compared(&self, difference: &'static str) {
        self.lives.compared([&self.tenant, &self.plugin], difference);
    }

    /// Counts an answer in a place that only watches.
    pub fn monitored(&self, hook: &'static str, answer: &'static str) {
        self.lives.monitored([&self.tenant, &self.plugin], hook, answer);
    }
}
