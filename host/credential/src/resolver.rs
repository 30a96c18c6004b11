//! Phase 7, resolve: asks the credential plugin, checks its answer, and remembers it for as long as it holds.
#![allow(clippy::result_large_err, reason = "a fault is what a refused call is answered with: rare, and made once")]

use std::{
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use http::HeaderMap;
use portcullis_model::{Fault, Principal, Secret, Side, TokenOrigin, spec::McpServer};
use portcullis_plugin::{Guarded, Outcome, Resolution};
use quick_cache::sync::Cache;

use crate::{
    Carried, ConnectionBook, CredentialPlan,
    book::Entry,
    cache::{Facts, Key, KeyRef, Slot},
    follow::{Followed, PassedAudit, Rejected, SignIns},
    missing,
    oauth::{Due, Grant, Lent, Renewal, insufficient_scope},
};

/// How many callers' credentials are remembered where the assembly does not say otherwise.
pub const CACHE_ENTRIES: usize = 10_000;
/// The longest that an answer is used again, in milliseconds: an hour (wit `resolution.expires`).
const MAX_AGE_MS: u64 = 3_600_000;
/// The same where the plugin did not say. Changes of connections, people or plugins end it at once.
const DEFAULT_AGE_MS: u64 = 600_000;

/// How a server refused what a call carried.
#[derive(Clone, Copy, Debug)]
pub struct Rejection<'a> {
    /// The HTTP status.
    pub status: u16,
    /// `WWW-Authenticate`.
    pub www_authenticate: Option<&'a str>,
}

/// Finds the credential of a call.
pub struct Resolver {
    book: Arc<ConnectionBook>,
    cache: Cache<Key, Arc<Slot>>,
    audit: Option<Arc<dyn PassedAudit>>,
    sign_ins: Option<Arc<dyn SignIns>>,
}

impl Resolver {
    /// A resolver that remembers at most so many callers' credentials.
    pub fn new(book: Arc<ConnectionBook>, entries: usize) -> Arc<Self> {
        Arc::new(Self { book, cache: Cache::new(entries), audit: None, sign_ins: None })
    }

    /// The same, with where it is recorded that a caller's own token goes on to a server. Without that none does.
    pub fn audited(book: Arc<ConnectionBook>, entries: usize, audit: Arc<dyn PassedAudit>) -> Arc<Self> {
        Arc::new(Self { book, cache: Cache::new(entries), audit: Some(audit), sign_ins: None })
    }

    /// The same, with who renews tokens that were kept since people signed in.
    pub fn of_callers(
        book: Arc<ConnectionBook>,
        entries: usize,
        audit: Arc<dyn PassedAudit>,
        sign_ins: Arc<dyn SignIns>,
    ) -> Arc<Self> {
        Arc::new(Self { book, cache: Cache::new(entries), audit: Some(audit), sign_ins: Some(sign_ins) })
    }

    /// The book that it chooses from.
    pub fn book(&self) -> &Arc<ConnectionBook> {
        &self.book
    }

    /// What calls of this caller carry. Without a read of the store; where the answer is known, without asking the plugin. A
    /// token that nears its end is renewed beside the call; for one that has ended the call waits.
    ///
    /// # Errors
    /// A fault that says what is missing, for whom, and what to do.
    pub async fn resolve(
        self: &Arc<Self>,
        plan: &Arc<CredentialPlan>,
        principal: &Arc<Principal>,
        headers: &Arc<HeaderMap>,
    ) -> Result<Arc<Carried>, Fault> {
        let carried = self.find(plan, principal, headers).await?;
        let Some(lent) = &carried.lent else { return Ok(carried) };
        match lent.due(now_ms()) {
            Due::Fresh => Ok(carried),
            Due::Soon => {
                // Where it can't begin just now, a later call will try.
                let _ = lent.grant.begin(false);
                Ok(carried)
            }
            Due::Over => {
                let ended = lent.grant.renewed(lent.stamp).await;
                self.another(plan, principal, headers, &carried, ended).await
            }
        }
    }

