//! Answers that the gateway gives itself: results, errors, and refusals that a model can read.

use std::borrow::Cow;

use bytes::Bytes;
use http::StatusCode;
use portcullis_model::{Fault, Side};
use serde::Serialize;

use crate::{Era, ParseError, Version, headers::HeaderFault, splice::quote};

/// Not JSON.
pub const PARSE_ERROR: i64 = -32700;
/// Not a JSON-RPC request.
pub const INVALID_REQUEST: i64 = -32600;
/// No such method.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// Wrong parameters; also an unknown tool (2025-11-25, "Tools: Error Handling").
pub const INVALID_PARAMS: i64 = -32602;
/// Something failed inside.
pub const INTERNAL_ERROR: i64 = -32603;
/// A resource that is not there, up to 2025-11-25; later revisions say [`INVALID_PARAMS`].
pub const RESOURCE_NOT_FOUND: i64 = -32002;
/// A person has to open a page first (2025-11-25; later revisions ask for input instead).
pub const URL_ELICITATION_REQUIRED: i64 = -32042;
/// Headers and body say different things (2026-07-28).
pub const HEADER_MISMATCH: i64 = -32020;
/// The client lacks a capability that the request needs (2026-07-28).
pub const MISSING_CLIENT_CAPABILITY: i64 = -32021;
/// A revision that is not spoken (2026-07-28).
pub const UNSUPPORTED_PROTOCOL_VERSION: i64 = -32022;

/// What the gateway says of itself.
#[derive(Clone, Debug)]
pub struct ServerInfo<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its title for people.
    pub title: Option<&'a str>,
    /// Its version.
    pub version: &'a str,
}

impl ServerInfo<'_> {
    /// As a JSON object.
    pub fn json(&self) -> String {
        let title = self.title.map(|t| format!(",\"title\":{}", quote(t))).unwrap_or_default();
        format!("{{\"name\":{}{title},\"version\":{}}}", quote(self.name), quote(self.version))
    }
}

/// A response with `result`, which is JSON text. `id` is the client's, as JSON text.
pub fn result(id: &str, result: &str) -> Bytes {
    Bytes::from(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}"))
}

/// The result of `initialize`. `capabilities` and `info` (`serverInfo`) are JSON objects.
pub fn initialize(id: &str, version: Version, capabilities: &str, info: &str, instructions: Option<&str>) -> Bytes {
    let instructions = instructions.map(|i| format!(",\"instructions\":{}", quote(i))).unwrap_or_default();
    let body = format!(
        "{{\"protocolVersion\":\"{version}\",\"capabilities\":{capabilities},\"serverInfo\":{info}{instructions}}}"
    );
    result(id, &body)
}

/// The result of `server/discover`. `capabilities` and `info` (`serverInfo`) are JSON objects. Always private: what a gateway
/// offers depends on who asks.
pub fn discover(id: &str, capabilities: &str, info: &str, instructions: Option<&str>, ttl_ms: u64) -> Bytes {
    let versions: Vec<String> = Version::ALL.iter().map(|v| format!("\"{v}\"")).collect();
    let instructions = instructions.map(|i| format!(",\"instructions\":{}", quote(i))).unwrap_or_default();
    let body = format!(
        "{{\"resultType\":\"complete\",\"supportedVersions\":[{}],\"capabilities\":{capabilities}{instructions},\
         \"ttlMs\":{ttl_ms},\"cacheScope\":\"private\",\"_meta\":{{\"io.modelcontextprotocol/serverInfo\":{info}}}}}",
        versions.join(",")
    );
    result(id, &body)
}

/// How long an answer may be kept, and for whom (2026-07-28, caching).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hints {
    /// `ttlMs`.
    pub ttl_ms: u64,
    /// Whether `cacheScope` is `public`: it holds nothing that depends on who asked.
    pub public: bool,
}

