//! What callers that read slowly, never answer, or ask for what they were never given can do to others: nothing.

use std::time::{Duration, Instant};

use portcullis_e2e::{
    asker::Asker,
    eventually,
    http::{self, MODERN, Reply},
    product::{Product, resource},
};
use serde_json::{Value, json};

use super::asked::{Session, heard, house, request};

#[tokio::test]
async fn a_slow_reader_slows_only_its_own_stream() {
    let house = house().await;
    let slow = Session::open(&house.product, &house.tokens[0], json!({})).await;
    let fast = Session::open(&house.product, &house.tokens[1], json!({})).await;
    // Far more than every buffer on the way takes.
    let lines = 20_000;
    let mut unread = slow.call(1, "talk", json!({"lines": lines, "bytes": 4_000})).await;
    unread.message().await.unwrap().expect("it has begun");
    let settled = || async {
        let before = house.asker.said();
        tokio::time::sleep(Duration::from_millis(300)).await;
        (house.asker.said() == before).then_some(before)
    };
    let said = eventually("the server is made to wait", settled).await;
    assert!(said < lines, "nobody held it back");

    let began = Instant::now();
    let mut stream = fast.call(1, "talk", json!({"lines": 500, "bytes": 1_000})).await;
    let mut read = 0;
    loop {
        let (_, message) = stream.message().await.unwrap().expect("an answer");
        if message.get("result").is_some() {
            break;
        }
        read += 1;
    }
    assert_eq!(read, 500, "all of it");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // The slow one's own session is served as well.
    assert_eq!(slow.post(&request(2, "ping", json!({}))).await.message()["result"], json!({}));
    drop(unread);
    house.product.stop().await;
}

#[tokio::test]
async fn a_question_that_is_never_answered_ends_with_its_session() {
    let house = house().await;
    let session = Session::open(&house.product, &house.tokens[0], json!({"elicitation": {}})).await;
    let mut stream = session.call(1, "ask", json!({"times": 1})).await;
    let (_, question) = stream.message().await.unwrap().expect("a question");
    assert_eq!(question["method"], "elicitation/create");
    let ended = http::send("DELETE", &session.url, &session.headers(), "").await.unwrap();
    assert_eq!(ended.status, 204);
    while stream.message().await.unwrap().is_some() {}
    eventually("nothing is left of it", || async {
        let page = http::get(&house.product.page("/metrics"), &[]).await.ok()?.text();
        let left = page.lines().find_map(|l| l.strip_prefix("portcullis_conversations ")?.parse::<u64>().ok())?;
        (left == 0).then_some(())
    })
    .await;
    house.product.stop().await;
}

#[tokio::test]
async fn what_was_never_given_or_may_not_be_seen_is_refused() {
    let house = house().await;
    let session = Session::open(&house.product, &house.tokens[0], json!({})).await;
    for method in ["tools/list", "prompts/list", "resources/list", "resources/templates/list"] {
        for cursor in ["invented", "", "AAAA"] {
            let reply = session.post(&request(1, method, json!({"cursor": cursor}))).await.message();
            assert_eq!(reply["error"]["data"]["code"], "invalid-cursor", "{method} {cursor}: {reply}");
        }
    }
    // A session id is no cursor.
    let reply = session.post(&request(1, "tools/list", json!({"cursor": session.id}))).await.message();
    assert_eq!(reply["error"]["data"]["code"], "invalid-cursor", "{reply}");
    house.product.stop().await;
}

/// A gateway that shows two tools in place of its servers'.
async fn searched() -> (Asker, Product, String) {
    let asker = Asker::start().await.unwrap();
    let spec = json!({"servers": [{"server": "asker", "bareNames": true}], "exposure": "search"});
    let all = [resource("User", "alice", json!({})), asker.resource("asker"), resource("Gateway", "main", spec)];
    let product = Product::start(&all).await.unwrap();
    let token = product.token("user:alice").unwrap().1;
    (asker, product, token)
}

async fn call_tool(product: &Product, token: &str, arguments: &Value, more: Value) -> Reply {
    let outer = json!({"name": "call_tool", "arguments": {"name": "ask", "arguments": arguments}});
    let mut message = http::modern("tools/call", outer);
    message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
    for (name, value) in more.as_object().unwrap() {
        message["params"][name] = value.clone();
    }
    let authorization = format!("Bearer {token}");
    let headers = [
        ("authorization", &*authorization),
        ("mcp-protocol-version", MODERN),
        ("mcp-method", "tools/call"),
        ("mcp-name", "call_tool"),
    ];
    http::post(&product.url("main"), &headers, message.to_string()).await.unwrap()
}

#[tokio::test]
async fn a_tool_that_was_found_is_held_as_if_it_had_been_called_directly() {
    let (asker, product, token) = searched().await;
    let arguments = json!({"who": "found", "times": 2});
    let mut more = json!({});
    for (round, x) in ["red", "green"].iter().enumerate() {
        let asked = call_tool(&product, &token, &arguments, more).await.message();
        let result = &asked["result"];
        assert_eq!(result["resultType"], "input_required", "{asked}");
        let (key, question) = result["inputRequests"].as_object().unwrap().iter().next().unwrap();
        assert_eq!(question["params"]["message"], format!("found {round}"));
        let answer = json!({ (key): {"action": "accept", "content": {"x": x}} });
        more = json!({"inputResponses": answer, "requestState": result["requestState"]});
    }
    // Another inner call is another request.
    let other = call_tool(&product, &token, &json!({"who": "else", "times": 2}), more.clone()).await.message();
    assert_eq!(other["error"]["data"]["code"], "invalid-request-state", "{other}");
    let done = call_tool(&product, &token, &arguments, more).await.message();
    assert_eq!(heard(&done)["heard"], json!(["red", "green"]));
    assert_eq!(asker.runs(), 1);

    // The same on the stream of a client of 2025.
    let session = Session::open(&product, &token, json!({"elicitation": {}})).await;
    let inner = json!({"name": "ask", "arguments": {"who": "old", "times": 1}});
    let mut stream = session.call(1, "call_tool", inner).await;
    let (_, question) = stream.message().await.unwrap().expect("a question");
    assert_eq!(question["params"]["message"], "old 0");
    let result = json!({"action": "accept", "content": {"x": "blue"}});
    session.post(&json!({"jsonrpc": "2.0", "id": question["id"], "result": result})).await;
    let (_, answer) = stream.message().await.unwrap().expect("an answer");
    assert_eq!(heard(&answer)["heard"], json!(["blue"]));
    product.stop().await;
}
