//! An MCP server that tells what it saw, speaks either era, and misbehaves when asked to.
//!
//! `POST /WAY` where WAY is one of [`WAYS`]. Every way lists the same tools rightly; the bad ones go wrong when a tool is
//! called. `GET /page` is a small page for whoever fetches pages.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

/// What the path can say.
pub const WAYS: [&str; 14] = [
    "modern",
    "modern-sse",
    "legacy",
    "legacy-sse",
    "garbage",
    "wrong-id",
    "twice",
    "never",
    "huge",
    "truncated",
    "refuses",
    "picky",
    "breaks",
    "double",
];

/// The result behind the way `double`: one reader sees a harmless text, another one a key.
pub const DOUBLE: &str = r#"{"resultType":"complete","content":[{"type":"text","text":"harmless","text":"AKIAIOSFODNN7EXAMPLE"}],"isError":false}"#;

/// The result of the tool `odd`: fields that no specification knows, keys out of order, numbers that no float holds.
pub const ODD: &str = r#"{"zeta":{"b":1,"a":2},"content":[{"vendor":[1.10,12345678901234567890123],"type":"text","text":"odd"}],"resultType":"complete","isError":false}"#;

/// One request that arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The way that it took.
    pub way: String,
    /// The JSON-RPC method.
    pub method: String,
    /// Its headers, by lower-case name.
    pub headers: BTreeMap<String, String>,
    /// Its message.
    pub body: Value,
}

/// The server, running in this process until dropped.
pub struct Echo {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    sessions: AtomicU64,
    abandoned: AtomicU64,
}

impl Echo {
    /// Starts it on loopback.
    ///
    /// # Errors
    /// Where no port can be had.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts it at an address.
    ///
    /// # Errors
    /// Where it can't be had.
    pub async fn start_at(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let router = Router::new()
            .route(
                "/page",
                get(|| async {
                    ([(header::CONTENT_TYPE, "text/html")], "<html><body><p>hello from the page</p></body></html>")
                }),
            )
            .route("/{way}", any(answer))
            .with_state(shared.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("echo: {error}");
            }
        });
        Ok(Self { address, shared, task })
    }

    /// The URL of a way.
    pub fn url(&self, way: &str) -> String {
        format!("http://{}/{way}", self.address)
    }

    /// The resource of a server behind a way, that needs no credential.
    pub fn open(&self, name: &str, way: &str) -> Value {
        crate::product::resource("McpServer", name, json!({"remote": {"url": self.url(way), "allowPrivate": true}}))
    }

    /// The resource of a server behind a way, whose calls carry the caller's own token.
    pub fn guarded(&self, name: &str, way: &str) -> Value {
        crate::product::resource(
            "McpServer",
            name,
            json!({
                "remote": {"url": self.url(way), "allowPrivate": true},
                "fields": [{"name": "token", "required": true, "sensitive": true}],
                "credential": {"place": [{"field": "token", "header": "Authorization", "prefix": "Bearer "}]},
            }),
        )
    }

    /// All that arrived so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many calls of the way `never` were given up by whoever made them.
    pub fn abandoned(&self) -> u64 {
        self.shared.abandoned.load(Ordering::SeqCst)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    Path(way): Path<String>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let legacy = way.starts_with("legacy");
    if !WAYS.contains(&&*way) {
        return StatusCode::NOT_FOUND.into_response();
    }
    if method != Method::POST {
        let status = if legacy && method == Method::DELETE { StatusCode::OK } else { StatusCode::METHOD_NOT_ALLOWED };
        return status.into_response();
    }
    let Ok(message) = serde_json::from_slice::<Value>(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let rpc = message["method"].as_str().unwrap_or_default().to_owned();
    let texts =
        headers.iter().map(|(n, v)| (n.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned()));
    let seen = Seen { way: way.clone(), method: rpc.clone(), headers: texts.collect(), body: message.clone() };
    shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    if legacy && rpc != "initialize" && !headers.contains_key("mcp-session-id") {
        // As the servers of the older SDKs do.
        return (StatusCode::BAD_REQUEST, "Bad Request: No valid session ID provided").into_response();
    }
    let Some(id) = message.get("id").cloned() else { return StatusCode::ACCEPTED.into_response() };
    let session = shared.sessions.load(Ordering::SeqCst);
    let stream = way.ends_with("-sse");
    match &*rpc {
        "initialize" if legacy => {
            let session = shared.sessions.fetch_add(1, Ordering::SeqCst) + 1;
            let result = json!({
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "echo", "version": "1"},
            });
            let mut response = reply(stream, &[message_text(&id, &result.to_string())]);
            if let Ok(value) = format!("session-{session}").parse() {
                response.headers_mut().insert("mcp-session-id", value);
            }
            response
        }
        "ping" if legacy => reply(stream, &[message_text(&id, "{}")]),
        "server/discover" if !legacy => {
            let result = json!({
                "resultType": "complete",
                "supportedVersions": ["2026-07-28"],
                "capabilities": {"tools": {}},
                "ttlMs": 60_000,
                "cacheScope": "private",
            });
            reply(stream, &[message_text(&id, &result.to_string())])
        }
        "tools/list" => reply(stream, &[message_text(&id, &tools(legacy).to_string())]),
        "tools/call" => call(&shared, &way, &id, &message, &headers, session).await,
        _ => {
            let body = json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no such method"}});
            (StatusCode::NOT_FOUND, axum::Json(body)).into_response()
        }
    }
}

