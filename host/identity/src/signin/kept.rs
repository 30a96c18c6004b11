//! Tokens of identity providers, kept since people signed in, where the operator wants that
//! (`IdentityProvider.spec.loginTokens`): for calls that are made in a person's name.
//!
//! One for each person and provider; the newest sign-in counts. Sealed in the store under `l/`, opened in memory, so that no call
//! reads the store. What is said to providers is [`super::oidc`]'s.

mod elsewhere;
mod record;
mod refused;

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use portcullis_model::{
    CallerToken, Kind, Name, Secret, TokenOrigin,
    spec::{IdentityProvider, LoginToken},
};
use portcullis_store::{Expect, Leases, Registry, Revision, Store, StoreError, Write, keys, scan_all};
use portcullis_telemetry::Metrics;
use tokio::sync::Mutex;

use super::{digest, digest_bytes, is_known, random_text};
use crate::{
    Directories,
    clock::{millis, now_ms},
    shelf::Shelf,
};

/// How long a sign-in can be used for calls, as long as a client's grant.
const LIFE: Duration = Duration::from_secs(30 * 86_400);
/// The most people whose tokens are kept.
const MOST: usize = 20_000;
/// The most bytes of one token.
const MAX_TOKEN: usize = 16 << 10;
/// How often what nobody may use any more is forgotten.
const SWEEP: Duration = Duration::from_secs(300);
/// A token is renewed when it is so near to its end, or has a fifth of its life left if that is less.
const AHEAD_MS: u64 = 60_000;
/// A token is not sent any more when it is so near to its end.
const MARGIN_MS: u64 = 2_000;
/// How long nobody asks a provider again that did not answer.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// Seals what is kept, each record for its own key. The vault does.
pub trait Sealing: Send + Sync {
    /// Seals.
    ///
    /// # Errors
    /// A sentence that quotes nothing of what is sealed.
    fn seal(&self, key: &str, plain: &Secret) -> Result<Bytes, String>;
    /// Opens.
    ///
    /// # Errors
    /// As above.
    fn unseal(&self, key: &str, sealed: &[u8]) -> Result<Secret, String>;
}

/// Whose tokens, and of which provider.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Whose {
    /// The tenant.
    pub tenant: Name,
    /// The `IdentityProvider`.
    pub provider: Name,
    /// Its issuer.
    pub issuer: String,
    /// The person there.
    pub subject: String,
}

impl Whose {
    fn key(&self) -> String {
        let person =
            digest("portcullis kept sign-in person 1", format!("{}\0{}", self.issuer, self.subject).as_bytes());
        keys::login(&self.tenant, &self.provider, &person)
    }
}

/// What a provider gave.
pub(crate) struct Given {
    pub(crate) token: Secret,
    pub(crate) audiences: Vec<String>,
    pub(crate) expires_ms: Option<u64>,
    pub(crate) refresh: Option<Secret>,
    pub(crate) groups: Vec<String>,
    /// When the provider told them, in milliseconds since 1970.
    pub(crate) groups_ms: u64,
    /// The `nonce` of the sign-in's ID token.
    pub(crate) nonce: String,
}

/// What is kept of a sign-in at one moment. A renewal makes another.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) whose: Whose,
    /// Tells this sign-in from every other one; a renewal keeps it.
    sign_in: String,
    pub(crate) token: Arc<CallerToken>,
    pub(crate) refresh: Option<Secret>,
    /// As whom it was asked for there, and which token it is: where the resource says otherwise now, it is not used.
    client_id: String,
    pub(crate) kind: LoginToken,
    pub(crate) groups: Vec<String>,
    pub(crate) groups_ms: u64,
    pub(crate) nonce: String,
    issued_ms: u64,
    until_ms: u64,
    revision: Revision,
}

impl Held {
    /// Whether it is time to renew the token.
    pub(crate) fn is_due(&self, now: u64) -> bool {
        self.token.expires_ms.is_some_and(|at| {
            let ahead = (at.saturating_sub(self.issued_ms) / 5).min(AHEAD_MS);
            now.saturating_add(ahead.max(MARGIN_MS)) >= at
        })
    }

    /// Whether the token is at its end.
    pub(crate) fn is_over(&self, now: u64) -> bool {
        self.token.expires_ms.is_some_and(|at| now.saturating_add(MARGIN_MS) >= at)
    }
}

/// A person's sign-in: what is kept now, and who renews it.
pub(crate) struct Person {
    held: ArcSwap<Held>,
    /// When the last renewal failed, and why.
    pub(crate) flight: Mutex<Option<(Instant, String)>>,
}

