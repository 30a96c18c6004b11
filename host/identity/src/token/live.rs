//! All tokens in memory, by digest and by id.
//!
//! Split into shards so that a change copies little; readers take no lock and see each change at once.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use portcullis_model::Name;
use portcullis_store::Revision;

use super::{TokenDigest, TokenRecord};
use crate::directory::Directory;

const SHARDS: usize = 64;
/// A use is noted at most this often, because nobody needs it finer and every note costs a write some time.
const TOUCH_EVERY_MS: u64 = 60_000;

/// One token in memory. Cached verdicts hold it, so that they see its end without a look-up.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) record: TokenRecord,
    pub(crate) revision: Revision,
    gone: AtomicBool,
    last_used_ms: AtomicU64,
    /// The last use that the store knows.
    pub(super) stored_use_ms: AtomicU64,
}

/// Why a token does not work, seen from its own facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validity {
    Valid,
    Revoked,
    Expired,
    WrongGateway,
    Orphaned,
}

impl Live {
    pub(super) fn new(record: TokenRecord, revision: Revision, last_used_ms: u64) -> Self {
        Self {
            gone: AtomicBool::new(record.revoked_ms.is_some()),
            last_used_ms: AtomicU64::new(last_used_ms),
            stored_use_ms: AtomicU64::new(last_used_ms),
            record,
            revision,
        }
    }

    /// Whether the token works now, at any gateway if none is named. What was issued to an earlier owner of the same name
    /// is orphaned.
    pub(crate) fn validity(&self, gateway: Option<&Name>, now_ms: u64, directory: &Directory) -> Validity {
        if self.gone.load(Ordering::Acquire) {
            return Validity::Revoked;
        }
        if self.expired(now_ms) {
            return Validity::Expired;
        }
        let record = &self.record;
        if since(record, directory).is_none_or(|since| record.created_ms < since) {
            return Validity::Orphaned;
        }
        let elsewhere = |g: &Name| record.admin || (!record.gateways.is_empty() && !record.gateways.contains(g));
        if gateway.is_some_and(elsewhere) {
            return Validity::WrongGateway;
        }
        Validity::Valid
    }

    /// The two facts that can change while tenant, gateway and directory stay as they are.
    pub(crate) fn still_valid(&self, now_ms: u64) -> bool {
        !self.gone.load(Ordering::Acquire) && !self.expired(now_ms)
    }

    fn expired(&self, now_ms: u64) -> bool {
        self.record.expires_ms.is_some_and(|at| now_ms >= at)
    }

