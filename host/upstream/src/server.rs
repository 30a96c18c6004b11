//! What all sessions and children of one server share: how many calls are in flight, the breaker, the era.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use portcullis_protocol::Era;

use crate::{
    error::UpstreamError,
    meter::{ANSWERED, CANCELLED, Meter},
};

/// How long after a failed attempt to connect nobody tries again. Short: it only has to keep callers from queueing behind
/// a dead address, one by one, each for the whole connect timeout.
const OPEN_FOR: Duration = Duration::from_secs(1);

/// How many calls are in flight to a server, in all eras.
#[derive(Debug)]
struct Gate {
    limit: u32,
    in_flight: AtomicU32,
}

/// One generation of one server, in the era that it was found to speak or in one that was chosen.
pub(crate) struct Server {
    gate: Arc<Gate>,
    born: Instant,
    /// Milliseconds after `born` (at least 1) of the last failed attempt; 0 when the last one worked.
    failed_at: AtomicU64,
    reason: Mutex<String>,
    era: AtomicU8,
    /// Whether the era was chosen, and nothing that the server says changes it.
    pinned: bool,
    /// How many accounts are listened to for changes of lists.
    announcing: AtomicU32,
    /// Whether it speaks the HTTP+SSE transport of 2024-11-05.
    old: AtomicBool,
    /// What is counted.
    pub(crate) meter: Meter,
}

/// The most accounts of one server whose changes of lists are heard all the time. Those of others are found when their lists
/// have grown old.
const MAX_ANNOUNCING: u32 = 64;

/// One account whose changes of lists are heard.
pub(crate) struct Announcing(Arc<Server>);

impl Drop for Announcing {
    fn drop(&mut self) {
        self.0.announcing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call's place among those in flight. Dropping it counts the call, as cancelled unless its outcome was told.
pub(crate) struct InFlight {
    server: Arc<Server>,
    outcome: &'static str,
}

impl InFlight {
    /// Tells how the call ended.
    pub(crate) fn ended(&mut self, error: Option<&UpstreamError>) {
        self.outcome = error.map_or(ANSWERED, UpstreamError::code);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.server.gate.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.server.meter.requested(self.server.era(), self.outcome);
    }
}

impl Server {
    pub(crate) fn new(limit: u32, meter: Meter) -> Self {
        Self::behind(Arc::new(Gate { limit: limit.max(1), in_flight: AtomicU32::new(0) }), meter, None)
    }

    /// The same server in an era that was chosen, with the same limit on calls in flight.
    pub(crate) fn pinned(&self, era: Era, meter: Meter) -> Self {
        Self::behind(self.gate.clone(), meter, Some(era))
    }

    fn behind(gate: Arc<Gate>, meter: Meter, era: Option<Era>) -> Self {
        Self {
            gate,
            born: Instant::now(),
            failed_at: AtomicU64::new(0),
            reason: Mutex::new(String::new()),
            era: AtomicU8::new(era.map_or(0, as_number)),
            pinned: era.is_some(),
            announcing: AtomicU32::new(0),
            old: AtomicBool::new(false),
            meter,
        }
    }

    /// Takes a place among the calls in flight.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<InFlight, UpstreamError> {
        if self.gate.in_flight.fetch_add(1, Ordering::Relaxed) >= self.gate.limit {
            self.gate.in_flight.fetch_sub(1, Ordering::Relaxed);
            let busy = UpstreamError::Busy { retry_after: Duration::from_millis(250) };
            self.meter.requested(self.era(), busy.code());
            return Err(busy);
        }
        Ok(InFlight { server: self.clone(), outcome: CANCELLED })
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.gate.in_flight.load(Ordering::Relaxed)
    }

    /// Whether an attempt may be made. While connecting fails, one a second may.
    pub(crate) fn check(&self) -> Result<(), UpstreamError> {
        let failed = self.failed_at.load(Ordering::Relaxed);
        if failed == 0 {
            return Ok(());
        }
        let now = self.now();
        let open_for = u64::try_from(OPEN_FOR.as_millis()).unwrap_or(u64::MAX);
        let since = now.saturating_sub(failed);
        if since >= open_for
            && self.failed_at.compare_exchange(failed, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            return Ok(());
        }
        Err(UpstreamError::Open {
            reason: self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            retry_after: Duration::from_millis(open_for.saturating_sub(since).max(1)),
        })
    }

    pub(crate) fn connect_failed(&self, reason: &str) {
        reason.clone_into(&mut self.reason.lock().unwrap_or_else(PoisonError::into_inner));
        self.failed_at.store(self.now(), Ordering::Relaxed);
    }

    pub(crate) fn connect_worked(&self) {
        if self.failed_at.load(Ordering::Relaxed) != 0 {
            self.failed_at.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn era(&self) -> Option<Era> {
        match self.era.load(Ordering::Relaxed) {
            1 => Some(Era::Legacy),
            2 => Some(Era::Modern),
            _ => None,
        }
    }

    pub(crate) fn learn(&self, era: Era) {
        if !self.pinned {
            self.era.store(as_number(era), Ordering::Relaxed);
        }
    }

    /// The server spoke another era than remembered, so it was exchanged: the next call probes again.
    pub(crate) fn forget_era(&self) {
        if !self.pinned {
            self.era.store(0, Ordering::Relaxed);
        }
    }

    /// A place among the accounts that are listened to, if there is one.
    pub(crate) fn announcing(self: &Arc<Self>) -> Option<Announcing> {
        if self.announcing.fetch_add(1, Ordering::Relaxed) >= MAX_ANNOUNCING {
            self.announcing.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Announcing(self.clone()))
    }

    /// Whether it was last reached by HTTP+SSE.
    pub(crate) fn is_old(&self) -> bool {
        self.old.load(Ordering::Relaxed)
    }

    pub(crate) fn learn_old(&self, old: bool) {
        self.old.store(old, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

fn as_number(era: Era) -> u8 {
    match era {
        Era::Legacy => 1,
        Era::Modern => 2,
    }
}

#[cfg(test)]
mod tests {
    use portcullis_telemetry::Metrics;

    use super::*;

    fn meter() -> Meter {
        Meter::new(Metrics::new(), "t", "s")
    }

    #[test]
    fn admits_up_to_the_limit() {
        let server = Arc::new(Server::new(2, meter()));
        let (a, _b) = (server.admit().unwrap(), server.admit().unwrap());
        assert!(matches!(server.admit(), Err(UpstreamError::Busy { .. })));
        drop(a);
        assert!(server.admit().is_ok());
    }

    #[test]
    fn opens_after_a_failure_and_closes_after_a_success() {
        let server = Server::new(1, meter());
        assert!(server.check().is_ok());
        server.connect_failed("refused");
        assert!(matches!(server.check(), Err(UpstreamError::Open { reason, .. }) if reason == "refused"));
        server.connect_worked();
        assert!(server.check().is_ok());
    }
}
