//! A server that talks back: a session of the legacy era with a GET stream, or a modern one with subscriptions, both driven
//! by the test.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::any,
};
use futures_util::StreamExt;
use portcullis_upstream::{
    Account, Conversation, Endpoint, HttpEndpoint, Incoming, Listen, Message, MessageStream, Outgoing, Params, Peer,
    Target, TargetKey, UpstreamError, Upstreams,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// What a stream is told to send; nothing ends it.
type Chunk = Option<String>;

#[derive(Default)]
pub struct Talker {
    pub modern: bool,
    /// Whether it speaks both eras.
    pub both: bool,
    /// Whether it says that its lists change.
    pub announces: bool,
    /// What GET answers in place of a stream.
    pub get_status: Option<u16>,
    /// The bytes of the answer to the tool `cut`, and where to cut it.
    pub events: Vec<(String, String)>,
    /// All that was posted, in order.
    pub seen: Mutex<Vec<Value>>,
    /// `Last-Event-ID` of each GET.
    pub gets: Mutex<Vec<Option<String>>>,
    pub sessions: Mutex<HashSet<String>>,
    pub opened: AtomicUsize,
    pub streams: Mutex<Vec<mpsc::Sender<Chunk>>>,
}

impl Talker {
    pub async fn start(self) -> (Arc<Self>, String) {
        let server = Arc::new(self);
        let app = Router::new().route("/mcp", any(serve)).with_state(server.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (server, url)
    }

    /// How often a method was posted.
    pub fn count(&self, method: &str) -> usize {
        self.posted(|m| m["method"] == method)
    }

    pub fn posted(&self, matches: impl Fn(&Value) -> bool) -> usize {
        self.seen.lock().unwrap().iter().filter(|m| matches(m)).count()
    }

    /// How many streams outside calls were opened.
    pub fn streams(&self) -> usize {
        self.streams.lock().unwrap().len()
    }

    /// Sends a message on the newest stream.
    pub fn say(&self, message: &Value) {
        self.raw(&event(message));
    }

    pub fn raw(&self, text: &str) {
        let _ = self.streams.lock().unwrap().last().unwrap().try_send(Some(text.to_owned()));
    }

    /// Ends the newest stream.
    pub fn cut(&self) {
        let _ = self.streams.lock().unwrap().last().unwrap().try_send(None);
    }

    pub fn forget_sessions(&self) {
        self.sessions.lock().unwrap().clear();
    }

    fn open(&self) -> Response {
        let (sender, receiver) = mpsc::channel::<Chunk>(8192);
        self.streams.lock().unwrap().push(sender);
        let chunks = futures_util::stream::unfold(receiver, |mut receiver| async {
            let chunk = receiver.recv().await??;
            Some((Ok::<_, std::io::Error>(chunk), receiver))
        });
        stream(Body::from_stream(futures_util::stream::iter([Ok(": hello\n\n".to_owned())]).chain(chunks)))
    }

    /// Waits for the answer to a question.
    async fn answer(&self, id: &str) -> Value {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let found = self.seen.lock().unwrap().iter().find(|m| m["id"] == id && m["method"].is_null()).cloned();
            match found {
                Some(answer) => return answer,
                None if Instant::now() > deadline => return json!("nobody answered"),
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

pub fn event(message: &Value) -> String {
    format!("data: {message}\n\n")
}

pub fn note(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

pub fn ask(id: &str, method: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": {}})
}

fn stream(body: Body) -> Response {
    ([("content-type", "text/event-stream")], body).into_response()
}

fn json_body(value: &Value) -> Response {
    ([("content-type", "application/json")], value.to_string()).into_response()
}

async fn serve(
    State(server): State<Arc<Talker>>,
    method: axum::http::Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let session = headers.get("mcp-session-id").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let known =
        server.modern || (server.both && session.is_empty()) || server.sessions.lock().unwrap().contains(&session);
    if method == axum::http::Method::GET {
        let last = headers.get("last-event-id").map(|v| v.to_str().unwrap().to_owned());
        server.gets.lock().unwrap().push(last.clone());
        if let Some(status) = server.get_status {
            return StatusCode::from_u16(status).unwrap().into_response();
        }
        if !known {
            return StatusCode::NOT_FOUND.into_response();
        }
        // The rest of an answer that was cut, or a stream of its own.
        return match last.filter(|id| server.events.iter().any(|(i, _)| i == id)) {
            Some(last) => {
                let after = server.events.iter().skip_while(|(id, _)| *id != last).skip(1);
                let seen = server.seen.lock().unwrap();
                let id = &seen.iter().rev().find(|m| m["method"] == "tools/call").unwrap()["id"];
                let rest: String = after.map(|(i, data)| numbered(i, data, id)).collect();
                stream(Body::from(rest))
            }
            None => server.open(),
        };
    }
    if method != axum::http::Method::POST {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let message: Value = serde_json::from_slice(&body).unwrap();
    server.seen.lock().unwrap().push(message.clone());
    let (id, name) = (&message["id"], message["method"].as_str().unwrap_or_default());
    let result = |result: Value| json_body(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
    let error = |status: StatusCode, code: i64| {
        (status, json_body(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": "no"}})))
            .into_response()
    };
    match name {
        "server/discover" if server.modern || server.both => {
            let legacy = server.both.then_some("2025-11-25");
            let versions: Vec<&str> = ["2026-07-28"].into_iter().chain(legacy).collect();
            return result(
                json!({"resultType": "complete", "supportedVersions": versions, "capabilities": capabilities(&server, json!({"x": 1.10})), "instructions": "do"}),
            );
        }
        "server/discover" => return error(StatusCode::BAD_REQUEST, -32600),
        "initialize" if !server.modern => {
            let session = format!("s{}", server.opened.fetch_add(1, Ordering::Relaxed));
            server.sessions.lock().unwrap().insert(session.clone());
            let mut response = result(
                json!({"protocolVersion": "2025-11-25", "capabilities": capabilities(&server, json!({"resources": {"subscribe": true}})), "serverInfo": {"name": "talker"}}),
            );
            response.headers_mut().insert("mcp-session-id", session.parse().unwrap());
            return response;
        }
        _ if !known => return StatusCode::NOT_FOUND.into_response(),
        _ => {}
    }
    let params = &message["params"];
    match name {
        "prompts/list" => result(json!({"prompts": []})),
        "resources/subscribe" if params["uri"] == "refused" => error(StatusCode::OK, -32602),
        "resources/subscribe" | "resources/unsubscribe" => result(json!({})),
        "subscriptions/listen" if params["notifications"]["resourceSubscriptions"] == json!(["refused"]) => {
            error(StatusCode::BAD_REQUEST, -32602)
        }
        "subscriptions/listen" => {
            let response = server.open();
            server.say(&note(
                "notifications/subscriptions/acknowledged",
                &json!({"_meta": {"io.modelcontextprotocol/subscriptionId": id}, "notifications": params["notifications"]}),
            ));
            response
        }
        "tools/call" => match params["name"].as_str().unwrap() {
            "code" => error(StatusCode::BAD_REQUEST, params["arguments"]["code"].as_i64().unwrap()),
            tool => tool_stream(&server, id, tool, params),
        },
        _ => StatusCode::ACCEPTED.into_response(),
    }
}

fn capabilities(server: &Talker, quiet: Value) -> Value {
    if server.announces { json!({"prompts": {"listChanged": true}}) } else { quiet }
}

/// One numbered event; `ID` in it stands for the id of the call.
fn numbered(number: &str, data: &str, id: &Value) -> String {
    format!("id: {number}\nretry: 1\ndata: {}\n\n", data.replace("ID", &id.to_string()))
}

fn tool_stream(server: &Arc<Talker>, id: &Value, tool: &str, params: &Value) -> Response {
    let (sender, receiver) = mpsc::channel::<String>(8192);
    let say = move |message: &Value| drop(sender.try_send(event(message)));
    let done = {
        let id = id.clone();
        move |result: Value| json!({"jsonrpc": "2.0", "id": id, "result": result})
    };
    let body = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|text| (Ok::<_, std::io::Error>(text), receiver))
    });
    match tool {
        "cut" => {
            let at = usize::try_from(params["arguments"]["at"].as_u64().unwrap()).unwrap();
            let whole: String = server.events.iter().map(|(i, data)| numbered(i, data, id)).collect();
            return stream(Body::from(whole[..at.min(whole.len())].to_owned()));
        }
        // Asks what the arguments say, one question after the other, and tells the answers.
        "ask" => {
            let questions = params["arguments"]["questions"].as_array().unwrap().clone();
            let server = server.clone();
            tokio::spawn(async move {
                let mut answers = BTreeMap::new();
                for question in questions {
                    say(&question);
                    let id = question["id"].as_str().unwrap().to_owned();
                    let answer = server.answer(&id).await;
                    answers.insert(id, answer);
                }
                say(&done(json!(answers)));
            });
        }
        // Says all that the arguments say at once, and then the result.
        "say" => {
            for message in params["arguments"]["messages"].as_array().unwrap() {
                say(message);
            }
            if params["arguments"]["then"] != "nothing" {
                say(&done(json!({})));
            } else {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(30)).await;
                    drop(say);
                });
            }
        }
        other => panic!("unknown tool {other}"),
    }
    stream(Body::from_stream(body))
}

pub fn target(url: &str, conversation: Option<(&str, &str)>) -> Target {
    let conversation = conversation
        .map(|(id, capabilities)| Arc::new(Conversation { id: id.into(), capabilities: capabilities.into() }));
    let key = TargetKey {
        tenant: "default".parse().unwrap(),
        server: "talker".parse().unwrap(),
        generation: 1,
        account: Account::None,
        conversation,
        era: None,
    };
    let endpoint = HttpEndpoint { url: url.parse().unwrap(), headers: Vec::new(), allow_private: false };
    Target { key, endpoint: Endpoint::Http(Arc::new(endpoint)), traffic: Arc::default() }
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

pub fn peer(pool: &Upstreams, url: &str, conversation: Option<(&str, &str)>) -> Arc<Peer> {
    pool.peer(&target(url, conversation)).unwrap()
}

pub async fn call(peer: &Peer, tool: &str, arguments: &Value) -> Result<Incoming, UpstreamError> {
    let members = format!(r#""name":"{tool}","arguments":{arguments}"#);
    let body = Params { method: "tools/call", members: &members };
    peer.send(Outgoing { name: Some(tool), ..Outgoing::new("tools/call", &body, soon()) }).await
}

pub async fn stream_of(peer: &Peer, tool: &str, arguments: &Value) -> MessageStream {
    match call(peer, tool, arguments).await.unwrap() {
        Incoming::Stream { stream, .. } => stream,
        Incoming::Json { message, .. } => panic!("answered at once: {}", message.payload_text()),
    }
}

pub async fn listen(peer: &Peer, uris: &[&str]) -> Result<MessageStream, UpstreamError> {
    let listen = Listen { tools: true, prompts: false, resources: false, uris };
    peer.listen(&listen, &[], soon()).await
}

/// The next message, as JSON.
pub async fn next(stream: &mut MessageStream) -> Value {
    let next = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("a message in time");
    value(&next.unwrap().unwrap())
}

pub fn value(message: &Message) -> Value {
    serde_json::from_slice(&message.body).unwrap()
}