    /// The server refused what the call carried, and did not carry the call out. Gives what the call may carry instead, once;
    /// none where there is nothing else. This is the one place that hears of refusals.
    ///
    /// # Errors
    /// A fault, where it is known what the owner of the connection has to do.
    pub async fn refused(
        self: &Arc<Self>,
        plan: &Arc<CredentialPlan>,
        principal: &Arc<Principal>,
        headers: &Arc<HeaderMap>,
        carried: &Arc<Carried>,
        rejection: Rejection<'_>,
    ) -> Result<Option<Arc<Carried>>, Fault> {
        if rejection.status == 401 && carried.lent.is_none() {
            return match self.followed_up(carried, principal, headers).await {
                Rejected::Stands => Ok(None),
                Rejected::Again(another) => Ok(Some(another)),
                Rejected::Refused(fault) => Err(*fault),
            };
        }
        let Some(lent) = &carried.lent else { return Ok(None) };
        if let Some(scopes) = insufficient_scope(rejection.status, rejection.www_authenticate) {
            // Where they were asked for already, asking once more would go on for ever.
            if lent.grant.want(&scopes) {
                return Err(missing::scopes(plan, carried, &scopes));
            }
            return Ok(None);
        }
        if rejection.status != 401 {
            return Ok(None);
        }
        let ended = lent.grant.rejected(lent.stamp).await;
        if ended == Renewal::TooSoon {
            self.rejected(carried);
            return Ok(None);
        }
        let another = self.another(plan, principal, headers, carried, ended).await?;
        if !another.is_account_of(carried) {
            // It was disconnected meanwhile, or has lost its place: the account that takes it is for the next call.
            return Ok(None);
        }
        let same = another.lent.as_ref().is_some_and(|a| a.stamp == lent.stamp);
        if same {
            self.rejected(carried);
        }
        Ok((!same).then_some(another))
    }

    /// The same where no call is at hand, such as for a list: what is carried with another token, where a refused one could be
    /// renewed.
    pub async fn renewed(&self, carried: &Arc<Carried>) -> Option<Arc<Carried>> {
        let lent = carried.lent.as_ref()?;
        match lent.grant.rejected(lent.stamp).await {
            Renewal::Renewed => {}
            Renewal::Refused(_) | Renewal::TooSoon => {
                self.rejected(carried);
                return None;
            }
            Renewal::Failed { .. } | Renewal::Gone => return None,
        }
        let held = lent.grant.held();
        if held.broken.is_some() || held.account_mark() != lent.mark {
            return None;
        }
        let mut another = Carried::clone(carried);
        another.place_token(&lent.header, &held.access).ok()?;
        another.lent = Some(Lent { stamp: held.stamp, ..lent.clone() });
        Some(Arc::new(another))
    }

    /// What a renewal means for a call that needs another token.
    async fn another(
        self: &Arc<Self>,
        plan: &Arc<CredentialPlan>,
        principal: &Arc<Principal>,
        headers: &Arc<HeaderMap>,
        carried: &Arc<Carried>,
        ended: Renewal,
    ) -> Result<Arc<Carried>, Fault> {
        match ended {
            Renewal::Renewed | Renewal::Gone => {
                let again = self.find(plan, principal, headers).await?;
                let over = again.lent.as_ref().is_some_and(|lent| lent.due(now_ms()) == Due::Over);
                if over { Err(missing::renewal(plan, "its access ended again", 1000)) } else { Ok(again) }
            }
            Renewal::Refused(why) => {
                // Another connection of the same rank comes first from now on.
                self.rejected(carried);
                Err(missing::reconnect(plan, carried, &why))
            }
            Renewal::Failed { why, retry_after_ms } => Err(missing::renewal(plan, &why, retry_after_ms)),
            Renewal::TooSoon => Err(missing::renewal(plan, "it was renewed a moment ago", 1000)),
        }
    }

