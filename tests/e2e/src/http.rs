//! Plain HTTP, for what a well-behaved client would never send.

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};

/// The current revision.
pub const MODERN: &str = "2026-07-28";
/// The last revision with a handshake.
pub const LEGACY: &str = "2025-11-25";

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON-RPC message of the body, also where it came as the last event of a stream.
    ///
    /// # Panics
    /// Where it holds none.
    pub fn message(&self) -> Value {
        let text = self.text();
        let last = text.lines().filter_map(|l| l.strip_prefix("data:")).rfind(|l| l.contains("\"jsonrpc\""));
        serde_json::from_str(last.unwrap_or(&text)).unwrap_or_else(|e| panic!("{}: {e}: {text}", self.status))
    }
}

/// Posts bytes with headers; `content-type` and `accept` are there unless given.
///
/// # Errors
/// Where no answer comes.
pub async fn post(url: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> anyhow::Result<Reply> {
    send("POST", url, headers, body).await
}

/// Gets a page.
///
/// # Errors
/// Where no answer comes.
pub async fn get(url: &str, headers: &[(&str, &str)]) -> anyhow::Result<Reply> {
    send("GET", url, headers, Bytes::new()).await
}

/// Sends a request.
///
/// # Errors
/// Where no answer comes.
pub async fn send(method: &str, url: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> anyhow::Result<Reply> {
    let mut request = Request::builder().method(method).uri(url);
    let given = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if !given("content-type") {
        request = request.header("content-type", "application/json");
    }
    if !given("accept") {
        request = request.header("accept", "application/json, text/event-stream");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    // A client for each request: nothing that one test leaves on a connection reaches another.
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request.body(Full::new(body.into()))?).await.with_context(|| url.to_owned())?;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.context("the body broke off")?.to_bytes();
    Ok(Reply { status: head.status, headers: head.headers, body })
}

/// A message of the current revision, with the `_meta` that each has to carry.
pub fn modern(method: &str, mut params: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "portcullis-tests", "version": "1"},
    });
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

/// Sends a message of the current revision as a right client does.
///
/// # Errors
/// Where no answer comes.
pub async fn ask(url: &str, token: Option<&str>, method: &str, params: Value) -> anyhow::Result<Reply> {
    let message = modern(method, params);
    let authorization = token.map(|t| format!("Bearer {t}"));
    let params = &message["params"];
    let name = params["name"].as_str().or_else(|| params["uri"].as_str()).map(str::to_owned);
    let mut headers = vec![("mcp-protocol-version", MODERN), ("mcp-method", method)];
    if let Some(name) = &name {
        headers.push(("mcp-name", name));
    }
    if let Some(authorization) = &authorization {
        headers.push(("authorization", authorization));
    }
    post(url, &headers, message.to_string()).await
}

/// Calls a tool as a right client of the current revision does.
///
/// # Errors
/// Where no answer comes.
pub async fn call(url: &str, token: Option<&str>, tool: &str, arguments: Value) -> anyhow::Result<Reply> {
    ask(url, token, "tools/call", json!({"name": tool, "arguments": arguments})).await
}
