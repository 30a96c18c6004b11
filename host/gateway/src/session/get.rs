//! GET of a session: the stream of what belongs to no call, or the rest of a stream that broke (2025-11-25, transports,
//! "Listening for Messages from the Server", "Resumability and Redelivery").

use std::sync::Arc;

use axum::{body::Body, response::Response};
use http::{HeaderMap, header};
use portcullis_model::{Fault, Name, Principal, Side};
use portcullis_protocol::{Version, headers};

use super::{
    Live,
    live::{GET, StreamError},
    reader::{Open, Reader},
};
use crate::{answer, asked::Client, gateways::Gateways};

/// Answers a GET.
///
/// # Errors
/// A fault of the caller: 406 where it takes no events, 400 for an event that is not its own or not kept any more.
pub fn get(
    gateways: &Gateways,
    client: &Client,
    at: (&Name, &Name),
    whose: &Arc<Principal>,
    sent: &HeaderMap,
) -> Result<Response, Fault> {
    let nonce = client.session.ok_or_else(|| Fault::new(Side::Caller, "missing-session", "there is no session"))?;
    if !accepts_events(sent) {
        return Err(Fault::new(Side::Caller, "not-acceptable", "a GET is answered by text/event-stream only")
            .next("Send Accept: text/event-stream"));
    }
    let last = sent.get(headers::LAST_EVENT_ID).map(|v| v.to_str().unwrap_or_default());
    let Some(last) = last else {
        let live = gateways.open_session(nonce, client.version, at, whose)?;
        let reader = live.open_get();
        return Ok(body(gateways, &live, GET, reader, true));
    };
    let live = match gateways.sessions.get(&nonce) {
        Some(live) => live,
        // Another replica's or an older process's: what was missed is gone, and what comes is told.
        None => gateways.open_session(nonce, client.version, at, whose)?,
    };
    let (stream, event) = live.event(last).map_err(|e| unknown(gateways, e))?;
    if stream == GET {
        let reader = live.read(GET, event).unwrap_or_else(|_| live.open_get());
        return Ok(body(gateways, &live, GET, reader, false));
    }
    let reader = live.read(stream, event).map_err(|e| unknown(gateways, e))?;
    Ok(body(gateways, &live, stream, reader, false))
}

/// Whether the client takes server-sent events.
pub fn accepts_events(sent: &HeaderMap) -> bool {
    let mut kinds = sent.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    kinds.any(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("text/event-stream") || kind == "*/*" || kind.eq_ignore_ascii_case("text/*")
    })
}

/// Whether the client names server-sent events before JSON among what it takes: then it wants to be able to come back to the
/// stream.
pub fn prefers_events(sent: &HeaderMap) -> bool {
    sent.get(header::ACCEPT).is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream"))
}

/// The response that reads a stream of a session.
pub fn body(gateways: &Gateways, live: &Arc<Live>, stream: u32, reader: u64, fresh: bool) -> Response {
    let reader = Reader::new(Arc::clone(live), stream, reader, Open::new(&gateways.metrics.streams));
    let reader = if fresh && live.version >= Version::V2025_11_25 { reader.primed() } else { reader };
    answer::events(Body::from_stream(reader))
}

fn unknown(gateways: &Gateways, _: StreamError) -> Fault {
    gateways.metrics.sealed_rejected("event", "unknown");
    Fault::new(Side::Caller, "unknown-event", "the event in Last-Event-ID is unknown or no longer kept")
        .next("Send the request again if it may be sent twice")
}