    /// What is remembered, or what the plugin says now.
    async fn find(
        self: &Arc<Self>,
        plan: &Arc<CredentialPlan>,
        principal: &Arc<Principal>,
        headers: &Arc<HeaderMap>,
    ) -> Result<Arc<Carried>, Fault> {
        if principal.tenant != plan.tenant {
            return Err(Fault::new(Side::Caller, "wrong-tenant", "the caller belongs to another tenant"));
        }
        // Read before the plugin looks: what changes meanwhile gives the answer a key that nobody asks for any more.
        let standing = self.book.standing(&plan.tenant, &plan.server);
        let key = KeyRef::new(&plan.fingerprint, principal, standing);
        if let Some(slot) = self.cache.get(&key) {
            let now = now_ms();
            if let Some(carried) = slot.find(principal, headers, now) {
                if carried.followed.as_ref().is_some_and(|followed| followed.is_due(now)) {
                    self.refresh(&slot, plan, principal, headers, &carried);
                }
                return Ok(carried);
            }
            return self.ask(&slot, plan, principal, headers).await;
        }
        let slot = self.slot(&key);
        self.ask(&slot, plan, principal, headers).await
    }

    /// The slot of a key. Another caller may come in between; then this slot is used once and forgotten.
    pub(crate) fn slot(&self, key: &KeyRef<'_>) -> Arc<Slot> {
        let made = self.cache.get_or_insert_with(&key.to_key(), || Ok::<_, std::convert::Infallible>(Arc::default()));
        match made {
            Ok(slot) => slot,
            Err(never) => match never {},
        }
    }

    /// The server refused what the call carried: other connections of the same rank come first from now on.
    pub fn rejected(&self, carried: &Carried) {
        if let Some(health) = &carried.health {
            health.mark(false);
        }
    }

    /// The server accepted what the call carried.
    pub fn accepted(&self, carried: &Carried) {
        if let Some(health) = &carried.health {
            health.mark(true);
        }
    }

    /// Resolves again whenever a connection changes, until that works or the time is up: a person is connecting an account.
    ///
    /// # Errors
    /// As [`Resolver::resolve`]: what is still missing.
    pub async fn resolve_until(
        self: &Arc<Self>,
        plan: &Arc<CredentialPlan>,
        principal: &Arc<Principal>,
        headers: &Arc<HeaderMap>,
        deadline: Instant,
    ) -> Result<Arc<Carried>, Fault> {
        let mut changes = self.book.changes();
        loop {
            changes.mark_unchanged();
            match self.resolve(plan, principal, headers).await {
                Err(fault) if fault.need.is_some() => {
                    let changed = tokio::time::timeout_at(deadline.into(), changes.changed()).await;
                    if !matches!(changed, Ok(Ok(()))) {
                        return Err(fault);
                    }
                }
                other => return other,
            }
        }
    }

    /// What a caller is told for whom a strategy found nothing to run under.
    pub(crate) fn lacking(&self, plan: &CredentialPlan, principal: &Principal, need: &str) -> Fault {
        let named = plan.target.connection.as_ref();
        let suspended = self.book.suspended(principal, &plan.server, named);
        match named {
            Some(name) if suspended.is_empty() => {
                let exists = self.book.find(&plan.tenant, &plan.server, name).is_some();
                missing::named(plan, principal, name.as_str(), exists)
            }
            _ => missing::no_connection(plan, principal, need, &suspended),
        }
    }

    async fn ask(
        &self,
        slot: &Slot,
        plan: &Arc<CredentialPlan>,
        principal: &Arc<Principal>,
        headers: &Arc<HeaderMap>,
    ) -> Result<Arc<Carried>, Fault> {
        let since = Instant::now();
        let _flight = slot.flight.lock().await;
        if let Some(carried) = slot.find(principal, headers, now_ms()) {
            return Ok(carried);
        }
        if let Some(fault) = slot.failed_since(since) {
            return Err(fault);
        }
        let made = async {
            let principal = &self.with_fresh_token(plan, principal).await?;
            match plan.resolver.resolve(principal, headers, &plan.target).await {
                Ok(resolution) => self.take(slot, plan, principal, headers, resolution, false).await,
                Err(failure) => Err(missing::failed(plan, &failure)),
            }
        };
        made.await.inspect_err(|fault| slot.fail(fault))
    }

