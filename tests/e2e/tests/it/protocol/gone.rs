//! Clients that answer late or never, that go away, and processes that end in between: what becomes of calls then (security
//! decisions 17 to 19).

use std::time::Duration;

use portcullis_e2e::{
    asker::Asker,
    eventually, http,
    product::{Product, resource},
};
use serde_json::{Value, json};

use super::{
    asked::{Session, heard},
    held::{self, answers, call, code, send},
};

struct House {
    asker: Asker,
    product: Product,
    token: String,
}

/// A server whose calls may take so long, behind a gateway with these settings.
async fn house(timeout: &str, settings: Value) -> House {
    let asker = Asker::start().await.unwrap();
    let mut server = asker.resource("asker");
    server["spec"]["traffic"] = json!({"timeout": timeout});
    let gateway = resource("Gateway", "main", json!({"servers": [{"server": "asker", "bareNames": true}]}));
    let all = [resource("User", "alice", json!({})), server, gateway];
    let product = Product::start_with(&all, &[], settings).await.unwrap();
    let token = product.token("user:alice").unwrap().1;
    House { asker, product, token }
}

async fn begin(house: &House, who: &str) -> Value {
    let message = call(json!({"who": who, "times": 1}), json!({}));
    let first = send(&house.product.url("main"), &house.token, &message).await.message();
    assert_eq!(first["result"]["resultType"], "input_required", "{first}");
    first["result"].clone()
}

async fn return_with(house: &House, who: &str, result: &Value) -> http::Reply {
    let message = call(json!({"who": who, "times": 1}), answers(result, "red"));
    send(&house.product.url("main"), &house.token, &message).await
}

#[tokio::test]
async fn whoever_never_answers_is_given_up_in_both_eras() {
    let house = house("30s", json!({"answerWithin": "1s"})).await;
    let session = Session::open(&house.product, &house.token, json!({"elicitation": {}})).await;
    let mut stream = session.call(1, "ask", json!({"who": "old", "times": 1})).await;
    let (_, question) = stream.message().await.unwrap().expect("a question");
    assert_eq!(question["method"], "elicitation/create", "{question}");
    // The client hears that nobody waits any more, and the server that there is no answer.
    let (_, withdrawn) = stream.message().await.unwrap().expect("it is withdrawn");
    assert_eq!(
        (&withdrawn["method"], &withdrawn["params"]["requestId"]),
        (&json!("notifications/cancelled"), &question["id"])
    );
    let (_, answer) = stream.message().await.unwrap().expect("the tool goes on without");
    assert_eq!(heard(&answer)["heard"], json!([{"refused": -32603}]));
    session.answer(&question, "late").await;

    // A client of 2026 does not come back: the call ends at its server, and its outcome stays unknown.
    let result = begin(&house, "new").await;
    // Its server sees the stream close, or hears first that there is no answer.
    eventually("the call is given up", || async {
        let page = http::get(&house.product.page("/metrics"), &[]).await.ok()?.text();
        let held = page.lines().find_map(|l| l.strip_prefix("portcullis_held_calls "));
        let unanswered =
            page.lines().find_map(|l| l.strip_prefix("portcullis_questions_total{outcome=\"unanswered\"} "));
        (held == Some("0") && unanswered == Some("2")).then_some(())
    })
    .await;
    let late = return_with(&house, "new", &result).await;
    assert_eq!(code(&late), "invalid-request-state", "it has expired: {}", late.text());
    assert_eq!(house.asker.runs(), 2, "and nothing ran again");
    house.product.stop().await;
}

#[tokio::test]
async fn the_time_of_a_person_is_not_the_servers() {
    let house = house("3s", json!({})).await;
    let result = begin(&house, "new").await;
    let session = Session::open(&house.product, &house.token, json!({"elicitation": {}})).await;
    let mut stream = session.call(1, "ask", json!({"who": "old", "times": 1})).await;
    let (_, question) = stream.message().await.unwrap().expect("a question");
    // Longer than the server may take.
    let more = tokio::time::timeout(Duration::from_millis(3_800), stream.message()).await;
    assert!(more.is_err(), "it is neither withdrawn nor over: {more:?}");
    assert_eq!(house.asker.dropped(), 0);
    session.answer(&question, "red").await;
    let (_, answer) = stream.message().await.unwrap().expect("an answer");
    assert_eq!(heard(&answer)["heard"], json!(["red"]));
    assert_eq!(held::heard(&return_with(&house, "new", &result).await)["heard"], json!(["red"]));
    house.product.stop().await;
}

