//! A modern client, and a server of 2025 that asks in the middle of a call: the call is held. Each line of security
//! decision 19 is a test, and none of them may run the tool twice.

use portcullis_e2e::{
    asker::Asker,
    events::Events,
    eventually,
    http::{self, MODERN, Reply},
    product::{Product, resource},
};
use serde_json::{Value, json};

use super::asked::Session;

struct House {
    asker: Asker,
    product: Product,
    alice: String,
    alice_id: String,
    bob: String,
}

async fn house() -> House {
    let asker = Asker::start().await.unwrap();
    let gateway = |name: &str| resource("Gateway", name, json!({"servers": [{"server": "asker", "bareNames": true}]}));
    let product = Product::start(&[
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        asker.resource("asker"),
        gateway("main"),
        gateway("other"),
    ])
    .await
    .unwrap();
    let (alice_id, alice) = product.token("user:alice").unwrap();
    let bob = product.token("user:bob").unwrap().1;
    House { asker, product, alice, alice_id, bob }
}

/// A call of `ask` as it is made, with what a retry adds.
pub fn call(arguments: Value, more: Value) -> Value {
    let mut message = http::modern("tools/call", json!({"name": "ask", "arguments": arguments}));
    message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
    for (name, value) in more.as_object().unwrap() {
        message["params"][name] = value.clone();
    }
    message
}

pub async fn send(url: &str, token: &str, message: &Value) -> Reply {
    let authorization = format!("Bearer {token}");
    let headers = [
        ("authorization", &*authorization),
        ("mcp-protocol-version", MODERN),
        ("mcp-method", "tools/call"),
        ("mcp-name", "ask"),
    ];
    http::post(url, &headers, message.to_string()).await.unwrap()
}

/// What a retry says: these answers to the questions of a result.
pub fn answers(result: &Value, x: &str) -> Value {
    let requests = result["inputRequests"].as_object().expect("questions");
    let responses: serde_json::Map<String, Value> =
        requests.keys().map(|key| (key.clone(), json!({"action": "accept", "content": {"x": x}}))).collect();
    json!({"inputResponses": responses, "requestState": result["requestState"]})
}

pub fn heard(reply: &Reply) -> Value {
    let message = reply.message();
    let text = message["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{message}")).to_owned();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// The fault's code of an answer, wherever it stands.
pub fn code(reply: &Reply) -> String {
    let message = reply.message();
    let fault = &message["result"]["_meta"]["portcullis.dev/fault"];
    let data = if fault.is_null() { &message["error"]["data"] } else { fault };
    data["code"].as_str().unwrap_or_else(|| panic!("no fault in {message}")).to_owned()
}

#[tokio::test]
async fn several_rounds_run_the_tool_once() {
    let house = house().await;
    let url = house.product.url("main");
    let arguments = json!({"who": "alice", "times": 2});
    let first = send(&url, &house.alice, &call(arguments.clone(), json!({}))).await.message();
    let result = &first["result"];
    assert_eq!(result["resultType"], "input_required", "{first}");
    let request = &result["inputRequests"]["1"];
    assert_eq!((&request["method"], &request["params"]["message"]), (&json!("elicitation/create"), &json!("alice 0")));

    // Without the answer it is asked again.
    let nothing = json!({"inputResponses": {}, "requestState": result["requestState"]});
    let again = send(&url, &house.alice, &call(arguments.clone(), nothing)).await.message();
    assert_eq!(again["result"]["inputRequests"], result["inputRequests"]);

    let answer = call(arguments.clone(), answers(&again["result"], "red"));
    let second = send(&url, &house.alice, &answer).await.message();
    assert_eq!(second["result"]["inputRequests"]["2"]["params"]["message"], "alice 1", "{second}");

    // The same answer again gets the same result, under its own id.
    let mut twice = answer.clone();
    twice["id"] = json!("again");
    let repeated = send(&url, &house.alice, &twice).await.message();
    assert_eq!((&repeated["result"], &repeated["id"]), (&second["result"], &json!("again")));
    // Another answer to a question that was answered is refused.
    let other = call(arguments.clone(), answers(&again["result"], "blue"));
    assert_eq!(code(&send(&url, &house.alice, &other).await), "request-state-used");

    let last = call(arguments.clone(), answers(&second["result"], "green"));
    let done = send(&url, &house.alice, &last).await;
    assert_eq!(heard(&done)["heard"], json!(["red", "green"]));
    assert_eq!(done.message()["result"]["resultType"], "complete");
    let told_again = send(&url, &house.alice, &last).await;
    assert_eq!(told_again.message()["result"], done.message()["result"], "also the last one");
    // What is older than that is answered by nobody any more.
    let old = send(&url, &house.alice, &answer).await;
    assert!(matches!(&*code(&old), "outcome-unknown" | "request-state-used"));
    assert_eq!(house.asker.runs(), 1);
    house.product.stop().await;
}

