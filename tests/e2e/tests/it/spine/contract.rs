//! What plugins may say beside yes and no, through the whole house: who comes in, what changes, what is noted, what nobody can
//! approve yet, and where tokens come from.

use portcullis_e2e::{
    echo::Echo,
    eventually,
    guests::guest,
    http,
    parts::root,
    product::{Product, resource},
};
use serde_json::{Value, json};

async fn call_as(url: &str, token: &str, client: &str, message: &str) -> http::Reply {
    let mut body = http::modern("tools/call", json!({"name": "echo__echo", "arguments": {"message": message}}));
    body["params"]["_meta"]["io.modelcontextprotocol/clientInfo"]["name"] = client.into();
    let authorization = format!("Bearer {token}");
    let headers = [
        ("authorization", &*authorization),
        ("mcp-protocol-version", http::MODERN),
        ("mcp-method", "tools/call"),
        ("mcp-name", "echo__echo"),
    ];
    http::post(url, &headers, body.to_string()).await.unwrap()
}

async fn initialize(url: &str, token: &str, client: &str) -> http::Reply {
    let params =
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": client, "version": "1"}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
    http::post(url, &[("authorization", &format!("Bearer {token}"))], body.to_string()).await.unwrap()
}

fn audit(product: &Product) -> Vec<Value> {
    let text = std::fs::read_to_string(product.data().join("audit").join("audit.jsonl")).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).map(|v: Value| v["event"].clone()).collect()
}

#[tokio::test]
async fn who_comes_in_and_what_changes_and_what_is_noted() {
    let echo = Echo::start().await.unwrap();
    let keeper = json!({
        "source": {"file": {"path": guest("keeper")}},
        "config": {"issuer": "https://idp.example"},
        "grants": {"state": "64KiB", "sign": true, "issuers": ["https://idp.example"]},
    });
    let released = root().join("tests/fixtures/plugins/0.1.0/policy.wasm");
    let released = json!({"source": {"file": {"path": released}}, "config": {"word": "w"}});
    let servers = json!([{"server": "echo"}]);
    let product = Product::start(&[
        resource("User", "alice", json!({})),
        echo.open("echo", "modern"),
        // The frozen policy lists the tools of a server of this name only.
        echo.open("github", "modern"),
        resource("Plugin", "keeper", keeper),
        resource("Plugin", "released", released),
        resource("Gateway", "main", json!({"servers": servers})),
        resource("Gateway", "guarded", json!({"policies": [{"plugin": "keeper"}], "servers": servers})),
        resource("Gateway", "noted", json!({"policies": [{"plugin": "released"}], "servers": [{"server": "github"}]})),
        resource("Gateway", "theirs", json!({"auth": [{"plugin": "keeper"}], "servers": servers})),
    ])
    .await
    .unwrap();
    let token = product.token("user:alice").unwrap().1;
    let guarded = product.url("guarded");

    // The session policy lets one client in, and the result policy blanks what it finds.
    let good = eventually("the good client's call works", || async {
        let reply = call_as(&guarded, &token, "good", "secret").await;
        (reply.status == 200 && !reply.text().contains("not-ready")).then(|| reply.text())
    })
    .await;
    assert!(good.contains("***") && !good.contains("secret"), "{good}");
    for _ in 0..2 {
        let bad = call_as(&guarded, &token, "other", "x").await;
        let said = bad.text();
        assert!(said.contains("denied") && said.contains("Request 2026-07-28 Some(\\\"other\\\")"), "{said}");
    }
    assert_eq!(
        echo.seen().iter().filter(|s| s.method == "tools/call").count(),
        1,
        "the other one's calls went nowhere"
    );

    // In a session: at `initialize`, and by that name from then on.
    let refused = initialize(&guarded, &token, "other").await;
    assert!(refused.text().contains("denied") && !refused.headers.contains_key("mcp-session-id"), "{}", refused.text());
    let opened = initialize(&guarded, &token, "good").await;
    let session = opened.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}).to_string();
    let authorization = format!("Bearer {token}");
    let headers =
        [("authorization", &*authorization), ("mcp-session-id", &*session), ("mcp-protocol-version", "2025-11-25")];
    let listed = http::post(&guarded, &headers, list).await.unwrap();
    assert!(listed.text().contains("echo__echo"), "{}", listed.text());
    assert!(
        audit(&product)
            .iter()
            .any(|e| e["kind"] == "denial" && e["method"] == "initialize" && e["caller"] == "user:alice"),
        "a refusal is on record"
    );

    // What a policy notes stands in the audit, also where the call is refused in the end.
    let noted = product.url("noted");
    let call = async |answer: &str| {
        http::call(&noted, Some(&token), "github__echo", json!({"message": "m", "answer": answer}))
            .await
            .unwrap()
            .text()
    };
    let told = call("allow").await;
    assert!(told.contains("w: default user:alice") && told.contains("by policy"), "the result's hook sees it: {told}");
    let approval = call("approve").await;
    assert!(approval.contains("approval-required") && approval.contains("nobody can approve"), "{approval}");
    let records = audit(&product);
    let noted = json!({"seen": "by policy"});
    assert!(records.iter().any(|e| e["gateway"] == "noted" && e["decision"] == "deny" && e["attributes"] == noted));
    assert!(records.iter().any(|e| e["decision"] == "require-approval" && e["reason"] == "approval-required"));

    // Where clients get tokens that the auth provider accepts.
    let page = product.page("/.well-known/oauth-protected-resource/mcp/theirs");
    let metadata = http::get(&page, &[]).await.unwrap().message();
    assert_eq!(metadata["authorization_servers"], json!(["https://idp.example"]));
    assert_eq!(metadata["scopes_supported"], json!(["tools:read"]));
    assert_eq!(metadata["resource_documentation"], "https://docs.example/");
    let challenged = http::call(&product.url("theirs"), None, "echo__echo", json!({})).await.unwrap();
    let challenge = challenged.headers["www-authenticate"].to_str().unwrap();
    assert!(challenge.contains("resource_metadata="), "{challenge}");
    product.stop().await;
}
