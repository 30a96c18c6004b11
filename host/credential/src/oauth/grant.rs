//! One connection's tokens, live: lent to calls, and renewed by one for all.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use portcullis_model::{Name, spec::TokenHeader};
use tokio::sync::watch;

use super::{grants::Grants, record::Held};
use crate::resolver::now_ms;

/// How soon a token that a server refused is renewed again, at the earliest: a server that refuses every token must not make a
/// request to the authorization server of each call.
const FORCED_MS: u64 = 5_000;
/// How soon what could not be saved is tried again.
const UNSAVED_MS: u64 = 5_000;
/// The first pause after a renewal that failed; each further one is twice as long.
const FIRST_PAUSE_MS: u64 = 1_000;
/// The longest pause.
const LONGEST_PAUSE_MS: u64 = 60_000;
/// The most scopes that are noted as wanted.
const MAX_WANTED: usize = 64;

/// How a renewal ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// There is another token.
    Renewed,
    /// The authorization server will not renew it: its owner has to connect again.
    Refused(String),
    /// It failed, and may work in so many milliseconds.
    Failed { why: String, retry_after_ms: u64 },
    /// The token was renewed a moment ago, so that it is not done again.
    TooSoon,
    /// The connection is gone.
    Gone,
}

/// Whether what a call was lent can still be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// It can.
    Fresh,
    /// It can, and it is time to renew it.
    Soon,
    /// It can't.
    Over,
}

/// One connection's tokens.
pub(crate) struct Grant {
    pub(crate) tenant: Name,
    pub(crate) connection: Name,
    held: ArcSwap<Held>,
    /// From when a call has to look closer, so that it reads one number before.
    look_ms: AtomicU64,
    flight: Mutex<Flight>,
    /// Scopes that the server asked for beyond those that were granted.
    wanted: Mutex<Vec<String>>,
    grants: Weak<Grants>,
}

#[derive(Default)]
struct Flight {
    running: Option<watch::Receiver<Option<Renewal>>>,
    failures: u32,
    not_before_ms: u64,
    forced_ms: u64,
    last: Option<String>,
}

/// What a call was lent: shared by the calls of one caller until it changes.
#[derive(Clone)]
pub(crate) struct Lent {
    pub(crate) grant: Arc<Grant>,
    pub(crate) stamp: u64,
    /// The account's.
    pub(crate) mark: u64,
    /// Where the token stands.
    pub(crate) header: TokenHeader,
}

impl Lent {
    /// Whether it is still what the connection holds.
    pub(crate) fn is_current(&self) -> bool {
        self.grant.held.load().stamp == self.stamp
    }

    /// Whether it can still be used. Reads one number, mostly.
    pub(crate) fn due(&self, now_ms: u64) -> Due {
        if now_ms < self.grant.look_ms.load(Ordering::Relaxed) {
            return Due::Fresh;
        }
        let held = self.grant.held.load();
        if held.broken.is_some() || held.is_over(now_ms) {
            return Due::Over;
        }
        if held.refresh.is_some() || held.unsaved { Due::Soon } else { Due::Fresh }
    }
}

impl std::fmt::Debug for Lent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lent({})", self.stamp)
    }
}

impl Grant {
    pub(crate) fn new(tenant: Name, connection: Name, held: Held, grants: Weak<Grants>) -> Arc<Self> {
        let grant = Self {
            tenant,
            connection,
            look_ms: AtomicU64::new(0),
            held: ArcSwap::from_pointee(held),
            flight: Mutex::default(),
            wanted: Mutex::default(),
            grants,
        };
        grant.look_again();
        Arc::new(grant)
    }

    /// What is held now.
    pub(crate) fn held(&self) -> Arc<Held> {
        self.held.load_full()
    }

    /// Takes over what is held from now on, unless what is held is newer.
    pub(crate) fn install(&self, held: Held) {
        let mut flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.held.load();
        if held.revision < now.revision || (held.revision == now.revision && !held.unsaved && !now.unsaved) {
            return;
        }
        if held.grant != now.grant {
            // Somebody connected: what went wrong before is over, and so is what was wanted.
            *flight = Flight { running: flight.running.take(), ..Flight::default() };
            let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.retain(|scope| !held.covers(scope));
        }
        self.held.store(Arc::new(held));
        drop(flight);
        self.look_again();
    }

    fn look_again(&self) {
        let held = self.held.load();
        let not_before = self.flight.lock().unwrap_or_else(PoisonError::into_inner).not_before_ms;
        let over = held.expires_ms.map_or(u64::MAX, |at| at.saturating_sub(super::record::margin(held.issued_ms, at)));
        let soon = match (held.unsaved, held.refresh.is_some()) {
            (true, _) => now_ms() + UNSAVED_MS,
            (false, true) => held.renew_ms.unwrap_or(u64::MAX).max(not_before),
            (false, false) => u64::MAX,
        };
        let look = if held.broken.is_some() { 0 } else { soon.min(over) };
        self.look_ms.store(look, Ordering::Relaxed);
    }

