//! What servers offer: fetched in the background, kept, and never waited for longer than a moment.
//!
//! One entry per (server, connection), with a shelf for each kind of thing; shelves with the same content share it. A dead or
//! slow server leaves its last known content in place, so that it neither empties nor delays anybody's list.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use portcullis_model::Name;
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, broadcast};

use crate::offer::Facts;

mod listing;

pub use listing::{Fetched, Item, Kind, Listing};

/// Entries kept; the least used are forgotten and fetched again when somebody asks.
const MOST_ENTRIES: usize = 20_000;
/// After a failed fetch, how long until the next one.
const RETRY: Duration = Duration::from_secs(5);
/// The least time between two fetches, whatever a server's hints or notifications say.
const LEAST_TTL: Duration = Duration::from_secs(1);
/// How long somebody waits for content that is known but out of date. A server that was slow once is waited for no more than
/// this either, because whoever comes later counts from when the fetch began.
const FRESHER: Duration = Duration::from_millis(700);
/// Changes that a reader may fall behind before it is told to look at everything.
const CHANGES: usize = 1024;

/// Whose view of which server an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The tenant.
    pub tenant: Name,
    /// The `McpServer`.
    pub server: Name,
    /// The revision of its spec: another one may be another server.
    pub generation: u64,
    /// The account (a connection and its revision), where the server is asked with a credential.
    pub connection: Option<(Arc<str>, u64)>,
}

impl Key {
    /// The same server, whatever the account.
    fn whole(&self) -> Self {
        Self { connection: None, ..self.clone() }
    }
}

/// Something that clients' lists are made of has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// What a server offers, as it says itself or as a fetch showed.
    Server {
        /// Its tenant.
        tenant: Name,
        /// The `McpServer`.
        server: Name,
        /// What sort of thing.
        kind: Kind,
    },
    /// A gateway's spec.
    Gateway {
        /// Its tenant.
        tenant: Name,
        /// Its name.
        gateway: Name,
    },
}

/// One server as one connection sees it.
#[derive(Debug, Default)]
pub struct Entry {
    shelves: [Shelf; Kind::ALL.len()],
    facts: ArcSwapOption<Facts>,
}

/// One kind of what a server offers.
#[derive(Debug, Default)]
pub struct Shelf {
    listing: ArcSwapOption<Listing>,
    problem: ArcSwapOption<String>,
    /// Milliseconds since the catalogue was made; 0 = due now.
    due: AtomicU64,
    /// When the content was fetched, and until when its server said that it holds; 0 where it did not say.
    until: AtomicU64,
    /// When the last fetch began.
    began: AtomicU64,
    refreshing: AtomicBool,
    tried: AtomicBool,
    /// Whether its server has told of a change that no fetch has shown yet: those who listen know already.
    announced: AtomicBool,
    /// Whether somebody was given a list without it, because nothing was known yet: they are told when it is there.
    missed: AtomicBool,
    /// Whether its server said that it is the same for everybody.
    public: AtomicBool,
    fetched: Notify,
}

impl Entry {
    /// The shelf of this kind.
    pub fn shelf(&self, kind: Kind) -> &Shelf {
        &self.shelves[kind as usize]
    }

    /// The last known content.
    pub fn listing(&self, kind: Kind) -> Option<Arc<Listing>> {
        self.shelf(kind).listing.load_full()
    }

    /// Whether the last known tools have one of this name; none where nothing is known yet.
    pub fn has(&self, kind: Kind, key: &str) -> Option<bool> {
        self.shelf(kind).listing.load().as_ref().map(|l| l.get(key).is_some())
    }

    /// Why the last fetch of this kind failed, if it did.
    pub fn problem(&self, kind: Kind) -> Option<Arc<String>> {
        self.shelf(kind).problem.load_full()
    }

    /// What the server said of itself, once it was reached.
    pub fn facts(&self) -> Option<Arc<Facts>> {
        self.facts.load_full()
    }

    /// Notes what the server said of itself.
    pub fn learn(&self, facts: Arc<Facts>) {
        self.facts.store(Some(facts));
    }

    /// Makes the next [`Catalogue::refresh`] fetch, whatever the time to live.
    pub fn expire(&self, kind: Kind) {
        self.shelf(kind).due.store(0, Ordering::Relaxed);
    }
}

impl Shelf {
    /// Waits until the first fetch has ended, for so long at most since it began: a server that is slow to start does not
    /// delay everybody who asks meanwhile.
    async fn first_fetch(&self, now: u64, at_most: Duration) {
        self.wait(self.left(now, at_most), || self.tried.load(Ordering::Acquire)).await;
    }

