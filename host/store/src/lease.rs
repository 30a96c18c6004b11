//! Leases: one process at a time does something, and what a dead one held comes free by itself.
//!
//! A lease is a record that names its holder, a number that changes whenever it is prolonged, and how long it holds. No clock is
//! compared with another machine's: whoever wants it watches the record, and takes it by compare-and-swap once it has stayed
//! the same for as long as it holds, by the own clock. The record's revision is the fence: a write that carries
//! [`Lease::fence`] goes through only while the lease is still the same.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Expect, Record, Revision, Store, StoreError, Write, keys};

/// The shortest time between two looks at a lease that another holds.
const LOOK: Duration = Duration::from_millis(50);

/// The longest life of a lease.
pub const LONGEST: Duration = Duration::from_secs(10 * 60);

#[derive(Serialize, Deserialize)]
struct Held {
    /// Who holds it: of this process, made at its start.
    holder: String,
    /// How long it holds once it was written.
    life_ms: u64,
}

/// Takes leases in the name of this process.
#[derive(Clone)]
pub struct Leases {
    store: Arc<dyn Store>,
    holder: Arc<str>,
}

/// A lease that is held. Dropping it lets it run out.
pub struct Lease {
    key: String,
    life: Duration,
    revision: Revision,
    /// When it was written, at the latest: it holds from then on.
    since: Instant,
    leases: Leases,
}

impl Leases {
    /// For a process that is told from others by `holder`.
    pub fn new(store: Arc<dyn Store>, holder: &str) -> Self {
        Self { store, holder: holder.into() }
    }

    /// Who holds what is taken here.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Takes the lease of a name for so long, waiting for whoever holds it, for `patience` at most. None where somebody holds
    /// it still. What a dead process held is taken by those alone whose patience is longer than its life: they have to see it stay
    /// the same for so long. A life is [`LONGEST`] at most.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn take(&self, name: &str, life: Duration, patience: Duration) -> Result<Option<Lease>, StoreError> {
        let (key, life) = (keys::lease(name), life.min(LONGEST));
        let until = Instant::now() + patience;
        let mut seen: Option<(Revision, Instant)> = None;
        loop {
            let record = self.store.get(&key).await?;
            let expect = match &record {
                None => Some(Expect::Absent),
                Some(record) => {
                    // It has stayed the same since this process saw it first.
                    let since = match seen {
                        Some((revision, since)) if revision == record.revision => since,
                        _ => Instant::now(),
                    };
                    seen = Some((record.revision, since));
                    (self.is_own(record) || since.elapsed() >= life_of(record)).then_some(Expect::Is(record.revision))
                }
            };
            if let Some(expect) = expect {
                match self.write(&key, life, expect).await {
                    Ok(lease) => return Ok(Some(lease)),
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            let now = Instant::now();
            if now >= until {
                return Ok(None);
            }
            let left = record.as_ref().zip(seen).map_or(LOOK, |(record, (_, since))| {
                life_of(record).saturating_sub(since.elapsed()).clamp(LOOK, LOOK * 4)
            });
            tokio::time::sleep(left.min(until - now)).await;
        }
    }

    async fn write(&self, key: &str, life: Duration, expect: Expect) -> Result<Lease, StoreError> {
        let since = Instant::now();
        let life_ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        let value = serde_json::to_vec(&Held { holder: self.holder.to_string(), life_ms })
            .map_err(|e| StoreError::Corrupt(e.to_string()))?;
        let write = Write::Put { key: key.to_owned(), value: Bytes::from(value), expect };
        let revision = self.store.write(vec![write]).await?;
        Ok(Lease { key: key.to_owned(), life, revision, since, leases: self.clone() })
    }

    /// A lease of this very process that nobody gave back, such as after an answer that was lost.
    fn is_own(&self, record: &Record) -> bool {
        serde_json::from_slice::<Held>(&record.value).is_ok_and(|held| *held.holder == *self.holder)
    }
}

impl Lease {
    /// How much longer it certainly holds: nobody takes it before.
    pub fn left(&self) -> Duration {
        self.life.saturating_sub(self.since.elapsed())
    }

    /// A write that goes through only while the lease is this one still. To be put into the batch that depends on it; afterwards
    /// the lease is given back.
    pub fn fence(&self) -> Write {
        Write::Delete { key: self.key.clone(), expect: Expect::Is(self.revision) }
    }

    /// Prolongs it from now on. Answers whether it is still held.
    ///
    /// # Errors
    /// Those of the store; it may hold all the same.
    pub async fn prolong(&mut self) -> Result<bool, StoreError> {
        match self.leases.write(&self.key, self.life, Expect::Is(self.revision)).await {
            Ok(lease) => {
                (self.revision, self.since) = (lease.revision, lease.since);
                Ok(true)
            }
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives it back. One that can't be given back runs out.
    pub async fn release(self) {
        if let Err(error) = self.leases.store.write(vec![self.fence()]).await
            && !matches!(error, StoreError::Conflict { .. })
        {
            tracing::debug!(%error, key = self.key, "a lease was not given back; it runs out");
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("key", &self.key).field("left", &self.left()).finish_non_exhaustive()
    }
}

/// How long a record holds. One that can't be read was written by nobody who is served here, and holds a minute.
fn life_of(record: &Record) -> Duration {
    let held = serde_json::from_slice::<Held>(&record.value);
    held.map_or(Duration::from_secs(60), |held| Duration::from_millis(held.life_ms).min(LONGEST))
}
