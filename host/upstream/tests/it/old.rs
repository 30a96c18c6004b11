//! Servers of 2024-11-05, over HTTP+SSE: honest ones, and those that send us elsewhere or break off.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use portcullis_upstream::{Incoming, Outgoing, Params, Peer, Sent, UpstreamError};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    fixture::{eventually, pool},
    talk::{ask, event, listen, next, note, peer, soon},
};

#[derive(Default)]
struct Old {
    /// What the `endpoint` event says; the right address where there is nothing.
    endpoint: Option<String>,
    streams: AtomicUsize,
    seen: Mutex<Vec<Value>>,
    credentials: Mutex<Vec<String>>,
    out: Mutex<Option<mpsc::Sender<String>>>,
}

impl Old {
    async fn start(self) -> (Arc<Self>, String) {
        let server = Arc::new(self);
        let app = Router::new()
            .route("/sse", get(stream).post(|| async { StatusCode::NOT_FOUND }))
            .route("/message", post(message))
            .with_state(server.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/sse", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (server, url)
    }

    fn say(&self, text: String) {
        self.out.lock().unwrap().as_ref().unwrap().try_send(text).unwrap();
    }

    fn cut(&self) {
        *self.out.lock().unwrap() = None;
    }

    fn count(&self, matches: impl Fn(&Value) -> bool) -> usize {
        self.seen.lock().unwrap().iter().filter(|m| matches(m)).count()
    }
}

async fn stream(State(server): State<Arc<Old>>) -> Response {
    let n = server.streams.fetch_add(1, Ordering::Relaxed);
    let (out, lines) = mpsc::channel::<String>(1_000);
    let endpoint = server.endpoint.clone().unwrap_or_else(|| format!("/message?sessionId={n}"));
    out.try_send(format!(": hi\n\nevent: endpoint\ndata: {endpoint}\n\n")).unwrap();
    *server.out.lock().unwrap() = Some(out);
    let body = futures_util::stream::unfold(lines, |mut lines| async {
        lines.recv().await.map(|text| (Ok::<_, std::io::Error>(text), lines))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(body)).into_response()
}

async fn message(State(server): State<Arc<Old>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let message: Value = serde_json::from_slice(&body).unwrap();
    let credential = headers.get("authorization").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    server.credentials.lock().unwrap().push(credential);
    server.seen.lock().unwrap().push(message.clone());
    let id = &message["id"];
    let result = |result: Value| event(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
    match message["method"].as_str().unwrap_or_default() {
        "initialize" => server.say(result(json!({"protocolVersion": "2024-11-05", "capabilities": {"tools": {}}}))),
        "tools/call" => match message["params"]["name"].as_str().unwrap() {
            "echo" => server.say(result(message["params"]["arguments"].clone())),
            "ask" => server.say(event(&ask("q", "roots/list"))),
            "cut" => server.cut(),
            "forgotten" => return StatusCode::NOT_FOUND,
            _ => {}
        },
        "resources/subscribe" => server.say(result(json!({}))),
        // The client's answer ends the call that asked.
        "" if id == "q" => {
            let call = server.seen.lock().unwrap().iter().rfind(|m| m["method"] == "tools/call").unwrap()["id"].clone();
            server.say(event(&json!({"jsonrpc": "2.0", "id": call, "result": {"answered": message["result"]}})));
        }
        _ => {}
    }
    StatusCode::ACCEPTED
}

async fn call(peer: &Peer, tool: &str) -> Result<Incoming, UpstreamError> {
    let members = format!(r#""name":"{tool}","arguments":{{"n":1.10}}"#);
    let body = Params { method: "tools/call", members: &members };
    let headers = [(http::header::AUTHORIZATION, http::HeaderValue::from_static("Bearer x"))];
    peer.send(Outgoing { headers: &headers, ..Outgoing::new("tools/call", &body, soon()) }).await
}

async fn echo(peer: &Peer) -> String {
    match call(peer, "echo").await.unwrap() {
        Incoming::Json { message, .. } => message.payload_text().to_owned(),
        Incoming::Stream { .. } => panic!("a stream"),
    }
}

#[tokio::test]
async fn an_old_server_is_found_and_remembered() {
    let (server, url) = Old::default().start().await;
    let pool = pool();
    let shared = peer(&pool, &url, None);
    for _ in 0..3 {
        assert_eq!(echo(&shared).await, r#"{"n":1.1}"#);
    }
    assert_eq!((server.streams.load(Ordering::Relaxed), server.count(|m| m["method"] == "initialize")), (1, 1));
    assert!(server.credentials.lock().unwrap().iter().skip(1).all(|c| c == "Bearer x"));
    let mut heard = listen(&shared, &["a"]).await.unwrap();
    server.say(event(&note("notifications/resources/updated", &json!({"uri": "a"}))));
    assert_eq!(next(&mut heard).await["params"]["uri"], "a");
    server.cut();
    eventually("the stream is opened again for its listener", || server.streams.load(Ordering::Relaxed) == 2).await;
    eventually("and subscribed to again", || server.count(|m| m["method"] == "resources/subscribe") == 2).await;
    assert_eq!(echo(&shared).await, r#"{"n":1.1}"#);
}

#[tokio::test]
async fn an_old_server_asks_its_conversation() {
    let (server, url) = Old::default().start().await;
    let pool = pool();
    let own = peer(&pool, &url, Some(("c", r#"{"roots":{}}"#)));
    let Incoming::Stream { mut stream, .. } = call(&own, "ask").await.unwrap() else { panic!("not asked") };
    assert_eq!(next(&mut stream).await["id"], "q");
    own.reply(json!({"jsonrpc": "2.0", "id": "q", "result": {"roots": []}}).to_string().into(), &[], soon())
        .await
        .unwrap();
    assert_eq!(next(&mut stream).await["result"]["answered"]["roots"], json!([]));
    assert_eq!(server.count(|m| m["params"]["capabilities"]["roots"].is_object()), 1);
}

#[tokio::test]
async fn a_call_whose_stream_breaks_may_have_been_carried_out() {
    let (server, url) = Old::default().start().await;
    let pool = pool();
    let shared = peer(&pool, &url, None);
    for (tool, streams) in [("cut", 1), ("forgotten", 2)] {
        echo(&shared).await;
        assert_eq!(server.streams.load(Ordering::Relaxed), streams);
        let error = call(&shared, tool).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Closed { sent: Sent::Maybe }), "{tool}: {error}");
    }
    assert_eq!(echo(&shared).await, r#"{"n":1.1}"#);
    let sent = server.count(|m| m["params"]["name"] == "cut");
    assert_eq!(sent, 1, "it is not sent again");
}

/// A credential goes where the registry says, and nowhere else.
#[tokio::test]
async fn an_address_elsewhere_is_refused() {
    for endpoint in
        ["http://127.0.0.1:1/message", "//example.com/message", "https://example.com/", "ftp://127.0.0.1/message"]
    {
        let (server, url) = Old { endpoint: Some(endpoint.to_owned()), ..Old::default() }.start().await;
        let pool = pool();
        let shared = peer(&pool, &url, None);
        let error = tokio::time::timeout(Duration::from_secs(5), call(&shared, "echo")).await.unwrap().unwrap_err();
        assert!(matches!(error, UpstreamError::Status { code: 404, .. }), "{endpoint}: {error}");
        assert_eq!(server.seen.lock().unwrap().len(), 0);
    }
}
