//! How a loaded plugin is doing, and quarantine: a plugin that fails for many is not asked for a while.
//!
//! Quarantine must not become a weapon (security decisions 10 and 11): one caller's crafted input, or one server's, is never
//! enough, whatever it repeats; time that only passed never counts; whoever is calling before anybody knows who it is counts not at
//! all. With a fresh instance for each call a trap costs that call and nothing else, so only used-up processor time counts there.
//! Decision 47 says why.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use portcullis_model::{Name, spec::Isolation};
use portcullis_telemetry::metrics::PluginMetrics;

use crate::{
    error::PluginFailure,
    state::{Lent, What},
};

/// How long failures are added up.
const WINDOW: Duration = Duration::from_secs(10);
/// So many in a window, for so many different callers or servers, and at least half of the calls.
const FAILURES: u32 = 5;
const CULPRITS: usize = 3;
/// How many of those are remembered.
const REMEMBERED: usize = 16;
/// The first quarantine, and the longest.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// By whose doing a call may have failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Culprit {
    /// The caller's, or the server's whose words were judged.
    Known(u64),
    /// That can't be told.
    Unknown,
    /// Anybody's on the network: that neither counts nor is ever kept waiting.
    Anybody,
}

impl Culprit {
    pub(crate) fn of(lent: &Lent) -> Self {
        let named = |sort: u8, name: &str| {
            let mut hasher = DefaultHasher::new();
            (sort, name).hash(&mut hasher);
            Self::Known(hasher.finish())
        };
        match lent {
            Lent::Policy { what: What::Result(call, _), .. } => named(1, call.server.as_str()),
            Lent::Policy { what: What::Question(question), .. } => named(1, question.server.as_str()),
            // A list holds the words of many servers.
            Lent::Policy { what: What::List(_), .. } | Lent::Describe(_) | Lent::Nothing => Self::Unknown,
            Lent::Authenticate(_) => Self::Anybody,
            Lent::Policy { principal, .. } => named(0, &principal.subject_text),
            Lent::Resolve(resolving) => named(0, &resolving.principal.subject_text),
        }
    }
}

/// A plugin in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// When the next call is let through, to see whether it works again: milliseconds since 1970.
    pub until_ms: u64,
    /// How many failures brought it there.
    pub failures: u32,
}

/// How one loaded plugin is doing.
pub(crate) struct Health {
    name: String,
    tenant: Name,
    metrics: Arc<PluginMetrics>,
    /// Traps count where an instance is used again.
    warm: bool,
    born: Instant,
    /// 0 where it serves; otherwise in quarantine until so many milliseconds after `born`.
    until: AtomicU64,
    /// Calls since the first failure of the window.
    calls: AtomicU32,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    /// The window's beginning, in milliseconds after `born`.
    since: u64,
    failures: u32,
    culprits: Vec<u64>,
    /// How long the last quarantine was, and when it ended.
    backoff: Duration,
    released: u64,
    /// A call is under way that shows whether it works again.
    probing: bool,
}

/// One call, from when it may begin. Dropped without an end it says nothing about the plugin.
pub(crate) struct Ticket<'h> {
    health: &'h Health,
    culprit: Culprit,
    probe: bool,
}

impl Health {
    pub(crate) fn new(name: &str, tenant: &Name, metrics: Arc<PluginMetrics>, isolation: Isolation) -> Self {
        Self {
            name: name.to_owned(),
            tenant: tenant.clone(),
            metrics,
            warm: isolation != Isolation::Call,
            born: Instant::now(),
            until: AtomicU64::new(0),
            calls: AtomicU32::new(0),
            record: Mutex::default(),
        }
    }

