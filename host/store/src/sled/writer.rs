//! The one writer: gathers what waits, applies it, flushes, publishes, answers.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::{mpsc, oneshot};

use super::{
    Stats, count,
    disk::{Disk, META_HEAD, data_key, data_value, head_value, log_key, sort},
};
use crate::{Change, Expect, Record, Revision, StoreError, Write};

/// The most batches that share a flush.
const GROUP: usize = 512;
/// The most bytes that share a flush.
const GROUP_BYTES: usize = 8 << 20;
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

/// Batches that are applied together.
#[derive(Default)]
struct Group {
    batch: sled::Batch,
    changes: Vec<Change>,
    bytes: usize,
    /// What earlier batches of the group did: the revision that a key has now, or none.
    overlay: HashMap<String, Option<Revision>>,
    answers: Vec<(oneshot::Sender<Result<Revision, StoreError>>, Revision)>,
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
            let mut bytes = first.batch.iter().map(Write::size).sum::<usize>();
            let mut waiting = vec![first];
            while waiting.len() < GROUP
                && bytes < GROUP_BYTES
                && let Ok(job) = jobs.try_recv()
            {
                bytes += job.batch.iter().map(Write::size).sum::<usize>();
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
        let mut group = Group::default();
        let (mut revision, mut records) = (before, self.records);
        for job in jobs {
            let next = Revision(revision.0 + 1);
            match self.prepare(&mut group, &job.batch, next, &mut records) {
                Ok(true) => {
                    revision = next;
                    group.answers.push((job.answer, next));
                }
                Ok(false) => group.answers.push((job.answer, revision)),
                Err(error) => {
                    if matches!(error, StoreError::Conflict { .. }) {
                        count(&self.stats.conflicts);
                    }
                    let _ = job.answer.send(Err(error));
                }
            }
        }
        let written = if revision == before { Ok(()) } else { self.apply(&mut group, revision, records) };
        if let Err(error) = &written {
            tracing::error!(%error, "the store failed; it takes no more writes until it is opened again");
            self.failed =
                Some(StoreError::Unavailable(format!("an earlier write failed ({error}): restart the gateway")));
        }
        for (answer, at) in group.answers {
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

    /// Adds a batch to the group, whole or not at all. Answers whether it changes anything.
    fn prepare(
        &self,
        group: &mut Group,
        writes: &[Write],
        revision: Revision,
        records: &mut u64,
    ) -> Result<bool, StoreError> {
        let mut fresh: HashMap<&str, Option<Revision>> = HashMap::new();
        let mut effective = Vec::new();
        let mut count = *records;
        for write in writes {
            let key = write.key();
            let now = match (fresh.get(key), group.overlay.get(key)) {
                (Some(now), _) | (None, Some(now)) => *now,
                (None, None) => self.disk.revision_of(key)?,
            };
            let holds = match write.expect() {
                Expect::Any => true,
                Expect::Absent => now.is_none(),
                Expect::Is(expected) => now == Some(expected),
            };
            if !holds {
                return Err(StoreError::Conflict { key: key.to_owned(), actual: now });
            }
            match write {
                Write::Put { .. } => {
                    count += u64::from(now.is_none());
                    fresh.insert(key, Some(revision));
                }
                Write::Delete { .. } if now.is_none() => continue,
                Write::Delete { .. } => {
                    count -= 1;
                    fresh.insert(key, None);
                }
            }
            effective.push(write);
        }
        for (position, write) in (0_u32..).zip(&effective) {
            let key = write.key();
            let (op, change) = match write {
                Write::Put { value, .. } => {
                    group.batch.insert(data_key(key), data_value(revision, value));
                    (b"\x01", Change::Put(Record { key: key.into(), value: value.clone(), revision }))
                }
                Write::Delete { .. } => {
                    group.batch.remove(data_key(key));
                    (b"\x00", Change::Deleted { key: key.into(), revision })
                }
            };
            group.batch.insert(&log_key(revision, position), [op, key.as_bytes()].concat());
            group.bytes += change.size();
            group.changes.push(change);
        }
        group.overlay.extend(fresh.into_iter().map(|(key, now)| (key.to_owned(), now)));
        *records = count;
        Ok(!effective.is_empty())
    }

    fn apply(&mut self, group: &mut Group, revision: Revision, records: u64) -> Result<(), StoreError> {
        let floor = self.disk.log.floor_after(group.changes.len(), group.bytes);
        for forgotten in self.disk.tree.range(log_key(Revision(0), 0)..log_key(Revision(floor.0.saturating_add(1)), 0))
        {
            group.batch.remove(forgotten.map_err(sort)?.0);
        }
        group.batch.insert(META_HEAD, head_value(revision, records));
        self.disk.tree.apply_batch(std::mem::take(&mut group.batch)).map_err(sort)?;
        self.disk.flush()?;
        count(&self.stats.flushes);
        self.disk.witness(revision);
        self.records = records;
        self.disk.log.publish(revision, std::mem::take(&mut group.changes));
        Ok(())
    }
}
