//! A server of 2025-11-25 that asks its client in the middle of a call, and counts how often its tool ran.
//!
//! The tool `ask` asks for a form (or, `by` a `sample`, for one of the model's) as often as its argument `times` says, and answers with all that it heard; `wait` sends one
//! notification and answers when it is told to; `page` wants its user to open a page first (error -32042);
//! `talk` says as much as its arguments want before it answers.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot};

/// The server, running in this process until dropped.
pub struct Asker {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    sessions: AtomicU64,
    questions: AtomicU64,
    runs: AtomicU64,
    open: Mutex<HashMap<String, oneshot::Sender<Value>>>,
    capabilities: Mutex<HashMap<String, Value>>,
    go: Notify,
    opened: AtomicBool,
    said: AtomicU64,
    dropped: Arc<AtomicU64>,
}

/// Counts a stream that was dropped before its answer.
struct Watched {
    answered: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.answered.load(Ordering::SeqCst) {
            self.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Asker {
    /// Starts it on loopback.
    ///
    /// # Errors
    /// Where no port can be had.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let router = Router::new().route("/mcp", any(answer)).with_state(shared.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("asker: {error}");
            }
        });
        Ok(Self { address, shared, task })
    }

    /// Its resource.
    pub fn resource(&self, name: &str) -> Value {
        let remote = json!({"url": format!("http://{}/mcp", self.address), "allowPrivate": true});
        crate::product::resource("McpServer", name, json!({"remote": remote}))
    }

    /// How often a tool has begun to run.
    pub fn runs(&self) -> u64 {
        self.shared.runs.load(Ordering::SeqCst)
    }

    /// How many lines `talk` has said in all.
    pub fn said(&self) -> u64 {
        self.shared.said.load(Ordering::SeqCst)
    }

    /// From now on the page that `page` wants opened has been.
    pub fn open_page(&self) {
        self.shared.opened.store(true, Ordering::SeqCst);
    }

    /// How many of its calls were given up before their answer.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::SeqCst)
    }

    /// Lets the calls of `wait` end.
    pub fn go(&self) {
        self.shared.go.notify_one();
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, method: Method, headers: HeaderMap, body: Bytes) -> Response {
    if method == Method::DELETE {
        return StatusCode::OK.into_response();
    }
    let Ok(message) = serde_json::from_slice::<Value>(&body) else {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    };
    let session = headers.get("mcp-session-id").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let id = message["id"].clone();
    let result = |result: Value| Json(json!({"jsonrpc": "2.0", "id": id, "result": result})).into_response();
    match message["method"].as_str() {
        Some("initialize") => {
            let session = format!("s{}", shared.sessions.fetch_add(1, Ordering::SeqCst));
            let told = message["params"]["capabilities"].clone();
            shared.capabilities.lock().unwrap_or_else(PoisonError::into_inner).insert(session.clone(), told);
            let mut response = result(json!({
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {"listChanged": true}},
                "serverInfo": {"name": "asker", "version": "1"},
            }));
            if let Ok(value) = session.parse() {
                response.headers_mut().insert("mcp-session-id", value);
            }
            response
        }
        Some("ping") => result(json!({})),
        Some("tools/list") => {
            let tools =
                ["ask", "wait", "page", "talk"].map(|name| json!({"name": name, "inputSchema": {"type": "object"}}));
            result(json!({"tools": tools}))
        }
        Some("tools/call") => {
            let (sender, mut receiver) = mpsc::channel::<Value>(16);
            let answered = Arc::new(AtomicBool::new(false));
            let watched = Watched { answered: answered.clone(), dropped: shared.dropped.clone() };
            tokio::spawn(async move {
                call(shared, session, message, sender).await;
                answered.store(true, Ordering::SeqCst);
            });
            let events = stream::poll_fn(move |cx| {
                let _held = &watched;
                let event = |m| Ok::<_, Infallible>(Bytes::from(format!("event: message\ndata: {m}\n\n")));
                receiver.poll_recv(cx).map(|message| message.map(event))
            });
            ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
        }
        Some(_) if id.is_null() => StatusCode::ACCEPTED.into_response(),
        Some(_) => (StatusCode::NOT_FOUND, "no such method").into_response(),
        None => {
            let waiting = id.as_str().and_then(|id| {
                shared.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&format!("{session}/{id}"))
            });
            if let Some(waiting) = waiting {
                // Whoever asked may be gone.
                let _ = waiting.send(message);
            }
            StatusCode::ACCEPTED.into_response()
        }
    }
}