#[tokio::test]
async fn a_state_is_for_one_caller_one_gateway_and_one_request() {
    let house = house().await;
    let url = house.product.url("main");
    let arguments = json!({"who": "alice", "times": 1});
    let first = send(&url, &house.alice, &call(arguments.clone(), json!({}))).await.message();
    let right = answers(&first["result"], "red");
    let refused = |reply: Reply, what: &str| {
        let message = reply.message();
        assert_eq!(message["error"]["code"], -32602, "{what}: {message}");
        assert_eq!(code(&reply), "invalid-request-state", "{what}");
    };
    let mut tampered = right.clone();
    let state = right["requestState"].as_str().unwrap();
    let (head, tail) = state.split_at(state.len() / 2);
    let flipped = if tail.starts_with('A') { "B" } else { "A" };
    tampered["requestState"] = json!(format!("{head}{flipped}{}", &tail[1..]));
    refused(send(&url, &house.alice, &call(arguments.clone(), tampered)).await, "tampered");
    refused(send(&url, &house.bob, &call(arguments.clone(), right.clone())).await, "somebody else's");
    refused(
        send(&house.product.url("other"), &house.alice, &call(arguments.clone(), right.clone())).await,
        "elsewhere",
    );
    let changed = json!({"who": "mallory", "times": 1});
    refused(send(&url, &house.alice, &call(changed, right.clone())).await, "other arguments");
    assert_eq!(house.asker.runs(), 1, "none of them ran it");
    // The order of keys is no other request.
    let reordered = json!({"times": 1, "who": "alice"});
    assert_eq!(heard(&send(&url, &house.alice, &call(reordered, right)).await)["heard"], json!(["red"]));
    house.product.stop().await;
}

#[tokio::test]
async fn whoever_may_not_call_any_more_does_not_go_on() {
    let mut house = house().await;
    let url = house.product.url("main");
    let arguments = json!({"who": "alice", "times": 1});
    let first = send(&url, &house.alice, &call(arguments.clone(), json!({}))).await.message();
    let right = call(arguments.clone(), answers(&first["result"], "red"));
    house.product.ask(&["token", "revoke", &house.alice_id], "").unwrap();
    assert_eq!(send(&url, &house.alice, &right).await.status, 401);

    // A process that holds nothing does not run it either.
    let second = send(&url, &house.bob, &call(arguments.clone(), json!({}))).await.message();
    let right = call(arguments, answers(&second["result"], "red"));
    let runs = house.asker.runs();
    house.product.kill().await;
    house.product.launch().await.unwrap();
    let reply = send(&url, &house.bob, &right).await;
    assert!(matches!(&*code(&reply), "outcome-unknown" | "invalid-request-state"), "{}", reply.text());
    assert_eq!(house.asker.runs(), runs);
    house.product.stop().await;
}

#[tokio::test]
async fn policies_decide_again_when_a_caller_comes_back() {
    let house = house().await;
    let url = house.product.url("main");
    let arguments = json!({"who": "alice", "times": 1});
    let first = send(&url, &house.alice, &call(arguments.clone(), json!({}))).await.message();
    assert_eq!(first["result"]["resultType"], "input_required", "{first}");
    let rules = json!({"rules": [{"effect": "allow", "principals": ["user:bob"]}]});
    let spec = json!({"servers": [{"server": "asker", "bareNames": true}],
        "policies": [{"plugin": "tool-access", "config": rules}]});
    let all = [
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        house.asker.resource("asker"),
        resource("Gateway", "main", spec),
    ];
    house.product.write("resources.yaml", &all).unwrap();
    eventually("the policy is asked", || async {
        let list = http::ask(&url, Some(&house.alice), "tools/list", json!({})).await.ok()?.message();
        list["result"]["tools"].as_array()?.is_empty().then_some(())
    })
    .await;
    assert_eq!((house.asker.runs(), house.asker.dropped()), (1, 0), "the call still waits");
    let back = send(&url, &house.alice, &call(arguments, answers(&first["result"], "red"))).await;
    assert_eq!(code(&back), "unknown-tool", "{}", back.text());
    eventually("what may not go on does not stand either", || async {
        ((house.asker.runs(), house.asker.dropped()) == (1, 1)).then_some(())
    })
    .await;
    house.product.stop().await;
}