fn tools(legacy: bool) -> Value {
    let tool = |name: &str| {
        json!({
            "name": name,
            "description": format!("The tool {name}."),
            "inputSchema": {"type": "object", "properties": {"message": {"type": "string"}}},
            "vendorField": {"kept": true},
        })
    };
    let tools = ["whoami", "echo", "odd", "progress"].map(tool);
    let mut result = json!({"tools": tools});
    if !legacy {
        result["resultType"] = json!("complete");
        result["ttlMs"] = json!(60_000);
        result["cacheScope"] = json!("private");
    }
    result
}

async fn call(
    shared: &Arc<Shared>,
    way: &str,
    id: &Value,
    message: &Value,
    headers: &HeaderMap,
    session: u64,
) -> Response {
    let right = result(message, headers, session);
    let whole = message_text(id, &right);
    match way {
        "garbage" => json_body("this is no JSON, {\"jsonrpc\":"),
        "wrong-id" => json_body(&message_text(&json!("nobody asked this"), &right)),
        "twice" => reply(true, &[whole.clone(), whole]),
        "never" => {
            let _given_up = GivenUp(shared.clone());
            std::future::pending().await
        }
        "huge" => {
            // A gigabyte in pieces, should anybody go on reading.
            let start = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":""#);
            let piece = Bytes::from("x".repeat(1 << 20));
            let pieces = stream::iter([Bytes::from(start)]).chain(stream::iter((0..1024).map(move |_| piece.clone())));
            let body = Body::from_stream(pieces.map(Ok::<_, Infallible>));
            ([(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
        "double" => json_body(&message_text(id, DOUBLE)),
        "truncated" => json_body(&whole[..whole.len() / 2]),
        // Refuses a credential that ends in a question mark.
        "picky" if headers.get("authorization").is_some_and(|v| v.as_bytes().ends_with(b"?")) => {
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")], "who are you?")
                .into_response()
        }
        "refuses" => {
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")], "who are you?")
                .into_response()
        }
        "breaks" => (StatusCode::INTERNAL_SERVER_ERROR, "a stack trace with internal-detail-7f3a").into_response(),
        _ => {
            let mut messages = Vec::new();
            if message["params"]["name"] == "progress" && way.ends_with("-sse") {
                let token = &message["params"]["_meta"]["progressToken"];
                for step in 1..=3 {
                    let params = json!({"progressToken": token, "progress": step, "total": 3});
                    messages.push(
                        json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}).to_string(),
                    );
                }
            }
            messages.push(whole);
            reply(way.ends_with("-sse"), &messages)
        }
    }
}

fn result(message: &Value, headers: &HeaderMap, session: u64) -> String {
    let name = message["params"]["name"].as_str().unwrap_or_default();
    let arguments = &message["params"]["arguments"];
    let text = match name {
        "odd" => return ODD.to_owned(),
        "whoami" => {
            let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
            json!({"authorization": header("authorization"), "session": session}).to_string()
        }
        "echo" | "progress" => arguments.to_string(),
        _ => {
            let wrong = json!({"content": [{"type": "text", "text": "no such tool"}], "isError": true});
            return wrong.to_string();
        }
    };
    json!({"resultType": "complete", "content": [{"type": "text", "text": text}], "isError": false}).to_string()
}

/// Counts a call that was dropped before it was answered.
struct GivenUp(Arc<Shared>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.abandoned.fetch_add(1, Ordering::SeqCst);
    }
}

fn message_text(id: &Value, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

fn json_body(text: &str) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text.to_owned()).into_response()
}

fn reply(stream: bool, messages: &[String]) -> Response {
    if !stream {
        return json_body(messages.last().map_or("", String::as_str));
    }
    let events: String = messages.iter().map(|m| format!("event: message\ndata: {m}\n\n")).collect();
    ([(header::CONTENT_TYPE, "text/event-stream")], events).into_response()
}
