//! Issuers and their keys: fetched when needed, by one for all who wait, and kept while an issuer is away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use jsonwebtoken::Algorithm;
use portcullis_plugin::JwtError;
use quick_cache::sync::Cache;
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::JoinHandle,
};

use super::{JwtOptions, fetch::Fetcher, jwks::KeySet, rules::Rules};

/// The most issuers whose keys are kept.
const MAX_ISSUERS: usize = 1024;

/// An issuer, and where its keys are if that is not left to its metadata.
type Source = (String, Option<String>);

/// All issuers that somebody asked for.
pub(super) struct Issuers {
    issuers: Cache<Source, Arc<Issuer>>,
    shared: Arc<Shared>,
}

struct Shared {
    fetcher: Fetcher,
    options: JwtOptions,
}

struct Issuer {
    source: Source,
    held: ArcSwapOption<Held>,
    /// Whoever fetches holds it; the others wait for the outcome.
    turn: Arc<Mutex<Turn>>,
    /// Whether the last fetch failed, so that nobody waits for the next one who can do without.
    down: AtomicBool,
}

#[derive(Default)]
struct Turn {
    last: Option<Instant>,
    error: String,
}

struct Held {
    keys: Arc<KeySet>,
    fresh_until: Instant,
    usable_until: Instant,
}

impl Held {
    fn has(&self, wanted: Wanted<'_>) -> bool {
        wanted.is_none_or(|(kid, algorithm)| self.keys.matching(kid, algorithm).next().is_some())
    }
}

/// The key that a token names: its id, if it names one, and its algorithm.
type Wanted<'a> = Option<(Option<&'a str>, Algorithm)>;

impl Issuers {
    pub(super) fn new(fetcher: Fetcher, options: JwtOptions) -> Self {
        Self { issuers: Cache::new(MAX_ISSUERS), shared: Arc::new(Shared { fetcher, options }) }
    }

    /// The issuer's keys. If it has none as wanted, they are fetched again, but not more often than allowed; what comes
    /// back may still lack the wanted one.
    pub(super) async fn keys(&self, rules: &Rules<'_>, wanted: Wanted<'_>) -> Result<Arc<KeySet>, JwtError> {
        let source = (rules.issuer.to_owned(), rules.jwks_url.map(str::to_owned));
        let issuer = match self.issuers.get(&source) {
            Some(issuer) => issuer,
            None => {
                let new = || Ok::<_, std::convert::Infallible>(Arc::new(Issuer::new(source.clone())));
                match self.issuers.get_or_insert_with(&source, new) {
                    Ok(issuer) => issuer,
                    Err(never) => match never {},
                }
            }
        };
        issuer.keys(&self.shared, wanted).await
    }

    /// The usable key sets of an issuer that are in memory, wherever they were fetched from.
    pub(super) fn held(&self, issuer: &str, now: Instant) -> Vec<Arc<KeySet>> {
        let of_issuer = self.issuers.iter().filter(|(source, _)| source.0 == issuer);
        let usable = of_issuer.filter_map(|(_, issuer)| issuer.held.load_full().filter(|held| now < held.usable_until));
        usable.map(|held| Arc::clone(&held.keys)).collect()
    }
}

impl Issuer {
    fn new(source: Source) -> Self {
        Self { source, held: ArcSwapOption::empty(), turn: Arc::default(), down: AtomicBool::new(false) }
    }

    async fn keys(self: &Arc<Self>, shared: &Arc<Shared>, wanted: Wanted<'_>) -> Result<Arc<KeySet>, JwtError> {
        let now = Instant::now();
        let before = self.held.load_full();
        if let Some(held) = &before {
            if now < held.fresh_until && held.has(wanted) {
                return Ok(Arc::clone(&held.keys));
            }
            // The issuer is away, and these will do: somebody asks again, nobody waits for that.
            if now < held.usable_until && held.has(wanted) && self.down.load(Ordering::Relaxed) {
                if let Ok(turn) = Arc::clone(&self.turn).try_lock_owned() {
                    drop(self.refresh(shared, turn));
                }
                return Ok(Arc::clone(&held.keys));
            }
        }
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let same = match (&before, &self.held.load_full()) {
            (None, None) => true,
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            _ => false,
        };
        let error = if same {
            self.refresh(shared, turn).await.unwrap_or_else(|_| "the keys were not fetched to the end".to_owned())
        } else {
            // Whoever had the turn before fetched in the meantime.
            turn.error.clone()
        };
        match self.held.load_full() {
            Some(held) if Instant::now() < held.usable_until => Ok(Arc::clone(&held.keys)),
            _ => Err(JwtError::Unavailable(error)),
        }
    }

    /// Fetches, in a task of its own: a caller who hangs up must not take the keys of all the others along. There is one
    /// such task at most, as it holds the turn. Answers the error, if there is one.
    fn refresh(self: &Arc<Self>, shared: &Arc<Shared>, mut turn: OwnedMutexGuard<Turn>) -> JoinHandle<String> {
        let (issuer, shared) = (Arc::clone(self), Arc::clone(shared));
        tokio::spawn(async move {
            issuer.fetch(&shared, &mut turn).await;
            turn.error.clone()
        })
    }

    /// Fetches, unless somebody just did.
    async fn fetch(&self, shared: &Shared, turn: &mut Turn) {
        let options = &shared.options;
        if turn.last.is_some_and(|last| last.elapsed() < options.refetch) {
            return;
        }
        turn.last = Some(Instant::now());
        match shared.fetcher.keys(&self.source.0, self.source.1.as_deref()).await {
            Ok(fetched) => {
                let (least, most) = options.fresh;
                let fresh = fetched.max_age.unwrap_or(least).clamp(least, most.max(least));
                let fresh_until = Instant::now() + fresh;
                let usable_until = fresh_until + options.stale.min(Duration::from_secs(86_400 * 30));
                let held = Held { keys: Arc::new(fetched.keys), fresh_until, usable_until };
                self.held.store(Some(Arc::new(held)));
                self.down.store(false, Ordering::Relaxed);
                turn.error.clear();
            }
            Err(error) => {
                tracing::warn!(issuer = %self.source.0, %error, "keys of an issuer can't be fetched");
                self.down.store(true, Ordering::Relaxed);
                turn.error = error;
            }
        }
    }
}
