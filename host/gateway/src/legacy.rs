//! The 2024 and 2025 revisions: `initialize`, sealed sessions, cancelling.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use portcullis_model::{Fault, Principal, Side};
use portcullis_protocol::{
    Era, Version, headers, rpc,
    seal::SealError,
    session::{Session, bounded_capabilities},
};

use crate::{
    answer,
    asked::{Asked, Client, binding},
    conversation::{capabilities::Capabilities, line::ASIDE},
    gateways::Gateways,
    offer,
    session::Live,
    view::View,
    visits,
};

/// How long a session lives at most: then the client is asked to initialize again, which clients do by themselves.
pub const SESSION_MS: u64 = 24 * 60 * 60 * 1000;

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Answers `initialize` with a session that travels in its id.
pub async fn initialize(gateways: &Gateways, asked: &Asked<'_>) -> Response {
    let params = asked.message.params.as_ref();
    let version = Version::negotiate(params.and_then(|p| p.protocol_version.as_ref()).map_or("", AsRef::as_ref));
    // Only what somebody may ask the client travels in its session.
    let version = if asked.client.over_sse { asked.client.version } else { version };
    let can = |capabilities: Capabilities| match version >= Version::V2025_06_18 {
        true => capabilities,
        // That revision has none, whatever the client could do in another one.
        false => capabilities.without("elicitation"),
    };
    let capabilities = params.and_then(|p| p.capabilities).map(|c| can(Capabilities::read(c.raw)).for_servers());
    if asked.client.over_sse {
        // Its session is the stream that it has open.
        if let Some(live) = asked.client.session.and_then(|session| gateways.sessions.get(&session)) {
            live.note_capabilities(bounded_capabilities(capabilities.as_deref().unwrap_or("{}")).into());
        }
        if let Some(session) = asked.client.session {
            visits::opened(gateways, asked, session);
        }
        let offer = offer::offer(gateways, asked).await;
        let (capabilities, instructions) = (&offer.capabilities, offer.instructions.as_deref());
        let body = rpc::initialize(asked.id(), version, capabilities, &offer.info, instructions);
        return answer::json(StatusCode::OK, body);
    }
    let sealed =
        Session::new(asked.binding(), version, capabilities.as_deref(), now_ms() + SESSION_MS).and_then(|session| {
            visits::opened(gateways, asked, session.nonce);
            session.seal(&gateways.sealer)
        });
    let id = match sealed.ok().and_then(|text| HeaderValue::from_str(&text).ok()) {
        Some(id) => id,
        None => {
            let fault = Fault::new(Side::Gateway, "internal", "no session could be made");
            return answer::http_fault(Some(asked.id()), &fault, asked.request_id);
        }
    };
    let offer = offer::offer(gateways, asked).await;
    let body = rpc::initialize(asked.id(), version, &offer.capabilities, &offer.info, offer.instructions.as_deref());
    let mut response = answer::json(StatusCode::OK, body);
    response.headers_mut().insert(headers::SESSION_ID, id);
    response
}

/// The client behind a session id.
///
/// # Errors
/// A fault of the caller: 400 without a session id, 404 for one that is not (or no longer) this caller's, upon which
/// clients initialize again (2025-11-25, session management).
pub fn client(gateways: &Gateways, view: &View, principal: &Principal, sent: &HeaderMap) -> Result<Client, Fault> {
    let Some(text) = sent.get(&headers::SESSION_ID) else {
        return Err(Fault::new(Side::Caller, "missing-session", "the Mcp-Session-Id header is missing")
            .next("Send initialize first, and its Mcp-Session-Id with every request after it"));
    };
    let session = opened(gateways, view, principal, text.to_str().unwrap_or_default())?;
    let capabilities = (session.capabilities.len() > 2).then(|| session.capabilities.into());
    Ok(Client {
        era: Era::Legacy,
        session: Some(session.nonce),
        version: session.version,
        capabilities,
        over_sse: false,
    })
}

/// The session that this caller's sealed id names.
///
/// # Errors
/// A fault of the caller for one that is not, or no longer, theirs.
pub fn opened(gateways: &Gateways, view: &View, principal: &Principal, text: &str) -> Result<Session, Fault> {
    let session = Session::open(&gateways.sealer, text, &binding(view, principal), now_ms()).map_err(|error| {
        gateways.metrics.sealed_rejected("session", error.as_str());
        unknown_session()
    })?;
    if gateways.in_flight.has_ended(&session.nonce) {
        return Err(unknown_session());
    }
    Ok(session)
}

/// What a session is that is nobody's, or no longer this caller's.
pub fn unknown_session() -> Fault {
    Fault::new(Side::Caller, "unknown-session", format!("the session is {}", SealError::PUBLIC))
        .next("Send initialize again")
}

/// Ends a session (DELETE).
pub fn end(gateways: &Gateways, client: &Client) -> Response {
    if let Some(session) = client.session {
        gateways.in_flight.end(session);
        gateways.end_session(&session);
    }
    answer::empty(StatusCode::NO_CONTENT)
}

/// A notification of a session.
pub fn notified(gateways: &Gateways, asked: &Asked<'_>) -> Response {
    let accepted = answer::empty(StatusCode::ACCEPTED);
    let Some(session) = asked.client.session else { return accepted };
    let params = asked.message.params.as_ref();
    match asked.message.method() {
        "notifications/cancelled" => {
            if let Some(id) = params.and_then(|p| p.request_id) {
                gateways.in_flight.cancel(session, id.raw);
            }
        }
        "notifications/progress" => {
            // With what a server asked: the token is the number that we gave the question.
            let question = params.and_then(|p| p.progress_token).and_then(|t| t.raw.parse().ok());
            if let (Some(question), Some(live)) = (question, gateways.sessions.get(&session)) {
                live.progressed(question, asked.body.clone());
            }
        }
        "notifications/roots/list_changed" => {
            if let Some(live) = gateways.sessions.get(&session) {
                pass_on(&live, asked.body);
            }
        }
        _ => {}
    }
    accepted
}

/// Hands a notification on to every server that the session has a session of its own with.
fn pass_on(live: &Live, body: &Bytes) {
    for own in live.own_peers() {
        let Some(peer) = own.peer.upgrade() else { continue };
        let body = body.clone();
        tokio::spawn(async move {
            let headers = own.carried.as_ref().map_or(&[][..], |c| &c.headers);
            if let Err(error) = peer.reply(body, headers, Instant::now() + ASIDE).await {
                tracing::debug!(server = %own.server, %error, "a notification was not delivered");
            }
        });
    }
}

/// A client's answer to a question of a server. One that nobody waits for (given twice, too late, or never asked for) is
/// left out and counted.
pub fn answered(gateways: &Gateways, asked: &Asked<'_>) -> Response {
    let question = asked.message.id.and_then(|id| id.raw.parse().ok());
    let live = asked.client.session.and_then(|session| gateways.sessions.get(&session));
    let taken = match (question, live) {
        (Some(question), Some(live)) => live.answered(question, asked.body.clone()),
        _ => false,
    };
    if !taken {
        gateways.metrics.question("late");
    }
    answer::empty(StatusCode::ACCEPTED)
}