impl Person {
    fn new(held: Held) -> Arc<Self> {
        Arc::new(Self { held: ArcSwap::from_pointee(held), flight: Mutex::new(None) })
    }

    pub(crate) fn held(&self) -> Arc<Held> {
        self.held.load_full()
    }
}

/// What somebody is told about their own sign-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// When what is kept ends, in milliseconds since 1970; none where nobody said.
    pub until_ms: Option<u64>,
    /// Whether it is renewed before that.
    pub renews: bool,
}

/// Why tokens are not kept.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// There are as many as may be.
    #[error("the tokens of {MOST} people are kept already")]
    Full,
    /// A token is longer than tokens are.
    #[error("a token is longer than {MAX_TOKEN} bytes")]
    TooLong,
    /// They could not be sealed.
    #[error("they could not be sealed: {0}")]
    Seal(String),
    /// The operating system has no randomness to give.
    #[error("the operating system has no randomness to give")]
    NoRandomness(#[from] getrandom::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Default)]
struct Table {
    /// By key in the store.
    people: HashMap<String, Arc<Person>>,
    /// The key in the store, by the digest of the sign-in.
    sign_ins: HashMap<[u8; 32], String>,
}

/// Everybody's kept tokens.
pub struct KeptTokens {
    store: Arc<dyn Store>,
    sealing: Arc<dyn Sealing>,
    registry: Arc<Registry>,
    directories: Arc<Directories>,
    metrics: Arc<Metrics>,
    table: RwLock<Table>,
    /// When a provider took back what it had said of somebody.
    refused: Shelf<u64>,
    /// Where others use the store too: who of them renews.
    leases: Option<Leases>,
    generation: AtomicU64,
    /// Store and memory change together.
    writing: Mutex<()>,
}

impl std::fmt::Debug for KeptTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptTokens").finish_non_exhaustive()
    }
}