    /// The caller as a resolver sees it: a token that was kept since a sign-in is renewed first where it is near its end, or
    /// taken away where that sign-in is over. What is remembered is remembered for the sign-in, so another token of it changes
    /// nothing there.
    pub(crate) async fn with_fresh_token(
        &self,
        plan: &CredentialPlan,
        principal: &Arc<Principal>,
    ) -> Result<Arc<Principal>, Fault> {
        let (Some(sign_ins), Some(token)) = (&self.sign_ins, &principal.bearer) else {
            return Ok(Arc::clone(principal));
        };
        if token.origin != TokenOrigin::SignIn || !plan.resolver.takes_callers_token() {
            return Ok(Arc::clone(principal));
        }
        let fresh = sign_ins.fresh(token).await.map_err(|()| missing::sign_in(plan))?;
        if fresh.as_ref().is_some_and(|fresh| Arc::ptr_eq(fresh, token)) {
            return Ok(Arc::clone(principal));
        }
        let mut principal = Principal::clone(principal);
        principal.bearer = fresh;
        Ok(Arc::new(principal))
    }

    /// Makes of an answer what calls carry, and keeps it for as long as it holds. Called by whoever holds the flight. `again`: it
    /// takes the place of one that the server refused.
    pub(crate) async fn take(
        &self,
        slot: &Slot,
        plan: &Arc<CredentialPlan>,
        principal: &Arc<Principal>,
        headers: &Arc<HeaderMap>,
        mut answer: Resolution,
        again: bool,
    ) -> Result<Arc<Carried>, Fault> {
        let now = now_ms();
        let mut carried = self.carry(plan, principal, &answer, now)?;
        carried.passed = answer.passed.take();
        if let Some(passed) = &carried.passed {
            let exception = passed.exception.as_deref();
            let recorded = match &self.audit {
                Some(audit) => audit.passed(&plan.tenant, &principal.subject_text, &plan.server, exception).await,
                None => false,
            };
            if !recorded {
                return Err(missing::unrecorded(plan));
            }
        }
        let until = carried.expires_ms.unwrap_or(now + DEFAULT_AGE_MS);
        carried.followed =
            Followed::of(plan, std::mem::take(&mut answer.kept), carried.expires_ms, now, again).map(Arc::new);
        let carried = Arc::new(carried);
        if now < until
            && let Some(facts) = Facts::of(&answer.reads, &answer.vary, principal, headers)
        {
            slot.keep(facts, until, &carried, now);
        }
        Ok(carried)
    }

    /// Makes of an answer what the call carries, and takes nothing that the caller may not have.
    pub(crate) fn carry(
        &self,
        plan: &CredentialPlan,
        principal: &Principal,
        answer: &Resolution,
        now: u64,
    ) -> Result<Carried, Fault> {
        let named = plan.target.connection.as_ref();
        let mut carried = match &answer.outcome {
            Outcome::None => Carried::nothing(),
            Outcome::Headers => Carried { executed_as: Arc::clone(&principal.subject_text), ..Carried::nothing() },
            Outcome::Missing(need) => {
                return Err(self.lacking(plan, principal, need));
            }
            Outcome::Use { connection } => {
                let eligible = self.book.eligible(principal, &plan.server, named);
                let Some(entry) = eligible.into_iter().find(|entry| entry.name == *connection) else {
                    let suspended = self.book.suspended(principal, &plan.server, named);
                    if suspended.iter().any(|entry| entry.name == *connection) {
                        return Err(missing::no_connection(plan, principal, "", &suspended));
                    }
                    let exists = self.book.find(&plan.tenant, &plan.server, connection).is_some();
                    return Err(missing::named(plan, principal, connection.as_str(), exists));
                };
                let grant = self.book.grant(&plan.tenant, &entry);
                under(plan, principal, &entry, grant)?
            }
        };
        for (name, value) in &answer.headers {
            allowed(plan, name.as_str(), value).map_err(|why| missing::invalid(plan, &why))?;
            // What a plugin says of its own never takes the place of what a connection placed.
            if value.allowed().is_none() && carried.holds(name) {
                return Err(missing::invalid(plan, &format!("the header \"{name}\" is the connection's")));
            }
            carried.place_guarded(name.clone(), value).map_err(|why| missing::invalid(plan, &why))?;
        }
        if !carried.headers.is_empty() && !plan.spec.takes_headers() {
            return Err(missing::invalid(plan, "a process takes no headers"));
        }
        carried.expires_ms = answer.expires_ms.map(|at| at.min(now.saturating_add(MAX_AGE_MS)));
        Ok(carried)
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("entries", &self.cache.len()).finish_non_exhaustive()
    }
}

