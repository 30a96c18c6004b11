//! What plugins remember from call to call: one space for each plugin of a tenant, in memory, within the bytes of its grant.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use portcullis_model::Name;

/// The most bytes of a key.
pub(crate) const MAX_KEY: usize = 256;
/// The most bytes of a value.
pub(crate) const MAX_VALUE: usize = 64 << 10;
/// What an entry costs beside its key and its value.
const ENTRY: usize = 64;
const SHARDS: usize = 8;
/// How often a full space is searched for what is past its time.
const SWEEP: Duration = Duration::from_secs(1);

/// The spaces of all plugins that are loaded. A space lives as long as any version of its plugin.
#[derive(Default)]
pub(crate) struct Spaces(Mutex<HashMap<(Name, String), Weak<Space>>>);

impl Spaces {
    /// The space of a plugin.
    pub(crate) fn of(&self, tenant: &Name, plugin: &str) -> Arc<Space> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (tenant.clone(), plugin.to_owned());
        if let Some(space) = all.get(&key).and_then(Weak::upgrade) {
            return space;
        }
        all.retain(|_, space| space.strong_count() > 0);
        let space = Arc::new(Space::default());
        all.insert(key, Arc::downgrade(&space));
        space
    }
}

/// What one plugin remembers.
#[derive(Default)]
pub(crate) struct Space {
    shards: [Mutex<HashMap<String, Kept>>; SHARDS],
    hasher: RandomState,
    used: AtomicUsize,
    version: AtomicU64,
    /// Milliseconds from `born` to the last sweep.
    swept: AtomicU64,
    born: Born,
}

struct Born(Instant);

impl Default for Born {
    fn default() -> Self {
        Self(Instant::now())
    }
}

struct Kept {
    entry: Entry,
    until: Option<Instant>,
}

/// A value with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) value: Arc<[u8]>,
    pub(crate) version: u64,
}

/// Why something is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotKept {
    Quota,
    TooLarge,
}

/// What a change has to meet.
enum Meets<'a> {
    Anything,
    Version(Option<u64>, &'a mut Option<Entry>),
}

fn cost(key: &str, value: usize) -> usize {
    key.len() + value + ENTRY
}