impl KeptTokens {
    /// Opens what the store has; from now on forgets what has ended and follows the identity providers, on the current tokio
    /// runtime.
    ///
    /// # Errors
    /// Those of the store. A record that can't be opened is left out: its person signs in again.
    pub async fn open(
        registry: Arc<Registry>,
        directories: Arc<Directories>,
        sealing: Arc<dyn Sealing>,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, StoreError> {
        let store = Arc::clone(registry.store());
        let mut table = Table::default();
        let from = store.revision();
        for record in scan_all(&*store, keys::LOGINS).await? {
            let plain = sealing.unseal(&record.key, &record.value);
            match plain.map(|plain| record::read(&plain, record.revision)) {
                Ok(Some(held)) if held.whose.key() == *record.key => {
                    table.sign_ins.insert(held.token.digest, record.key.to_string());
                    table.people.insert(record.key.to_string(), Person::new(held));
                }
                Ok(_) => tracing::error!(record = %record.key, "what was kept of a sign-in can't be read"),
                Err(error) => {
                    tracing::error!(record = %record.key, error, "what was kept of a sign-in can't be opened")
                }
            }
        }
        metrics.kept("login tokens", table.people.len());
        let shared = store.is_shared();
        let leases = if shared { Some(Leases::new(Arc::clone(&store), &holder()?)) } else { None };
        let kept = Arc::new(Self {
            leases,
            refused: Shelf::open(Arc::clone(&store), Arc::clone(&metrics), refused::PLAN).await?,
            store,
            sealing,
            registry,
            directories,
            metrics,
            table: RwLock::new(table),
            generation: AtomicU64::new(1),
            writing: Mutex::new(()),
        });
        tokio::spawn(keep_house(Arc::downgrade(&kept)));
        if shared {
            tokio::spawn(elsewhere::follow(Arc::downgrade(&kept), from));
        }
        Ok(kept)
    }

    /// Grows whenever somebody's kept token may be another or none.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The token that stands for somebody, if one is kept. It may be near its end, or over: [`super::oidc::Oidc::fresh`].
    pub(crate) fn of(&self, whose: &Whose) -> Option<Arc<CallerToken>> {
        let held = self.find(&whose.key())?.held();
        self.stands(&held).then(|| Arc::clone(&held.token))
    }

    /// What somebody may know of what is kept of theirs.
    pub fn standing(&self, whose: &Whose) -> Option<Standing> {
        let held = self.find(&whose.key())?.held();
        let renews = held.refresh.is_some();
        let until_ms = if renews { Some(held.until_ms) } else { held.token.expires_ms };
        (self.stands(&held) && (renews || !held.is_over(now_ms()))).then_some(Standing { until_ms, renews })
    }

    /// What is kept of somebody, if it may be used.
    pub(crate) fn person_of(&self, whose: &Whose) -> Option<Arc<Person>> {
        self.find(&whose.key()).filter(|person| self.stands(&person.held()))
    }

    fn find(&self, key: &str) -> Option<Arc<Person>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).people.get(key).cloned()
    }

    /// Whose sign-in a token is of.
    pub(crate) fn person(&self, sign_in: &[u8; 32]) -> Option<Arc<Person>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.people.get(table.sign_ins.get(sign_in)?).cloned()
    }

    /// Whether it may be used: in time, and the provider is the one that it was, and its tokens are still to be kept.
    pub(crate) fn stands(&self, held: &Held) -> bool {
        let fleet = self.registry.snapshot();
        let provider = fleet.identity_provider(&held.whose.tenant, &held.whose.provider);
        let same = provider.is_some_and(|p| {
            p.spec.issuer == held.whose.issuer
                && p.spec.client_id == held.client_id
                && p.spec.sign_in
                && p.spec.login_tokens.as_ref().is_some_and(|l| l.token == held.kind)
        });
        same && now_ms() < held.until_ms
    }

    /// Keeps what a sign-in gave, in place of what an earlier one did.
    ///
    /// # Errors
    /// [`KeptError`].
    pub(crate) async fn keep(&self, whose: Whose, provider: &IdentityProvider, given: Given) -> Result<(), KeptError> {
        let Some(wanted) = &provider.login_tokens else { return Ok(()) };
        let now = now_ms();
        let sign_in = String::from_utf8_lossy(random_text::<16>()?.expose()).into_owned();
        let until_ms = now.saturating_add(millis(LIFE));
        let client_id = provider.client_id.clone();
        let held = held(whose, sign_in, given, (client_id, wanted.token), (now, until_ms))?;
        let _turn = self.writing.lock().await;
        let key = held.whose.key();
        {
            let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
            if !table.people.contains_key(&key) && table.people.len() >= MOST {
                return Err(KeptError::Full);
            }
        }
        let revision = self.write(&key, &held, Expect::Any).await?;
        self.put(key, Person::new(Held { revision, ..held }));
        Ok(())
    }

    /// Under `writing`.
    fn put(&self, key: String, person: Arc<Person>) {
        let digest = person.held().token.digest;
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = table.people.insert(key.clone(), person) {
            table.sign_ins.remove(&before.held().token.digest);
        }
        table.sign_ins.insert(digest, key);
        self.changed(&table);
    }

    /// Keeps what a renewal gave; answers the new token, or none where the sign-in was dropped or replaced meanwhile.
    pub(crate) async fn renew(
        &self,
        person: &Arc<Person>,
        old: &Held,
        given: Given,
    ) -> Result<Option<Arc<CallerToken>>, KeptError> {
        let (whose, who) = (old.whose.clone(), (old.client_id.clone(), old.kind));
        let new = held(whose, old.sign_in.clone(), given, who, (now_ms(), old.until_ms))?;
        let _turn = self.writing.lock().await;
        let key = new.whose.key();
        if !self.find(&key).is_some_and(|now| Arc::ptr_eq(&now, person)) {
            return Ok(None);
        }
        let revision = match self.write(&key, &new, Expect::Is(old.revision)).await {
            // Sealed again with another key meanwhile: nobody else writes it.
            Err(KeptError::Store(StoreError::Conflict { .. })) => self.write(&key, &new, Expect::Any).await?,
            other => other?,
        };
        let token = Arc::clone(&new.token);
        person.held.store(Arc::new(Held { revision, ..new }));
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(Some(token))
    }

    /// Drops what is kept of somebody's sign-in by this provider, such as where they sign out.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn drop_one(&self, whose: &Whose) -> Result<(), StoreError> {
        let _turn = self.writing.lock().await;
        self.forget(&whose.key()).await
    }

    /// Under `writing`. Nobody uses it from the first moment on, whatever the store says.
    async fn forget(&self, key: &str) -> Result<(), StoreError> {
        {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(person) = table.people.remove(key) {
                table.sign_ins.remove(&person.held().token.digest);
                self.changed(&table);
            }
        }
        // Also where memory has none: an earlier attempt may have got no further.
        self.store.write(vec![Write::Delete { key: key.to_owned(), expect: Expect::Any }]).await.map(|_| ())
    }

    fn changed(&self, table: &Table) {
        self.metrics.kept("login tokens", table.people.len());
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    async fn write(&self, key: &str, held: &Held, expect: Expect) -> Result<Revision, KeptError> {
        let plain = record::write(held).ok_or(KeptError::TooLong)?;
        let value = self.sealing.seal(key, &plain).map_err(KeptError::Seal)?;
        Ok(self.store.write(vec![Write::Put { key: key.to_owned(), value, expect }]).await?)
    }

    /// Forgets what nobody may use: what has ended, what its provider does not keep any more, and of whom is nobody here.
    async fn sweep(&self) -> Result<(), StoreError> {
        let all: Vec<(String, Arc<Person>)> = {
            let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
            table.people.iter().map(|(key, person)| (key.clone(), Arc::clone(person))).collect()
        };
        let now = now_ms();
        for (key, person) in all {
            let held = person.held();
            let useful = held.refresh.is_some() || !held.is_over(now);
            if useful && self.stands(&held) && self.is_somebody(&held) {
                continue;
            }
            let _turn = self.writing.lock().await;
            // Somebody may have signed in anew meanwhile.
            if self.find(&key).is_some_and(|now| Arc::ptr_eq(&now, &person)) {
                self.forget(&key).await?;
            }
        }
        Ok(())
    }

    fn is_somebody(&self, held: &Held) -> bool {
        let Whose { tenant, provider, issuer, subject } = &held.whose;
        let known = self.directories.load().external(tenant, issuer, subject, held.groups.clone());
        let fleet = self.registry.snapshot();
        let anybody = || fleet.identity_provider(tenant, provider).is_some_and(|p| p.spec.anybody);
        known.is_ok_and(|p| is_known(&p) || anybody())
    }

    /// What the identity providers say about tokens, as a number that changes with it.
    fn providers(&self) -> Vec<(Name, Option<Revision>)> {
        let fleet = self.registry.snapshot();
        let all = fleet.iter().filter(|(key, _)| key.kind == Kind::IdentityProvider);
        all.map(|(key, r)| (key.name.clone(), r.metadata.revision.map(Revision))).collect()
    }
}

