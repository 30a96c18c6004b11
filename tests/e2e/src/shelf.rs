//! An MCP server of either era that offers whatever a test puts on it, and tells what it was asked.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::echo::Seen;

/// What it offers, and how it behaves. Everything is JSON as it goes over the wire.
#[derive(Clone, Debug)]
pub struct Offered {
    /// Its name, which is in everything that it says.
    pub name: String,
    /// Whether it speaks 2026-07-28 (else 2025-11-25).
    pub modern: bool,
    /// Its capabilities.
    pub capabilities: Value,
    /// Its instructions.
    pub instructions: Option<String>,
    /// `tools/list`.
    pub tools: Vec<Value>,
    /// `prompts/list`.
    pub prompts: Vec<Value>,
    /// `resources/list`.
    pub resources: Vec<Value>,
    /// `resources/templates/list`.
    pub templates: Vec<Value>,
    /// `ttlMs` and `cacheScope` of its lists and resources.
    pub cache: (u64, &'static str),
    /// A header that every call of a tool has to have, else -32020.
    pub demands: Option<&'static str>,
    /// A page that its tools want opened before they answer (2026-07-28).
    pub page: Option<&'static str>,
    /// How long every answer takes.
    pub delay: Duration,
}

impl Offered {
    /// A modern server with one of each: the tool `echo`, the prompt `greet`, the resource `shelf://NAME/one`, the template
    /// `shelf://NAME/{id}`.
    pub fn modern(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            modern: true,
            capabilities: json!({"tools": {}, "prompts": {}, "resources": {}, "completions": {}}),
            instructions: Some(format!("Use {name} with care.")),
            tools: vec![tool("echo", json!({"text": {"type": "string"}}))],
            prompts: vec![json!({"name": "greet", "arguments": [{"name": "whom"}], "vendor": 1.10})],
            resources: vec![json!({"uri": format!("shelf://{name}/one"), "name": "one", "size": 3})],
            templates: vec![json!({"uriTemplate": format!("shelf://{name}/{{id}}"), "name": "any"})],
            cache: (0, "private"),
            demands: None,
            page: None,
            delay: Duration::ZERO,
        }
    }

    /// The same of the era before.
    pub fn legacy(name: &str) -> Self {
        Self { modern: false, ..Self::modern(name) }
    }
}

/// A tool with these properties.
pub fn tool(name: &str, properties: Value) -> Value {
    json!({"name": name, "description": format!("The tool {name}."), "inputSchema": {"type": "object", "properties": properties}})
}

/// The server, running in this process until dropped.
pub struct Shelf {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    offered: Mutex<Offered>,
    seen: Mutex<Vec<Seen>>,
    listening: AtomicUsize,
}

/// One stream of `subscriptions/listen`, for as long as its client reads it.
struct Listens(Arc<Shared>);

impl Drop for Listens {
    fn drop(&mut self) {
        self.0.listening.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Acknowledges what was asked for, and then has nothing to say.
fn listened(shared: &Arc<Shared>, id: &Value, wanted: &Value) -> Response {
    shared.listening.fetch_add(1, Ordering::SeqCst);
    let listens = Listens(Arc::clone(shared));
    let tag = json!({"io.modelcontextprotocol/subscriptionId": id});
    let first = json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
        "params": {"notifications": wanted, "_meta": tag}});
    let first = stream::iter([Ok::<_, std::convert::Infallible>(format!("data: {first}\n\n"))]);
    let rest = stream::pending().inspect(move |_| {
        let _ = &listens;
    });
    ([("content-type", "text/event-stream")], Body::from_stream(first.chain(rest))).into_response()
}

