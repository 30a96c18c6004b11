//! Filling an empty store with records as another store has them. Until it is finished the directory refuses to be opened: the
//! number of its records is not the one that it should hold.

use std::path::Path;

use super::{
    SledOptions,
    disk::{Disk, META_HEAD, data_key, data_value, head_value, sort},
};
use crate::{Record, Revision, StoreError};

/// A store that is being filled.
pub(crate) struct Filling(Disk);

impl Filling {
    /// Opens a directory, which is made where it is missing. Blocks.
    pub(crate) fn open(directory: &Path) -> Result<Self, StoreError> {
        Disk::open(directory, &SledOptions::default()).map(Self)
    }

    /// The revision of what is in it.
    pub(crate) fn revision(&self) -> Revision {
        self.0.log.revision()
    }

    /// Adds records. Blocks.
    pub(crate) fn put(&self, records: &[Record]) -> Result<(), StoreError> {
        let bytes: usize = records.iter().map(|r| r.key.len() + r.value.len()).sum();
        // What sled needs beyond that, and the floor that it can be opened above.
        let room =
            SledOptions::default().min_free.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(4));
        if self.0.free()? < room {
            return Err(StoreError::NoSpace);
        }
        let mut batch = sled::Batch::default();
        for record in records {
            batch.insert(data_key(&record.key), data_value(record.revision, &record.value));
        }
        self.0.tree.apply_batch(batch).map_err(sort)
    }

    /// Makes it a store of this revision and so many records. Blocks.
    pub(crate) fn finish(&self, revision: Revision, records: u64) -> Result<(), StoreError> {
        self.0.flush()?;
        self.0.tree.insert(META_HEAD, head_value(revision, records)).map_err(sort)?;
        self.0.flush()?;
        self.0.witness(revision);
        Ok(())
    }
}