    fn left(&self, now: u64, of: Duration) -> Duration {
        of.saturating_sub(Duration::from_millis(now.saturating_sub(self.began.load(Ordering::Relaxed))))
    }

    /// Waits for the fetch that is under way, if one is: not at all where the last one failed, and for a moment at most since
    /// it began, so that a server that went silent delays nobody for long.
    async fn fresher(&self, now: u64) {
        if !self.refreshing.load(Ordering::Acquire) || self.problem.load().is_some() {
            return;
        }
        self.wait(self.left(now, FRESHER), || !self.refreshing.load(Ordering::Acquire)).await;
    }

    async fn wait(&self, at_most: Duration, done: impl Fn() -> bool) {
        let wait = async {
            loop {
                let notified = self.fetched.notified();
                if done() {
                    return;
                }
                notified.await;
            }
        };
        let _ = tokio::time::timeout(at_most, wait).await;
    }

    /// Notes that a list went out without it.
    pub fn missed(&self) {
        self.missed.store(true, Ordering::Relaxed);
    }

    /// Whether its server said that it is the same for everybody.
    pub fn is_public(&self) -> bool {
        self.public.load(Ordering::Relaxed)
    }
}

/// All entries.
pub struct Catalogue {
    entries: Cache<Key, Arc<Entry>>,
    /// By key without connection: the entry fetched last, to route names that do not say it themselves.
    latest: Cache<Key, Arc<Entry>>,
    /// By key without connection: content that its server calls public, which stands in until an account's own is there.
    public: Cache<(Key, Kind), Arc<Listing>>,
    contents: Mutex<HashMap<[u8; 32], Weak<Listing>>>,
    changes: broadcast::Sender<Changed>,
    started: Instant,
}

impl Default for Catalogue {
    fn default() -> Self {
        Self {
            entries: Cache::new(MOST_ENTRIES),
            latest: Cache::new(MOST_ENTRIES),
            public: Cache::new(MOST_ENTRIES),
            contents: Mutex::default(),
            changes: broadcast::channel(CHANGES).0,
            started: Instant::now(),
        }
    }
}

impl Catalogue {
    /// The entry of this key, made empty where there is none.
    pub fn entry(&self, key: &Key) -> Arc<Entry> {
        if let Some(entry) = self.entries.get(key) {
            return entry;
        }
        match self.entries.get_or_insert_with(key, || Ok::<_, std::convert::Infallible>(Arc::default())) {
            Ok(entry) => entry,
            Err(never) => match never {},
        }
    }

    /// An entry of this server, whatever the connection: the one fetched last. None where nobody has asked yet.
    pub fn any_of(&self, key: &Key) -> Option<Arc<Entry>> {
        let shared = key.whole();
        self.latest.get(&shared).or_else(|| self.entries.get(&shared))
    }

    /// What this account sees, or what its server shows everybody where nothing has been fetched under this account yet.
    pub fn listing(&self, key: &Key, entry: &Entry, kind: Kind) -> Option<Arc<Listing>> {
        entry.listing(kind).or_else(|| self.public.get(&(key.whole(), kind)))
    }

    /// Waits for what is due: for `first` at most where nothing is known, and for a moment where something is.
    pub async fn settle(&self, key: &Key, entry: &Entry, kind: Kind, first: Duration) {
        match self.listing(key, entry, kind) {
            None => entry.shelf(kind).first_fetch(self.now(), first).await,
            Some(_) => entry.shelf(kind).fresher(self.now()).await,
        }
    }

    /// Waits for the fetch that is under way, if one is, for so long at most.
    pub async fn refetched(&self, entry: &Entry, kind: Kind, at_most: Duration) {
        let shelf = entry.shelf(kind);
        shelf.wait(at_most, || !shelf.refreshing.load(Ordering::Acquire)).await;
    }

    /// How long the content of this shelf still holds, by its server's own word; none where it gave none.
    pub fn holds(&self, entry: &Entry, kind: Kind) -> Option<Duration> {
        let until = entry.shelf(kind).until.load(Ordering::Relaxed);
        (until > 0).then(|| Duration::from_millis(until.saturating_sub(self.now())))
    }

    /// Makes this kind of these keys' entries due, because their server says that it changed.
    pub fn expire(&self, kind: Kind, which: impl Fn(&Key) -> bool) {
        for (_, entry) in self.entries.iter().filter(|(key, _)| which(key)) {
            entry.shelf(kind).announced.store(true, Ordering::Relaxed);
            entry.expire(kind);
        }
    }

