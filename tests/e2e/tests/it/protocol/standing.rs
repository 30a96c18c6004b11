//! Streams towards servers end with what they rest on: the account, and the right.

use portcullis_e2e::{
    events::Events,
    eventually,
    http::{self, MODERN},
    product::{Product, resource},
    shelf::{Offered, Shelf},
};
use serde_json::{Value, json};

const URI: &str = "shelf://shelf/one";

fn house(shelf: &Shelf, servers: &Value, rules: &Value) -> Vec<Value> {
    let policies = json!([{"plugin": "tool-access", "config": {"rules": rules}}]);
    vec![
        resource("User", "alice", json!({})),
        shelf.guarded("shelf"),
        resource("Gateway", "main", json!({"servers": servers, "policies": policies})),
    ]
}

/// Subscribes to the resource, and waits until the server knows.
async fn subscribed(product: &Product, token: &str, shelf: &Shelf) -> Events {
    let authorization = format!("Bearer {token}");
    let headers =
        [("authorization", &*authorization), ("mcp-protocol-version", MODERN), ("mcp-method", "subscriptions/listen")];
    let filter = json!({"resourceSubscriptions": [URI]});
    let message = http::modern("subscriptions/listen", json!({"notifications": filter})).to_string();
    let mut stream = Events::open("POST", &product.url("main"), &headers, message).await.unwrap();
    let (_, first) = stream.message().await.unwrap().unwrap();
    assert_eq!(first["params"]["notifications"], filter, "{first}");
    eventually("the server is listened to", || async { (shelf.listening() == 1).then_some(()) }).await;
    stream
}

/// Waits until the client is told to look again, and nobody listens to the server any more.
async fn ended(stream: &mut Events, shelf: &Shelf, why: &str) {
    let (_, told) = stream.message().await.unwrap().unwrap();
    assert_eq!(told["method"], "notifications/resources/updated", "{why}: {told}");
    assert_eq!(told["params"]["uri"], URI, "{why}: {told}");
    eventually(why, || async { (shelf.listening() == 0).then_some(()) }).await;
}

#[tokio::test]
async fn a_subscription_ends_with_the_account_and_with_the_right() {
    let offered =
        Offered { capabilities: json!({"tools": {}, "resources": {"subscribe": true}}), ..Offered::modern("shelf") };
    let shelf = Shelf::start(offered).await.unwrap();
    let servers = json!([{"server": "shelf"}]);
    let allow = json!([{"effect": "allow", "resources": ["*"]}, {"effect": "allow", "tools": ["*"]}]);
    let product = Product::start(&house(&shelf, &servers, &allow)).await.unwrap();
    let connect = |secret: &str| {
        let done = product.cli(&["connect", "shelf", "--owner", "user:alice", "--owner-only", "true"], secret).unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    connect("canary-one\n");
    let (_, token) = product.token("user:alice").unwrap();

    let mut stream = subscribed(&product, &token, &shelf).await;
    // A change that concerns nothing of it leaves it alone.
    product.write("other.yaml", &[resource("User", "bob", json!({}))]).unwrap();
    eventually("bob is there", || async { product.token("user:bob").ok() }).await;
    connect("canary-two\n");
    ended(&mut stream, &shelf, "another account").await;
    drop(stream);

    let mut stream = subscribed(&product, &token, &shelf).await;
    let deny = json!([{"effect": "deny", "resources": ["*"]}]);
    product.write("resources.yaml", &house(&shelf, &servers, &deny)).unwrap();
    ended(&mut stream, &shelf, "no right any more").await;
    drop(stream);

    product.write("resources.yaml", &house(&shelf, &servers, &allow)).unwrap();
    eventually("it may be read again", || async {
        let read = http::ask(&product.url("main"), Some(&token), "resources/read", json!({"uri": URI})).await.ok()?;
        read.message()["result"].is_object().then_some(())
    })
    .await;
    let mut stream = subscribed(&product, &token, &shelf).await;
    let mut elsewhere = house(&shelf, &json!([{"server": "other"}]), &allow);
    elsewhere.push(shelf.open("other"));
    product.write("resources.yaml", &elsewhere).unwrap();
    ended(&mut stream, &shelf, "the gateway has no such server any more").await;
    product.stop().await;
}
