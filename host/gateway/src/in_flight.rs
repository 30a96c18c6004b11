//! Calls of legacy sessions that are under way, so that `notifications/cancelled` finds them, and sessions that are over.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

use quick_cache::sync::Cache;
use tokio_util::sync::CancellationToken;

use crate::conversation::{drive::Resumes, line::Line};

const SHARDS: usize = 16;
/// Ended sessions that are remembered here, the latest first to stay. A session id is no credential: whoever revives an ended
/// one after that still has to be its caller.
const TOMBSTONES: usize = 100_000;

type CallKey = ([u8; 12], Box<str>);

/// Calls under way, by session and request id.
pub struct InFlight {
    shards: [Mutex<HashMap<CallKey, CancellationToken>>; SHARDS],
    hasher: RandomState,
    ended: Cache<[u8; 12], ()>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self { shards: Default::default(), hasher: RandomState::new(), ended: Cache::new(TOMBSTONES) }
    }
}

/// A call under way.
pub struct Underway {
    /// Its place in the table of its session.
    _entered: Option<Entered>,
    /// Fires when the client cancels.
    pub cancelled: CancellationToken,
    /// How the call speaks with its client before its answer.
    pub line: Option<Arc<Line>>,
    /// The held call that a client came back to.
    pub resumes: Option<Resumes>,
}

impl Underway {
    /// A call that no session knows of.
    pub fn free(cancelled: CancellationToken) -> Self {
        Self { _entered: None, cancelled, line: None, resumes: None }
    }
}

/// A call's place in the table; forgotten when dropped.
struct Entered {
    table: Arc<InFlight>,
    key: CallKey,
}

impl InFlight {
    /// Notes a call. None where the session has one under this id already: an id may be used once (JSON-RPC 2.0 section 4).
    pub fn enter(self: &Arc<Self>, session: [u8; 12], id: &str) -> Option<Underway> {
        let key: CallKey = (session, id.into());
        let cancelled = CancellationToken::new();
        let mut shard = self.shard(&key).lock().unwrap_or_else(PoisonError::into_inner);
        if shard.contains_key(&key) {
            return None;
        }
        shard.insert(key.clone(), cancelled.clone());
        drop(shard);
        let entered = Entered { table: Arc::clone(self), key };
        Some(Underway { _entered: Some(entered), ..Underway::free(cancelled) })
    }

    /// Cancels a call; whether there was one.
    pub fn cancel(&self, session: [u8; 12], id: &str) -> bool {
        let key: CallKey = (session, id.into());
        let shard = self.shard(&key).lock().unwrap_or_else(PoisonError::into_inner);
        shard.get(&key).map(CancellationToken::cancel).is_some()
    }

    /// Ends a session: its id is refused from now on.
    pub fn end(&self, session: [u8; 12]) {
        self.ended.insert(session, ());
    }

    /// Whether a session has been ended.
    pub fn has_ended(&self, session: &[u8; 12]) -> bool {
        self.ended.get(session).is_some()
    }

    fn shard(&self, key: &CallKey) -> &Mutex<HashMap<CallKey, CancellationToken>> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        &self.shards[hash]
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.table.shard(&self.key).lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_cancels_its_own_calls_only() {
        let table = Arc::new(InFlight::default());
        let call = table.enter([1; 12], "7").expect("new");
        assert!(table.enter([1; 12], "7").is_none(), "an id is used once");
        assert!(!table.cancel([2; 12], "7"), "another session's");
        assert!(!table.cancel([1; 12], "\"7\""), "a string is another id than a number");
        assert!(table.cancel([1; 12], "7") && call.cancelled.is_cancelled());
        drop(call);
        assert!(!table.cancel([1; 12], "7"));
        table.enter([1; 12], "7").expect("free again");
    }

    #[test]
    fn ended_sessions_are_remembered() {
        let table = InFlight::default();
        table.end([3; 12]);
        assert!(table.has_ended(&[3; 12]) && !table.has_ended(&[4; 12]));
        // A client that makes sessions only to end them fills no memory, and the latest are still known.
        for n in 0..2 * TOMBSTONES as u64 {
            let mut nonce = [7; 12];
            nonce[..8].copy_from_slice(&n.to_be_bytes());
            table.end(nonce);
            assert!(table.has_ended(&nonce));
        }
        assert!(table.ended.len() <= TOMBSTONES, "{}", table.ended.len());
    }
}
