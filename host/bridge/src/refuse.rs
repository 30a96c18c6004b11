//! Refusals of the bridge's own: whose side, what, and the next step.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use portcullis_model::{Fault, Side};
use portcullis_protocol::rpc;

use crate::{body, body::Body};

/// A random name for logs and faults.
pub(crate) fn request_id() -> String {
    let mut random = [0u8; 8];
    // Without randomness a fault is still told, only without a name of its own.
    let _ = getrandom::fill(&mut random);
    random.iter().map(|b| format!("{b:02x}")).collect()
}

/// A fault at the level of HTTP. `id` is the client's, where it could be read.
pub(crate) fn http(id: Option<&str>, fault: &Fault) -> Response<Body> {
    let status = rpc::http_status(fault);
    let mut response = body::json(status, rpc::fault(id, fault, &request_id()));
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(ms) = fault.retry_after_ms {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
    }
    response
}

/// A fault as the answer to a call.
pub(crate) fn answer(id: &str, fault: &Fault) -> Bytes {
    rpc::fault(Some(id), fault, &request_id())
}

/// The process is not there; perhaps it will be.
pub(crate) fn unreachable(why: &str, retry_after: Option<Duration>) -> Fault {
    let fault = Fault::new(Side::Server, "server-unreachable", format!("the server's process is not running: {why}"))
        .next("Look at the bridge's log for what the server wrote to standard error.");
    match retry_after {
        Some(after) => Fault { retry_after_ms: Some(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)), ..fault },
        None => fault,
    }
}

/// The process ended under a call.
pub(crate) fn lost() -> Fault {
    Fault::new(Side::Server, "server-unreachable", "the server's process ended before it answered")
        .next("What became of the call is not known: look before you call again.")
}

/// The call took too long.
pub(crate) fn too_long() -> Fault {
    Fault::new(Side::Server, "server-timeout", "the server did not answer in time")
        .next("Call again, or raise the bridge's --call-timeout.")
}

/// As many as may.
pub(crate) fn busy(what: impl Into<std::borrow::Cow<'static, str>>, next: &'static str) -> Fault {
    Fault { retry_after_ms: Some(1000), ..Fault::new(Side::Gateway, "overloaded", what).next(next) }
}

/// The request makes no sense.
pub(crate) fn invalid(what: &'static str, next: &'static str) -> Fault {
    Fault::new(Side::Caller, "invalid-request", what).next(next)
}
