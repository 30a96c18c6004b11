//! Legacy sessions that hold something. All that a session has to say for itself travels in its id, so one that only calls
//! tools costs nothing here: what is kept begins with the first stream, question or wish.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use portcullis_model::{Fault, Name, Principal, Side};
use portcullis_protocol::Version;
use portcullis_telemetry::metrics::CounterHandle;

pub mod get;
pub mod level;
pub mod live;
pub mod log;
pub mod old;
pub mod reader;
pub mod wishes;

pub use level::Level;
pub use live::Live;

const SHARDS: usize = 16;
/// Sessions that hold something.
const MOST: usize = 100_000;
/// How long a session that nobody reads or uses listens to its servers.
const LISTENED: Duration = Duration::from_secs(30 * 60);
/// How long the wishes of a session without a stream are remembered.
const IDLE: Duration = Duration::from_secs(4 * 60 * 60);

/// All of them, by nonce.
pub struct Sessions {
    shards: [Mutex<HashMap<[u8; 12], Arc<Live>>>; SHARDS],
    hasher: RandomState,
    count: AtomicUsize,
    /// How many each caller has: a tenant's subject, by whatever tokens.
    callers: Mutex<HashMap<Caller, usize>>,
    most_of_caller: usize,
    replay: Arc<log::Replay>,
}

type Caller = (Name, Arc<str>);

fn caller(whose: &Principal) -> Caller {
    (whose.tenant.clone(), Arc::clone(&whose.subject_text))
}

impl Sessions {
    /// None yet; so many of one caller at most. `dropped` counts events that are not kept because too much is.
    pub fn new(dropped: CounterHandle, most_of_caller: usize) -> Self {
        Self {
            shards: Default::default(),
            hasher: RandomState::new(),
            count: AtomicUsize::new(0),
            callers: Mutex::default(),
            most_of_caller,
            replay: Arc::new(log::Replay::new(dropped)),
        }
    }

    /// What the session holds, if anything.
    pub fn get(&self, nonce: &[u8; 12]) -> Option<Arc<Live>> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.shard(nonce).get(nonce).cloned()
    }

    /// What the session holds, from now on.
    ///
    /// # Errors
    /// A fault where too many sessions hold something, of this caller or of all.
    pub fn open(
        &self,
        nonce: [u8; 12],
        version: Version,
        at: (&Name, &Name),
        whose: &Arc<Principal>,
    ) -> Result<Arc<Live>, Fault> {
        let mut shard = self.shard(&nonce);
        if let Some(live) = shard.get(&nonce) {
            return Ok(Arc::clone(live));
        }
        if self.count.fetch_add(1, Ordering::Relaxed) >= MOST {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return Err(Fault::new(Side::Gateway, "overloaded", "too many sessions have streams or questions open")
                .next("Try again in a minute")
                .retry_after_ms(60_000));
        }
        if !self.counted(whose) {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return Err(Fault::new(
                Side::Gateway,
                "overloaded",
                "this caller has too many sessions with streams or questions open",
            )
            .next("End those that you don't need, or ask the operator to raise maxStreamsPerCaller")
            .retry_after_ms(60_000));
        }
        let at = (at.0.clone(), at.1.clone());
        let live = Arc::new(Live::new(nonce, version, at, Arc::clone(whose), Arc::clone(&self.replay)));
        shard.insert(nonce, Arc::clone(&live));
        Ok(live)
    }

    /// Ends a session: its streams end, and what was asked of it stays unanswered.
    pub fn end(&self, nonce: &[u8; 12]) -> Option<Arc<Live>> {
        let live = self.shard(nonce).remove(nonce)?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.uncounted([&*live]);
        live.end();
        Some(live)
    }

    /// Counts one more of a caller's; whether it may have that.
    fn counted(&self, whose: &Principal) -> bool {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let own = callers.entry(caller(whose)).or_default();
        if *own >= self.most_of_caller {
            return false;
        }
        *own += 1;
        true
    }

    fn uncounted<'l>(&self, gone: impl IntoIterator<Item = &'l Live>) {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        for live in gone {
            let caller = caller(&live.whose);
            if let Some(own) = callers.get_mut(&caller) {
                *own -= 1;
                if *own == 0 {
                    callers.remove(&caller);
                }
            }
        }
    }

    /// Every session that holds something.
    pub fn all(&self) -> Vec<Arc<Live>> {
        let shards = self.shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner));
        shards.flat_map(|shard| shard.values().cloned().collect::<Vec<_>>()).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Bytes kept for readers that may come again.
    pub fn replay_bytes(&self) -> usize {
        self.replay.bytes()
    }

    /// Forgets what is over, and gives it.
    pub fn sweep(&self) -> Vec<Arc<Live>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let mut gone = Vec::new();
            shard.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, live| {
                // Somebody may be about to open a stream in it. A server that is listened to is no reason to stay for ever.
                let over = live.sweep(IDLE) && (Arc::strong_count(live) == 1 || live.idles_for(LISTENED));
                if over {
                    gone.push(Arc::clone(live));
                }
                !over
            });
            self.count.fetch_sub(gone.len(), Ordering::Relaxed);
            self.uncounted(gone.iter().map(|live| &**live));
            gone.iter().for_each(|live| live.end());
            all.append(&mut gone);
        }
        all
    }

    fn shard(&self, nonce: &[u8; 12]) -> MutexGuard<'_, HashMap<[u8; 12], Arc<Live>>> {
        let hash = usize::try_from(self.hasher.hash_one(nonce) % SHARDS as u64).unwrap_or(0);
        self.shards[hash].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_holds_nothing_until_it_asks() {
        let sessions = Sessions::new(CounterHandle::default(), 1);
        assert!(sessions.get(&[1; 12]).is_none());
        let at = Name::default_tenant();
        let whose = Arc::new(Principal::anonymous(at.clone()));
        let open = || sessions.open([1; 12], Version::LATEST_LEGACY, (&at, &at), &whose).unwrap();
        let live = open();
        assert!(Arc::ptr_eq(&live, &open()));
        assert_eq!(sessions.len(), 1);
        let stream = live.open().unwrap();
        sessions.end(&[1; 12]);
        assert!(live.over.is_cancelled() && sessions.len() == 0);
        assert_eq!(live.with(stream, |log| log.ended()), Some(true));
    }

    #[test]
    fn one_caller_does_not_take_all() {
        let sessions = Sessions::new(CounterHandle::default(), 2);
        let tenant = Name::default_tenant();
        let one = |subject: &str, token: &str| {
            let mut whose = Principal::new(tenant.clone(), subject.parse().unwrap());
            whose.token = Some(token.into());
            Arc::new(whose)
        };
        let (alice, bob) = (one("user:alice", "a"), one("user:bob", "b"));
        let open =
            |n: u8, whose: &Arc<Principal>| sessions.open([n; 12], Version::LATEST_LEGACY, (&tenant, &tenant), whose);
        open(1, &alice).unwrap();
        open(2, &alice).unwrap();
        let refused = open(3, &one("user:alice", "another")).err().unwrap();
        assert_eq!(refused.code, "overloaded");
        assert!(refused.message.contains("this caller"), "{refused}");
        open(1, &alice).unwrap();
        open(4, &bob).unwrap();
        assert_eq!(sessions.len(), 3);
        // Room comes back with each end, and nothing is kept of callers who have none.
        sessions.end(&[1; 12]);
        sessions.end(&[1; 12]);
        open(3, &alice).unwrap();
        for n in [2, 3, 4] {
            sessions.end(&[n; 12]);
        }
        assert!(sessions.callers.lock().unwrap().is_empty() && sessions.len() == 0);
    }
}
