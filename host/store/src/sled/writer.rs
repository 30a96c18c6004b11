//! The one writer: gathers what waits, applies it, flushes, publishes, answers.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{
    Stats, count,
    disk::{Disk, META_HEAD, data_key, data_value, head_value, log_key, sort},
};
use crate::{
    Change, Revision, StoreError, Write,
    group::{GROUP, GROUP_BYTES, Group, size},
};

/// sled writes whole segments and copies pages, so a batch needs more room than its bytes.
const ROOM: u64 = 4;

/// A batch that waits, and who waits for it.
pub(super) struct Job {
    pub(super) batch: Vec<Write>,
    pub(super) answer: oneshot::Sender<Result<Revision, StoreError>>,
}

pub(super) struct Writer {
    disk: Arc<Disk>,
    stats: Arc<Stats>,
    min_free: u64,
    records: u64,
    /// Once sled failed in the middle of a write, nobody knows what is on disk until it is opened again.
    failed: Option<StoreError>,
}

impl Writer {
    pub(super) fn new(disk: Arc<Disk>, stats: Arc<Stats>, min_free: u64) -> Self {
        let records = disk.records;
        Self { disk, stats, min_free, records, failed: None }
    }

    /// Works until nobody can give it anything any more.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        /// Closes the log even where sled panics.
        struct Close(Arc<Disk>);
        impl Drop for Close {
            fn drop(&mut self) {
                self.0.log.close();
            }
        }
        let _close = Close(Arc::clone(&self.disk));
        while let Some(first) = jobs.blocking_recv() {
            let mut bytes = size(&first.batch);
            let mut waiting = vec![first];
            while waiting.len() < GROUP
                && bytes < GROUP_BYTES
                && let Ok(job) = jobs.try_recv()
            {
                bytes += size(&job.batch);
                waiting.push(job);
            }
            self.commit(waiting, bytes);
        }
    }

    fn commit(&mut self, jobs: Vec<Job>, bytes: usize) {
        if let Some(error) = self.failed.clone().or_else(|| self.no_room(bytes)) {
            for job in jobs {
                // Whoever no longer waits does not mind.
                let _ = job.answer.send(Err(error.clone()));
            }
            return;
        }
        let before = self.disk.log.revision();
        let mut group = Group::new(before, self.records);
        let mut answers = Vec::new();
        for job in jobs {
            match group.add(&job.batch, |key| self.disk.revision_of(key)) {
                Ok(revision) => answers.push((job.answer, revision)),
                Err(error) => {
                    if matches!(error, StoreError::Conflict { .. }) {
                        count(&self.stats.conflicts);
                    }
                    let _ = job.answer.send(Err(error));
                }
            }
        }
        let written = if group.revision == before { Ok(()) } else { self.apply(group) };
        if let Err(error) = &written {
            tracing::error!(%error, "the store failed; it takes no more writes until it is opened again");
            self.failed =
                Some(StoreError::Unavailable(format!("an earlier write failed ({error}): restart the gateway")));
        }
        for (answer, at) in answers {
            if written.is_ok() {
                count(&self.stats.batches);
            }
            let _ = answer.send(written.clone().map(|()| at));
        }
    }

    fn no_room(&self, bytes: usize) -> Option<StoreError> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let free = match self.disk.free() {
            Ok(free) => free,
            Err(error) => return Some(error),
        };
        if free >= self.min_free.saturating_add(bytes.saturating_mul(ROOM)) {
            return None;
        }
        count(&self.stats.no_space);
        tracing::warn!(free, floor = self.min_free, "a write was refused: the store's disk is nearly full");
        Some(StoreError::NoSpace)
    }

    fn apply(&mut self, mut group: Group) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        let (mut of, mut position) = (Revision(0), 0_u32);
        for change in &group.changes {
            let (key, revision) = (change.key(), change.revision());
            position = if revision == of { position + 1 } else { 0 };
            of = revision;
            let op = match change {
                Change::Put(record) => {
                    batch.insert(data_key(key), data_value(revision, &record.value));
                    b"\x01"
                }
                Change::Deleted { .. } => {
                    batch.remove(data_key(key));
                    b"\x00"
                }
            };
            batch.insert(&log_key(revision, position), [op, key.as_bytes()].concat());
        }
        let floor = self.disk.log.floor_after(group.changes.len(), group.bytes);
        for forgotten in self.disk.tree.range(log_key(Revision(0), 0)..log_key(Revision(floor.0.saturating_add(1)), 0))
        {
            batch.remove(forgotten.map_err(sort)?.0);
        }
        batch.insert(META_HEAD, head_value(group.revision, group.records));
        self.disk.tree.apply_batch(batch).map_err(sort)?;
        self.disk.flush()?;
        count(&self.stats.flushes);
        self.disk.witness(group.revision);
        self.records = group.records;
        self.disk.log.publish(group.revision, std::mem::take(&mut group.changes));
        Ok(())
    }
}
