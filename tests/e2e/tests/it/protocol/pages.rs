//! A page that a person has to open first, asked for in one era's way and said in the other's.

use portcullis_e2e::{
    asker::Asker,
    http::{self, MODERN, Reply},
    product::{Product, resource},
    shelf::{Offered, Shelf},
};
use serde_json::{Value, json};

use super::asked::{Session, request};

const PAGE: &str = "https://page.example/e-2";

struct House {
    asker: Asker,
    shelf: Shelf,
    product: Product,
    token: String,
}

async fn house() -> House {
    let asker = Asker::start().await.unwrap();
    let shelf = Shelf::start(Offered { page: Some(PAGE), ..Offered::modern("shelf") }).await.unwrap();
    let servers = json!([{"server": "asker", "bareNames": true}, {"server": "shelf", "bareNames": true}]);
    let all = [
        resource("User", "alice", json!({})),
        asker.resource("asker"),
        shelf.open("shelf"),
        resource("Gateway", "main", json!({"servers": servers})),
    ];
    let product = Product::start(&all).await.unwrap();
    let token = product.token("user:alice").unwrap().1;
    House { asker, shelf, product, token }
}

/// A modern client's call of a tool; it can do this.
async fn call(house: &House, tool: &str, capabilities: Value, more: Value) -> Reply {
    let mut message = http::modern("tools/call", json!({"name": tool, "arguments": {}}));
    message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities;
    for (name, value) in more.as_object().unwrap() {
        message["params"][name] = value.clone();
    }
    let authorization = format!("Bearer {}", house.token);
    let headers = [
        ("authorization", &*authorization),
        ("mcp-protocol-version", MODERN),
        ("mcp-method", "tools/call"),
        ("mcp-name", tool),
    ];
    http::post(&house.product.url("main"), &headers, message.to_string()).await.unwrap()
}

fn code(reply: &Reply) -> Value {
    reply.message()["result"]["_meta"]["portcullis.dev/fault"]["code"].clone()
}

#[tokio::test]
async fn a_page_of_a_2025_server_is_asked_for_in_2026() {
    let house = house().await;
    let can = json!({"elicitation": {"url": {}}});
    let first = call(&house, "page", can.clone(), json!({})).await.message();
    let asked = &first["result"]["inputRequests"]["portcullis.url.1"];
    assert_eq!(first["result"]["resultType"], "input_required", "{first}");
    assert_eq!(
        asked["params"],
        json!({"mode": "url", "url": "https://page.example/e-1", "message": "Sign in"}),
        "what one era alone has is left out"
    );
    let answered = |action: &str| json!({"inputResponses": {"portcullis.url.1": {"action": action}}});
    // Whoever will not open it is not asked again at once.
    let declined = call(&house, "page", can.clone(), answered("decline")).await;
    assert_eq!(code(&declined), "input-missing", "{}", declined.text());
    // Whoever says so too early is asked again.
    let early = call(&house, "page", can.clone(), answered("accept")).await.message();
    assert_eq!(early["result"]["resultType"], "input_required", "{early}");
    house.asker.open_page();
    let done = call(&house, "page", can, answered("accept")).await.message();
    assert_eq!(done["result"]["resultType"], "complete", "{done}");
    assert_eq!(house.asker.runs(), 3, "each try is a call");
    house.product.stop().await;
}

#[tokio::test]
async fn a_client_that_can_not_open_pages_is_told_why_it_is_refused() {
    let house = house().await;
    for capabilities in [json!({}), json!({"elicitation": {}}), json!({"elicitation": {"form": {}}})] {
        let refused = call(&house, "page", capabilities.clone(), json!({})).await;
        let code = code(&refused);
        assert!(code == "client-capability" || code == "server-refused", "{capabilities}: {}", refused.text());
        assert!(!refused.text().contains("page.example"), "no model is told to open what no person was asked about");
    }
    house.product.stop().await;
}

#[tokio::test]
async fn a_page_of_a_2026_server_is_asked_for_in_2025() {
    let house = house().await;
    let session = Session::open(&house.product, &house.token, json!({"elicitation": {"url": {}}})).await;
    let mut stream = session.call(1, "echo", json!({"text": "x"})).await;
    let (_, question) = stream.message().await.unwrap().expect("a question");
    assert_eq!((&question["method"], &question["params"]["url"]), (&json!("elicitation/create"), &json!(PAGE)));
    assert!(question["params"]["elicitationId"].as_str().is_some_and(|id| id.len() == 32), "{question}");
    session.post(&json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}})).await;
    let (_, answer) = stream.message().await.unwrap().expect("an answer");
    assert!(answer["result"]["content"].is_array(), "{answer}");
    let seen = house.shelf.seen("tools/call");
    let last = &seen.last().unwrap().body["params"];
    assert_eq!(last["inputResponses"], json!({"page": {"action": "accept"}}));
    assert_eq!(last["requestState"], "s");

    // One that can't be asked in mid-call learns it from an error.
    for capabilities in [json!({}), json!({"elicitation": {"url": {}}})] {
        let told = Session::open(&house.product, &house.token, capabilities.clone()).await;
        let mut headers = told.headers();
        headers.push(("accept", "application/json"));
        let call = request(1, "tools/call", json!({"name": "echo", "arguments": {"text": "x"}}));
        let told = http::post(&told.url, &headers, call.to_string()).await.unwrap().message();
        assert_eq!(told["error"]["code"], -32042, "{capabilities}: {told}");
        assert_eq!(told["error"]["data"]["elicitations"][0]["url"], PAGE, "{told}");
    }
    house.product.stop().await;
}