/// One page of a list: `member` is `tools`, `prompts`, `resources` or `resourceTemplates`, `items` the raw JSON of each.
/// A modern page says how long it may be kept. `meta` is a JSON object.
pub fn list_page<'i>(
    id: &str,
    member: &str,
    items: impl IntoIterator<Item = &'i str>,
    next_cursor: Option<&str>,
    era: Era,
    hints: Hints,
    meta: Option<&str>,
) -> Bytes {
    let items = items.into_iter();
    let mut out = String::with_capacity(256 + items.size_hint().0 * 512);
    out.push_str("{\"jsonrpc\":\"2.0\",\"id\":");
    out.push_str(id);
    out.push_str(",\"result\":{");
    if era == Era::Modern {
        let Hints { ttl_ms, public } = hints;
        let scope = if public { "public" } else { "private" };
        out.push_str(&format!("\"resultType\":\"complete\",\"ttlMs\":{ttl_ms},\"cacheScope\":\"{scope}\","));
    }
    out.push('"');
    out.push_str(member);
    out.push_str("\":[");
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(item);
    }
    out.push(']');
    if let Some(cursor) = next_cursor {
        out.push_str(",\"nextCursor\":");
        out.push_str(&quote(cursor));
    }
    if let Some(meta) = meta {
        out.push_str(",\"_meta\":");
        out.push_str(meta);
    }
    out.push_str("}}");
    Bytes::from(out)
}

/// An empty result, as `ping` and `logging/setLevel` have it.
pub fn empty(id: &str, era: Era) -> Bytes {
    result(id, if era == Era::Modern { "{\"resultType\":\"complete\"}" } else { "{}" })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FaultData<'f> {
    side: Side,
    code: &'static str,
    request_id: &'f str,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// The `data` that goes with a fault: side, code, requestId and, where known, server, tool, next, retryAfterMs.
pub fn fault_data(fault: &Fault, request_id: &str) -> String {
    let data = FaultData {
        side: fault.side,
        code: fault.code,
        request_id,
        server: fault.server.as_deref(),
        tool: fault.tool.as_deref(),
        next: fault.next.as_deref(),
        retry_after_ms: fault.retry_after_ms,
    };
    serde_json::to_string(&data).unwrap_or_else(|_| "{}".to_owned())
}

/// An error response. `id` is the client's as JSON text; nothing where it could not be read, which answers `null`.
/// `data` is JSON text.
pub fn error(id: Option<&str>, code: i64, message: &str, data: Option<&str>) -> Bytes {
    let id = id.unwrap_or("null");
    let data = data.map(|d| format!(",\"data\":{d}")).unwrap_or_default();
    let message = quote(message);
    Bytes::from(format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":{code},\"message\":{message}{data}}}}}"
    ))
}

/// The error response for a fault.
pub fn fault(id: Option<&str>, fault: &Fault, request_id: &str) -> Bytes {
    error(id, rpc_code(fault), &fault.message, Some(&fault_data(fault, request_id)))
}

/// The error response for a fault, to a client of this era: one code differs between them.
pub fn fault_in(era: Era, id: Option<&str>, fault: &Fault, request_id: &str) -> Bytes {
    error(id, rpc_code_in(era, fault), &fault.message, Some(&fault_data(fault, request_id)))
}

/// The error response for a message that could not be read.
pub fn parse_fault(problem: &ParseError, request_id: &str) -> Bytes {
    let fault = problem.to_fault();
    error(None, problem.rpc_code(), &fault.message, Some(&fault_data(&fault, request_id)))
}

/// The error response for headers that were refused; `data.supported` and `data.requested` as the revision wants them.
pub fn header_fault(id: Option<&str>, problem: &HeaderFault, request_id: &str) -> Bytes {
    let fault = problem.to_fault();
    let mut data = fault_data(&fault, request_id);
    if let HeaderFault::UnsupportedVersion { requested } = problem {
        let supported: Vec<String> = Version::ALL.iter().map(|v| format!("\"{v}\"")).collect();
        data.insert_str(1, &format!("\"supported\":[{}],\"requested\":{},", supported.join(","), quote(requested)));
    }
    error(id, problem.rpc_code(), &fault.message, Some(&data))
}

/// What a person or model reads of a fault: the sentence, the next step, and the request id to quote.
pub fn fault_text(fault: &Fault, request_id: &str) -> String {
    let mut text = fault.message.to_string();
    if let Some(next) = &fault.next {
        if !text.ends_with(['.', '!', '?']) {
            text.push('.');
        }
        text.push(' ');
        text.push_str(next);
    }
    text.push_str(&format!(" [{}: {}, request {request_id}]", fault.side.as_str(), fault.code));
    text
}

