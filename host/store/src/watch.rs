//! Following changes: one bounded log in memory, any number of readers, none of which can hold it up.
//!
//! A reader that falls behind the log's end is told [`StoreError::TooOld`] instead of being buffered for.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::watch;

use crate::{Change, Revision, StoreError};

/// The most changes that the log keeps.
pub(crate) const LOG_ENTRIES: usize = 16 * 1024;
/// The most bytes that the log keeps.
pub(crate) const LOG_BYTES: usize = 16 << 20;

/// The change log in memory, and who waits for it.
#[derive(Debug)]
pub(crate) struct Log {
    entries: RwLock<Entries>,
    head: watch::Sender<Head>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    revision: Revision,
    closed: bool,
}

#[derive(Debug)]
struct Entries {
    /// In the order of their sequence numbers; those of one revision together.
    changes: VecDeque<(u64, Change)>,
    next_sequence: u64,
    bytes: usize,
    /// Changes up to here are no longer known.
    floor: Revision,
}

impl Log {
    /// A log that knows `changes`, which are all that happened after `floor`, and reaches to `revision`.
    pub(crate) fn new(floor: Revision, revision: Revision, changes: Vec<Change>) -> Arc<Self> {
        let mut entries = Entries { changes: VecDeque::new(), next_sequence: 0, bytes: 0, floor };
        entries.extend(changes);
        Arc::new(Self { entries: RwLock::new(entries), head: watch::Sender::new(Head { revision, closed: false }) })
    }

    /// The revision that is published.
    pub(crate) fn revision(&self) -> Revision {
        self.head.borrow().revision
    }

    /// Adds changes that are durable now and wakes those who wait. Answers which revision the log starts after.
    pub(crate) fn publish(&self, revision: Revision, changes: Vec<Change>) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).extend(changes);
        self.head.send_modify(|head| head.revision = revision);
    }

    /// Begins anew after `floor`, because what lies between is not known: whoever reads is told [`StoreError::TooOld`].
    pub(crate) fn restart(&self, floor: Revision, revision: Revision, changes: Vec<Change>) {
        {
            let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
            entries.changes.clear();
            entries.bytes = 0;
            entries.floor = floor;
            // A reader that had read everything stands here, and must notice as well.
            entries.next_sequence += 1;
            entries.extend(changes);
        }
        self.head.send_modify(|head| head.revision = revision);
    }

    /// The floor that the log will have once `entries` more changes of `bytes` bytes are in it: what may be forgotten on
    /// disk in the same batch.
    pub(crate) fn floor_after(&self, entries: usize, bytes: usize) -> Revision {
        let log = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let (mut count, mut size, mut floor) = (log.changes.len() + entries, log.bytes + bytes, log.floor);
        let mut at = log.changes.iter().peekable();
        while count > LOG_ENTRIES || size > LOG_BYTES || at.peek().is_some_and(|(_, c)| c.revision() <= floor) {
            let Some((_, change)) = at.next() else { break };
            floor = change.revision();
            count -= 1;
            size -= change.size();
        }
        floor
    }

    /// Whoever waits is told that nothing will come any more.
    pub(crate) fn close(&self) {
        self.head.send_modify(|head| head.closed = true);
    }

    /// See [`crate::Store::watch`].
    pub(crate) fn watch(self: &Arc<Self>, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        // A revision that is still to come belongs to another store, or to one that was put back in time.
        if from < entries.floor || from > self.revision() {
            return Err(StoreError::TooOld);
        }
        let at = entries.changes.partition_point(|(_, change)| change.revision() <= from);
        let next = entries.changes.get(at).map_or(entries.next_sequence, |(sequence, _)| *sequence);
        Ok(Watch { log: Arc::clone(self), head: self.head.subscribe(), prefix: prefix.into(), next })
    }
}

impl Entries {
    fn extend(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.bytes += change.size();
            self.changes.push_back((self.next_sequence, change));
            self.next_sequence += 1;
        }
        while self.changes.len() > LOG_ENTRIES
            || self.bytes > LOG_BYTES
            || self.changes.front().is_some_and(|(_, c)| c.revision() <= self.floor)
        {
            let Some((_, change)) = self.changes.pop_front() else {
                break;
            };
            self.bytes -= change.size();
            self.floor = change.revision();
        }
    }
}

/// A reader of changes. Dropping it costs nothing; it holds up nobody.
#[derive(Debug)]
pub struct Watch {
    log: Arc<Log>,
    head: watch::Receiver<Head>,
    prefix: Box<str>,
    next: u64,
}

impl Watch {
    /// The next change, when it has happened. Safe to drop and ask again.
    ///
    /// # Errors
    /// [`StoreError::TooOld`] where the reader fell behind the log: scan again. [`StoreError::Unavailable`] where the store
    /// was closed.
    pub async fn next(&mut self) -> Result<Change, StoreError> {
        loop {
            // Seen before looking, so that a change which comes while looking wakes at once.
            let closed = self.head.borrow_and_update().closed;
            if let Some(change) = self.try_next()? {
                return Ok(change);
            }
            if closed || self.head.changed().await.is_err() {
                return Err(StoreError::Unavailable("it was closed".to_owned()));
            }
        }
    }

    /// The next change, if it has happened already.
    ///
    /// # Errors
    /// [`StoreError::TooOld`] where the reader fell behind the log.
    pub fn try_next(&mut self) -> Result<Option<Change>, StoreError> {
        let entries = self.log.entries.read().unwrap_or_else(PoisonError::into_inner);
        let first = entries.changes.front().map_or(entries.next_sequence, |(sequence, _)| *sequence);
        if self.next < first {
            return Err(StoreError::TooOld);
        }
        let skip = usize::try_from(self.next - first).unwrap_or(usize::MAX);
        for (sequence, change) in entries.changes.iter().skip(skip) {
            self.next = sequence + 1;
            if change.key().starts_with(&*self.prefix) {
                return Ok(Some(change.clone()));
            }
        }
        Ok(None)
    }
}
