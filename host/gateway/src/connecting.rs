//! A call for which an account is missing: the link of the page where somebody connects it, told as the client understands it, and
//! the wait until that is done.
//!
//! A client of 2026-07-28 that opens pages is asked to, and its next try waits a while for the person at the page. One of
//! 2025-11-25 gets the error -32042 and, where it reads a stream, hears when the account is there. Everybody else gets the link in
//! words that a model can pass on. The link carries no authority (security.md 21).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::{Duration, Instant},
};

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, header, uri::Authority};
use portcullis_credential::{ConnectLink, CredentialPlan, link::LIFETIME_MS};
use portcullis_model::{Fault, Principal, Side, Subject, fault::Need};
use portcullis_protocol::{Era, splice::quote};
use portcullis_telemetry::metrics::GaugeHandle;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    asked::Asked,
    elicit_url::{self, Page},
    gateways::Gateways,
    legacy::now_ms,
};

/// How long a call that comes back from the page waits for the account: less than clients and proxies wait for an answer.
const WAIT: Duration = Duration::from_secs(20);
/// Calls that wait at once; more are told again what is missing.
const MOST_WAITING: usize = 1_000;
/// Sessions that want to hear when an account is connected; the oldest make room.
const MOST_TOLD: usize = 4_096;

/// Who waits for accounts to be connected.
pub struct Connecting {
    told: Mutex<VecDeque<Told>>,
    room: Semaphore,
    /// Where we are reached, where neither the operator nor the request says.
    base: OnceLock<String>,
    /// Counts both.
    waiting: GaugeHandle,
}

/// A legacy session that was told of a page.
struct Told {
    session: [u8; 12],
    id: String,
    principal: Arc<Principal>,
    headers: Arc<HeaderMap>,
    plan: Arc<CredentialPlan>,
    until: Instant,
}

/// A call's place among those that wait.
pub struct Waits<'c> {
    _permit: SemaphorePermit<'c>,
    waiting: &'c GaugeHandle,
    /// When the wait ends.
    pub until: Instant,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.waiting.dec();
    }
}

impl Connecting {
    /// Nobody waits yet.
    pub fn new(waiting: GaugeHandle) -> Self {
        Self { told: Mutex::default(), room: Semaphore::new(MOST_WAITING), base: OnceLock::new(), waiting }
    }

    /// Where we are reached, where neither the operator nor a request says: the URL of the address listened on.
    pub fn reached_at(&self, base: &str) {
        let _ = self.base.set(base.trim_end_matches('/').to_owned());
    }

    /// A place to wait in; none where too many do.
    pub fn wait(&self) -> Option<Waits<'_>> {
        let permit = self.room.try_acquire().ok()?;
        self.waiting.inc();
        Some(Waits { _permit: permit, waiting: &self.waiting, until: Instant::now() + WAIT })
    }

    fn table(&self) -> MutexGuard<'_, VecDeque<Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, told: Told) {
        let mut table = self.table();
        if table.len() >= MOST_TOLD {
            table.pop_front();
            self.waiting.dec();
        }
        self.waiting.inc();
        table.push_back(told);
    }
}

/// What the caller is told whose account is missing: a page to open, where the client opens pages; else the fault, with the link in
/// its next step. A fault that no account would mend stays as it is.
///
/// # Errors
/// The fault, where it has to be said in words.
pub fn answer(
    gateways: &Gateways,
    asked: &Asked<'_>,
    fault: Fault,
    plan: Option<&Arc<CredentialPlan>>,
) -> Result<Response, Fault> {
    let Some(need) = fault.need.as_deref() else { return Err(fault) };
    let Some(url) = url(gateways, asked, need) else { return Err(fault) };
    // In words only: what the server refused, since the same call would fail again as soon as the page is open; and what only
    // somebody else can mend.
    let others = matches!(need.wanted, Subject::User(_)) && need.wanted != asked.principal.subject;
    if fault.side != Side::Server && !others {
        let message = format!("{}. Open the page to connect an account", fault.message);
        let page = Page { id: elicit_url::fresh_id(), url: url.clone(), message: message.clone() };
        if let Some(response) = elicit_url::answer(asked, &message, std::slice::from_ref(&page)) {
            if let (Era::Legacy, Some(session), Some(plan)) = (asked.client.era, asked.client.session, plan) {
                gateways.connecting.note(Told {
                    session,
                    id: page.id,
                    principal: Arc::clone(asked.principal),
                    headers: Arc::clone(asked.headers),
                    plan: Arc::clone(plan),
                    until: Instant::now() + Duration::from_millis(LIFETIME_MS),
                });
            }
            return Ok(response);
        }
    }
    let who = match &need.wanted {
        Subject::Team(team) => format!("a member of the team {team}"),
        Subject::Agent(agent) => format!("an administrator, or one of the team of the agent {agent} if it has one,"),
        Subject::Organization => "an admin of the organization".to_owned(),
        wanted => wanted.to_string(),
    };
    let otherwise = fault.next.as_deref().map(|next| format!(". Without a browser: {next}")).unwrap_or_default();
    let next = format!("Have {who} open {url} and connect the account there, then retry{otherwise}");
    Err(fault.next(next))
}

