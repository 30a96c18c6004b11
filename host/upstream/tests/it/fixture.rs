//! A server of MCP over HTTP in as many lines as it takes, and what the tests need around it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use portcullis_model::spec::Traffic;
use portcullis_upstream::{
    Account, Endpoint, HttpEndpoint, Incoming, Message, Options, Outgoing, Params, Peer, Target, TargetKey,
    UpstreamError, Upstreams, launch::NoLauncher,
};
use serde_json::{Value, json};

/// How the fixture behaves and what it saw.
#[derive(Default)]
pub struct Server {
    pub modern: bool,
    pub sse: bool,
    /// Whether an unknown session is answered as by the older SDKs' examples: 400 rather than 404.
    pub old_sdk: bool,
    pub seen: Mutex<Vec<Value>>,
    pub sessions: Mutex<HashSet<String>>,
    /// Headers of each request, beside `seen`.
    pub headers: Mutex<Vec<HeaderMap>>,
    pub deleted: Mutex<usize>,
    /// Set when a response body was dropped before its end.
    pub dropped: Arc<Mutex<usize>>,
}

impl Server {
    pub fn count(&self, method: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|m| m["method"] == method).count()
    }
    pub fn header(&self, method: &str, name: &str) -> Option<String> {
        let seen = self.seen.lock().unwrap();
        let at = seen.iter().rposition(|m| m["method"] == method)?;
        Some(self.headers.lock().unwrap()[at].get(name)?.to_str().unwrap().to_owned())
    }
}

pub async fn start(server: Server) -> (Arc<Server>, String) {
    let server = Arc::new(server);
    let app = Router::new().route("/mcp", post(answer).delete(delete)).with_state(server.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (server, url)
}

pub fn peer_with(url: &str, account: Account, traffic: Traffic, pool: &Upstreams) -> Arc<Peer> {
    let key = TargetKey {
        tenant: "default".parse().unwrap(),
        server: "fixture".parse().unwrap(),
        generation: 1,
        account,
        conversation: None,
        era: None,
    };
    let endpoint = HttpEndpoint { url: url.parse().unwrap(), headers: Vec::new(), allow_private: false };
    pool.peer(&Target { key, endpoint: Endpoint::Http(Arc::new(endpoint)), traffic: Arc::new(traffic) }).unwrap()
}

pub fn pool() -> Arc<Upstreams> {
    Upstreams::new(Options::new(Arc::new(NoLauncher))).unwrap()
}

pub fn peer(url: &str) -> (Arc<Upstreams>, Arc<Peer>) {
    let pool = pool();
    let peer = peer_with(url, Account::None, Traffic::default(), &pool);
    (pool, peer)
}

pub async fn send(peer: &Peer, tool: &str, patience: Duration) -> Result<Incoming, UpstreamError> {
    let members = format!(r#""name":"{tool}","arguments":{{"n":1}}"#);
    let body = Params { method: "tools/call", members: &members };
    let headers = [(HeaderName::from_static("authorization"), HeaderValue::from_static("Bearer x"))];
    let deadline = Instant::now() + patience;
    let outgoing = Outgoing::new("tools/call", &body, deadline);
    peer.send(Outgoing { name: Some(tool), headers: &headers, progress: true, ..outgoing }).await
}

pub async fn call(peer: &Peer, tool: &str) -> Result<Message, UpstreamError> {
    match send(peer, tool, Duration::from_secs(10)).await? {
        Incoming::Json { message, .. } => Ok(message),
        Incoming::Stream { mut stream, .. } => stream.answer().await,
    }
}

pub async fn eventually(what: &str, check: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !check() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn delete(State(server): State<Arc<Server>>, headers: HeaderMap) -> StatusCode {
    let id = headers["mcp-session-id"].to_str().unwrap().to_owned();
    assert!(server.sessions.lock().unwrap().remove(&id));
    *server.deleted.lock().unwrap() += 1;
    StatusCode::NO_CONTENT
}

fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    (status, [("content-type", "application/json")], body.into()).into_response()
}

fn rpc_error(status: StatusCode, id: &Value, code: i64) -> Response {
    json(status, json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": "no"}}).to_string())
}

async fn answer(State(server): State<Arc<Server>>, headers: HeaderMap, body: Bytes) -> Response {
    let message: Value = serde_json::from_slice(&body).unwrap();
    server.seen.lock().unwrap().push(message.clone());
    server.headers.lock().unwrap().push(headers.clone());
    let (id, method) = (&message["id"], message["method"].as_str().unwrap_or(""));
    let head = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
    if server.modern {
        if head("mcp-protocol-version") != "2026-07-28" || head("mcp-method") != method {
            return rpc_error(StatusCode::BAD_REQUEST, id, -32020);
        }
        assert_eq!(message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"], json!({}));
        assert!(headers.get("mcp-session-id").is_none());
    } else if method == "initialize" {
        let session = format!("s{}", server.sessions.lock().unwrap().len() + 100 * server.count("initialize"));
        server.sessions.lock().unwrap().insert(session.clone());
        let result = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "f"}});
        let mut response = reply(&server, id, &result);
        response.headers_mut().insert("mcp-session-id", session.parse().unwrap());
        return response;
    } else {
        if head("mcp-session-id").is_empty() {
            return json(
                StatusCode::BAD_REQUEST,
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"no session"}}"#,
            );
        }
        if !server.sessions.lock().unwrap().contains(head("mcp-session-id")) {
            return match server.old_sdk {
                true => rpc_error(StatusCode::BAD_REQUEST, id, -32000),
                false => StatusCode::NOT_FOUND.into_response(),
            };
        }
        assert_eq!(head("mcp-protocol-version"), "2025-06-18");
    }
    match method {
        "server/discover" => reply(
            &server,
            id,
            &json!({"supportedVersions": ["2026-07-28"], "capabilities": {}, "resultType": "complete"}),
        ),
        "ping" => reply(&server, id, &json!({})),
        "tools/call" => tool(&server, id, message["params"]["name"].as_str().unwrap(), &message["params"]),
        _ => StatusCode::ACCEPTED.into_response(),
    }
}