    /// A call begins.
    ///
    /// # Errors
    /// [`PluginFailure::Quarantined`].
    pub(crate) fn enter(&self, culprit: Culprit) -> Result<Ticket<'_>, PluginFailure> {
        if culprit == Culprit::Anybody || self.until.load(Ordering::Acquire) == 0 {
            self.calls.fetch_add(1, Ordering::Relaxed);
            return Ok(Ticket { health: self, culprit, probe: false });
        }
        self.enter_at(culprit, self.now())
    }

    fn enter_at(&self, culprit: Culprit, now: u64) -> Result<Ticket<'_>, PluginFailure> {
        let mut record = self.record();
        let until = self.until.load(Ordering::Acquire);
        if until == 0 {
            return Ok(Ticket { health: self, culprit, probe: false });
        }
        // Whoever brought it here may not keep it here: for a while only others show whether it works again.
        let late = until.saturating_add(millis(record.backoff));
        let known = !matches!(culprit, Culprit::Known(culprit) if !record.culprits.contains(&culprit));
        if record.probing || now < if known { late } else { until } {
            return Err(PluginFailure::Quarantined);
        }
        record.probing = true;
        Ok(Ticket { health: self, culprit, probe: true })
    }

    /// Whether it is in quarantine, and until when.
    pub(crate) fn quarantine(&self) -> Option<Quarantine> {
        let until = self.until.load(Ordering::Acquire);
        if until == 0 {
            return None;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = until.saturating_sub(self.now());
        Some(Quarantine { until_ms: millis(now).saturating_add(left), failures: self.record().failures })
    }

    fn now(&self) -> u64 {
        // Not 0, which means that it serves.
        millis(self.born.elapsed()) + 1
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self, failure: &PluginFailure) -> bool {
        failure.counts_against_plugin() && (self.warm || *failure == PluginFailure::Cpu)
    }

    fn failed_at(&self, culprit: Culprit, probe: bool, now: u64) {
        let Culprit::Known(culprit) = culprit else { return };
        let mut record = self.record();
        if !probe && self.until.load(Ordering::Acquire) != 0 {
            return; // A call that began before.
        }
        if !probe && (record.failures == 0 || now.saturating_sub(record.since) > millis(WINDOW)) {
            record.since = now;
            record.failures = 0;
            record.culprits.clear();
            self.calls.store(1, Ordering::Relaxed);
        }
        record.failures = record.failures.saturating_add(1);
        if !record.culprits.contains(&culprit) && record.culprits.len() < REMEMBERED {
            record.culprits.push(culprit);
        }
        let many = record.failures >= FAILURES && record.culprits.len() >= CULPRITS;
        if probe || (many && u64::from(record.failures) * 2 >= u64::from(self.calls.load(Ordering::Relaxed))) {
            self.begin(&mut record, probe, now);
        }
    }

    fn begin(&self, record: &mut Record, again: bool, now: u64) {
        let quiet = now.saturating_sub(record.released) > millis(LONGEST);
        record.backoff = match record.backoff {
            Duration::ZERO => FIRST,
            _ if quiet && !again => FIRST,
            backoff => (backoff * 2).min(LONGEST),
        };
        self.until.store(now.saturating_add(millis(record.backoff)), Ordering::Release);
        if !again {
            self.metrics.quarantined(true);
            self.metrics.transition("quarantined");
        }
        let (plugin, tenant, seconds) = (&self.name, &self.tenant, record.backoff.as_secs());
        tracing::warn!(%plugin, %tenant, failures = record.failures, seconds, again, "a plugin is in quarantine");
    }

    fn works_again(&self, now: u64) {
        let mut record = self.record();
        record.released = now;
        record.failures = 0;
        record.culprits.clear();
        self.until.store(0, Ordering::Release);
        self.metrics.quarantined(false);
        self.metrics.transition("released");
        tracing::info!(plugin = %self.name, tenant = %self.tenant, "a plugin is out of quarantine");
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        if *self.until.get_mut() != 0 {
            self.metrics.quarantined(false);
        }
    }
}