#[tokio::test]
async fn a_call_of_2025_outlives_its_connection_until_its_deadline_and_one_of_2026_does_not() {
    let house = house("2s", json!({})).await;
    let session = Session::open(&house.product, &house.token, json!({})).await;
    let mut stream = session.call(1, "wait", json!({})).await;
    let primed = stream.event().await.unwrap().unwrap().id.unwrap();
    drop(stream);
    let mut resumed = session.stream("GET", &[("last-event-id", &primed)], &Value::Null).await;
    assert_eq!(resumed.message().await.unwrap().unwrap().1["method"], "notifications/message");
    assert_eq!(house.asker.dropped(), 0, "it goes on");
    let (_, answer) = resumed.message().await.unwrap().expect("an end");
    assert_eq!(answer["result"]["_meta"]["portcullis.dev/fault"]["code"], "server-timeout", "{answer}");
    eventually("its server is let go", || async { (house.asker.dropped() == 1).then_some(()) }).await;
    house.product.stop().await;

    // Long enough that only its client can have ended it.
    let house = self::house("10m", json!({})).await;
    let (url, token) = (house.product.url("main"), house.token.clone());
    let mut wait = call(json!({}), json!({}));
    wait["params"]["name"] = json!("wait");
    let modern = tokio::spawn(async move {
        let authorization = format!("Bearer {token}");
        let headers = [
            ("authorization", &*authorization),
            ("mcp-protocol-version", http::MODERN),
            ("mcp-method", "tools/call"),
            ("mcp-name", "wait"),
        ];
        http::post(&url, &headers, wait.to_string()).await
    });
    eventually("it runs", || async { (house.asker.runs() == 1).then_some(()) }).await;
    modern.abort();
    eventually("it is cancelled", || async { (house.asker.dropped() == 1).then_some(()) }).await;
    house.product.stop().await;
}

#[tokio::test]
async fn a_session_outlives_the_process_and_what_it_held_does_not() {
    let mut house = house("30s", json!({})).await;
    let session = Session::open(&house.product, &house.token, json!({"elicitation": {}})).await;
    let mut stream = session.call(1, "ask", json!({"who": "old", "times": 1})).await;
    let (event, question) = stream.message().await.unwrap().expect("a question");
    house.product.kill().await;
    house.product.launch().await.unwrap();

    // All that the session has to say is in its id.
    let ping = json!({"jsonrpc": "2.0", "id": 2, "method": "ping", "params": {}});
    assert_eq!(session.post(&ping).await.message()["result"], json!({}));
    // Streams and questions were the process's own.
    let gone = session.stream("GET", &[("last-event-id", &event.unwrap())], &Value::Null).await;
    assert_eq!(gone.status, 400);
    assert_eq!(gone.json().await.unwrap()["error"]["data"]["code"], "unknown-event");
    session.answer(&question, "too late").await;
    assert_eq!(house.asker.runs(), 1, "nothing ran again");
    let mut stream = session.call(3, "ask", json!({"who": "again", "times": 1})).await;
    let (_, question) = stream.message().await.unwrap().expect("a question");
    session.answer(&question, "red").await;
    assert_eq!(heard(&stream.message().await.unwrap().expect("an answer").1)["heard"], json!(["red"]));
    house.product.stop().await;
}

#[tokio::test]
async fn calls_that_wait_for_a_person_do_not_hold_up_a_stop() {
    let house = house("30s", json!({"drain": "60s"})).await;
    begin(&house, "new").await;
    let session = Session::open(&house.product, &house.token, json!({"elicitation": {}})).await;
    let mut stream = session.call(1, "ask", json!({"who": "old", "times": 1})).await;
    stream.message().await.unwrap().expect("a question");
    let House { asker, product, .. } = house;
    // It waits for less than the time to drain, or fails.
    product.stop().await;
    while let Ok(Some(_)) = stream.message().await {}
    eventually("both are over at the server", || async { (asker.dropped() == 2).then_some(()) }).await;
    assert_eq!(asker.runs(), 2);
}
