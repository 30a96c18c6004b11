//! What servers offer: fetched in the background, kept, and never waited for longer than a moment.
//!
//! One entry per (server, connection); entries with the same content share it. A dead or slow server leaves its last known
//! tools in place, so that it neither empties nor delays anybody's list.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use portcullis_model::Name;
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

/// Entries kept; the least used are forgotten and fetched again when somebody asks.
const MOST_ENTRIES: usize = 20_000;
/// After a failed fetch, how long until the next one.
const RETRY: Duration = Duration::from_secs(5);
/// The least time between two fetches, whatever a server's hints or notifications say.
const LEAST_TTL: Duration = Duration::from_secs(1);

/// One tool as its server describes it.
#[derive(Debug)]
pub struct Tool {
    /// Its own name.
    pub name: Arc<str>,
    /// Its definition, byte for byte.
    pub raw: Bytes,
}

/// What a fetch brought.
#[derive(Debug)]
pub struct Fetched {
    /// All pages' tools in the server's order.
    pub tools: Vec<Tool>,
    /// How long the server says that this holds.
    pub ttl: Option<Duration>,
}

/// Tools of one server, immutable and shared.
#[derive(Debug)]
pub struct Listing {
    /// In the server's order; the first of two with one name counts.
    pub tools: Vec<Tool>,
    positions: HashMap<Arc<str>, u32>,
}

impl Listing {
    fn new(fetched: Fetched) -> Self {
        let mut tools = Vec::with_capacity(fetched.tools.len());
        let mut positions = HashMap::with_capacity(fetched.tools.len());
        for tool in fetched.tools {
            let at = u32::try_from(tools.len()).unwrap_or(u32::MAX);
            if !positions.contains_key(&tool.name) {
                positions.insert(Arc::clone(&tool.name), at);
                tools.push(tool);
            }
        }
        Self { tools, positions }
    }

    /// The tool of this name.
    pub fn get(&self, name: &str) -> Option<&Tool> {
        self.positions.get(name).and_then(|at| self.tools.get(*at as usize))
    }
}

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

/// One server as one connection sees it.
#[derive(Debug)]
pub struct Entry {
    listing: ArcSwapOption<Listing>,
    problem: ArcSwapOption<String>,
    /// Milliseconds since the catalogue was made; 0 = due now.
    due: AtomicU64,
    refreshing: AtomicBool,
    tried: AtomicBool,
    fetched: Notify,
}

impl Entry {
    /// The last known tools.
    pub fn listing(&self) -> Option<Arc<Listing>> {
        self.listing.load_full()
    }

    /// Whether the last known tools have one of this name; none where nothing is known yet.
    pub fn has(&self, tool: &str) -> Option<bool> {
        self.listing.load().as_ref().map(|l| l.get(tool).is_some())
    }

    /// Why the last fetch failed, if it did.
    pub fn problem(&self) -> Option<Arc<String>> {
        self.problem.load_full()
    }

    /// Makes the next [`Catalogue::refresh`] fetch, whatever the time to live.
    pub fn expire(&self) {
        self.due.store(0, Ordering::Relaxed);
    }

    /// Waits until the first fetch of this entry has ended, for so long at most.
    pub async fn first_fetch(&self, at_most: Duration) {
        let wait = async {
            loop {
                let notified = self.fetched.notified();
                if self.tried.load(Ordering::Acquire) {
                    return;
                }
                notified.await;
            }
        };
        let _ = tokio::time::timeout(at_most, wait).await;
    }
}

/// All entries.
pub struct Catalogue {
    entries: Cache<Key, Arc<Entry>>,
    /// By key without connection: the entry fetched last, to route names that do not say it themselves.
    latest: Cache<Key, Arc<Entry>>,
    contents: Mutex<HashMap<[u8; 32], Weak<Listing>>>,
    started: Instant,
}

