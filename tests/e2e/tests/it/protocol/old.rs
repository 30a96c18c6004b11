//! Clients of 2024-11-05, over HTTP with SSE: one stream for everything, bound to its caller, gone with its connection.

use portcullis_e2e::{
    driver::{Driver, Sdk, text},
    events::Events,
    eventually,
    http::{self, MODERN},
};
use serde_json::{Value, json};

use super::asked::{House, heard, house, request};

/// An open stream, and where to POST.
struct Old {
    stream: Events,
    endpoint: String,
    authorization: String,
}

impl Old {
    async fn open(house: &House, path: &str, token: &str) -> Self {
        let authorization = format!("Bearer {token}");
        let headers = [("authorization", &*authorization), ("accept", "text/event-stream")];
        let mut stream = Events::open("GET", &house.product.page(path), &headers, String::new()).await.unwrap();
        assert_eq!(stream.status, 200, "{path}");
        let first = stream.event().await.unwrap().unwrap();
        assert_eq!(first.kind.as_deref(), Some("endpoint"), "{first:?}");
        assert!(first.data.starts_with("/mcp/main/messages?session="), "{first:?}");
        Self { stream, endpoint: house.product.page(&first.data), authorization }
    }

    async fn post(&self, message: &Value) -> http::Reply {
        http::post(&self.endpoint, &[("authorization", &self.authorization)], message.to_string()).await.unwrap()
    }

    async fn hello(&mut self, capabilities: Value) -> Value {
        let params = json!({"protocolVersion": "2025-06-18", "capabilities": capabilities,
            "clientInfo": {"name": "t", "version": "1"}});
        let accepted = self.post(&request(0, "initialize", params)).await;
        assert_eq!((accepted.status.as_u16(), accepted.body.len()), (202, 0), "the answer comes on the stream");
        let hello = self.message().await;
        self.post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        hello
    }

    /// The next message that is no change of a list, of which there may be one while servers are still found out about.
    async fn message(&mut self) -> Value {
        loop {
            let (_, message) = self.stream.message().await.unwrap().expect("a message");
            if !message["method"].as_str().is_some_and(|m| m.ends_with("/list_changed")) {
                return message;
            }
        }
    }
}

#[tokio::test]
async fn one_stream_carries_answers_questions_and_changes() {
    let house = house().await;
    for path in ["/mcp/main", "/mcp/main/sse"] {
        let mut old = Old::open(&house, path, &house.tokens[0]).await;
        let hello = old.hello(json!({"sampling": {}, "elicitation": {}})).await;
        assert_eq!((&hello["id"], &hello["result"]["protocolVersion"]), (&json!(0), &json!("2024-11-05")));
        old.post(&request(1, "tools/list", json!({}))).await;
        let list = old.message().await;
        assert_eq!((&list["id"], list["result"]["tools"].as_array().map(Vec::len)), (&json!(1), Some(4)), "{list}");

        let by_sample = json!({"who": "old", "times": 1, "by": "sample"});
        old.post(&request(2, "tools/call", json!({"name": "ask", "arguments": by_sample}))).await;
        let question = old.message().await;
        let said = &question["params"]["messages"][0]["content"]["text"];
        assert_eq!((&question["method"], said), (&json!("sampling/createMessage"), &json!("old 0")));
        // Another call goes on beside it.
        old.post(&request(3, "ping", json!({}))).await;
        assert_eq!(old.message().await["id"], 3);
        let content = json!({"type": "text", "text": "green"});
        let result = json!({"role": "assistant", "model": "none", "content": content});
        old.post(&json!({"jsonrpc": "2.0", "id": question["id"], "result": result})).await;
        let answer = old.message().await;
        assert_eq!((&answer["id"], &heard(&answer)["heard"]), (&json!(2), &json!(["green"])));
        // That revision has no forms, whatever the client says.
        old.post(&request(4, "tools/call", json!({"name": "ask", "arguments": {"who": "old", "times": 1}}))).await;
        assert_eq!(heard(&old.message().await)["heard"], json!([{"refused": -32601}]));
    }
    house.product.stop().await;
}

