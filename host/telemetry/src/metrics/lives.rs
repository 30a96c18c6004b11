//! What becomes of plugins: versions that come and go, quarantine, candidates, places that only watch.

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

use super::declare::{Declarer, Labels, labels};

/// The families.
#[derive(Clone, Debug)]
pub(super) struct Lives {
    transitions: Family<Labels, Counter>,
    quarantined: Family<Labels, Gauge>,
    shadows: Family<Labels, Counter>,
    monitored: Family<Labels, Counter>,
}

impl Lives {
    pub(super) fn declare(d: &mut Declarer) -> Self {
        Self {
            transitions: d.counters(
                "plugin_transitions",
                "Versions of plugins that came, went or were refused, and quarantine",
                &["tenant", "plugin", "to"],
            ),
            quarantined: d.gauges("plugin_quarantined", "Places of plugins in quarantine now", &["tenant", "plugin"]),
            shadows: d.counters(
                "plugin_shadow",
                "Answers of candidates beside those of the active version, by how they differ",
                &["tenant", "plugin", "difference"],
            ),
            monitored: d.counters(
                "plugin_monitored",
                "Answers of policies in places that only watch",
                &["tenant", "plugin", "hook", "answer"],
            ),
        }
    }

    pub(super) fn transition(&self, [tenant, plugin]: [&str; 2], to: &'static str) {
        self.transitions.get_or_create(&labels(&["tenant", "plugin", "to"], &[tenant, plugin, to])).inc();
    }

    pub(super) fn quarantined(&self, [tenant, plugin]: [&str; 2], begins: bool) {
        let gauge = self.quarantined.get_or_create(&labels(&["tenant", "plugin"], &[tenant, plugin]));
        if begins {
            gauge.inc()
        } else {
            gauge.dec()
        };
    }

    pub(super) fn compared(&self, [tenant, plugin]: [&str; 2], difference: &'static str) {
        self.shadows.get_or_create(&labels(&["tenant", "plugin", "difference"], &[tenant, plugin, difference])).inc();
    }

    pub(super) fn monitored(&self, [tenant, plugin]: [&str; 2], hook: &'static str, answer: &'static str) {
        let values = [tenant, plugin, hook, answer];
        self.monitored.get_or_create(&labels(&["tenant", "plugin", "hook", "answer"], &values)).inc();
    }
}