/// What tells this process from others that take leases.
fn holder() -> Result<String, StoreError> {
    let random = random_text::<16>().map_err(|error| StoreError::Unavailable(error.to_string()))?;
    Ok(String::from_utf8_lossy(random.expose()).into_owned())
}

async fn keep_house(kept: Weak<KeptTokens>) {
    let Some(mut changes) = kept.upgrade().map(|k| k.registry.watch()) else { return };
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut known = Vec::new();
    loop {
        let timer = tokio::select! {
            _ = tick.tick() => true,
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                false
            }
        };
        let Some(kept) = kept.upgrade() else { return };
        let now = kept.providers();
        let changed = now != known;
        if changed {
            // At once: callers' tokens are looked up again.
            known = now;
            kept.generation.fetch_add(1, Ordering::AcqRel);
        }
        if (timer || changed)
            && let Err(error) = kept.sweep().await
        {
            tracing::warn!(%error, "kept sign-ins could not be forgotten; tried again later");
        }
        if timer && let Err(error) = kept.forget_marks().await {
            tracing::warn!(%error, "marks of refused sign-ins could not be forgotten; tried again later");
        }
    }
}

/// Makes of what was given what is kept.
fn held(
    whose: Whose,
    sign_in: String,
    given: Given,
    (client_id, kind): (String, LoginToken),
    (issued_ms, until_ms): (u64, u64),
) -> Result<Held, KeptError> {
    if given.token.len() > MAX_TOKEN || given.refresh.as_ref().is_some_and(|r| r.len() > MAX_TOKEN) {
        return Err(KeptError::TooLong);
    }
    let token = CallerToken {
        digest: digest_bytes("portcullis kept sign-in 1", sign_in.as_bytes()),
        secret: given.token,
        origin: TokenOrigin::SignIn,
        issuer: whose.issuer.clone(),
        audiences: given.audiences,
        expires_ms: given.expires_ms,
        bound: false,
        token_type: Some(kind.token_type().to_owned()),
    };
    Ok(Held {
        whose,
        sign_in,
        token: Arc::new(token),
        refresh: given.refresh,
        client_id,
        kind,
        groups: given.groups,
        groups_ms: given.groups_ms,
        nonce: given.nonce,
        issued_ms,
        until_ms,
        revision: Revision(0),
    })
}