/// The link for what is missing; none where nothing says where we are reached.
fn url(gateways: &Gateways, asked: &Asked<'_>, need: &Need) -> Option<String> {
    let link = ConnectLink {
        tenant: asked.view.tenant.clone(),
        server: need.server.clone(),
        wanted: need.wanted.clone(),
        connection: need.connection.clone(),
        gateway: asked.view.name.clone(),
        expires_ms: now_ms() + LIFETIME_MS,
    };
    link.url(&base(gateways, asked)?, &gateways.sealer).ok()
}

/// Where the caller reaches us, without a slash at the end: as the operator says, else by the name that the request came to, which
/// phase 1 has found to be one of ours.
fn base(gateways: &Gateways, asked: &Asked<'_>) -> Option<String> {
    if let Some(url) = &gateways.settings.public_url {
        return Some(url.as_str().trim_end_matches('/').to_owned());
    }
    let host = asked.headers.get(header::HOST).and_then(|v| v.to_str().ok()).and_then(authority);
    let scheme = if gateways.settings.tls { "https" } else { "http" };
    host.map(|host| format!("{scheme}://{host}")).or_else(|| gateways.connecting.base.get().cloned())
}

/// A name and a port, and nothing else that a URL could hold there.
fn authority(host: &str) -> Option<String> {
    let parsed: Authority = host.parse().ok()?;
    (!host.contains('@')).then(|| match parsed.port_u16() {
        Some(port) => format!("{}:{port}", parsed.host()),
        None => parsed.host().to_owned(),
    })
}

/// Tells sessions that the account is there for which they were sent to a page, for as long as there are gateways
/// (2025-11-25, elicitation, "Completion Notifications").
pub async fn complete(gateways: Weak<Gateways>) {
    let Some(mut changes) = gateways.upgrade().map(|g| g.credentials.book().changes()) else { return };
    while changes.changed().await.is_ok() {
        let Some(gateways) = gateways.upgrade() else { return };
        let told: Vec<Told> = gateways.connecting.table().drain(..).collect();
        for one in told {
            gateways.connecting.waiting.dec();
            let Some(live) = gateways.sessions.get(&one.session) else { continue };
            if Instant::now() >= one.until {
                continue;
            }
            match gateways.credentials.resolve(&one.plan, &one.principal, &one.headers).await {
                Err(fault) if fault.need.is_some() => gateways.connecting.note(one),
                Err(_) => {}
                Ok(_) => {
                    live.tell(Bytes::from(format!(
                        r#"{{"jsonrpc":"2.0","method":"notifications/elicitation/complete","params":{{"elicitationId":{}}}}}"#,
                        quote(&one.id)
                    )));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::authority;

    #[test]
    fn a_link_leads_to_a_name_and_a_port() {
        for (host, wanted) in [
            ("localhost:7777", Some("localhost:7777")),
            ("[::1]:7777", Some("[::1]:7777")),
            ("mcp.example.com", Some("mcp.example.com")),
            ("localhost:80@evil.example", None),
            ("localhost/x", None),
            ("", None),
        ] {
            assert_eq!(authority(host).as_deref(), wanted, "{host}");
        }
    }
}