fn event(message: &Value) -> String {
    format!("event: message\ndata: {message}\n\n")
}

fn reply(server: &Server, id: &Value, result: &Value) -> Response {
    let message = json!({"jsonrpc": "2.0", "id": id, "result": result});
    if server.sse {
        ([("content-type", "text/event-stream")], format!(": hello\n\nid: 1\ndata:\n\n{}", event(&message)))
            .into_response()
    } else {
        json(StatusCode::OK, message.to_string())
    }
}

/// Counts when it is dropped.
struct Dropped(Arc<Mutex<usize>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        *self.0.lock().unwrap() += 1;
    }
}

/// A body that says `first` and then nothing for as long as it lives.
fn hanging(server: &Server, first: String) -> Body {
    use futures_util::StreamExt;
    let guard = Dropped(server.dropped.clone());
    let first = futures_util::stream::iter([Ok::<_, std::io::Error>(first)]);
    Body::from_stream(first.chain(futures_util::stream::pending()).map(move |x| {
        let _ = &guard;
        x
    }))
}

fn tool(server: &Server, id: &Value, name: &str, params: &Value) -> Response {
    let stream = |body: Body| ([("content-type", "text/event-stream")], body).into_response();
    match name {
        "echo" => reply(server, id, &json!({"echo": params["arguments"]})),
        "progress" => {
            let token = &params["_meta"]["progressToken"];
            let progress = |token: &Value, n: u64| {
                event(
                    &json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": n}}),
                )
            };
            let text = [
                progress(token, 1),
                progress(&json!("foreign"), 9),
                event(&json!({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": {}})),
                progress(token, 2),
                event(&json!({"jsonrpc": "2.0", "id": id, "result": {"done": true}})),
            ]
            .concat();
            // Cut anywhere.
            let chunks: Vec<_> = text.into_bytes().chunks(7).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect();
            stream(Body::from_stream(futures_util::stream::iter(chunks)))
        }
        "hang-stream" => {
            stream(hanging(server, event(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {}}))))
        }
        "hang" => json(StatusCode::OK, hanging(server, "{".to_owned())),
        "break" => {
            stream(Body::from(event(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {}}))))
        }
        "garbage" => json(StatusCode::OK, "<html>"),
        "html" => ([("content-type", "text/html")], "<html>").into_response(),
        "nothing" => StatusCode::ACCEPTED.into_response(),
        "wrong-id" => json(StatusCode::OK, json!({"jsonrpc": "2.0", "id": 424_242, "result": {}}).to_string()),
        "twice" => json(StatusCode::OK, format!("{0}{0}", json!({"jsonrpc": "2.0", "id": id, "result": {}}))),
        "gigabyte" => {
            let chunks = std::iter::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1 << 20])).take(1024);
            json(StatusCode::OK, Body::from_stream(futures_util::stream::iter(chunks)))
        }
        "gigabyte-stream" => {
            let chunks = std::iter::repeat_with(|| Ok::<_, std::io::Error>(vec![b'x'; 1 << 20])).take(1024);
            stream(Body::from_stream(futures_util::stream::iter(chunks)))
        }
        "unauthorized" => (StatusCode::UNAUTHORIZED, [("www-authenticate", "Bearer realm=\"x\"")]).into_response(),
        "redirect" => (StatusCode::TEMPORARY_REDIRECT, [("location", "http://127.0.0.1:1/")]).into_response(),
        "slow-down" => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "7")]).into_response(),
        "rpc-error" => rpc_error(StatusCode::BAD_REQUEST, id, -32602),
        "crash" => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        other => panic!("unknown tool {other}"),
    }
}