impl Ticket<'_> {
    /// The plugin answered, in whatever words.
    pub(crate) fn well(self) {
        if self.probe {
            self.health.works_again(self.health.now());
        }
    }

    /// The plugin failed.
    pub(crate) fn failed(self, failure: &PluginFailure) {
        if self.health.counts(failure) {
            self.health.failed_at(self.culprit, self.probe, self.health.now());
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.health.record().probing = false;
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use portcullis_telemetry::Metrics;

    use super::*;

    fn health(isolation: Isolation) -> (Arc<Metrics>, Health) {
        let metrics = Metrics::new();
        let handle = metrics.plugin_handle("default", "p");
        (metrics, Health::new("p", &Name::default_tenant(), handle, isolation))
    }

    fn fail(health: &Health, who: u64, now: u64) {
        let ticket = health.enter(Culprit::Known(who)).expect("it serves");
        drop(ticket);
        health.failed_at(Culprit::Known(who), false, now);
    }

    fn may(health: &Health, who: u64, now: u64) -> bool {
        health.enter_at(Culprit::Known(who), now).is_ok()
    }

    #[test]
    fn one_caller_alone_puts_nothing_into_quarantine() {
        let (_, health) = health(Isolation::Tenant);
        for now in 1..1000 {
            fail(&health, now % 2, now);
        }
        assert_eq!(health.quarantine(), None, "two callers neither");
        fail(&health, 2, 1000);
        assert!(health.quarantine().is_some());
    }

    #[test]
    fn what_mostly_works_serves_on() {
        let (_, health) = health(Isolation::Tenant);
        for who in 0..100 {
            fail(&health, who, 1);
            for _ in 0..3 {
                health.enter(Culprit::Known(who)).expect("it serves").well();
            }
        }
        assert_eq!(health.quarantine(), None);
    }

    #[test]
    fn failures_that_lie_apart_do_not_add_up() {
        let (_, health) = health(Isolation::Tenant);
        for who in 0..10 {
            fail(&health, who, 1 + who * (millis(WINDOW) + 1));
        }
        assert_eq!(health.quarantine(), None);
    }

    #[test]
    fn quarantine_grows_and_one_probe_ends_it() {
        let (metrics, health) = health(Isolation::Tenant);
        for who in 0..5 {
            fail(&health, who, 1);
        }
        let said = |text: &str| metrics.encode().contains(text);
        assert!(said("portcullis_plugin_quarantined{tenant=\"default\",plugin=\"p\"} 1"));
        assert!(said("portcullis_plugin_transitions_total{tenant=\"default\",plugin=\"p\",to=\"quarantined\"} 1"));
        assert!(!may(&health, 9, 1000), "a second is not over");
        assert!(!may(&health, 0, 1500), "nor may one of those who brought it there show anything yet");
        let probe = health.enter_at(Culprit::Known(9), 1500).expect("one is let through");
        assert!(!may(&health, 10, 1500), "one at a time");
        drop(probe);
        // That one was given up, and said nothing. The next one fails: twice the time.
        let probe = health.enter_at(Culprit::Known(10), 1500).expect("another");
        health.failed_at(probe.culprit, true, 1500);
        drop(probe);
        assert!(!may(&health, 11, 3400));
        assert!(!may(&health, 10, 3600), "who failed is known now");
        health.enter_at(Culprit::Known(11), 3600).expect("the next").well();
        assert_eq!(health.quarantine(), None);
        assert!(said("portcullis_plugin_quarantined{tenant=\"default\",plugin=\"p\"} 0"));
        assert!(said("portcullis_plugin_transitions_total{tenant=\"default\",plugin=\"p\",to=\"released\"} 1"));
    }

    #[test]
    fn those_who_failed_may_try_again_when_nobody_else_does() {
        let (_, health) = health(Isolation::Tenant);
        for who in 0..5 {
            fail(&health, who, 1);
        }
        assert!(!may(&health, 0, 1900));
        assert!(may(&health, 0, 2100));
    }

    #[test]
    fn what_counts_depends_on_who_keeps_the_instance() {
        let (_, fresh) = health(Isolation::Call);
        let (_, warm) = health(Isolation::Shared);
        let trap = PluginFailure::Trap("unreachable".into());
        for failure in [&trap, &PluginFailure::Memory] {
            assert!(!fresh.counts(failure) && warm.counts(failure), "{failure}");
        }
        assert!(fresh.counts(&PluginFailure::Cpu) && warm.counts(&PluginFailure::Cpu));
        for never in
            [PluginFailure::Timeout, PluginFailure::PoolFull, PluginFailure::Output, PluginFailure::Quarantined]
        {
            assert!(!fresh.counts(&never) && !warm.counts(&never), "{never}");
        }
    }

    #[test]
    fn failures_of_nobody_known_count_for_nothing() {
        let (_, health) = health(Isolation::Tenant);
        for _ in 0..100 {
            health.failed_at(Culprit::Unknown, false, 1);
            health.failed_at(Culprit::Anybody, false, 1);
        }
        assert_eq!(health.quarantine(), None);
        for who in 0..5 {
            fail(&health, who, 1);
        }
        assert!(health.enter(Culprit::Anybody).is_ok(), "who is calling is asked all the same");
    }
}