impl Default for Catalogue {
    fn default() -> Self {
        Self {
            entries: Cache::new(MOST_ENTRIES),
            latest: Cache::new(MOST_ENTRIES),
            contents: Mutex::default(),
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
        let fresh = || {
            Ok::<_, std::convert::Infallible>(Arc::new(Entry {
                listing: ArcSwapOption::empty(),
                problem: ArcSwapOption::empty(),
                due: AtomicU64::new(0),
                refreshing: AtomicBool::new(false),
                tried: AtomicBool::new(false),
                fetched: Notify::new(),
            }))
        };
        match self.entries.get_or_insert_with(key, fresh) {
            Ok(entry) => entry,
            Err(never) => match never {},
        }
    }

    /// An entry of this server, whatever the connection: the one fetched last. None where nobody has asked yet.
    pub fn any_of(&self, key: &Key) -> Option<Arc<Entry>> {
        let shared = Key { connection: None, ..key.clone() };
        self.latest.get(&shared).or_else(|| self.entries.get(&shared))
    }

    /// Makes the entries of these keys due.
    pub fn expire(&self, which: impl Fn(&Key) -> bool) {
        for (_, entry) in self.entries.iter().filter(|(key, _)| which(key)) {
            entry.expire();
        }
    }

    /// Starts a fetch in the background where the entry is due and none is under way.
    pub fn refresh<F, E>(
        self: &Arc<Self>,
        key: &Key,
        entry: &Arc<Entry>,
        default_ttl: Duration,
        fetch: impl FnOnce() -> F,
    ) where
        F: Future<Output = Result<Fetched, E>> + Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let now = self.now();
        if now < entry.due.load(Ordering::Relaxed) || entry.refreshing.swap(true, Ordering::AcqRel) {
            return;
        }
        // Written before the fetch, so that an `expire` in its midst asks for another one.
        entry.due.store(now + millis(default_ttl.max(LEAST_TTL)).max(1), Ordering::Relaxed);
        let shared = key.connection.is_some().then(|| Key { connection: None, ..key.clone() });
        let (catalogue, entry, fetch) = (Arc::clone(self), Arc::clone(entry), fetch());
        tokio::spawn(async move {
            match fetch.await {
                Ok(fetched) => {
                    let ttl = fetched.ttl.unwrap_or(default_ttl).clamp(LEAST_TTL, default_ttl.max(LEAST_TTL));
                    let expired = entry.due.load(Ordering::Relaxed) == 0;
                    entry.listing.store(Some(catalogue.share(fetched)));
                    entry.problem.store(None);
                    if let Some(shared) = shared {
                        catalogue.latest.insert(shared, Arc::clone(&entry));
                    }
                    if !expired {
                        entry.due.store(catalogue.now() + millis(ttl), Ordering::Relaxed);
                    }
                }
                Err(problem) => {
                    entry.problem.store(Some(Arc::new(problem.to_string())));
                    entry.due.store(catalogue.now() + millis(RETRY), Ordering::Relaxed);
                }
            }
            entry.tried.store(true, Ordering::Release);
            entry.refreshing.store(false, Ordering::Release);
            entry.fetched.notify_waiters();
        });
    }

    /// The same content is kept once, whoever sees it.
    fn share(&self, fetched: Fetched) -> Arc<Listing> {
        let mut digest = Sha256::new();
        for tool in &fetched.tools {
            digest.update((tool.raw.len() as u64).to_le_bytes());
            digest.update(&tool.raw);
        }
        let digest: [u8; 32] = digest.finalize().into();
        let mut contents = self.contents.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = contents.get(&digest).and_then(Weak::upgrade) {
            return known;
        }
        contents.retain(|_, listing| listing.strong_count() > 0);
        let listing = Arc::new(Listing::new(fetched));
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
mod tests {
    use super::*;

    fn key(connection: Option<(&str, u64)>) -> Key {
        let name = |n: &str| n.parse().expect("a name");
        Key {
            tenant: name("default"),
            server: name("files"),
            generation: 1,
            connection: connection.map(|(n, revision)| (Arc::from(n), revision)),
        }
    }

    fn tools(names: &[&str]) -> Fetched {
        let tool = |n: &&str| Tool { name: Arc::from(*n), raw: Bytes::from(format!("{{\"name\":\"{n}\"}}")) };
        Fetched { tools: names.iter().map(tool).collect(), ttl: None }
    }

    const TTL: Duration = Duration::from_secs(300);

    #[tokio::test]
    async fn a_failing_server_keeps_its_last_known_tools() {
        let catalogue = Arc::new(Catalogue::default());
        let entry = catalogue.entry(&key(None));
        catalogue.refresh(&key(None), &entry, TTL, || async { Ok::<_, String>(tools(&["read"])) });
        entry.first_fetch(Duration::from_secs(5)).await;
        assert_eq!(entry.has("read"), Some(true));
        assert_eq!(entry.has("write"), Some(false));

        entry.expire();
        catalogue.refresh(&key(None), &entry, TTL, || async { Err::<Fetched, _>("connection refused") });
        while entry.problem().is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(entry.has("read"), Some(true), "still listed");
    }

    #[tokio::test]
    async fn a_fresh_entry_is_not_fetched_again() {
        let catalogue = Arc::new(Catalogue::default());
        let entry = catalogue.entry(&key(None));
        catalogue.refresh(&key(None), &entry, TTL, || async { Ok::<_, String>(tools(&["a"])) });
        entry.first_fetch(Duration::from_secs(5)).await;
        let mut asked = false;
        catalogue.refresh(&key(None), &entry, TTL, || {
            asked = true;
            async { Ok::<_, String>(tools(&["b"])) }
        });
        assert!(!asked);
    }

    #[tokio::test]
    async fn equal_content_is_kept_once() {
        let catalogue = Arc::new(Catalogue::default());
        let mut listings = Vec::new();
        for connection in ["alice", "bob"] {
            let entry = catalogue.entry(&key(Some((connection, 1))));
            catalogue.refresh(&key(Some((connection, 1))), &entry, TTL, || async {
                Ok::<_, String>(tools(&["a", "b", "a"]))
            });
            entry.first_fetch(Duration::from_secs(5)).await;
            listings.push(entry.listing().expect("fetched"));
        }
        assert!(Arc::ptr_eq(&listings[0], &listings[1]));
        assert_eq!(listings[0].tools.len(), 2, "the first of two with one name counts");
        assert!(catalogue.any_of(&key(None)).is_some_and(|e| e.has("b") == Some(true)));
    }

    #[tokio::test]
    async fn nobody_waits_long_for_a_silent_server() {
        let catalogue = Arc::new(Catalogue::default());
        let entry = catalogue.entry(&key(None));
        catalogue.refresh(&key(None), &entry, TTL, std::future::pending::<Result<Fetched, String>>);
        entry.first_fetch(Duration::from_millis(20)).await;
        assert!(entry.listing().is_none());
    }
}
