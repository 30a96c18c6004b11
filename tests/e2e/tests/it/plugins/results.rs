//! Results as policies see them: read one way by everybody where somebody judges by them; and policies that only watch, which make
//! nobody wait.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use portcullis_e2e::{
    echo::{DOUBLE, Echo},
    eventually, http,
    product::{Product, resource},
};
use serde_json::{Value, json};

#[tokio::test]
async fn a_result_that_reads_two_ways_passes_only_where_nobody_judges_by_it() {
    let echo = Echo::start().await.unwrap();
    let servers = json!([{"server": "double"}, {"server": "echo"}]);
    let gateway = |policies: Value| json!({"policies": policies, "servers": servers});
    let redact = json!({"plugin": "redact", "config": {"rules": [{"patterns": ["secrets"]}]}});
    let watches = json!({"plugin": "redact", "mode": "monitor", "config": {"rules": [{"patterns": ["secrets"]}]}});
    // It asks for the size alone.
    let cap = json!({"plugin": "size-cap", "config": {"rules": [{"results": "1MiB"}]}});
    let product = Product::start(&[
        resource("User", "alice", json!({})),
        echo.open("double", "double"),
        echo.open("echo", "modern"),
        resource("Gateway", "judged", gateway(json!([cap, redact]))),
        resource("Gateway", "measured", gateway(json!([cap, watches]))),
    ])
    .await
    .unwrap();
    let alice = product.token("user:alice").unwrap().1;
    let call = async |gateway: &str, tool: &str| {
        let said = http::call(&product.url(gateway), Some(&alice), tool, json!({"message": "x"})).await;
        said.unwrap().text()
    };
    for gateway in ["judged", "measured"] {
        eventually(gateway, || async {
            call(gateway, "echo__echo").await.contains(r#""isError":false"#).then_some(())
        })
        .await;
    }
    let refused = call("judged", "double__echo").await;
    assert!(refused.contains("server-protocol") && refused.contains("two ways"), "{refused}");
    assert!(!refused.contains("harmless") && !refused.contains("AKIA"), "nothing of it gets through: {refused}");
    let passed = call("measured", "double__echo").await;
    assert!(passed.contains(DOUBLE), "byte for byte: {passed}");
}

#[tokio::test]
async fn a_policy_that_only_watches_makes_nobody_wait_for_its_service() {
    let echo = Echo::start().await.unwrap();
    // It takes connections, and answers none.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", silent.local_addr().unwrap());
    let guard = json!({
        "source": {"builtIn": "webhook"},
        "config": {"url": format!("{origin}/decide"), "timeoutMs": 10_000, "signingSecret": "guard"},
        "grants": {
            "http": [origin], "httpPrivate": true, "sign": true, "state": "64KiB",
            "secrets": {"guard": {"from": {"env": "GUARD_KEY"}, "origins": [origin]}},
        },
        "limits": {"wait": "20s"},
    });
    let watches = json!({"plugin": "guard", "mode": "monitor"});
    let policies = json!([watches, {"plugin": "tool-access", "config": {"default": "allow"}}]);
    let resources = [
        resource("User", "alice", json!({})),
        echo.open("echo", "modern"),
        resource("Plugin", "guard", guard),
        resource("Gateway", "main", json!({"policies": policies, "servers": [{"server": "echo"}]})),
    ];
    let product = Product::start_with(&resources, &[("GUARD_KEY", "a key of this test")], json!({})).await.unwrap();
    let alice = product.token("user:alice").unwrap().1;
    eventually("the policy is loaded", || async {
        let status = product.ask(&["plugin", "status", "guard"], "").unwrap_or_default();
        (status["state"] == "active").then_some(())
    })
    .await;
    let call = async || {
        let url = product.url("main");
        http::call(&url, Some(&alice), "echo__echo", json!({"message": "x"})).await.unwrap().text()
    };
    eventually("the gateway serves", || async { call().await.contains(r#""isError":false"#).then_some(()) }).await;
    let began = Instant::now();
    let said = call().await;
    let took = began.elapsed();
    assert!(said.contains(r#""isError":false"#), "{said}");
    assert!(took < Duration::from_secs(8), "it waited for what decides nothing: {took:?}");
    drop(silent);
    // What it would have said is noted when it is known.
    eventually("it is counted", || async {
        let metrics = http::get(&product.page("/metrics"), &[]).await.ok()?.text();
        metrics.contains(r#"plugin="guard",hook="tool-call",answer="failed""#).then_some(())
    })
    .await;
    eventually("and on record", || async {
        let audit = std::fs::read_to_string(product.data().join("audit/audit.jsonl")).ok()?;
        audit.contains(r#""kind":"monitored""#).then_some(())
    })
    .await;
}