impl Space {
    /// How many bytes are used, as the quota counts.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    pub(crate) fn get(&self, key: &str) -> Option<Entry> {
        let mut shard = self.shard(key);
        self.current(&mut shard, key)
    }

    /// Keeps a value; gives its version.
    pub(crate) fn set(&self, key: &str, value: Vec<u8>, ttl_ms: Option<u64>, quota: usize) -> Result<u64, NotKept> {
        self.change(key, value, ttl_ms, quota, Meets::Anything).map(Option::unwrap_or_default)
    }

    pub(crate) fn delete(&self, key: &str) {
        if let Some(gone) = self.shard(key).remove(key) {
            self.used.fetch_sub(cost(key, gone.entry.value.len()), Relaxed);
        }
    }

    /// Keeps a value where what is there has this version; otherwise gives what is there.
    pub(crate) fn swap(
        &self,
        key: &str,
        version: Option<u64>,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
        quota: usize,
    ) -> Result<Result<u64, Option<Entry>>, NotKept> {
        let mut there = None;
        let changed = self.change(key, value, ttl_ms, quota, Meets::Version(version, &mut there))?;
        Ok(changed.ok_or(there))
    }

    fn change(
        &self,
        key: &str,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
        quota: usize,
        meets: Meets<'_>,
    ) -> Result<Option<u64>, NotKept> {
        if key.len() > MAX_KEY || value.len() > MAX_VALUE {
            return Err(NotKept::TooLarge);
        }
        let wanted = cost(key, value.len());
        if self.used() + wanted > quota {
            self.sweep();
        }
        let mut shard = self.shard(key);
        let there = self.current(&mut shard, key);
        if let Meets::Version(version, found) = meets
            && there.as_ref().map(|entry| entry.version) != version
        {
            *found = there;
            return Ok(None);
        }
        let freed = there.map_or(0, |entry| cost(key, entry.value.len()));
        let fits = |used: usize| Some(used + wanted - freed).filter(|sum| *sum <= quota);
        self.used.fetch_update(Relaxed, Relaxed, fits).map_err(|_| NotKept::Quota)?;
        let version = self.version.fetch_add(1, Relaxed) + 1;
        let until = ttl_ms.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
        shard.insert(key.to_owned(), Kept { entry: Entry { value: value.into(), version }, until });
        Ok(Some(version))
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, HashMap<String, Kept>> {
        let at = usize::try_from(self.hasher.hash_one(key)).unwrap_or(0) % SHARDS;
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is there now. What is past its time goes.
    fn current(&self, shard: &mut HashMap<String, Kept>, key: &str) -> Option<Entry> {
        let kept = shard.get(key)?;
        if kept.until.is_none_or(|until| Instant::now() < until) {
            return Some(kept.entry.clone());
        }
        self.used.fetch_sub(cost(key, kept.entry.value.len()), Relaxed);
        shard.remove(key);
        None
    }

    /// Lets go of what is past its time; not at each attempt, since a full space may be asked often.
    fn sweep(&self) {
        let now = u64::try_from(self.born.0.elapsed().as_millis()).unwrap_or(u64::MAX);
        let last = self.swept.load(Relaxed);
        let due = last == 0 || now.saturating_sub(last) >= SWEEP.as_millis() as u64;
        if !due || self.swept.compare_exchange(last, now.max(1), Relaxed, Relaxed).is_err() {
            return;
        }
        let now = Instant::now();
        for shard in &self.shards {
            let mut freed = 0;
            shard.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, kept| {
                let stays = kept.until.is_none_or(|until| now < until);
                if !stays {
                    freed += cost(key, kept.entry.value.len());
                }
                stays
            });
            self.used.fetch_sub(freed, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: usize = 1000;

    #[test]
    fn a_space_is_the_tenants_and_outlives_a_version() {
        let spaces = Spaces::default();
        let (ours, theirs): (Name, Name) = ("ours".parse().unwrap(), "theirs".parse().unwrap());
        let first = spaces.of(&ours, "rate");
        first.set("k", b"1".to_vec(), None, QUOTA).unwrap();
        let next = spaces.of(&ours, "rate");
        drop(first);
        assert_eq!(next.get("k").unwrap().value[..], b"1"[..]);
        assert_eq!(spaces.of(&theirs, "rate").get("k"), None);
        assert_eq!(spaces.of(&ours, "other").get("k"), None);
        drop(next);
        assert_eq!(spaces.of(&ours, "rate").get("k"), None, "gone with the last version");
    }

    #[test]
    fn one_of_two_swaps_wins() {
        let space = Space::default();
        let first = space.swap("k", None, b"a".to_vec(), None, QUOTA).unwrap().unwrap();
        let stale = space.swap("k", None, b"b".to_vec(), None, QUOTA).unwrap().unwrap_err();
        assert_eq!(stale.map(|entry| (entry.value.to_vec(), entry.version)), Some((b"a".to_vec(), first)));
        let second = space.swap("k", Some(first), b"b".to_vec(), None, QUOTA).unwrap().unwrap();
        assert!(second > first);
        space.delete("k");
        assert_eq!(space.swap("k", Some(second), b"c".to_vec(), None, QUOTA).unwrap(), Err(None));
        assert_ne!(space.set("k", Vec::new(), None, QUOTA).unwrap(), second, "a version is never used twice");
    }

    #[test]
    fn concurrent_swaps_lose_nothing() {
        let space = Space::default();
        space.set("n", 0u32.to_le_bytes().to_vec(), None, QUOTA).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        loop {
                            let there = space.get("n").unwrap();
                            let next = u32::from_le_bytes(there.value[..].try_into().unwrap()) + 1;
                            let swapped =
                                space.swap("n", Some(there.version), next.to_le_bytes().to_vec(), None, QUOTA);
                            if swapped.unwrap().is_ok() {
                                break;
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(space.get("n").unwrap().value[..], 800u32.to_le_bytes());
    }

    #[test]
    fn nothing_is_kept_beyond_the_quota_or_its_time() {
        let space = Space::default();
        assert_eq!(space.set(&"k".repeat(257), Vec::new(), None, 1 << 20), Err(NotKept::TooLarge));
        assert_eq!(space.set("k", vec![0; MAX_VALUE + 1], None, 1 << 20), Err(NotKept::TooLarge));
        space.set("a", vec![0; 435], None, QUOTA).unwrap();
        space.set("b", vec![0; 435], Some(0), QUOTA).unwrap();
        assert_eq!(space.used(), QUOTA);
        // What is past its time makes room for others.
        assert!(space.set("c", vec![0; 435], None, QUOTA).is_ok());
        assert_eq!(space.get("b"), None);
        assert_eq!(space.set("d", Vec::new(), None, QUOTA), Err(NotKept::Quota));
        // In the place of what is there, also in a full space.
        assert!(space.set("c", vec![1; 435], None, QUOTA).is_ok());
        assert_eq!(space.set("c", vec![1; 436], None, QUOTA), Err(NotKept::Quota));
        space.delete("a");
        space.delete("a");
        assert_eq!(space.used(), 500);
        assert!(space.set("d", Vec::new(), None, QUOTA).is_ok());
    }
}