    /// From now on it does not work, whoever holds it.
    pub(super) fn end(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Notes a use, about once a minute.
    pub(crate) fn touch(&self, now_ms: u64) {
        if now_ms.saturating_sub(self.last_used_ms.load(Ordering::Relaxed)) >= TOUCH_EVERY_MS {
            self.last_used_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    pub(super) fn last_used_ms(&self) -> u64 {
        self.last_used_ms.load(Ordering::Relaxed)
    }

    pub(super) fn learn_use(&self, at_ms: u64) {
        self.stored_use_ms.fetch_max(at_ms, Ordering::Relaxed);
        self.last_used_ms.fetch_max(at_ms, Ordering::Relaxed);
    }
}

/// Since when a token's owner exists. Somebody of an identity provider whom no user claims exists as long as an access token
/// says so, and that is minutes.
fn since(record: &TokenRecord, directory: &Directory) -> Option<u64> {
    match record.owner {
        portcullis_model::Subject::External { .. } if record.on_behalf.is_some() => Some(0),
        _ => directory.since(&record.tenant, &record.owner),
    }
}

type Shard<K> = ArcSwap<HashMap<K, Arc<Live>>>;

/// All tokens.
pub(super) struct LiveSet {
    by_digest: Vec<Shard<TokenDigest>>,
    by_id: Vec<Shard<String>>,
    /// The newest token of each grant that tokens are renewed by.
    by_grant: Vec<Shard<String>>,
    /// Writers take turns; readers do not care.
    writing: Mutex<()>,
}

impl LiveSet {
    pub(super) fn new() -> Self {
        Self {
            by_digest: (0..SHARDS).map(|_| ArcSwap::default()).collect(),
            by_id: (0..SHARDS).map(|_| ArcSwap::default()).collect(),
            by_grant: (0..SHARDS).map(|_| ArcSwap::default()).collect(),
            writing: Mutex::new(()),
        }
    }

    pub(super) fn by_digest(&self, digest: &TokenDigest) -> Option<Arc<Live>> {
        self.by_digest[digest.spread() % SHARDS].load().get(digest).cloned()
    }

    pub(super) fn by_id(&self, id: &str) -> Option<Arc<Live>> {
        self.by_id[spread(id)].load().get(id).cloned()
    }

    /// The newest token of a grant.
    pub(super) fn by_grant(&self, grant: &str) -> Option<Arc<Live>> {
        self.by_grant[spread(grant)].load().get(grant).cloned()
    }

    /// Every token, in no order.
    pub(super) fn all(&self) -> Vec<Arc<Live>> {
        self.by_id.iter().flat_map(|shard| shard.load().values().cloned().collect::<Vec<_>>()).collect()
    }

    /// Takes a record of the store, unless a newer one of the same token is here already.
    pub(super) fn put(&self, record: TokenRecord, revision: Revision) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.put_unlocked(record, revision);
    }

    fn put_unlocked(&self, record: TokenRecord, revision: Revision) {
        let earlier = self.by_id(&record.id);
        if earlier.as_ref().is_some_and(|e| e.revision >= revision) {
            return;
        }
        let last_used = earlier.as_ref().map_or(0, |e| e.last_used_ms());
        let next = Arc::new(Live::new(record, revision, last_used));
        if let Some(earlier) = earlier {
            next.stored_use_ms.store(earlier.stored_use_ms.load(Ordering::Relaxed), Ordering::Relaxed);
            // What was ended here stays ended, even where the store did not get to know it.
            if earlier.gone.load(Ordering::Acquire) {
                next.end();
            }
            if earlier.record.digest != next.record.digest {
                change(&self.by_digest[earlier.record.digest.spread() % SHARDS], |map| {
                    map.remove(&earlier.record.digest);
                });
            }
            // Verdicts that hold the earlier one ask again.
            earlier.end();
        }
        change(&self.by_digest[next.record.digest.spread() % SHARDS], |map| {
            map.insert(next.record.digest, Arc::clone(&next));
        });
        change(&self.by_id[spread(&next.record.id)], |map| {
            map.insert(next.record.id.clone(), Arc::clone(&next));
        });
        if let Some(grant) = grant(&next.record)
            && self.by_grant(grant).is_none_or(|known| known.record.created_ms <= next.record.created_ms)
        {
            change(&self.by_grant[spread(grant)], |map| {
                map.insert(grant.to_owned(), Arc::clone(&next));
            });
        }
    }

    /// Forgets a token that the store does not have any more.
    pub(super) fn remove(&self, id: &str, revision: Revision) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.remove_unlocked(id, revision);
    }

    fn remove_unlocked(&self, id: &str, revision: Revision) {
        let Some(live) = self.by_id(id).filter(|live| live.revision <= revision) else { return };
        live.end();
        change(&self.by_digest[live.record.digest.spread() % SHARDS], |map| {
            map.remove(&live.record.digest);
        });
        change(&self.by_id[spread(id)], |map| {
            map.remove(id);
        });
        if let Some(grant) = grant(&live.record)
            && self.by_grant(grant).is_some_and(|newest| newest.record.id == id)
        {
            change(&self.by_grant[spread(grant)], |map| {
                map.remove(grant);
            });
        }
    }

    /// Takes all records that the store had at `revision`; tokens that are older and not among them are gone. Each shard
    /// is copied once, so that a hundred thousand tokens load in a moment.
    pub(super) fn replace(&self, records: Vec<(TokenRecord, Revision)>, revision: Revision) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = self.by_id.iter().all(|shard| shard.load().is_empty());
        if !fresh {
            let kept: std::collections::HashSet<&str> = records.iter().map(|(r, _)| r.id.as_str()).collect();
            for live in self.all() {
                if !kept.contains(live.record.id.as_str()) {
                    self.remove_unlocked(&live.record.id, revision);
                }
            }
            for (record, revision) in records {
                self.put_unlocked(record, revision);
            }
            return;
        }
        let mut digests: Vec<HashMap<TokenDigest, Arc<Live>>> = vec![HashMap::new(); SHARDS];
        let mut ids: Vec<HashMap<String, Arc<Live>>> = vec![HashMap::new(); SHARDS];
        let mut grants: Vec<HashMap<String, Arc<Live>>> = vec![HashMap::new(); SHARDS];
        for (record, revision) in records {
            let live = Arc::new(Live::new(record, revision, 0));
            digests[live.record.digest.spread() % SHARDS].insert(live.record.digest, Arc::clone(&live));
            if let Some(grant) = grant(&live.record) {
                let newest = grants[spread(grant)].entry(grant.to_owned()).or_insert_with(|| Arc::clone(&live));
                if newest.record.created_ms <= live.record.created_ms {
                    *newest = Arc::clone(&live);
                }
            }
            ids[spread(&live.record.id)].insert(live.record.id.clone(), live);
        }
        for (shard, map) in self.by_digest.iter().zip(digests) {
            shard.store(Arc::new(map));
        }
        for (shard, map) in self.by_id.iter().zip(ids).chain(self.by_grant.iter().zip(grants)) {
            shard.store(Arc::new(map));
        }
    }
}

/// The grant that a token is of.
fn grant(record: &TokenRecord) -> Option<&str> {
    record.on_behalf.as_ref()?.grant.as_deref()
}

/// Ids are random text, so their last characters spread them.
fn spread(id: &str) -> usize {
    id.bytes().rev().take(4).fold(0_usize, |n, b| n.wrapping_mul(31).wrapping_add(usize::from(b))) % SHARDS
}

fn change<K: Clone>(shard: &Shard<K>, edit: impl FnOnce(&mut HashMap<K, Arc<Live>>)) {
    let mut map = HashMap::clone(&shard.load());
    edit(&mut map);
    shard.store(Arc::new(map));
}