impl Shelf {
    /// Starts it on loopback.
    ///
    /// # Errors
    /// Where no port can be had.
    pub async fn start(offered: Offered) -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared =
            Arc::new(Shared { offered: Mutex::new(offered), seen: Mutex::default(), listening: AtomicUsize::new(0) });
        let router = Router::new().route("/mcp", any(answer)).with_state(shared.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("shelf: {error}");
            }
        });
        Ok(Self { address, shared, task })
    }

    /// Its resource, without a credential.
    pub fn open(&self, name: &str) -> Value {
        crate::product::resource("McpServer", name, self.spec())
    }

    /// Its resource, whose calls carry the caller's own token.
    pub fn guarded(&self, name: &str) -> Value {
        let mut spec = self.spec();
        spec["fields"] = json!([{"name": "token", "required": true, "sensitive": true}]);
        spec["credential"] = json!({"place": [{"field": "token", "header": "Authorization", "prefix": "Bearer "}]});
        crate::product::resource("McpServer", name, spec)
    }

    fn spec(&self) -> Value {
        json!({"remote": {"url": format!("http://{}/mcp", self.address), "allowPrivate": true}})
    }

    /// Changes what it offers.
    pub fn change(&self, change: impl FnOnce(&mut Offered)) {
        change(&mut self.shared.offered.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// How many streams of `subscriptions/listen` are open.
    pub fn listening(&self) -> usize {
        self.shared.listening.load(Ordering::SeqCst)
    }

    /// What it was asked by this method.
    pub fn seen(&self, method: &str) -> Vec<Seen> {
        let seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|s| s.method == method).cloned().collect()
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let Ok(message) = serde_json::from_slice::<Value>(&body) else {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    };
    let method = message["method"].as_str().unwrap_or_default().to_owned();
    let texts =
        headers.iter().map(|(n, v)| (n.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned()));
    let seen = Seen { way: String::new(), method: method.clone(), headers: texts.collect(), body: message.clone() };
    let count = {
        let mut all = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(seen);
        all.len()
    };
    let offered = shared.offered.lock().unwrap_or_else(PoisonError::into_inner).clone();
    tokio::time::sleep(offered.delay).await;
    let Some(id) = message.get("id").cloned() else { return StatusCode::ACCEPTED.into_response() };
    let params = &message["params"];
    let (name, uri) = (offered.name.as_str(), params["uri"].as_str().unwrap_or_default());
    let error = |code: i64, text: &str| {
        let status = if offered.modern { StatusCode::BAD_REQUEST } else { StatusCode::OK };
        let body = json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": text, "data": {"uri": uri}}});
        (status, axum::Json(body)).into_response()
    };
    let result = match &*method {
        "initialize" if !offered.modern => json!({
            "protocolVersion": "2025-11-25",
            "capabilities": offered.capabilities,
            "serverInfo": {"name": name, "version": "1"},
            "instructions": offered.instructions,
        }),
        "server/discover" if offered.modern => json!({
            "supportedVersions": ["2026-07-28"],
            "capabilities": offered.capabilities,
            "instructions": offered.instructions,
            "_meta": {"io.modelcontextprotocol/serverInfo": {"name": name, "version": "1"}},
        }),
        "ping" if !offered.modern => json!({}),
        "subscriptions/listen" if offered.modern => return listened(&shared, &id, &params["notifications"]),
        "tools/list" => json!({"tools": offered.tools}),
        "prompts/list" => json!({"prompts": offered.prompts}),
        "resources/list" => json!({"resources": offered.resources}),
        "resources/templates/list" => json!({"resourceTemplates": offered.templates}),
        "tools/call" => {
            if offered.demands.is_some_and(|header| !headers.contains_key(header)) {
                return error(-32020, "a header is missing");
            }
            if let (Some(url), None) = (offered.page, params.get("inputResponses")) {
                let params = json!({"mode": "url", "url": url, "message": "Sign in"});
                let requests = json!({"page": {"method": "elicitation/create", "params": params}});
                let result = json!({"resultType": "input_required", "inputRequests": requests, "requestState": "s"});
                return axum::Json(json!({"jsonrpc": "2.0", "id": id, "result": result})).into_response();
            }
            let text = json!({"server": name, "tool": params["name"], "arguments": params["arguments"]}).to_string();
            json!({"content": [
                {"type": "text", "text": text},
                {"type": "resource_link", "uri": format!("shelf://{name}/one"), "name": "one"},
                {"type": "resource_link", "uri": "shelf://both", "name": "both"},
                {"type": "resource", "resource": {"uri": format!("made://{name}"), "text": "made"}},
            ]})
        }
        "prompts/get" => json!({"messages": [
            {"role": "user", "content": {"type": "text", "text": format!("{name} {} {}", params["name"], params["arguments"])}},
        ]}),
        "resources/read" if uri.ends_with("nothing") => {
            return error(if offered.modern { -32602 } else { -32002 }, "no such resource");
        }
        "resources/read" => {
            let whose = headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or("nobody");
            json!({"contents": [{"uri": uri, "text": format!("{name} to {whose}, {count}")}]})
        }
        "completion/complete" => {
            json!({"completion": {"values": [name, params["ref"].to_string()], "hasMore": false}})
        }
        "example.invalid/extension" => json!({"heard": params["word"]}),
        _ => return error(-32601, "no such method"),
    };
    let mut result = result;
    if offered.modern {
        result["resultType"] = json!("complete");
        if !matches!(&*method, "tools/call" | "prompts/get" | "completion/complete") {
            result["ttlMs"] = json!(offered.cache.0);
            result["cacheScope"] = json!(offered.cache.1);
        }
    }
    let mut response = axum::Json(json!({"jsonrpc": "2.0", "id": id, "result": result})).into_response();
    if method == "initialize" {
        response.headers_mut().insert("mcp-session-id", axum::http::HeaderValue::from_static("shelf"));
    }
    response
}
