//! A message that a client posts: read within bounds, and handed to its era.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response, header, request::Parts};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use portcullis_model::{Fault, Side};
use portcullis_protocol::{Era, Kind, ParseLimits, headers, parse, rpc};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    body::{self, Body},
    legacy, modern, refuse,
    serve::Bridge,
};

/// How long a body may take to come.
const READ: Duration = Duration::from_secs(60);
/// As everywhere in the house.
const MAX_DEPTH: usize = 64;

/// How a client can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepts {
    /// By events, or by one answer.
    Events,
    /// By one answer only.
    JsonOnly,
}

/// Answers a POST.
pub(crate) async fn post(bridge: &Arc<Bridge>, head: &Parts, body: Incoming) -> Response<Body> {
    let accepts = match check(&head.headers) {
        Ok(accepts) => accepts,
        Err(fault) => return refuse::http(None, &fault),
    };
    // Its room is held until it is with the process, or refused.
    let (bytes, _room) = match read(bridge, body).await {
        Ok(read) => read,
        Err(fault) => return refuse::http(None, &fault),
    };
    let limits = ParseLimits { max_bytes: bridge.options.max_message, max_depth: MAX_DEPTH };
    let message = match parse(&bytes, &limits) {
        Ok(message) => message,
        Err(problem) => {
            let status = rpc::http_status(&problem.to_fault());
            return body::json(status, rpc::parse_fault(&problem, &refuse::request_id()));
        }
    };
    // What is under way may still be answered, given up, and read.
    if message.kind == Kind::Request && *bridge.draining.borrow() {
        let fault = Fault::new(Side::Gateway, "draining", "the bridge is ending").next("Send it to another one.");
        return refuse::http(message.id.map(|id| id.raw), &Fault { retry_after_ms: Some(1000), ..fault });
    }
    match headers::check(&head.headers, &message) {
        Ok(spoken) if spoken.era == Era::Modern => modern::post(bridge, &message, accepts).await,
        Ok(_) => legacy::post(bridge, &head.headers, &message, accepts).await,
        Err(problem) => {
            let status = rpc::rpc_http_status(problem.rpc_code(), Era::Modern);
            let status = if status.is_success() { http::StatusCode::BAD_REQUEST } else { status };
            body::json(status, rpc::header_fault(message.id.map(|id| id.raw), &problem, &refuse::request_id()))
        }
    }
}

fn check(headers: &HeaderMap) -> Result<Accepts, Fault> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") || headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Fault::new(Side::Caller, "unsupported-media-type", "the body must be plain application/json"));
    }
    let (mut json, mut events) = (false, false);
    for value in headers.get_all(header::ACCEPT) {
        for range in value.to_str().unwrap_or_default().split(',') {
            match range.split(';').next().unwrap_or_default().trim() {
                "*/*" => (json, events) = (true, true),
                "application/json" | "application/*" => json = true,
                "text/event-stream" | "text/*" => events = true,
                _ => {}
            }
        }
    }
    match (json, events) {
        (_, true) => Ok(Accepts::Events),
        (true, false) => Ok(Accepts::JsonOnly),
        (false, false) => Err(Fault::new(Side::Caller, "not-acceptable", "the client accepts no answer that there is")
            .next("Send Accept: application/json, text/event-stream.")),
    }
}

/// Reads the body. One that is too large is read on for a while and left out, since a client that still writes when the connection
/// closes would not see the answer.
async fn read(bridge: &Bridge, mut body: Incoming) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Fault> {
    let most = bridge.options.max_message;
    let mut bytes = BytesMut::new();
    let mut size = 0usize;
    let mut room: Option<OwnedSemaphorePermit> = None;
    let mut full = false;
    let collected = tokio::time::timeout(READ, async {
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            size = size.saturating_add(data.len());
            match size {
                size if size <= most => {
                    let kib = u32::try_from(data.len().div_ceil(1024)).unwrap_or(u32::MAX);
                    match bridge.room.clone().try_acquire_many_owned(kib) {
                        Ok(permit) => match &mut room {
                            Some(held) => held.merge(permit),
                            none => *none = Some(permit),
                        },
                        Err(_) => {
                            full = true;
                            break;
                        }
                    }
                    bytes.extend_from_slice(&data);
                }
                size if size <= most.saturating_mul(2) => bytes.clear(),
                _ => break,
            }
        }
        Ok::<_, hyper::Error>(())
    });
    match collected.await {
        Ok(Ok(())) if full => Err(refuse::busy(
            "the bodies of requests under way take all the room that they may",
            "Send it again in a moment.",
        )),
        Ok(Ok(())) if size > most => {
            let what = format!("the message has more than {most} bytes");
            Err(Fault::new(Side::Caller, "message-too-large", what)
                .next("Send a smaller message, or raise the bridge's --max-message."))
        }
        Ok(Ok(())) => Ok((bytes.freeze(), room)),
        Ok(Err(_)) => Err(Fault::new(Side::Caller, "truncated", "the body broke off").next("Send it again.")),
        Err(_) => Err(Fault::new(Side::Caller, "truncated", "the body took too long").next("Send it again.")),
    }
}
