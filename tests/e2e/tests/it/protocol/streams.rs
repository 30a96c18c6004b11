//! Streams of clients: GET and resumption in 2025, `subscriptions/listen` in 2026.

use portcullis_e2e::{
    asker::Asker,
    events::Events,
    eventually,
    http::{self, MODERN},
    product::{Product, resource},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::asked::{House, Session, heard, house, request};

#[tokio::test]
async fn a_call_goes_on_when_its_stream_breaks_and_its_session_resumes_it() {
    let house = house().await;
    let session = Session::open(&house.product, &house.tokens[0], json!({})).await;
    let other = Session::open(&house.product, &house.tokens[0], json!({})).await;
    let mut stream = session.call(1, "wait", json!({})).await;
    let primed = stream.event().await.unwrap().unwrap();
    assert!(primed.id.is_some() && primed.data.is_empty() && primed.retry.is_some(), "{primed:?}");
    let (first, note) = stream.message().await.unwrap().unwrap();
    assert_eq!(note["method"], "notifications/message");
    drop(stream);
    house.asker.go();

    let first = first.unwrap();
    for (whose, last) in [(&other, &*first), (&session, "nonsense"), (&session, "AAAAAAAA.1-1")] {
        let refused = whose.stream("GET", &[("last-event-id", last)], &Value::Null).await;
        assert_eq!(refused.status, 400, "{last}");
        assert_eq!(refused.json().await.unwrap()["error"]["data"]["code"], "unknown-event");
    }
    let mut resumed = session.stream("GET", &[("last-event-id", &first)], &Value::Null).await;
    assert_eq!(resumed.status, 200);
    let (last, answer) = resumed.message().await.unwrap().unwrap();
    assert_eq!((&answer["id"], &heard(&answer)["heard"]), (&json!(1), &json!(["done"])));
    assert!(resumed.message().await.unwrap().is_none());
    // From the very beginning, once more; and after the end there is nothing.
    let mut again = session.stream("GET", &[("last-event-id", primed.id.as_deref().unwrap())], &Value::Null).await;
    assert_eq!(again.message().await.unwrap().unwrap().1, note);
    assert_eq!(again.message().await.unwrap().unwrap().1, answer);
    let mut nothing = session.stream("GET", &[("last-event-id", &last.unwrap())], &Value::Null).await;
    assert!(nothing.message().await.unwrap().is_none());
    assert_eq!(house.asker.runs(), 1);
    house.product.stop().await;
}

#[tokio::test]
async fn a_session_hears_of_changes_until_it_ends() {
    let house = house().await;
    let session = Session::open(&house.product, &house.tokens[0], json!({})).await;
    let mut stream = session.stream("GET", &[], &Value::Null).await;
    assert_eq!(stream.status, 200);
    assert_eq!(stream.headers["x-accel-buffering"], "no");
    assert!(stream.event().await.unwrap().unwrap().data.is_empty(), "primed");
    change(&house);
    let (_, told) = stream.message().await.unwrap().unwrap();
    assert!(told["method"].as_str().unwrap().ends_with("/list_changed"), "{told}");

    // Another GET takes the stream over.
    let mut second = session.stream("GET", &[], &Value::Null).await;
    while stream.message().await.unwrap().is_some() {}
    assert!(second.event().await.unwrap().unwrap().data.is_empty());

    let refused = session.stream("GET", &[("accept", "application/json")], &Value::Null).await;
    assert_eq!(refused.status, 406);
    let bob = Session {
        authorization: format!("Bearer {}", house.tokens[1]),
        ..Session { url: session.url.clone(), authorization: String::new(), id: session.id.clone() }
    };
    assert_eq!(bob.stream("GET", &[], &Value::Null).await.status, 404, "somebody else's session");
    let ended = http::send("DELETE", &session.url, &session.headers(), "").await.unwrap();
    assert_eq!(ended.status, 204);
    while second.message().await.unwrap().is_some() {}
    assert_eq!(session.stream("GET", &[], &Value::Null).await.status, 404);
    house.product.stop().await;
}

/// Changes what the gateway offers.
fn change(house: &House) {
    let servers = json!({"servers": [{"server": "asker", "bareNames": true, "exclude": ["wait"]}]});
    let all = [
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        house.asker.resource("asker"),
        resource("Gateway", "main", servers),
    ];
    house.product.write("resources.yaml", &all).unwrap();
}

#[tokio::test]
async fn a_modern_client_hears_what_it_asked_for_and_nothing_else() {
    let house = house().await;
    let url = house.product.url("main");
    let authorization = format!("Bearer {}", house.tokens[0]);
    let headers =
        [("authorization", &*authorization), ("mcp-protocol-version", MODERN), ("mcp-method", "subscriptions/listen")];
    let listen = |filter: Value| {
        let mut message = http::modern("subscriptions/listen", json!({"notifications": filter}));
        message["id"] = json!("sub-1");
        message.to_string()
    };
    let mut stream = Events::open("POST", &url, &headers, listen(json!({"toolsListChanged": true}))).await.unwrap();
    let (_, first) = stream.message().await.unwrap().unwrap();
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(first["params"]["notifications"], json!({"toolsListChanged": true}));
    let tag = "io.modelcontextprotocol/subscriptionId";
    assert_eq!(first["params"]["_meta"][tag], "sub-1");
    change(&house);
    let (_, told) = stream.message().await.unwrap().unwrap();
    assert_eq!(
        (&told["method"], &told["params"]["_meta"][tag]),
        (&json!("notifications/tools/list_changed"), &json!("sub-1"))
    );

    let unknown = Events::open("POST", &url, &headers, listen(json!({"resourceSubscriptions": ["file:///nowhere"]})));
    let refused = unknown.await.unwrap();
    assert!(refused.json().await.unwrap()["error"].is_object(), "a resource that is not there");
    let wrong = Events::open("POST", &url, &headers, listen(json!({"toolsListChanged": "yes"}))).await.unwrap();
    assert_eq!(wrong.json().await.unwrap()["error"]["code"], -32602);
    drop(stream);
    let legacy = Session::open(&house.product, &house.tokens[0], json!({})).await;
    let level = |level: &str| request(9, "logging/setLevel", json!({"level": level}));
    assert_eq!(legacy.post(&level("warning")).await.message()["result"], json!({}));
    assert_eq!(legacy.post(&level("loud")).await.message()["error"]["code"], -32602);
    house.product.stop().await;
}

/// A GET of a stream, as bytes of which so many are read before the connection is cut.
async fn cut(session: &Session, last: &str, at: usize) -> String {
    let address = session.url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let headers: String =
        session.headers().iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<Vec<_>>().concat();
    let request = format!(
        "GET /{} HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\nconnection: close\r\nlast-event-id: {last}\r\n{headers}\r\n",
        address.1, address.0
    );
    let mut stream = TcpStream::connect(address.0).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    stream.take(at as u64).read_to_end(&mut read).await.unwrap();
    String::from_utf8_lossy(&read).into_owned()
}

/// The ids of the events that came whole.
fn whole(text: &str) -> Vec<String> {
    let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
    whole.lines().filter_map(|l| l.strip_prefix("id: ")).map(|id| id.trim().to_owned()).collect()
}

#[tokio::test]
async fn a_stream_that_is_cut_at_any_byte_is_resumed_without_loss_or_repetition() {
    let house = house().await;
    let session = Session::open(&house.product, &house.tokens[0], json!({})).await;
    let mut stream = session.call(1, "talk", json!({"lines": 2, "bytes": 3})).await;
    let first = stream.event().await.unwrap().unwrap().id.unwrap();
    let mut all = Vec::new();
    while let Some(event) = stream.event().await.unwrap() {
        all.push(event.id.unwrap());
    }
    assert_eq!(all.len(), 3, "two lines and the answer");
    let uncut = cut(&session, &first, usize::MAX).await;
    assert_eq!(whole(&uncut), all);
    for at in 0..uncut.len() {
        let got = whole(&cut(&session, &first, at).await);
        let last = got.last().unwrap_or(&first);
        let rest = whole(&cut(&session, last, usize::MAX).await);
        assert_eq!([got.clone(), rest].concat(), all, "cut at {at}");
    }
    assert_eq!(house.asker.runs(), 1);
    house.product.stop().await;
}

#[tokio::test]
async fn a_caller_has_so_many_streams_and_another_one_its_own() {
    let asker = Asker::start().await.unwrap();
    let all = [
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        asker.resource("asker"),
        resource("Gateway", "main", json!({"servers": [{"server": "asker"}]})),
    ];
    let product = Product::start_with(&all, &[], json!({"maxStreamsPerCaller": 2})).await.unwrap();
    let (alice, bob) = (product.token("user:alice").unwrap().1, product.token("user:bob").unwrap().1);
    let url = product.url("main");
    let listen = async |token: &str| {
        let authorization = format!("Bearer {token}");
        let headers = [
            ("authorization", &*authorization),
            ("mcp-protocol-version", MODERN),
            ("mcp-method", "subscriptions/listen"),
        ];
        let message = http::modern("subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}));
        Events::open("POST", &url, &headers, message.to_string()).await.unwrap()
    };
    let is_stream = |events: &Events| events.headers["content-type"].as_bytes().starts_with(b"text/event-stream");
    let (first, second) = (listen(&alice).await, listen(&alice).await);
    assert!(is_stream(&first) && is_stream(&second));
    let refused = listen(&alice).await;
    assert!(!is_stream(&refused));
    let refused = refused.json().await.unwrap();
    assert_eq!(refused["error"]["data"]["code"], "overloaded", "{refused}");
    assert!(refused["error"]["data"]["next"].as_str().unwrap().contains("maxStreamsPerCaller"), "{refused}");
    assert!(is_stream(&listen(&bob).await), "nobody else pays");
    drop(first);
    eventually("there is room again", || async { is_stream(&listen(&alice).await).then_some(()) }).await;
    drop(second);
    product.stop().await;
}