    /// Tells whoever listens of a change.
    pub fn announce(&self, changed: Changed) {
        // Nobody may be listening.
        let _ = self.changes.send(changed);
    }

    /// Changes from now on.
    pub fn changes(&self) -> broadcast::Receiver<Changed> {
        self.changes.subscribe()
    }

    /// Starts a fetch in the background where the shelf is due and no fetch is under way.
    pub fn refresh<F, E>(
        self: &Arc<Self>,
        key: &Key,
        entry: &Arc<Entry>,
        kind: Kind,
        default_ttl: Duration,
        fetch: impl FnOnce() -> F,
    ) where
        F: Future<Output = Result<Fetched, E>> + Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let now = self.now();
        let shelf = entry.shelf(kind);
        if now < shelf.due.load(Ordering::Relaxed) || shelf.refreshing.swap(true, Ordering::AcqRel) {
            return;
        }
        // Written before the fetch, so that an `expire` in its midst asks for another one.
        shelf.due.store(now + millis(default_ttl.max(LEAST_TTL)).max(1), Ordering::Relaxed);
        shelf.began.store(now, Ordering::Relaxed);
        let (key, catalogue, entry, fetch) = (key.clone(), Arc::clone(self), Arc::clone(entry), fetch());
        tokio::spawn(async move {
            let outcome = fetch.await;
            let shelf = entry.shelf(kind);
            match outcome {
                Ok(fetched) => catalogue.store(&key, &entry, kind, fetched, default_ttl),
                Err(problem) => {
                    shelf.problem.store(Some(Arc::new(problem.to_string())));
                    shelf.due.store(catalogue.now() + millis(RETRY), Ordering::Relaxed);
                    // Where no account has seen anything yet, what is in the way is all that can be told of the server.
                    if key.connection.is_some() && catalogue.latest.get(&key.whole()).is_none() {
                        catalogue.latest.insert(key.whole(), Arc::clone(&entry));
                    }
                }
            }
            shelf.tried.store(true, Ordering::Release);
            shelf.refreshing.store(false, Ordering::Release);
            shelf.fetched.notify_waiters();
        });
    }

    fn store(&self, key: &Key, entry: &Arc<Entry>, kind: Kind, fetched: Fetched, default_ttl: Duration) {
        let shelf = entry.shelf(kind);
        let ttl = fetched.ttl.unwrap_or(default_ttl).clamp(LEAST_TTL, default_ttl.max(LEAST_TTL));
        let until = fetched.ttl.map_or(0, |ttl| self.now() + millis(ttl));
        let public = fetched.public;
        let expired = shelf.due.load(Ordering::Relaxed) == 0;
        let listing = self.share(kind, fetched);
        let before = shelf.listing.swap(Some(Arc::clone(&listing)));
        let missed = shelf.missed.swap(false, Ordering::Relaxed);
        let differs = before.map_or(missed && !listing.items.is_empty(), |before| !Arc::ptr_eq(&before, &listing));
        shelf.problem.store(None);
        shelf.until.store(until, Ordering::Relaxed);
        shelf.public.store(public, Ordering::Relaxed);
        match public {
            true => self.public.insert((key.whole(), kind), listing),
            false => drop(self.public.remove(&(key.whole(), kind))),
        }
        if key.connection.is_some() {
            self.latest.insert(key.whole(), Arc::clone(entry));
        }
        if !expired {
            shelf.due.store(self.now() + millis(ttl), Ordering::Relaxed);
        }
        if differs && !shelf.announced.swap(false, Ordering::Relaxed) {
            self.announce(Changed::Server { tenant: key.tenant.clone(), server: key.server.clone(), kind });
        }
    }

    /// The same content is kept once, whoever sees it.
    fn share(&self, kind: Kind, fetched: Fetched) -> Arc<Listing> {
        let mut digest = Sha256::new();
        digest.update(kind.member());
        // Decides what is left out of the same content.
        digest.update([u8::from(fetched.strict_headers)]);
        for item in &fetched.items {
            digest.update((item.raw.len() as u64).to_le_bytes());
            digest.update(&item.raw);
        }
        let digest: [u8; 32] = digest.finalize().into();
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = contents.get(&digest).and_then(Weak::upgrade) {
            return known;
        }
        contents.retain(|_, listing| listing.strong_count() > 0);
        let listing = Arc::new(Listing::new(kind, fetched));
        contents.insert(digest, Arc::downgrade(&listing));
        listing
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed()) + 1
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
