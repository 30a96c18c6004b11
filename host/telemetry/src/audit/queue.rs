//! The bounded queue between callers and the thread that writes: group commit for those who wait, a quarter of a second
//! at most for the rest.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{AuditError, AuditEvent, Done, clock, file::ChainFile};
use crate::metrics::Metrics;

/// How long a record that nobody waits for may wait itself.
const FLUSH: Duration = Duration::from_millis(250);
/// The most records written at once: a batch is held in memory.
const BATCH: usize = 4096;

pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    capacity: usize,
    metrics: Option<Arc<Metrics>>,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    dropped: u64,
    /// Somebody waits, or the queue is half full: the writer must not sleep on.
    urgent: bool,
    closed: bool,
}

struct Item {
    time: Duration,
    event: Option<AuditEvent>,
    done: Option<Done>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl Queue {
    pub(crate) fn new(capacity: usize, metrics: Arc<Metrics>) -> Self {
        Self { state: Mutex::default(), wake: Condvar::new(), capacity: capacity.max(1), metrics: Some(metrics) }
    }

    pub(crate) fn discarding() -> Self {
        Self { state: Mutex::default(), wake: Condvar::new(), capacity: 0, metrics: None }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, event: AuditEvent) {
        let Some(metrics) = &self.metrics else { return };
        let mut state = self.lock();
        if state.items.len() >= self.capacity || state.closed {
            state.dropped += 1;
            metrics.audit_dropped.inc();
            return;
        }
        state.items.push_back(Item { time: clock::now(), event: Some(event), done: None });
        // Waking a thread costs more than queueing: the writer wakes by itself in time.
        if state.items.len() * 2 >= self.capacity && !state.urgent {
            state.urgent = true;
            self.wake.notify_one();
        }
    }

    pub(crate) fn push_durable(&self, event: AuditEvent) -> Result<Option<Waiting>, AuditError> {
        self.push_waiting(Some(event))
    }

    pub(crate) fn push_barrier(&self) -> Result<Option<Waiting>, AuditError> {
        self.push_waiting(None)
    }

    fn push_waiting(&self, event: Option<AuditEvent>) -> Result<Option<Waiting>, AuditError> {
        let Some(metrics) = &self.metrics else {
            return Ok(None);
        };
        let mut state = self.lock();
        if state.closed {
            return Err(AuditError::Closed);
        }
        // What must not be dropped may use as much again as what may.
        if state.items.len() >= self.capacity.saturating_mul(2) {
            state.dropped += 1;
            metrics.audit_dropped.inc();
            return Err(AuditError::Full);
        }
        let (done, waiting) = oneshot::channel();
        state.items.push_back(Item { time: clock::now(), event, done: Some(done) });
        if !state.urgent {
            state.urgent = true;
            self.wake.notify_one();
        }
        Ok(Some(waiting))
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// Waits for something to write and moves it into `items`; gives how many records were dropped before it. Nothing means that
    /// the queue is closed and empty.
    fn take(&self, items: &mut Vec<Item>) -> Option<u64> {
        let mut state = self.lock();
        let deadline = Instant::now() + FLUSH;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let due = left.is_zero() || state.urgent || state.closed;
            if due && (!state.items.is_empty() || state.dropped > 0) {
                let many = state.items.len().min(BATCH);
                items.extend(state.items.drain(..many));
                state.urgent = !state.items.is_empty();
                return Some(std::mem::take(&mut state.dropped));
            }
            if state.closed {
                return None;
            }
            state.urgent = false;
            // With nothing to write there is nothing to be late with: one wake-up a period costs next to nothing.
            let wait = if left.is_zero() { FLUSH } else { left };
            state = self.wake.wait_timeout(state, wait).map_or_else(|e| e.into_inner().0, |(guard, _)| guard);
        }
    }
}

pub(crate) type Waiting = oneshot::Receiver<Result<(), AuditError>>;

/// The writer's thread.
pub(crate) fn write_all(queue: &Queue, mut file: ChainFile, metrics: &Metrics) {
    // Kept from batch to batch: the system would have to find and clear the memory again each time.
    let mut items = Vec::new();
    while let Some(dropped) = queue.take(&mut items) {
        if dropped > 0 {
            file.note_gap(dropped, "queue-full");
        }
        let started = Instant::now();
        let events = items.iter().filter_map(|item| item.event.as_ref().map(|e| (item.time, e)));
        let written = file.write(events);
        metrics.audit_sync_seconds.observe(started.elapsed().as_secs_f64());
        let answer = match written {
            Ok(count) => {
                metrics.audit_records.inc_by(count);
                Ok(())
            }
            Err(error) => {
                let lost = items.iter().filter(|item| item.event.is_some()).count() as u64;
                metrics.audit_dropped.inc_by(lost);
                file.note_gap(lost, "write-failed");
                tracing::error!(%error, lost, "audit records could not be written");
                Err(AuditError::from(error))
            }
        };
        for done in items.drain(..).filter_map(|item| item.done) {
            // Whoever waited may be gone.
            let _ = done.send(answer.clone());
        }
    }
    // Tell of what was lost while the disk refused, if it takes it now.
    if file.has_gap()
        && let Err(error) = file.write(std::iter::empty())
    {
        tracing::error!(%error, "the last audit gap could not be written");
    }
}
