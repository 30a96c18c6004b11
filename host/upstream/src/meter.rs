//! What is counted of one server, with the counters looked up once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use portcullis_protocol::Era;
use portcullis_telemetry::{Metrics, metrics::CounterHandle};

/// The outcome of a request that got its answer: a result, or a JSON-RPC error.
pub(crate) const ANSWERED: &str = "answered";
/// The outcome of a request that its caller gave up.
pub(crate) const CANCELLED: &str = "cancelled";

/// One server's counters.
pub(crate) struct Meter {
    metrics: Arc<Metrics>,
    tenant: String,
    server: String,
    /// By era: unknown, legacy, modern.
    answered: [OnceLock<CounterHandle>; 3],
    rare: Mutex<HashMap<(&'static str, &'static str), CounterHandle>>,
}

impl Meter {
    pub(crate) fn new(metrics: Arc<Metrics>, tenant: &str, server: &str) -> Self {
        let (tenant, server) = (tenant.to_owned(), server.to_owned());
        Self { metrics, tenant, server, answered: Default::default(), rare: Mutex::default() }
    }

    /// Counts a request that is over. Cheap for those that were answered.
    pub(crate) fn requested(&self, era: Option<Era>, outcome: &'static str) {
        let (at, era) = match era {
            None => (0, "unknown"),
            Some(Era::Legacy) => (1, "legacy"),
            Some(Era::Modern) => (2, "modern"),
        };
        let counter = || self.metrics.upstream_requests(&self.tenant, &self.server, era, outcome);
        if outcome == ANSWERED {
            self.answered[at].get_or_init(counter).inc();
        } else {
            let mut rare = self.rare.lock().unwrap_or_else(PoisonError::into_inner);
            rare.entry((era, outcome)).or_insert_with(counter).inc();
        }
    }

    /// Counts a connection or session that was opened, or was not.
    pub(crate) fn opened(&self, what: Opened) {
        self.metrics.upstream_connects(&self.tenant, &self.server, what.as_str()).inc();
    }

    /// Counts a connection or session for as long as the guard lives.
    pub(crate) fn keep(&self) -> Kept {
        self.metrics.upstream_pooled.inc();
        Kept(self.metrics.clone())
    }
}

/// What was opened, or was to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Opened {
    Connection,
    ConnectionFailed,
    Session,
    SessionFailed,
    /// A stream of what is said outside calls.
    Stream,
    StreamFailed,
    /// A listener that took less than was said.
    ListenerCut,
}

impl Opened {
    fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::ConnectionFailed => "connection-failed",
            Self::Session => "session",
            Self::SessionFailed => "session-failed",
            Self::Stream => "stream",
            Self::StreamFailed => "stream-failed",
            Self::ListenerCut => "listener-cut",
        }
    }
}

/// A connection or session that is counted.
pub(crate) struct Kept(Arc<Metrics>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.upstream_pooled.dec();
    }
}
