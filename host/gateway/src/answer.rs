//! HTTP answers towards clients.

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use portcullis_model::Fault;
use portcullis_protocol::{Era, headers::HeaderFault, rpc};

/// The header that names a request in every answer, so that people can quote it.
pub const REQUEST_ID: http::HeaderName = http::HeaderName::from_static("x-request-id");

/// A JSON body.
pub fn json(status: StatusCode, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// No body.
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A stream of server-sent events.
pub fn events(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that collect would hold events back (2026-07-28, transports).
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Whether it is an answer in one piece.
pub fn is_whole(response: &Response) -> bool {
    response.status() == StatusCode::OK
        && response.headers().get(header::CONTENT_TYPE).is_some_and(|v| v == "application/json")
}

/// An answer in one piece as a stream of one event, for a client that would rather have that.
pub async fn as_events(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let whole = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let stream = events(Body::from(portcullis_protocol::sse::encode_message(&whole)));
    parts.headers.extend(stream.headers().clone());
    Response::from_parts(parts, stream.into_body())
}

/// A fault answered at the level of HTTP, before any method has begun.
pub fn http_fault(id: Option<&str>, fault: &Fault, request_id: &str) -> Response {
    let mut response = json(rpc::http_status(fault), rpc::fault(id, fault, request_id));
    retry_after(&mut response, fault);
    response
}

/// A fault answered as a JSON-RPC error to a readable request.
pub fn rpc_fault(id: &str, fault: &Fault, request_id: &str, era: Era) -> Response {
    let status = rpc::rpc_http_status(rpc::rpc_code_in(era, fault), era);
    let mut response = json(status, rpc::fault_in(era, Some(id), fault, request_id));
    retry_after(&mut response, fault);
    response
}

/// A fault of a tool call, as a result that the model can read.
pub fn tool_fault(id: &str, fault: &Fault, request_id: &str, era: Era) -> Response {
    let mut response = json(StatusCode::OK, rpc::tool_refusal(id, fault, request_id, era));
    retry_after(&mut response, fault);
    response
}

/// Headers that do not fit the body.
pub fn header_fault(id: Option<&str>, fault: &HeaderFault, request_id: &str) -> Response {
    json(StatusCode::BAD_REQUEST, rpc::header_fault(id, fault, request_id))
}

fn retry_after(response: &mut Response, fault: &Fault) {
    if let Some(millis) = fault.retry_after_ms {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(millis.div_ceil(1000).max(1)));
    }
}
