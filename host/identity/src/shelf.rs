//! Records that end by themselves: sessions, codes, grants, registrations. Kept in the store, bounded in number, swept.
//!
//! What is single-use is [taken](Shelf::take), and of all that take it at once exactly one gets it.

use std::{
    marker::PhantomData,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use portcullis_store::{Expect, Revision, Store, StoreError, Write, scan_all};
use portcullis_telemetry::Metrics;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::clock::now_ms;

/// The most records that are forgotten in one write.
const PIECE: usize = 1000;

/// How long a full shelf is not swept again for whoever wants to put something on it.
const PAUSE: Duration = Duration::from_secs(2);

/// Why a record was not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShelfError {
    /// There are as many as may be.
    #[error("too many {0} are kept already")]
    Full(&'static str),
    /// The store failed or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a shelf is for, where it stands, and how much fits on it.
#[derive(Clone, Copy, Debug)]
pub struct ShelfPlan {
    /// The word for metrics and errors, in the plural.
    pub what: &'static str,
    /// The prefix of its keys in the store.
    pub prefix: &'static str,
    /// The most records.
    pub most: usize,
}

/// Records of one sort.
pub struct Shelf<T> {
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    plan: ShelfPlan,
    count: AtomicUsize,
    /// When it was swept last because it was full.
    swept: Mutex<Option<Instant>>,
    of: PhantomData<fn() -> T>,
}

/// A record that was found and has not ended.
#[derive(Clone, Debug)]
pub struct Found<T> {
    /// What is kept.
    pub value: T,
    /// When it ends, in milliseconds since 1970.
    pub until_ms: u64,
    revision: Revision,
}

#[derive(Serialize, Deserialize)]
struct Kept<T> {
    until_ms: u64,
    value: T,
}

impl<T: Serialize + DeserializeOwned> Shelf<T> {
    /// Opens a shelf, counting what is on it.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn open(store: Arc<dyn Store>, metrics: Arc<Metrics>, plan: ShelfPlan) -> Result<Self, StoreError> {
        let shelf = Self { store, metrics, plan, count: AtomicUsize::new(0), swept: Mutex::default(), of: PhantomData };
        shelf.sweep().await?;
        Ok(shelf)
    }

    /// Puts a new record. A key that is taken is a conflict of the store.
    ///
    /// # Errors
    /// [`ShelfError`].
    pub async fn put(&self, key: &str, until_ms: u64, value: &T) -> Result<(), ShelfError> {
        if self.count.load(Ordering::Relaxed) >= self.plan.most {
            // Who finds it full again at once would only read it all again.
            let again = {
                let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
                let again = swept.is_none_or(|at| at.elapsed() > PAUSE);
                if again {
                    *swept = Some(Instant::now());
                }
                again
            };
            if again {
                self.sweep().await?;
            }
            if self.count.load(Ordering::Relaxed) >= self.plan.most {
                return Err(ShelfError::Full(self.plan.what));
            }
        }
        self.write(key, until_ms, value, Expect::Absent).await?;
        self.counted(self.count.fetch_add(1, Ordering::Relaxed) + 1);
        Ok(())
    }

    /// Whether one more would fit.
    pub fn has_room(&self) -> bool {
        self.count.load(Ordering::Relaxed) < self.plan.most
    }

    /// Puts a record where there is none or one that has ended. Answers whether that was so.
    ///
    /// # Errors
    /// [`ShelfError`].
    pub async fn claim(&self, key: &str, until_ms: u64, value: &T) -> Result<bool, ShelfError> {
        match self.put(key, until_ms, value).await {
            Ok(()) => Ok(true),
            Err(ShelfError::Store(StoreError::Conflict { .. })) if self.get(key).await?.is_none() => {
                // What was there has ended and waits to be swept.
                let was = self.store.get(&self.key(key)).await?.map_or(Expect::Absent, |r| Expect::Is(r.revision));
                match self.write(key, until_ms, value, was).await {
                    Ok(()) => Ok(true),
                    Err(StoreError::Conflict { .. }) => Ok(false),
                    Err(error) => Err(error.into()),
                }
            }
            Err(ShelfError::Store(StoreError::Conflict { .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The record of a key, unless it has ended.
    ///
    /// # Errors
    /// Those of the store. What can't be read is no record.
    pub async fn get(&self, key: &str) -> Result<Option<Found<T>>, StoreError> {
        let Some(record) = self.store.get(&self.key(key)).await? else { return Ok(None) };
        let Ok(kept) = serde_json::from_slice::<Kept<T>>(&record.value) else {
            tracing::error!(key = %record.key, "a record can't be read and is ignored");
            return Ok(None);
        };
        let found = Found { value: kept.value, until_ms: kept.until_ms, revision: record.revision };
        Ok((found.until_ms > now_ms()).then_some(found))
    }

    /// Takes a record away. Of several that try, one gets it.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn take(&self, key: &str) -> Result<Option<T>, StoreError> {
        let Some(found) = self.get(key).await? else { return Ok(None) };
        let delete = Write::Delete { key: self.key(key), expect: Expect::Is(found.revision) };
        match self.store.write(vec![delete]).await {
            Ok(_) => {
                self.less(1);
                Ok(Some(found.value))
            }
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Changes a record that was found. Answers false where somebody else changed it meanwhile.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn replace(&self, key: &str, was: &Found<T>, until_ms: u64, value: &T) -> Result<bool, StoreError> {
        match self.write(key, until_ms, value, Expect::Is(was.revision)).await {
            Ok(()) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a record, if there is one.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn remove(&self, key: &str) -> Result<(), StoreError> {
        let key = self.key(key);
        if self.store.get(&key).await?.is_some() {
            self.store.write(vec![Write::Delete { key, expect: Expect::Any }]).await?;
            self.less(1);
        }
        Ok(())
    }

    /// The records whose keys begin so and that have not ended, with their keys, in the order of these.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(&self, start: &str) -> Result<Vec<(String, Found<T>)>, StoreError> {
        let now = now_ms();
        let records = scan_all(&*self.store, &self.key(start)).await?;
        let read = records.into_iter().filter_map(|record| {
            let kept: Kept<T> = serde_json::from_slice(&record.value).ok()?;
            let key = record.key.strip_prefix(self.plan.prefix)?.to_owned();
            let found = Found { value: kept.value, until_ms: kept.until_ms, revision: record.revision };
            (kept.until_ms > now).then_some((key, found))
        });
        Ok(read.collect())
    }

    /// Forgets what has ended, and counts the rest.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn sweep(&self) -> Result<(), StoreError> {
        /// The end alone, so that a record of an older form is still forgotten.
        #[derive(Deserialize)]
        struct End {
            until_ms: u64,
        }
        let now = now_ms();
        let records = scan_all(&*self.store, self.plan.prefix).await?;
        let all = records.len();
        let ended: Vec<Write> = records
            .into_iter()
            .filter(|r| serde_json::from_slice::<End>(&r.value).map_or(true, |end| end.until_ms <= now))
            .map(|r| Write::Delete { key: r.key.to_string(), expect: Expect::Is(r.revision) })
            .collect();
        let left = all - ended.len();
        for piece in ended.chunks(PIECE) {
            match self.store.write(piece.to_vec()).await {
                // Somebody used one of them meanwhile: the next round sees to the rest.
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.count.store(left, Ordering::Relaxed);
        self.counted(left);
        Ok(())
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.plan.prefix)
    }

    async fn write(&self, key: &str, until_ms: u64, value: &T, expect: Expect) -> Result<(), StoreError> {
        let value = serde_json::to_vec(&Kept { until_ms, value })
            .map_err(|e| StoreError::Corrupt(format!("a record can't be written: {e}")))?;
        let write = Write::Put { key: self.key(key), value: Bytes::from(value), expect };
        self.store.write(vec![write]).await.map(|_| ())
    }

    fn less(&self, by: usize) {
        let count = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_sub(by)));
        self.counted(count.unwrap_or(0).saturating_sub(by));
    }

    fn counted(&self, count: usize) {
        self.metrics.kept(self.plan.what, count);
    }
}

impl<T> std::fmt::Debug for Shelf<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf").field("plan", &self.plan).finish_non_exhaustive()
    }
}