#[tokio::test]
async fn the_stream_and_the_place_to_post_to_are_the_callers_own() {
    let house = house().await;
    let mut old = Old::open(&house, "/mcp/main", &house.tokens[0]).await;
    old.hello(json!({})).await;
    let ping = request(1, "ping", json!({}));
    let status = |headers: Vec<(&'static str, String)>, endpoint: String, body: String| async move {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, &**v)).collect();
        http::post(&endpoint, &headers, body).await.unwrap().status.as_u16()
    };
    let (mine, bobs) = (old.authorization.clone(), format!("Bearer {}", house.tokens[1]));
    let own = |value: &str| vec![("authorization", value.to_owned())];
    assert_eq!(status(own(&bobs), old.endpoint.clone(), ping.to_string()).await, 404, "somebody else's");
    assert_eq!(status(vec![], old.endpoint.clone(), ping.to_string()).await, 401, "nobody's");
    let forged = format!("{}AAAA", old.endpoint);
    assert_eq!(status(own(&mine), forged, ping.to_string()).await, 404, "changed");
    let none = house.product.page("/mcp/main/messages");
    assert_eq!(status(own(&mine), none, ping.to_string()).await, 400, "no session");
    assert_eq!(status(own(&mine), old.endpoint.clone(), "{".to_owned()).await, 400, "no message");
    let mut modern = own(&mine);
    modern.extend([("mcp-protocol-version", MODERN.to_owned()), ("mcp-method", "tools/list".to_owned())]);
    let list = http::modern("tools/list", json!({})).to_string();
    assert_eq!(status(modern, old.endpoint.clone(), list).await, 400, "another era's");
    // A session of another kind has no such place, and this one none of the others'.
    let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-11-25",
        "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
    let other = http::post(&house.product.url("main"), &[("authorization", &mine)], hello.to_string()).await.unwrap();
    let id = other.headers["mcp-session-id"].to_str().unwrap();
    let crossed = format!("{}?session={id}", house.product.page("/mcp/main/messages"));
    assert_eq!(status(own(&mine), crossed, ping.to_string()).await, 404);
    for (method, path, wanted) in [
        ("POST", "/mcp/main/sse", 405),
        ("DELETE", "/mcp/main/sse", 405),
        ("GET", "/mcp/main/messages", 405),
        ("GET", "/mcp/nobody/sse", 404),
        ("GET", "/mcp/main/else", 404),
    ] {
        let headers = [("authorization", &*mine), ("accept", "text/event-stream")];
        let reply = http::send(method, &house.product.page(path), &headers, "").await.unwrap();
        assert_eq!(reply.status.as_u16(), wanted, "{method} {path}");
    }
    let later = [("authorization", &*mine), ("accept", "text/event-stream"), ("mcp-protocol-version", MODERN)];
    let refused = http::send("GET", &house.product.url("main"), &later, "").await.unwrap();
    assert_eq!(refused.status, 405, "2026-07-28 has no GET");
    // Without its stream the session is over.
    assert_eq!(status(own(&mine), old.endpoint.clone(), ping.to_string()).await, 202);
    assert_eq!(old.message().await["id"], 1);
    let Old { stream, endpoint, .. } = old;
    drop(stream);
    eventually("the session ends with its stream", || async {
        (status(own(&mine), endpoint.clone(), ping.to_string()).await == 404).then_some(())
    })
    .await;
    house.product.stop().await;
}

#[tokio::test]
async fn a_session_has_so_much_under_way_and_cancels_what_it_likes() {
    let house = house().await;
    let mut old = Old::open(&house, "/mcp/main", &house.tokens[0]).await;
    old.hello(json!({})).await;
    let mut taken = 0;
    for id in 1..=200 {
        let reply = old.post(&request(id, "tools/call", json!({"name": "wait", "arguments": {}}))).await;
        if reply.status != 202 {
            assert_eq!((reply.status.as_u16(), &reply.message()["error"]["data"]["code"]), (503, &json!("overloaded")));
            break;
        }
        taken += 1;
    }
    assert_eq!(taken, 64);
    // What cancels needs no place.
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    assert_eq!(old.post(&cancel).await.status, 202);
    eventually("there is a place again", || async {
        (old.post(&request(300, "ping", json!({}))).await.status == 202).then_some(())
    })
    .await;
    house.product.stop().await;
}

#[tokio::test]
async fn real_old_clients_are_served() {
    let house = house().await;
    for sdk in [Sdk::Python, Sdk::Node] {
        let mut client =
            Driver::over_sse(sdk, &house.product.page("/mcp/main/sse"), Some(&house.tokens[0])).await.unwrap();
        assert_eq!(client.version, "2024-11-05", "{sdk:?}");
        assert_eq!(client.names().await.unwrap(), ["ask", "page", "talk", "wait"], "{sdk:?}");
        let answer = client.call("ask", json!({"who": "old", "times": 2, "by": "sample"})).await.unwrap();
        let sample = "a sample of the client";
        assert_eq!(text(&answer).matches(sample).count(), 2, "{sdk:?}: {answer}");
        client.close().await.unwrap();
    }
    assert_eq!(house.asker.runs(), 2);
    house.product.stop().await;
}
