//! Places of policies in a gateway: what they are asked about, and those that are not asked at all.

use portcullis_e2e::{
    echo::Echo,
    eventually,
    guests::guest,
    http,
    product::{Product, resource},
};
use serde_json::{Value, json};

#[tokio::test]
async fn a_policy_is_asked_where_its_conditions_fit_and_nowhere_else() {
    let echo = Echo::start().await.unwrap();
    let nobody = json!({"default": "deny"});
    let of_bob = json!({"servers": ["l*"], "tools": ["ec*"], "principals": ["user:bob"]});
    let policies = json!([
        {"plugin": "tool-access", "config": nobody, "when": of_bob},
        {"plugin": "tool-access", "config": nobody, "mode": "disabled"},
        {"plugin": "there-is-no-such", "mode": "disabled"},
        {"plugin": "there-is-no-such-either", "mode": "monitor"},
    ]);
    let servers = json!([{"server": "left"}, {"server": "right"}]);
    let product = Product::start(&[
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        echo.open("left", "modern"),
        echo.open("right", "modern"),
        resource("Gateway", "main", json!({"policies": policies, "servers": servers})),
    ])
    .await
    .unwrap();
    let tokens: Vec<String> = ["alice", "bob"].map(|who| product.token(&format!("user:{who}")).unwrap().1).into();
    let (alice, bob) = (&tokens[0], &tokens[1]);
    let call = async |token: &str, tool: &str| {
        http::call(&product.url("main"), Some(token), tool, json!({"message": "x"})).await.unwrap().text()
    };
    for (token, tool) in [(alice, "left__echo"), (alice, "right__echo"), (bob, "right__echo")] {
        eventually(tool, || async { call(token, tool).await.contains(r#""isError":false"#).then_some(()) }).await;
    }
    let denied = call(bob, "left__echo").await;
    assert!(denied.contains("unknown-tool"), "hidden from him: {denied}");
    let names = async |token: &str| {
        let listed = http::ask(&product.url("main"), Some(token), "tools/list", json!({})).await.unwrap().message();
        let tools = listed["result"]["tools"].as_array().cloned().unwrap_or_default();
        tools.iter().filter_map(|t| t["name"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let (hers, his) = (names(alice).await, names(bob).await);
    assert!(hers.iter().any(|n| n == "left__echo") && hers.iter().any(|n| n == "left__odd"), "{hers:?}");
    let missing: Vec<&String> = hers.iter().filter(|n| !his.contains(n)).collect();
    assert_eq!(missing, ["left__echo"], "only what the condition names: {his:?}");

    // What only watches may be missing, and says so.
    let described: Value = product.ask(&["describe", "gateway", "main"], "").unwrap();
    assert!(described.to_string().contains("there-is-no-such-either"), "{described}");
    assert!(!described.to_string().contains("there-is-no-such\\\""), "{described}");
}

#[tokio::test]
async fn conditions_that_make_no_sense_are_refused() {
    let product = Product::start(&[]).await.unwrap();
    for (places, said) in [
        (json!({"policies": [{"plugin": "tool-access", "when": {"servers": []}}]}), "spec.policies[0].when.servers"),
        (json!({"policies": [{"plugin": "tool-access", "when": {"principals": ["ann"]}}]}), "when.principals[0]"),
        (json!({"auth": [{"plugin": "bearer-token", "mode": "monitor"}]}), "spec.auth[0].mode"),
    ] {
        let gateway = resource("Gateway", "main", places).to_string();
        let refused = product.cli(&["apply", "-f", "-"], &gateway).unwrap();
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && why.contains(said), "{why}");
    }
}

#[tokio::test]
async fn a_session_policy_may_only_watch_or_be_asked_about_some_callers() {
    let echo = Echo::start().await.unwrap();
    // It lets in clients that call themselves `good`, and nobody here does.
    let keeper = json!({
        "source": {"file": {"path": guest("keeper")}},
        "grants": {"state": "64KiB", "sign": true, "issuers": ["https://idp.example"]},
    });
    let servers = json!([{"server": "echo"}]);
    let gateway = |place: Value| json!({"policies": [place], "servers": servers});
    let product = Product::start(&[
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        echo.open("echo", "modern"),
        resource("Plugin", "keeper", keeper),
        resource("Gateway", "watched", gateway(json!({"plugin": "keeper", "mode": "monitor"}))),
        resource("Gateway", "some", gateway(json!({"plugin": "keeper", "when": {"principals": ["user:bob"]}}))),
    ])
    .await
    .unwrap();
    let tokens: Vec<String> = ["alice", "bob"].map(|who| product.token(&format!("user:{who}")).unwrap().1).into();
    let call = async |gateway: &str, who: usize| {
        let url = product.url(gateway);
        http::call(&url, Some(&tokens[who]), "echo__echo", json!({"message": "x"})).await.unwrap().text()
    };
    for (gateway, who) in [("watched", 0), ("some", 0)] {
        eventually(gateway, || async { call(gateway, who).await.contains(r#""isError":false"#).then_some(()) }).await;
    }
    let denied = call("some", 1).await;
    assert!(denied.contains("denied") && denied.contains("Request 2026-07-28"), "{denied}");
    let metrics = http::get(&product.page("/metrics"), &[]).await.unwrap().text();
    assert!(metrics.contains(r#"plugin="keeper",hook="session",answer="deny""#), "{metrics}");
    let watched = eventually("the record of a client that would not have come in", || async {
        let audit = std::fs::read_to_string(product.data().join("audit/audit.jsonl")).ok()?;
        audit.lines().find(|l| l.contains(r#""kind":"monitored""#)).map(str::to_owned)
    })
    .await;
    for part in [r#""method":"session""#, r#""decision":"deny""#, r#""reason":"who""#, r#""caller":"user:alice""#] {
        assert!(watched.contains(part), "{watched}");
    }
    assert!(!watched.contains(r#""tool":"#), "{watched}");
}
