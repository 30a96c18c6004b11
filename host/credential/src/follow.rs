//! What becomes of an answer after it was given: a new one ahead of its end, or after a server refused it.
#![allow(clippy::result_large_err, reason = "a fault is what a refused call is answered with: rare, and made once")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::BoxFuture;
use http::HeaderMap;
use portcullis_model::{CallerToken, Fault, Name, Principal};
use portcullis_plugin::{Earlier, Guarded, Rejection};

use crate::{
    Carried, CredentialPlan, Resolver,
    cache::{KeyRef, Slot},
    missing,
    resolver::now_ms,
};

/// The most time before an answer's end that a new one is asked for.
const AHEAD_MS: u64 = 300_000;
/// A new answer that a server refuses so soon is no better than the one before: nobody asks again.
const SOON: Duration = Duration::from_secs(30);

/// Records that a caller's own token goes on to a server; durable before it answers (security.md 26). Names of things, no token.
pub trait PassedAudit: Send + Sync {
    /// False refuses the call. `exception` is the operator's reason, where the token was not made for the server.
    fn passed<'a>(
        &'a self,
        tenant: &'a Name,
        caller: &'a str,
        server: &'a Name,
        exception: Option<&'a str>,
    ) -> BoxFuture<'a, bool>;
}

/// Renews tokens of identity providers that were kept since people signed in.
pub trait SignIns: Send + Sync {
    /// What this token is now, renewed if it is near its end; none where that sign-in is over. An error is that this can't be told
    /// just now; whoever says so has logged why.
    fn fresh<'a>(&'a self, token: &'a Arc<CallerToken>) -> BoxFuture<'a, Result<Option<Arc<CallerToken>>, ()>>;
}

/// What follows where a server refused what a call carried.
#[derive(Debug)]
pub(crate) enum Rejected {
    /// The refusal stands.
    Stands,
    /// The call may be sent once more, with this.
    Again(Arc<Carried>),
    /// The call is refused with this.
    Refused(Box<Fault>),
}

/// How an answer is followed up.
#[derive(Debug)]
pub(crate) struct Followed {
    plan: Arc<CredentialPlan>,
    earlier: Earlier,
    made_ms: u64,
    /// From when on a new one is asked for; never where it does not end, or its resolver does not refresh.
    due_ms: u64,
    /// Whether somebody asked already.
    asked: AtomicBool,
    /// Whether it took the place of one that the server refused.
    again: bool,
}

impl Followed {
    /// None where nobody follows it up.
    pub(crate) fn of(
        plan: &Arc<CredentialPlan>,
        kept: Vec<(String, Guarded)>,
        expires_ms: Option<u64>,
        now_ms: u64,
        again: bool,
    ) -> Option<Self> {
        let refreshes = plan.resolver.refreshes();
        if !refreshes && !plan.resolver.hears_of_rejections() {
            return None;
        }
        let due_ms = expires_ms.filter(|_| refreshes).map_or(u64::MAX, |until| {
            let ahead = AHEAD_MS.min(until.saturating_sub(now_ms) / 5);
            // Spread over a quarter of that time, so that answers of one moment are not all asked for in one moment.
            until.saturating_sub(ahead - spread(ahead / 4))
        });
        Some(Self {
            plan: Arc::clone(plan),
            earlier: Earlier { expires_ms, kept: kept.into() },
            made_ms: now_ms,
            due_ms,
            asked: AtomicBool::new(false),
            again,
        })
    }

    /// Whether a new answer is due that nobody asked for yet.
    pub(crate) fn is_due(&self, now_ms: u64) -> bool {
        now_ms >= self.due_ms && !self.asked.load(Ordering::Relaxed)
    }
}

/// Some number below `most`; not secret.
fn spread(most: u64) -> u64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::from(d.subsec_nanos()));
    nanos.checked_rem(most).unwrap_or(0)
}

impl Resolver {
    /// Asks for a new answer, in a task of its own: calls go on under the old one.
    pub(crate) fn refresh(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        plan: &Arc<CredentialPlan>,
        principal: &Arc<Principal>,
        headers: &Arc<HeaderMap>,
        old: &Arc<Carried>,
    ) {
        let Some(followed) = &old.followed else { return };
        if followed.asked.swap(true, Ordering::AcqRel) {
            return;
        }
        let (resolver, slot, plan) = (Arc::clone(self), Arc::clone(slot), Arc::clone(plan));
        let (principal, headers, old) = (Arc::clone(principal), Arc::clone(headers), Arc::clone(old));
        tokio::spawn(async move {
            let _flight = slot.flight.lock().await;
            let Some(followed) = &old.followed else { return };
            let taken = async {
                let principal = resolver.with_fresh_token(&plan, &principal).await?;
                match plan.resolver.refresh(&principal, &headers, &plan.target, &followed.earlier).await {
                    Ok(answer) => resolver.take(&slot, &plan, &principal, &headers, answer, false).await.map(drop),
                    Err(failure) => Err(missing::failed(&plan, &failure)),
                }
            };
            if let Err(fault) = taken.await {
                tracing::info!(server = %plan.server, code = fault.code, "no new credential yet; the old one is used for as long as it holds");
            }
        });
    }

    /// The server refused what a call carried (401): other connections of the same rank come first from now on, and the resolver
    /// is asked once what to do, if it wants to be.
    pub(crate) async fn followed_up(
        self: &Arc<Self>,
        carried: &Arc<Carried>,
        principal: &Arc<Principal>,
        headers: &Arc<HeaderMap>,
    ) -> Rejected {
        self.rejected(carried);
        let Some(followed) = carried.followed.as_ref().filter(|f| f.plan.resolver.hears_of_rejections()) else {
            return Rejected::Stands;
        };
        let plan = &followed.plan;
        if principal.tenant != plan.tenant {
            return Rejected::Stands;
        }
        let standing = self.book().standing(&plan.tenant, &plan.server);
        let slot = self.slot(&KeyRef::new(&plan.fingerprint, principal, standing));
        let _flight = slot.flight.lock().await;
        let now = now_ms();
        if let Some(newer) = slot.find(principal, headers, now)
            && !Arc::ptr_eq(&newer, carried)
        {
            // Somebody else was refused before, and has asked. Another account is for the next call.
            return if newer.is_account_of(carried) { Rejected::Again(newer) } else { Rejected::Stands };
        }
        slot.forget(carried);
        if followed.again && now.saturating_sub(followed.made_ms) < SOON.as_millis() as u64 {
            return Rejected::Stands;
        }
        let refused = |fault| Rejected::Refused(Box::new(fault));
        let principal = &match self.with_fresh_token(plan, principal).await {
            Ok(principal) => principal,
            Err(fault) => return refused(fault),
        };
        let next = plan.resolver.rejected(principal, headers, &plan.target, &followed.earlier).await;
        match next {
            Ok(Rejection::Retry(answer)) => {
                match self.take(&slot, plan, principal, headers, *answer, true).await {
                    Ok(new) if new.is_account_of(carried) => Rejected::Again(new),
                    // Another account is for the next call: this one is on record under the old one.
                    Ok(_) => Rejected::Stands,
                    Err(fault) => refused(fault),
                }
            }
            Ok(Rejection::Reconnect(what)) => refused(missing::rejected(plan, &what)),
            Ok(Rejection::GiveUp) => Rejected::Stands,
            Err(failure) => refused(missing::failed(plan, &failure)),
        }
    }
}
