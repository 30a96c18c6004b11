//! The 2024 and 2025 revisions: `initialize`, sealed sessions, cancelling.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode};
use portcullis_model::{Fault, Principal, Side};
use portcullis_protocol::{
    Era, Version, headers,
    rpc::{self, ServerInfo},
    seal::SealError,
    session::Session,
};

use crate::{
    answer,
    asked::{Asked, Client, binding},
    gateways::Gateways,
    view::View,
};

/// How long a session lives at most: then the client is asked to initialize again, which clients do by themselves.
const SESSION_MS: u64 = 24 * 60 * 60 * 1000;
/// What we offer.
pub const CAPABILITIES: &str = r#"{"tools":{}}"#;

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Who we are towards clients.
pub fn info(view: &View) -> ServerInfo<'_> {
    ServerInfo { name: "portcullis", title: view.title.as_deref(), version: env!("CARGO_PKG_VERSION") }
}

/// Answers `initialize` with a session that travels in its id.
pub fn initialize(gateways: &Gateways, asked: &Asked<'_>) -> Response {
    let params = asked.message.params.as_ref();
    let version = Version::negotiate(params.and_then(|p| p.protocol_version.as_ref()).map_or("", AsRef::as_ref));
    let capabilities = params.and_then(|p| p.capabilities).map(|c| c.raw);
    let sealed = Session::new(asked.binding(), version, capabilities, now_ms() + SESSION_MS)
        .and_then(|session| session.seal(&gateways.sealer));
    let id = match sealed.ok().and_then(|text| HeaderValue::from_str(&text).ok()) {
        Some(id) => id,
        None => {
            let fault = Fault::new(Side::Gateway, "internal", "no session could be made");
            return answer::http_fault(Some(asked.id()), &fault, asked.request_id);
        }
    };
    let body =
        rpc::initialize(asked.id(), version, CAPABILITIES, &info(asked.view), asked.view.instructions.as_deref());
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
    let session = text
        .to_str()
        .map_err(|_| SealError::Malformed)
        .and_then(|text| Session::open(&gateways.sealer, text, &binding(view, principal), now_ms()))
        .map_err(|error| {
            gateways.metrics.sealed_rejected("session", error.as_str());
            unknown_session()
        })?;
    if gateways.in_flight.has_ended(&session.nonce) {
        return Err(unknown_session());
    }
    Ok(Client { era: Era::Legacy, session: Some(session.nonce) })
}

fn unknown_session() -> Fault {
    Fault::new(Side::Caller, "unknown-session", format!("the session is {}", SealError::PUBLIC))
        .next("Send initialize again")
}

/// Ends a session (DELETE).
pub fn end(gateways: &Gateways, client: &Client) -> Response {
    if let Some(session) = client.session {
        gateways.in_flight.end(session);
    }
    answer::empty(StatusCode::NO_CONTENT)
}

/// A notification: only `notifications/cancelled` means something to us.
pub fn notified(gateways: &Gateways, asked: &Asked<'_>) -> Response {
    let cancelled = asked.message.params.as_ref().and_then(|p| p.request_id);
    if let (Some(session), "notifications/cancelled", Some(id)) =
        (asked.client.session, asked.message.method(), cancelled)
    {
        gateways.in_flight.cancel(session, id.raw);
    }
    answer::empty(StatusCode::ACCEPTED)
}
