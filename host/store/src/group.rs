//! Batches that are committed together: what each supposes, checked in their order, and what all of them do.
//!
//! Both stores decide by this, so that they can't come to differ.

use std::collections::HashMap;

use crate::{Change, Expect, MAX_BATCH, MAX_BATCH_BYTES, MAX_KEY, MAX_VALUE, Record, Revision, StoreError, Write};

/// The most batches that are committed together.
pub(crate) const GROUP: usize = 512;
/// The most bytes that are committed together, beyond the last batch.
pub(crate) const GROUP_BYTES: usize = 8 << 20;

/// Refuses a batch that is beyond the limits.
pub(crate) fn fits(batch: &[Write]) -> Result<(), StoreError> {
    let sizes_fit = batch.iter().all(|write| {
        let value = if let Write::Put { value, .. } = write { value.len() } else { 0 };
        !write.key().is_empty() && write.key().len() <= MAX_KEY && value <= MAX_VALUE
    });
    if !sizes_fit || batch.len() > MAX_BATCH || size(batch) > MAX_BATCH_BYTES {
        return Err(StoreError::TooLarge);
    }
    Ok(())
}

/// Bytes of a batch.
pub(crate) fn size(batch: &[Write]) -> usize {
    batch.iter().map(Write::size).sum()
}

/// What some batches come to.
pub(crate) struct Group {
    /// What they do, in their order; those of one revision together.
    pub(crate) changes: Vec<Change>,
    /// Bytes that the changes take in the change log.
    pub(crate) bytes: usize,
    /// The store's revision after them.
    pub(crate) revision: Revision,
    /// The number of records after them.
    pub(crate) records: u64,
    /// The revision that a key has after them, or none where it is gone.
    overlay: HashMap<String, Option<Revision>>,
}

impl Group {
    /// One that does nothing yet to a store of this revision and so many records.
    pub(crate) fn new(revision: Revision, records: u64) -> Self {
        Self { changes: Vec::new(), bytes: 0, revision, records, overlay: HashMap::new() }
    }

    /// Adds a batch, whole or not at all, and answers the revision that it gets: the next one, or the current one where it
    /// changes nothing. `before` says the revision that a key had before the group.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where a record is not as the batch supposes; those of `before`.
    pub(crate) fn add(
        &mut self,
        batch: &[Write],
        before: impl Fn(&str) -> Result<Option<Revision>, StoreError>,
    ) -> Result<Revision, StoreError> {
        let revision = Revision(self.revision.0 + 1);
        let mut fresh: HashMap<&str, Option<Revision>> = HashMap::new();
        let mut effective = Vec::new();
        let mut records = self.records;
        for write in batch {
            let key = write.key();
            let now = match (fresh.get(key), self.overlay.get(key)) {
                (Some(now), _) | (None, Some(now)) => *now,
                (None, None) => before(key)?,
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
                    records += u64::from(now.is_none());
                    fresh.insert(key, Some(revision));
                }
                Write::Delete { .. } if now.is_none() => continue,
                Write::Delete { .. } => {
                    records = records.saturating_sub(1);
                    fresh.insert(key, None);
                }
            }
            effective.push(write);
        }
        if effective.is_empty() {
            return Ok(self.revision);
        }
        for write in effective {
            let key = write.key().into();
            let change = match write {
                Write::Put { value, .. } => Change::Put(Record { key, value: value.clone(), revision }),
                Write::Delete { .. } => Change::Deleted { key, revision },
            };
            self.bytes += change.size();
            self.changes.push(change);
        }
        self.overlay.extend(fresh.into_iter().map(|(key, now)| (key.to_owned(), now)));
        self.records = records;
        self.revision = revision;
        Ok(revision)
    }
}
