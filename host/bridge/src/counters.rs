//! What is counted, as Prometheus reads it.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
};

/// One that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// One that goes up and down.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicI64);

impl Gauge {
    pub(crate) fn add(&self, by: i64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) calls: Counter,
    pub(crate) refused: Counter,
    pub(crate) starts: Counter,
    pub(crate) lost: Counter,
    pub(crate) unplaced: Counter,
    pub(crate) log_lines_dropped: Counter,
    pub(crate) sessions: Gauge,
    pub(crate) children: Gauge,
    pub(crate) in_flight: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) replay_bytes: Gauge,
}

impl Counters {
    /// The text format.
    pub(crate) fn encode(&self) -> String {
        let mut out = String::new();
        let counters: [(&str, &str, &Counter); 6] = [
            ("calls", "Requests handed to a process.", &self.calls),
            ("refused", "Requests refused here.", &self.refused),
            ("child_starts", "Processes started.", &self.starts),
            ("calls_lost", "Calls whose process ended before it answered.", &self.lost),
            ("messages_unplaced", "Messages of a process that belong to nobody.", &self.unplaced),
            ("log_lines_dropped", "Lines of standard error that came too fast.", &self.log_lines_dropped),
        ];
        for (name, help, counter) in counters {
            let value = counter.0.load(Ordering::Relaxed);
            let name = format!("portcullis_bridge_{name}_total");
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}");
        }
        let gauges: [(&str, &str, &Gauge); 5] = [
            ("sessions", "Sessions.", &self.sessions),
            ("children", "Processes that run.", &self.children),
            ("calls_in_flight", "Calls under way.", &self.in_flight),
            ("connections", "Connections of clients.", &self.connections),
            ("replay_bytes", "Bytes kept for clients that come again.", &self.replay_bytes),
        ];
        for (name, help, gauge) in gauges {
            let value = gauge.get();
            let name = format!("portcullis_bridge_{name}");
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
        }
        out
    }
}
