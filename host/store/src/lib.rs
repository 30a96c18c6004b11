//! Versioned records with watch: compare-and-swap, ordered scan, durable before the answer.
//!
//! [`Store`] is the interface, [`SledStore`] the embedded implementation for one process, [`PostgresStore`] the one for several,
//! [`Registry`] the typed resources on top of either. Everything that is acknowledged survives `kill -9`; what that takes on
//! sled is told in `docs/decisions/0002-sled-durability.md`.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod copy;
mod group;
pub mod keys;
pub mod lease;
pub mod postgres;
pub mod record;
pub mod registry;
pub mod sled;
pub mod watch;

use std::time::Duration;

pub use futures_util::future::BoxFuture;
pub use lease::{Lease, Leases};
pub use postgres::{PostgresOptions, PostgresStore};
pub use record::{Change, Expect, Record, Revision, StoreError, Write};
pub use registry::{Fleet, Judge, Registry};
pub use sled::{SledOptions, SledStore};
pub use watch::Watch;

/// The most bytes of one key.
pub const MAX_KEY: usize = 512;
/// The most bytes of one value.
pub const MAX_VALUE: usize = 1 << 20;
/// The most writes of one batch.
pub const MAX_BATCH: usize = 16 * 1024;
/// The most bytes of one batch, keys and values together.
pub const MAX_BATCH_BYTES: usize = 32 << 20;
/// The most records of one answer of [`Store::scan`].
pub const MAX_SCAN: usize = 4096;

/// Versioned records. Object safe: whoever needs one takes an `Arc<dyn Store>`.
///
/// No method blocks the thread that polls it. A future of [`Store::write`] that is dropped may still have written.
pub trait Store: Send + Sync {
    /// The record of a key, if there is one.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Record>, StoreError>>;

    /// Records whose keys begin with `prefix` and come after `after`, in the order of their keys, at most `limit` of them
    /// (and never more than [`MAX_SCAN`]). Fewer than asked for means that there are no more.
    ///
    /// Writes that happen meanwhile may or may not show. Who needs a consistent picture reads [`Store::revision`] first
    /// and watches from it afterwards.
    fn scan<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Record>, StoreError>>;

    /// Applies all writes or none. The answer comes when they are durable, and holds the revision that all of them got.
    /// A batch that changes nothing gets the revision that was current.
    fn write(&self, batch: Vec<Write>) -> BoxFuture<'_, Result<Revision, StoreError>>;

    /// Changes of keys that begin with `prefix`, beginning with the first one after `from`.
    ///
    /// # Errors
    /// [`StoreError::TooOld`] where the change log does not reach back so far: scan again.
    fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError>;

    /// The revision of the last durable write that is known here.
    fn revision(&self) -> Revision;

    /// Whether other processes may have it open as well.
    fn is_shared(&self) -> bool {
        false
    }

    /// How long ago it was known that there is nothing newer than what [`Store::watch`] tells. In a store of one process there
    /// never is.
    fn age(&self) -> Duration {
        Duration::ZERO
    }

    /// Why the store can't be reached just now, if it can't.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Asks whether there is anything newer, where that was not known for two seconds; what there is stands in the watch then.
    /// Answers [`Store::age`] as it is afterwards. Takes a second at most.
    fn current(&self) -> BoxFuture<'_, Duration> {
        Box::pin(std::future::ready(Duration::ZERO))
    }
}

/// All records under a prefix, in pieces of [`MAX_SCAN`].
///
/// # Errors
/// Those of [`Store::scan`].
pub async fn scan_all(store: &dyn Store, prefix: &str) -> Result<Vec<Record>, StoreError> {
    let mut all: Vec<Record> = Vec::new();
    loop {
        let after = all.last().map(|r| r.key.clone());
        let piece = store.scan(prefix, after.as_deref(), MAX_SCAN).await?;
        let done = piece.len() < MAX_SCAN;
        all.extend(piece);
        if done {
            return Ok(all);
        }
    }
}