/// What a call under this connection carries.
fn under(
    plan: &CredentialPlan,
    principal: &Principal,
    entry: &Entry,
    grant: Option<Arc<Grant>>,
) -> Result<Carried, Fault> {
    // Book and plan may have been compiled from different revisions: the address that the call goes to is the plan's.
    if entry.origin.as_deref() != Some(&*plan.origin) {
        return Err(missing::invalid(plan, "the server's address is just being changed; retry"));
    }
    let owner = entry.owner.subject();
    let mut carried = Carried {
        connection: Some(entry.name.clone()),
        connection_revision: entry.revision,
        executed_as: format!("connection {} of {owner}", entry.name).into(),
        by_another: owner != principal.subject,
        lent_by: Some(owner),
        health: Some(Arc::clone(&entry.health)),
        ..Carried::nothing()
    };
    let mut lacking = placed(&plan.spec, entry, &mut carried).map_err(|why| missing::invalid(plan, &why))?;
    if let Some(oauth) = plan.spec.oauth() {
        let Some(grant) = grant else { return Err(missing::unconnected(plan, entry)) };
        let held = grant.held();
        if let Some(why) = &held.broken {
            entry.health.mark(false);
            return Err(missing::reconnect(plan, &carried, why));
        }
        carried.place_token(&oauth.header, &held.access).map_err(|why| missing::invalid(plan, &why))?;
        // Another account behind the same connection: sessions and lists of the one are not the other's.
        carried.connection_revision ^= held.account_mark();
        let (mark, header) = (held.account_mark(), oauth.header.clone());
        carried.lent = Some(Lent { stamp: held.stamp, grant, mark, header });
    }
    lacking.dedup();
    if lacking.is_empty() { Ok(carried) } else { Err(missing::incomplete(plan, principal, entry, &lacking)) }
}

/// Puts a connection's values where the server wants them. Answers which fields it lacks.
///
/// # Errors
/// A sentence for operators, where one can't be placed.
pub(crate) fn placed<'s>(spec: &'s McpServer, entry: &Entry, carried: &mut Carried) -> Result<Vec<&'s str>, String> {
    let mut lacking = Vec::new();
    for field in &spec.fields {
        if field.sensitive {
            if field.required && !entry.secrets.contains_key(&field.name) {
                lacking.push(field.name.as_str());
            }
        } else if let Some(value) = entry.values.get(&field.name).or(field.default.as_ref()) {
            carried.values.insert(field.name.clone(), value.clone());
        } else if field.required && !entry.secrets.contains_key(&field.name) {
            lacking.push(field.name.as_str());
        }
    }
    for place in spec.credential.iter().flat_map(|need| &need.place) {
        let sensitive = spec.field(&place.field).is_some_and(|f| f.sensitive);
        let plain = || carried.values.get(&place.field).map(|value| Secret::new(value.as_bytes()));
        let value = entry.secrets.get(&place.field).cloned().or_else(|| if sensitive { None } else { plain() });
        match value {
            Some(value) => carried.place(place, &value)?,
            // What could not be read is missing, whether it had to be given or not: the operator meant it to be there.
            None if entry.unreadable.contains_key(&place.field) => lacking.push(&place.field),
            None => {}
        }
    }
    Ok(lacking)
}

/// A resolver's secret may go only where it was granted to go. The plugin host checks this as well.
fn allowed(plan: &CredentialPlan, header: &str, value: &Guarded) -> Result<(), String> {
    let Some(allowed) = value.allowed() else { return Ok(()) };
    let Some(remote) = &plan.spec.remote else { return Err("a process takes no headers".to_owned()) };
    if allowed.at(&remote.url, Some(&remote.url)) && allowed.in_header(header) {
        return Ok(());
    }
    Err(format!("the secret {} was not granted for the header \"{header}\" at {}", value.label(), plan.origin))
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
