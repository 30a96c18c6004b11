//! HTTP with SSE, the transport of 2024-11-05: a GET opens the one stream of a session, whose first event says where to POST;
//! a POST is answered at once by 202, and what it asks for on the stream (2024-11-05, transports, "HTTP with SSE").
//!
//! The place to POST to holds a sealed session id, bound to the caller like any other: whoever reads it in a log can't use
//! it. The stream can't be resumed, so the session ends with it.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, StatusCode, header};
use portcullis_model::{Fault, Principal, Side};
use portcullis_protocol::{
    Era, Version,
    seal::SealError,
    session::{Binding, Session},
};

use super::{
    Live,
    live::GET,
    reader::{Open, Reader},
};
use crate::{
    answer,
    asked::{Client, binding},
    conversation::line::whole,
    gateways::Gateways,
    legacy::{self, now_ms},
    view::View,
};

/// How long an answer waits for a client that reads slowly.
const SLOW: Duration = Duration::from_secs(60);

/// Whether a GET without a session asks for such a stream. Clients of later revisions name theirs, or have a session.
pub fn wants(sent: &HeaderMap) -> bool {
    let version = sent.get(portcullis_protocol::headers::PROTOCOL_VERSION).map(|v| v.as_bytes());
    let mut kinds = sent.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    version.is_none_or(|v| v == Version::V2024_11_05.as_str().as_bytes())
        && kinds.any(|kind| {
            kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
        })
}

/// Answers the GET. `base` is the gateway's path as the client asked for it.
///
/// # Errors
/// A fault where too many sessions hold something.
pub fn open(gateways: &Arc<Gateways>, view: &View, principal: &Arc<Principal>, base: &str) -> Result<Response, Fault> {
    let whose: Binding = binding(view, principal);
    let unsealed = |_: SealError| Fault::new(Side::Gateway, "internal", "no session could be made");
    let expires = now_ms() + legacy::SESSION_MS;
    let session = Session::new(whose, Version::V2024_11_05, None, expires).map_err(unsealed)?;
    let sealed = session.seal(&gateways.sealer).map_err(unsealed)?;
    let live = gateways.open_session(session.nonce, Version::V2024_11_05, (&view.tenant, &view.name), principal)?;
    live.make_old();
    // Behind a proxy the gateway may stand deeper than it knows.
    let prefix = gateways.settings.public_url.as_ref().map_or("", |url| url.path().trim_end_matches('/'));
    let first = format!("event: endpoint\ndata: {prefix}{base}/messages?session={sealed}\n\n");
    let reader = live.open_get();
    let reader = Reader::new(live, GET, reader, Open::new(&gateways.metrics.streams)).once(Bytes::from(first));
    let body = Whole { reader, gateways: Arc::downgrade(gateways), nonce: session.nonce };
    Ok(answer::events(Body::from_stream(body)))
}

/// The stream; its session ends with it.
struct Whole {
    reader: Reader,
    gateways: Weak<Gateways>,
    nonce: [u8; 12],
}

impl Stream for Whole {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.reader).poll_next(cx)
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if let Some(gateways) = self.gateways.upgrade() {
            gateways.end_session(&self.nonce);
        }
    }
}

/// The client behind the session in a POST's query, and its stream.
///
/// # Errors
/// A fault of the caller where there is none, or it is somebody else's, or its stream is gone.
pub fn client(
    gateways: &Gateways,
    view: &View,
    principal: &Principal,
    query: Option<&str>,
) -> Result<(Client, Arc<Live>), Fault> {
    let text = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("session="));
    let Some(text) = text else {
        return Err(Fault::new(Side::Caller, "missing-session", "the address names no session")
            .next("Open the stream again, and send to the address in its first event"));
    };
    let session = legacy::opened(gateways, view, principal, text)?;
    let live = gateways.sessions.get(&session.nonce);
    let found = live.and_then(|live| Some((live.old_capabilities()?, live)));
    let Some((capabilities, live)) = found else {
        gateways.metrics.sealed_rejected("session", "no-stream");
        return Err(legacy::unknown_session().next("Open the stream again"));
    };
    let client = Client {
        era: Era::Legacy,
        session: Some(session.nonce),
        version: Version::V2024_11_05,
        capabilities,
        over_sse: true,
    };
    Ok((client, live))
}

/// Answers a POST, and what it asks for on the stream when that is there. `work` holds whatever the request needs meanwhile.
///
/// # Errors
/// A fault where the session has too much under way.
pub fn accept(live: &Arc<Live>, work: impl Future<Output = Response> + Send + 'static) -> Result<Response, Fault> {
    let Some(running) = live.run() else {
        return Err(Fault::new(Side::Gateway, "overloaded", "too many requests of this session are under way")
            .next("Wait for an answer first")
            .retry_after_ms(1_000));
    };
    let live = Arc::clone(live);
    tokio::spawn(async move {
        let body = whole(work.await).await;
        if !body.is_empty() {
            live.push(GET, body, Instant::now() + SLOW).await;
        }
        drop(running);
    });
    Ok(answer::empty(StatusCode::ACCEPTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_client_of_that_revision_gets_such_a_stream() {
        let wants = |pairs: &[(&'static str, &str)]| {
            let headers: HeaderMap =
                pairs.iter().map(|(n, v)| (http::HeaderName::from_static(n), v.parse().unwrap())).collect();
            super::wants(&headers)
        };
        let events = ("accept", "text/event-stream");
        assert!(wants(&[events]) && wants(&[("accept", "application/json, text/event-stream;q=0.9")]));
        assert!(wants(&[events, ("mcp-protocol-version", "2024-11-05")]));
        assert!(!wants(&[events, ("mcp-protocol-version", "2025-11-25")]));
        assert!(!wants(&[events, ("mcp-protocol-version", "2026-07-28")]));
        assert!(!wants(&[("accept", "*/*")]) && !wants(&[]), "a browser or a health check");
    }
}
