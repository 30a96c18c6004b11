//! Whoever does not see a tool in the list can't find out by calling it whether there is one; whoever sees it is told why not.

use portcullis_e2e::{
    echo::Echo,
    eventually, http,
    product::{Product, resource},
};
use serde_json::{Value, json};

/// Alice may use everything but a secret message; bob may only use `odd`.
fn policy() -> Value {
    json!([{"plugin": "tool-access", "config": {"rules": [
        {"effect": "deny", "when": [{"argument": "/message", "equals": "secret"}]},
        {"effect": "allow", "principals": ["user:alice"]},
        {"effect": "allow", "principals": ["user:bob"], "tools": ["odd"]},
    ]}}])
}

/// What a caller sees of an answer, without what differs from request to request.
async fn answer(product: &Product, gateway: &str, token: &str, tool: &str, arguments: &Value) -> (u16, Value) {
    let reply = http::call(&product.url(gateway), Some(token), tool, arguments.clone()).await.unwrap();
    let id = reply.headers.get("x-request-id").unwrap().to_str().unwrap().to_owned();
    let text = reply.text().replace(&id, "ID").replace(tool, "TOOL");
    (reply.status.as_u16(), serde_json::from_str(&text).unwrap())
}

#[tokio::test]
async fn a_hidden_tool_answers_as_one_that_there_is_not() {
    let echo = Echo::start().await.unwrap();
    let mut pinning = echo.open("pinning", "modern");
    pinning["spec"]["traffic"] = json!({"pinnedArguments": {"echo": {"message": "pinned"}}});
    let resources = [
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        echo.open("echo", "modern"),
        pinning,
        resource("Gateway", "main", json!({"policies": policy(), "servers": [{"server": "echo"}]})),
        resource("Gateway", "pins", json!({"policies": policy(), "servers": [{"server": "pinning"}]})),
    ];
    let product = Product::start(&resources).await.unwrap();
    let alice = product.token("user:alice").unwrap().1;
    let bob = product.token("user:bob").unwrap().1;
    let right = json!({"message": "x"});
    for gateway in ["main", "pins"] {
        let tool = if gateway == "main" { "echo__echo" } else { "pinning__echo" };
        eventually("alice's call works", || async {
            let reply = http::call(&product.url(gateway), Some(&alice), tool, right.clone()).await.ok()?;
            reply.text().contains(r#""isError":false"#).then_some(())
        })
        .await;
    }
    let listed = http::ask(&product.url("main"), Some(&bob), "tools/list", json!({})).await.unwrap().text();
    assert!(listed.contains("echo__odd") && !listed.contains("echo__echo"), "{listed}");

    // Hidden, not there at all, and at no server of this gateway: one answer, whatever the arguments are.
    let nothing = answer(&product, "main", &bob, "echo__nothing", &right).await;
    assert_eq!(nothing.1["error"]["code"], -32602, "{nothing:?}");
    assert_eq!(nothing.1["error"]["data"]["code"], "unknown-tool", "{nothing:?}");
    for arguments in [&right, &json!({"message": "secret"}), &json!([])] {
        for tool in ["echo__echo", "echo__nothing", "nowhere__echo"] {
            assert_eq!(answer(&product, "main", &bob, tool, arguments).await, nothing, "{tool} {arguments}");
        }
    }
    // Seen in the list: a denial says so, and why.
    for (who, tool) in [(&alice, "echo__echo"), (&bob, "echo__odd")] {
        let (status, denied) = answer(&product, "main", who, tool, &json!({"message": "secret"})).await;
        let fault = &denied["result"]["_meta"]["portcullis.dev/fault"];
        assert_eq!((status, &fault["code"]), (200, &json!("denied")), "{denied}");
        let text = denied["result"]["content"][0]["text"].as_str().unwrap();
        assert!(text.contains("rule 1"), "{text}");
        assert_eq!(text.to_lowercase().matches("your operator").count(), 1, "said once: {text}");
    }
    // Seen by whoever may use everything: there is none, in so many words.
    assert_eq!(answer(&product, "main", &alice, "echo__nothing", &right).await.1["error"]["code"], -32602);

    // On record stands what happened. Every denial was there before its answer.
    let audit = std::fs::read_to_string(product.data().join("audit").join("audit.jsonl")).unwrap();
    let count = |all: &[&str]| audit.lines().filter(|l| all.iter().all(|w| l.contains(w))).count();
    let hidden = ["\"caller\":\"user:bob\"", "\"tool\":\"echo__echo\"", "\"decision\":\"deny\""];
    assert_eq!(count(&hidden), 3, "{audit}");
    assert_eq!(count(&["\"tool\":\"nowhere__echo\"", "unknown-tool"]), 3, "waited for as well: {audit}");
    // What the operator pins is no policy's change.
    eventually("the pinned call is on record", || async {
        let audit = std::fs::read_to_string(product.data().join("audit").join("audit.jsonl")).ok()?;
        let line = audit.lines().find(|l| l.contains("pinning__echo") && l.contains("\"outcome\":\"ok\""))?.to_owned();
        assert!(line.contains("\"decision\":\"allow\""), "{line}");
        Some(())
    })
    .await;
    let arrived = echo.seen().into_iter().filter(|s| s.method == "tools/call").map(|s| s.body);
    let messages: Vec<Value> = arrived.map(|b| b["params"]["arguments"]["message"].clone()).collect();
    assert!(messages.contains(&json!("pinned")) && !messages.contains(&json!("secret")), "{messages:?}");
    product.stop().await;
}