    /// Begins to renew it, if that is not under way.
    pub(crate) fn begin(self: &Arc<Self>, forced: bool) -> Result<watch::Receiver<Option<Renewal>>, Renewal> {
        let now = now_ms();
        let mut flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = flight.running.as_ref().filter(|r| r.has_changed().is_ok()) {
            return Ok(running.clone());
        }
        if now < flight.not_before_ms {
            let why = flight.last.clone().unwrap_or_default();
            return Err(Renewal::Failed { why, retry_after_ms: flight.not_before_ms - now });
        }
        if forced {
            if now < flight.forced_ms.saturating_add(FORCED_MS) {
                return Err(Renewal::TooSoon);
            }
            flight.forced_ms = now;
        }
        let Some(grants) = self.grants.upgrade() else { return Err(Renewal::Gone) };
        let (tell, told) = watch::channel(None);
        flight.running = Some(told.clone());
        drop(flight);
        let grant = Arc::clone(self);
        // Not the caller's own: a caller who goes away must not take with it what the authorization server has just given.
        grants.runtime().clone().spawn(async move {
            let renewal = grants.renew(&grant, forced).await;
            grants.count(&renewal);
            grant.ended(&renewal);
            let _ = tell.send(Some(renewal));
        });
        Ok(told)
    }

    fn ended(&self, renewal: &Renewal) {
        let mut flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        flight.running = None;
        match renewal {
            Renewal::Failed { why, retry_after_ms } => {
                flight.failures = flight.failures.saturating_add(1);
                flight.not_before_ms = now_ms().saturating_add(*retry_after_ms);
                flight.last = Some(why.clone());
            }
            _ => {
                flight.failures = 0;
                flight.not_before_ms = 0;
                flight.last = None;
            }
        }
        drop(flight);
        self.look_again();
    }

    /// How long to wait after the failure that happens now.
    pub(crate) fn pause_ms(&self, told: Option<Duration>) -> u64 {
        let failures = self.flight.lock().unwrap_or_else(PoisonError::into_inner).failures;
        let ours = FIRST_PAUSE_MS.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE_MS);
        told.map_or(ours, |told| u64::try_from(told.as_millis()).unwrap_or(u64::MAX).max(ours))
    }

    /// Waits until another token than the one of this stamp is there, or none can be.
    pub(crate) async fn renewed(self: &Arc<Self>, stamp: u64) -> Renewal {
        let held = self.held();
        if held.stamp != stamp {
            return Renewal::Renewed;
        }
        if let Some(why) = &held.broken {
            return Renewal::Refused(why.clone());
        }
        if held.refresh.is_none() {
            return Renewal::Refused(
                "its access has ended, and the authorization server gave nothing to renew it".to_owned(),
            );
        }
        self.await_end(false).await
    }

    /// The server refused the token of this stamp: waits for another one.
    pub(crate) async fn rejected(self: &Arc<Self>, stamp: u64) -> Renewal {
        let held = self.held();
        if held.stamp != stamp {
            // Somebody else's call was refused a moment ago.
            return if held.broken.is_some() { self.renewed(held.stamp).await } else { Renewal::Renewed };
        }
        if held.broken.is_some() || held.refresh.is_none() {
            let why = held.broken.clone();
            return Renewal::Refused(why.unwrap_or_else(|| "the server does not accept its token any more".to_owned()));
        }
        self.await_end(true).await
    }

    async fn await_end(self: &Arc<Self>, forced: bool) -> Renewal {
        let mut told = match self.begin(forced) {
            Ok(told) => told,
            Err(renewal) => return renewal,
        };
        let ended = told.wait_for(Option::is_some).await;
        match ended.ok().and_then(|e| e.clone()) {
            Some(renewal) => renewal,
            None => Renewal::Failed { why: "the renewal broke off".to_owned(), retry_after_ms: FIRST_PAUSE_MS },
        }
    }

    /// Notes scopes that the server asked for. Answers whether signing in again could help: not where they were asked for
    /// at the last sign-in already.
    pub(crate) fn want(&self, scopes: &[String]) -> bool {
        let held = self.held.load();
        let new: Vec<&String> = scopes.iter().filter(|scope| !held.covers(scope)).collect();
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        for scope in &new {
            if wanted.len() < MAX_WANTED && !wanted.contains(scope) {
                wanted.push((*scope).clone());
            }
        }
        !new.is_empty()
    }

    /// Scopes that the server asked for beyond those that were granted.
    pub(crate) fn wanted(&self) -> Vec<String> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the last renewal failed, if it did.
    pub(crate) fn failing(&self) -> Option<String> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner).last.clone()
    }
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Grant({}/{})", self.tenant, self.connection)
    }
}
