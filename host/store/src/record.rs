//! What a store holds and how it refuses.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A point in the store's history. Store-wide: every durable batch gets the next one, and all its records share it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A value, and when it was written. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it is kept.
    pub key: Arc<str>,
    /// What was written.
    pub value: Bytes,
    /// When it was written.
    pub revision: Revision,
}

/// What a write supposes of the record that it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// That there is none.
    Absent,
    /// That it is of this revision.
    Is(Revision),
}

/// One write of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a value.
    Put {
        /// Where.
        key: String,
        /// What.
        value: Bytes,
        /// Under which condition.
        expect: Expect,
    },
    /// Removes a record. Removing one that is not there is no change, and an error only where one was expected.
    Delete {
        /// Where.
        key: String,
        /// Under which condition.
        expect: Expect,
    },
}

impl Write {
    /// The key that is written.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    /// What it supposes.
    pub fn expect(&self) -> Expect {
        match self {
            Self::Put { expect, .. } | Self::Delete { expect, .. } => *expect,
        }
    }

    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete { key, .. } => key.len(),
        }
    }
}

/// Something that happened to a key. Of several writes to one key a watcher may be told the last one only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was written.
    Put(Record),
    /// It was removed.
    Deleted {
        /// The key.
        key: Arc<str>,
        /// When.
        revision: Revision,
    },
}

impl Change {
    /// The key concerned.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::Put(record) => &record.key,
            Self::Deleted { key, .. } => key,
        }
    }

    /// When it happened.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(record) => record.revision,
            Self::Deleted { revision, .. } => *revision,
        }
    }

    /// Bytes that it takes in the change log.
    pub(crate) fn size(&self) -> usize {
        let value = if let Self::Put(record) = self { record.value.len() } else { 0 };
        self.key().len() + value + 64
    }
}

/// Why a store did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A record was not as the write supposed. Nothing of the batch was written.
    #[error("{key} was changed by somebody else (it is at {})", actual.map_or_else(|| "no revision: it does not exist".to_owned(), |r| format!("revision {r}")))]
    Conflict {
        /// The key.
        key: String,
        /// The revision that it has; none where it does not exist.
        actual: Option<Revision>,
    },
    /// The change log does not reach back so far: scan again.
    #[error("the change log does not reach back so far; list again")]
    TooOld,
    /// The disk has less free space than the floor, so writes are refused before they can do harm.
    #[error("the store's disk is nearly full: free some space; nothing was lost, and writes work again then")]
    NoSpace,
    /// Another process has the store open.
    #[error("the store is locked by another process: is another gateway running with the same directory?")]
    Locked,
    /// The store can't be reached or has been closed.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The connection to the store broke while it was writing, and nobody could say in time whether it wrote. Look before doing it
    /// again.
    #[error("nobody knows whether the store wrote it: {0}")]
    Unknown(String),
    /// The store is another program's, or another version's.
    #[error("the store can't be used: {0}")]
    Foreign(String),
    /// What is on disk is not what was written.
    #[error("the store is corrupted: {0}")]
    Corrupt(String),
    /// A key, a value or a batch is beyond its limit, or a key is empty.
    #[error("a key, value or batch is too large for the store")]
    TooLarge,
}
