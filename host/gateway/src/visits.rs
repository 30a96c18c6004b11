//! Who may come in: what session policies say of a caller at a gateway, remembered for a minute.
//!
//! In the era with sessions they are asked at `initialize`, where the client says its name, which is remembered for the session; in
//! both, at the first request on which no verdict is at hand. A verdict is that of one authenticated principal (so it ends with the authentication's own), one session,
//! and one compiled gateway: whatever changes, they are asked again.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis_model::{Fault, Principal};
use portcullis_plugin::{Read, SessionFacts};
use portcullis_protocol::{Era, Kind, Piece};
use portcullis_telemetry::AuditEvent;
use quick_cache::sync::Cache;

use crate::{asked::Asked, gateways::Gateways, judge, record, view::View};

/// How long a verdict is used again.
const HOLDS: Duration = Duration::from_secs(60);
/// How long the policies may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Verdicts that one gateway remembers.
const MOST: usize = 10_000;
/// The most bytes of what a client calls itself.
const MAX_NAME: usize = 256;

/// Sessions whose clients' names are remembered.
const MOST_NAMES: usize = 50_000;

/// How clients call themselves: name and version.
#[derive(Clone, Default)]
pub struct Introduced {
    name: Option<Arc<str>>,
    version: Option<Arc<str>>,
}

/// What clients of sessions said at `initialize`, by session.
pub fn introductions() -> Cache<[u8; 12], Introduced> {
    Cache::new(MOST_NAMES)
}

/// What session policies have said at one gateway.
pub struct Visits {
    verdicts: Cache<Key, Verdict>,
    hasher: RandomState,
}

impl Default for Visits {
    fn default() -> Self {
        Self { verdicts: Cache::new(MOST), hasher: RandomState::new() }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Where the principal stands in memory; the verdict holds it, so that nobody else stands there.
    principal: usize,
    session: Option<[u8; 12]>,
    /// What the client says of itself, where it does so in each request.
    client: u64,
}

#[derive(Clone)]
struct Verdict {
    _principal: Arc<Principal>,
    said: Result<(), Fault>,
    until: Instant,
}

/// Whether a session policy is asked here.
fn asks(view: &View) -> bool {
    view.policies.iter().any(|policy| policy.hooks().session)
}

/// Lets a request in, where every session policy lets its caller in.
///
/// # Errors
/// The refusal, on record.
pub async fn admit(gateways: &Gateways, asked: &Asked<'_>) -> Result<(), Fault> {
    // What is no request is part of a conversation that was let in.
    if asked.message.kind != Kind::Request || !asks(asked.view) {
        return Ok(());
    }
    let begins = asked.client.era == Era::Legacy && asked.message.method() == "initialize";
    let visits = &asked.view.visits;
    let facts = facts(gateways, asked, begins);
    let key = visits.key(asked, &facts);
    if !begins && let Some(known) = visits.verdicts.get(&key).filter(|verdict| Instant::now() < verdict.until) {
        return known.said;
    }
    let (said, remembered) = ask(asked, &facts).await;
    if let Err(fault) = &said {
        on_record(gateways, asked, fault).await;
    }
    // An `initialize` is no session yet.
    if remembered && !begins {
        let (_principal, until) = (Arc::clone(asked.principal), Instant::now() + HOLDS);
        visits.verdicts.insert(key, Verdict { _principal, said: said.clone(), until });
    }
    said
}

/// Remembers how the client of a session that is being opened calls itself, for as long as somebody may ask.
pub fn opened(gateways: &Gateways, asked: &Asked<'_>, session: [u8; 12]) {
    if asks(asked.view) {
        gateways.introduced.insert(session, introduced(asked.message.params.as_ref().and_then(|p| p.client_info)));
    }
}

fn introduced(info: Option<Piece<'_>>) -> Introduced {
    let info = info.and_then(|info| serde_json::from_str::<serde_json::Value>(info.raw).ok());
    let said = |name: &str| {
        let text = info.as_ref()?.get(name)?.as_str()?;
        Some(text.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect::<String>().into())
    };
    Introduced { name: said("name"), version: said("version") }
}

/// What every policy says, and whether that may be used again.
async fn ask(asked: &Asked<'_>, facts: &SessionFacts) -> (Result<(), Fault>, bool) {
    let request = judge::request_facts(asked, asked.started + PATIENCE);
    let mut remembered = true;
    for policy in asked.view.policies.about_visits(asked.principal) {
        let answer = policy.open(asked.principal, &request, facts).await;
        let decision = answer.map(|(decision, reads)| {
            // A header may be another one in the next request.
            remembered &= !reads.iter().any(|read| matches!(read, Read::Header(_) | Read::Attribute(_)));
            decision
        });
        // What failed may work the next time.
        remembered &= decision.is_ok();
        if let Err(fault) = judge::meaning(asked, policy, decision) {
            return (Err(fault), remembered);
        }
    }
    (Ok(()), remembered)
}

fn facts(gateways: &Gateways, asked: &Asked<'_>, begins: bool) -> SessionFacts {
    let client = match asked.client.era {
        Era::Modern => introduced(asked.message.meta().and_then(|meta| meta.client_info)),
        Era::Legacy if begins => introduced(asked.message.params.as_ref().and_then(|params| params.client_info)),
        Era::Legacy => asked.client.session.and_then(|session| gateways.introduced.get(&session)).unwrap_or_default(),
    };
    let asked_for =
        asked.message.params.as_ref().filter(|_| begins).and_then(|params| params.protocol_version.as_ref());
    let capabilities = match begins {
        true => asked.message.params.as_ref().and_then(|params| params.capabilities).map_or("{}", |piece| piece.raw),
        false => asked.capabilities(),
    };
    SessionFacts {
        occasion: if begins { "initialize" } else { "request" },
        protocol: match asked_for {
            Some(text) => portcullis_protocol::Version::negotiate(text.as_ref()).as_str(),
            None => asked.client.version.as_str(),
        },
        client_name: client.name,
        client_version: client.version,
        capabilities: capabilities.into(),
    }
}

impl Visits {
    fn key(&self, asked: &Asked<'_>, facts: &SessionFacts) -> Key {
        let client = (facts.protocol, &facts.client_name, &facts.client_version, &facts.capabilities);
        Key {
            principal: Arc::as_ptr(asked.principal) as usize,
            session: asked.client.session,
            client: self.hasher.hash_one(client),
        }
    }
}

/// A refusal is on disk before the caller hears of it.
async fn on_record(gateways: &Gateways, asked: &Asked<'_>, fault: &Fault) {
    let mut event = AuditEvent::new("denial");
    event.request_id = Some(asked.request_id.to_string());
    event.tenant = Some(asked.view.tenant.shared());
    event.gateway = Some(asked.view.name.shared());
    event.caller = Some(Arc::clone(&asked.principal.subject_text));
    event.token = asked.principal.token.as_deref().map(Arc::from);
    event.method = Some(record::method(asked.message.method()));
    event.decision = Some("deny".into());
    event.reason = Some(fault.code.into());
    if let Err(error) = gateways.audit.record_durable(event).await {
        // Nobody comes in either way.
        tracing::error!(%error, "a refusal could not be recorded");
    }
}
