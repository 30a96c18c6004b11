//! The MCP server that everything is measured against: as little as an honest server can do, in a process of its own.
//!
//! `POST /mcp/N` serves a catalogue of N tools; `POST /secret/N` does so only for the right bearer credential, so that a
//! figure for credential injection can't come from a call that carried none. Tools are `small` (64 bytes of text), `large`
//! (64 kB) and fillers. It speaks 2026-07-28 with JSON answers; `POST /sse/N` answers calls as events, and `POST /legacy/N`
//! speaks 2025-11-25, with a session.

use std::{
    convert::Infallible,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::process::Killed;

/// The credential that `/secret/N` wants.
pub const CREDENTIAL: &str = "bench-credential-4f1c";
/// The most tools on one page.
const PAGE: usize = 1_000;

/// The upstream, running.
pub struct Upstream {
    process: Killed,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Upstream {
    /// Starts this program again as the upstream.
    pub async fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("upstream")
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()?;
        let stdout = child.stdout.take().context("no standard output")?;
        let process = Killed(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().parse().context("the upstream did not say where it listens")?;
        Ok(Self { process, address })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

/// Serves until killed. Prints the address first.
pub async fn serve() -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let texts = Arc::new(Texts { small: "x".repeat(64), large: "x".repeat(64 * 1024) });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let texts = texts.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| answer(request, texts.clone()));
            // A client that hangs up is no error here.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

struct Texts {
    small: String,
    large: String,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: &'a str,
    #[serde(default)]
    params: Params<'a>,
}

#[derive(Deserialize, Default)]
struct Params<'a> {
    #[serde(borrow)]
    name: Option<&'a str>,
    #[serde(borrow)]
    cursor: Option<&'a str>,
}

async fn answer(request: Request<Incoming>, texts: Arc<Texts>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut segments = head.uri.path().trim_start_matches('/').split('/');
    let door = segments.next().unwrap_or_default();
    let tools = segments.next().and_then(|n| n.parse().ok()).unwrap_or(10);
    if head.method != Method::POST {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "POST only"));
    }
    if door == "secret" && !authorized(&head.headers) {
        return Ok(plain(StatusCode::UNAUTHORIZED, "the wrong credential"));
    }
    let Ok(message) = serde_json::from_slice::<Message<'_>>(&body) else {
        return Ok(plain(StatusCode::BAD_REQUEST, "not a message"));
    };
    let Some(id) = message.id else {
        return Ok(plain(StatusCode::ACCEPTED, ""));
    };
    let legacy = door == "legacy";
    let (status, outcome) = match message.method {
        "tools/call" => (StatusCode::OK, call(&message.params, &texts, legacy)),
        "initialize" if legacy => (StatusCode::OK, INITIALIZED.to_owned()),
        "server/discover" if legacy => (StatusCode::NOT_FOUND, UNKNOWN.to_owned()),
        "tools/list" => (StatusCode::OK, list(&message.params, tools)),
        "server/discover" => (StatusCode::OK, discover()),
        _ => (StatusCode::NOT_FOUND, UNKNOWN.to_owned()),
    };
    let events = door == "sse" && message.method == "tools/call";
    let body = match events {
        true => format!("event: message\ndata: {{\"jsonrpc\":\"2.0\",\"id\":{id},{outcome}}}\n\n"),
        false => format!(r#"{{"jsonrpc":"2.0","id":{id},{outcome}}}"#),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = if events { "text/event-stream" } else { "application/json" };
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    if message.method == "initialize" {
        response.headers_mut().insert("mcp-session-id", http::HeaderValue::from_static("bench"));
    }
    Ok(response)
}

fn authorized(headers: &HeaderMap) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    given.and_then(|v| v.strip_prefix("Bearer ")) == Some(CREDENTIAL)
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

const UNKNOWN: &str = r#""error":{"code":-32601,"message":"no such method"}"#;
const INITIALIZED: &str = r#""result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"bench","version":"1"}}"#;

fn call(params: &Params<'_>, texts: &Texts, legacy: bool) -> String {
    let text = if params.name == Some("large") { &texts.large } else { &texts.small };
    let kind = if legacy { "" } else { r#""resultType":"complete","# };
    format!(r#""result":{{{kind}"content":[{{"type":"text","text":"{text}"}}],"isError":false}}"#)
}

fn discover() -> String {
    r#""result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":3600000,"cacheScope":"public","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"bench","version":"1"}}}"#.to_owned()
}

fn list(params: &Params<'_>, count: usize) -> String {
    let first = params.cursor.and_then(|c| c.parse().ok()).unwrap_or(0);
    let last = count.min(first + PAGE);
    let tools: Vec<String> = (first..last).map(tool).collect();
    let next = if last < count { format!(r#""nextCursor":"{last}","#) } else { String::new() };
    format!(
        r#""result":{{"resultType":"complete",{next}"ttlMs":3600000,"cacheScope":"public","tools":[{}]}}"#,
        tools.join(",")
    )
}

fn tool(at: usize) -> String {
    let name = match at {
        0 => "small".to_owned(),
        1 => "large".to_owned(),
        _ => format!("filler-{at}"),
    };
    format!(
        r#"{{"name":"{name}","description":"Answers with a text.","inputSchema":{{"type":"object","properties":{{"path":{{"type":"string"}}}}}}}}"#
    )
}