async fn call(shared: Arc<Shared>, session: String, message: Value, sender: mpsc::Sender<Value>) {
    shared.runs.fetch_add(1, Ordering::SeqCst);
    let arguments = &message["params"]["arguments"];
    if message["params"]["name"] == "page" && !shared.opened.load(Ordering::SeqCst) {
        let page =
            json!({"mode": "url", "elicitationId": "e-1", "url": "https://page.example/e-1", "message": "Sign in"});
        let error = json!({"code": -32042, "message": "Sign in first", "data": {"elicitations": [page]}});
        let _ = sender.send(json!({"jsonrpc": "2.0", "id": message["id"], "error": error})).await;
        return;
    }
    let mut heard = Vec::new();
    if message["params"]["name"] == "talk" {
        let data = "x".repeat(usize::try_from(arguments["bytes"].as_u64().unwrap_or(1)).unwrap_or(1));
        for n in 0..arguments["lines"].as_u64().unwrap_or(0) {
            let params = json!({"level": "info", "logger": n.to_string(), "data": data});
            let note = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": params});
            if sender.send(note).await.is_err() {
                return;
            }
            shared.said.fetch_add(1, Ordering::SeqCst);
        }
    }
    if message["params"]["name"] == "wait" {
        let note =
            json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "soon"}});
        let _ = sender.send(note).await;
        shared.go.notified().await;
        heard.push(json!("done"));
    }
    let mut at_once = Vec::new();
    for n in 0..arguments["atOnce"].as_u64().unwrap_or(0) {
        let id = format!("q{}", shared.questions.fetch_add(1, Ordering::SeqCst));
        let (answer, answered) = oneshot::channel();
        shared.open.lock().unwrap_or_else(PoisonError::into_inner).insert(format!("{session}/{id}"), answer);
        let params = json!({"message": n.to_string(), "requestedSchema": {"type": "object", "properties": {}}});
        let question = json!({"jsonrpc": "2.0", "id": id, "method": "elicitation/create", "params": params});
        if sender.send(question).await.is_err() {
            return;
        }
        at_once.push(answered);
    }
    for answered in at_once {
        let Ok(answer) = answered.await else { return };
        heard.push(answer.get("result").map_or_else(|| answer["error"].clone(), |r| r["content"]["x"].clone()));
    }
    for n in 0..arguments["times"].as_u64().unwrap_or(0) {
        let id = format!("q{}", shared.questions.fetch_add(1, Ordering::SeqCst));
        let (answer, answered) = oneshot::channel();
        shared.open.lock().unwrap_or_else(PoisonError::into_inner).insert(format!("{session}/{id}"), answer);
        let params = json!({"message": format!("{} {n}", arguments["who"].as_str().unwrap_or("?")),
            "requestedSchema": {"type": "object", "properties": {"x": {"type": "string"}}}});
        let mut question = json!({"jsonrpc": "2.0", "id": id, "method": "elicitation/create", "params": params});
        if arguments["by"] == "sample" {
            let text = json!({"type": "text", "text": params["message"]});
            question["method"] = json!("sampling/createMessage");
            question["params"] = json!({"messages": [{"role": "user", "content": text}], "maxTokens": 9});
        }
        if sender.send(question).await.is_err() {
            return;
        }
        let Ok(answer) = answered.await else { return };
        heard.push(match answer.get("result") {
            Some(result) if arguments["by"] == "sample" => result["content"]["text"].clone(),
            Some(result) => result["content"]["x"].clone(),
            None => json!({"refused": answer["error"]["code"]}),
        });
    }
    let told = shared.capabilities.lock().unwrap_or_else(PoisonError::into_inner).get(&session).cloned();
    let text = json!({"heard": heard, "told": told}).to_string();
    let result = json!({"content": [{"type": "text", "text": text}]});
    let _ = sender.send(json!({"jsonrpc": "2.0", "id": message["id"], "result": result})).await;
}