/// A refused or failed tool call as a tool result with `isError`, which clients show to the model; an error response
/// they mostly don't. The fault's data stands in `_meta` under `portcullis.dev/fault`.
pub fn tool_refusal(id: &str, fault: &Fault, request_id: &str, era: Era) -> Bytes {
    let kind = if era == Era::Modern { "\"resultType\":\"complete\"," } else { "" };
    let text: Cow<'_, str> = quote(&fault_text(fault, request_id));
    let data = fault_data(fault, request_id);
    let body = format!(
        "{{{kind}\"content\":[{{\"type\":\"text\",\"text\":{text}}}],\"isError\":true,\"_meta\":{{\"portcullis.dev/fault\":{data}}}}}"
    );
    result(id, &body)
}

/// The JSON-RPC code for a fault.
pub fn rpc_code(fault: &Fault) -> i64 {
    match (fault.code, fault.side) {
        ("not-json", _) => PARSE_ERROR,
        ("unknown-method", _) => METHOD_NOT_FOUND,
        ("header-mismatch", _) => HEADER_MISMATCH,
        ("unsupported-version", _) => UNSUPPORTED_PROTOCOL_VERSION,
        (
            "unknown-tool"
            | "unknown-prompt"
            | "unknown-resource"
            | "unknown-task"
            | "invalid-request-state"
            | "request-state-used"
            | "invalid-params"
            | "invalid-cursor"
            | "missing-meta"
            | "ambiguous-arguments",
            _,
        ) => INVALID_PARAMS,
        (_, Side::Caller | Side::Policy) => INVALID_REQUEST,
        (_, Side::Gateway | Side::Server) => INTERNAL_ERROR,
    }
}

/// The JSON-RPC code for a fault towards a client of this era.
pub fn rpc_code_in(era: Era, fault: &Fault) -> i64 {
    match (era, fault.code) {
        (Era::Legacy, "unknown-resource") => RESOURCE_NOT_FOUND,
        _ => rpc_code(fault),
    }
}

/// The HTTP status for a fault that is answered at the level of HTTP: before a tool call has begun.
///
/// Codes that are about HTTP have their own; others go by side: 400 for the caller's faults, 403 for a policy's, 502 for a
/// server's, 500 for ours.
pub fn http_status(fault: &Fault) -> StatusCode {
    match fault.code {
        "unauthenticated" | "invalid-credential" => StatusCode::UNAUTHORIZED,
        "forbidden" | "foreign-origin" | "foreign-host" | "denied" => StatusCode::FORBIDDEN,
        "unknown-gateway" | "unknown-session" | "unknown-tenant" | "unknown-method" | "not-found" => {
            StatusCode::NOT_FOUND
        }
        "method-not-allowed" => StatusCode::METHOD_NOT_ALLOWED,
        "not-acceptable" => StatusCode::NOT_ACCEPTABLE,
        "message-too-large" => StatusCode::PAYLOAD_TOO_LARGE,
        "unsupported-media-type" => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "rate-limited" | "too-many-requests" => StatusCode::TOO_MANY_REQUESTS,
        "overloaded" | "draining" | "not-ready" | "no-space" | "store-unreachable" => StatusCode::SERVICE_UNAVAILABLE,
        "timeout" | "server-timeout" => StatusCode::GATEWAY_TIMEOUT,
        _ => match fault.side {
            Side::Caller => StatusCode::BAD_REQUEST,
            Side::Policy => StatusCode::FORBIDDEN,
            Side::Server => StatusCode::BAD_GATEWAY,
            Side::Gateway => StatusCode::INTERNAL_SERVER_ERROR,
        },
    }
}

/// The HTTP status that goes with an error response to a readable request. In the legacy era all are 200; the modern one
/// gives some codes a status of their own (2026-07-28, transports).
pub fn rpc_http_status(code: i64, era: Era) -> StatusCode {
    match (era, code) {
        (Era::Modern, METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
        (_, HEADER_MISMATCH | MISSING_CLIENT_CAPABILITY | UNSUPPORTED_PROTOCOL_VERSION)
        | (_, PARSE_ERROR | INVALID_REQUEST) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}