#[tokio::test]
async fn a_revoked_callers_held_call_and_streams_end_at_once() {
    let house = house().await;
    let url = house.product.url("main");
    let begin = |token: &str| {
        let (url, token) = (url.clone(), token.to_owned());
        async move { send(&url, &token, &call(json!({"who": "x", "times": 1}), json!({}))).await.message() }
    };
    let (first, second) = (begin(&house.alice).await, begin(&house.bob).await);
    assert_eq!(first["result"]["resultType"], "input_required", "{first}");
    let authorization = format!("Bearer {}", house.alice);
    let headers =
        [("authorization", &*authorization), ("mcp-protocol-version", MODERN), ("mcp-method", "subscriptions/listen")];
    let listen = http::modern("subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}));
    let mut stream = Events::open("POST", &url, &headers, listen.to_string()).await.unwrap();
    stream.message().await.unwrap().expect("it stands");
    let session = Session::open(&house.product, &house.alice, json!({})).await;
    let mut old = session.stream("GET", &[], &Value::Null).await;
    old.event().await.unwrap().expect("primed");
    assert_eq!(house.asker.dropped(), 0);
    let began = std::time::Instant::now();
    house.product.ask(&["token", "revoke", &house.alice_id], "").unwrap();
    // Nobody asks again: it ends by itself, at the server too.
    eventually("the held call ends", || async { (house.asker.dropped() == 1).then_some(()) }).await;
    while stream.message().await.unwrap().is_some() {}
    while old.message().await.unwrap().is_some() {}
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    // Whoever was not revoked goes on.
    let answer = call(json!({"who": "x", "times": 1}), answers(&second["result"], "green"));
    assert_eq!(heard(&send(&url, &house.bob, &answer).await)["heard"], json!(["green"]));
    house.product.stop().await;
}

#[tokio::test]
async fn held_calls_of_one_caller_are_bounded_and_nobody_else_pays() {
    let house = house().await;
    let url = house.product.url("main");
    let begin = |token: &str| {
        let (url, token) = (url.clone(), token.to_owned());
        async move { send(&url, &token, &call(json!({"who": "x", "times": 1}), json!({}))).await }
    };
    let mut held = 0;
    let refused = loop {
        let reply = begin(&house.alice).await;
        if reply.message()["result"]["resultType"] != "input_required" {
            break reply;
        }
        held += 1;
        assert!(held <= 64, "there is no bound");
    };
    assert_eq!(code(&refused), "server-busy");
    assert_eq!(begin(&house.bob).await.message()["result"]["resultType"], "input_required");
    let metrics = || async {
        let page = http::get(&house.product.page("/metrics"), &[]).await.ok()?.text();
        page.lines().find_map(|l| l.strip_prefix("portcullis_held_calls ")?.parse::<u64>().ok())
    };
    let counted = eventually("the metric", metrics).await;
    assert_eq!(counted, held + 1);
    house.product.stop().await;
}

#[tokio::test]
async fn a_client_that_can_not_be_asked_is_not_asked() {
    let house = house().await;
    let url = house.product.url("main");
    let mut message = call(json!({"who": "x", "times": 1}), json!({}));
    message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    let said = heard(&send(&url, &house.alice, &message).await);
    assert_eq!(said["told"], json!({}), "nothing is advertised");
    assert_eq!(said["heard"], json!([{"refused": -32601}]));
    // Callers that differ in what they can be asked never share a session, nor do two callers.
    let first = send(&url, &house.alice, &call(json!({"who": "alice", "times": 1}), json!({}))).await.message();
    let second = send(&url, &house.bob, &call(json!({"who": "bob", "times": 1}), json!({}))).await.message();
    for (result, token, who) in [(&second, &house.bob, "bob"), (&first, &house.alice, "alice")] {
        let answer = call(json!({"who": who, "times": 1}), answers(&result["result"], who));
        let said = heard(&send(&url, token, &answer).await);
        assert_eq!((&said["heard"], &said["told"]), (&json!([who]), &json!({"elicitation": {}})));
    }
    house.product.stop().await;
}
