//! Plugins in other languages than Rust: a credential resolver that asks a real token broker, for calls of a real client.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use portcullis_e2e::{
    asked::Asked,
    driver::{Driver, Sdk},
    echo::Echo,
    eventually, http,
    parts::{Parts, binary, root},
    product::{Product, resource},
};
use serde_json::json;

const COMPILED: Duration = Duration::from_secs(240);
const KEY: &str = "the-key-of-the-broker-5d20";

async fn resolves(wasm: &Path, limits: serde_json::Value, settings: serde_json::Value) {
    let (echo, broker) = (Echo::start().await.unwrap(), Asked::broker(KEY).await.unwrap());
    let origin = broker.url();
    let plugin = |key: &str| {
        json!({
            "source": {"file": {"path": wasm}},
            "config": {"url": format!("{origin}/token")},
            "isolation": "tenant",
            "limits": limits,
            "grants": {
                "http": [origin], "httpPrivate": true,
                "secrets": {"broker-key": {"from": {"env": key}, "origins": [origin]}},
            },
        })
    };
    let gateway = |mode: &str| json!({"servers": [{"server": "echo", "credential": {"mode": mode}}]});
    let resources = [
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        resource("User", "stranger", json!({})),
        echo.open("echo", "modern"),
        resource("Plugin", "broker", plugin("BROKER_KEY")),
        resource("Plugin", "mistaken", plugin("WRONG_KEY")),
        resource("Gateway", "main", gateway("broker")),
        resource("Gateway", "mistaken", gateway("mistaken")),
    ];
    let environment = [("BROKER_KEY", KEY), ("WRONG_KEY", "another key")];
    let product = Product::start_with(&resources, &environment, settings).await.unwrap();
    let token = |user: &str| product.token(&format!("user:{user}")).unwrap().1;
    let (alice, bob) = (token("alice"), token("bob"));
    let call = async |gateway: &str, token: &str| {
        http::call(&product.url(gateway), Some(token), "echo__echo", json!({"message": "m"})).await.unwrap().text()
    };
    // An engine takes the compiler some tens of seconds, and more on a machine that has other work.
    let until = Instant::now() + COMPILED;
    while product.ask(&["plugin", "status", "broker"], "").unwrap_or_default()["state"] == "compiling" {
        assert!(Instant::now() < until, "not compiled within {COMPILED:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for gateway in ["main", "mistaken"] {
        eventually("the plugin is loaded", || async {
            let ready = http::get(&product.page("/readyz"), &[]).await.unwrap().text();
            (!ready.contains(gateway)).then_some(())
        })
        .await;
    }
    let first = call("main", &alice).await;
    assert!(first.contains(r#""isError":false"#), "{first}");
    let mut client = Driver::connect(Sdk::Python, &product.url("main"), Some(&bob), "2026-07-28").await.unwrap();
    for _ in 0..3 {
        client.call("echo__echo", json!({"message": "m"})).await.unwrap();
    }
    client.close().await.unwrap();
    let carried: Vec<String> = echo
        .seen()
        .iter()
        .filter(|seen| seen.method == "tools/call")
        .map(|seen| seen.headers.get("authorization").cloned().unwrap_or_default())
        .collect();
    let own = |user: &str| format!("Bearer for-user:{user}-at-echo");
    assert_eq!(carried, [own("alice"), own("bob"), own("bob"), own("bob")]);
    let asked: Vec<_> = broker.seen().await.unwrap().iter().map(|question| question["subject"].clone()).collect();
    assert_eq!(asked.iter().filter(|subject| **subject == "user:bob").count(), 1, "kept until it expires: {asked:?}");

    let missing = call("main", &token("stranger")).await;
    assert!(missing.contains("an account of user:stranger at the broker"), "{missing}");
    let refused = call("mistaken", &alice).await;
    assert!(refused.contains("fault"), "{refused}");
    drop(broker);
    let gone = call("mistaken", &alice).await;
    assert!(gone.contains("fault"), "{gone}");
    assert_eq!(echo.seen().iter().filter(|seen| seen.method == "tools/call").count(), 4, "nothing else got through");
    let log = product.log();
    assert!(!log.contains(KEY) && !log.contains("for-user:"), "neither the key nor a token is in the log");
}

/// What every resolver has to survive, and what its own recorded cases say.
fn conforms(wasm: &Path, folder: &str) {
    let cases = root().join(folder).join("tests");
    let output = Command::new(binary()).args(["plugin", "test"]).arg(wasm).arg("--cases").arg(cases).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("2 of 2 recorded cases"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn a_resolver_in_javascript_serves_calls() {
    let wasm = Parts::get().javascript_plugin.clone().expect("cargo xtask setup says where it is");
    conforms(&wasm, "plugins/examples/javascript");
    // It is used again where it takes no more than half of its memory.
    resolves(&wasm, json!({"memory": "32MiB"}), json!({})).await;
}

#[tokio::test]
async fn a_resolver_in_python_serves_calls() {
    let wasm = Parts::get().python_plugin.clone().expect("cargo xtask setup says where it is");
    conforms(&wasm, "plugins/examples/python");
    resolves(&wasm, json!({"memory": "48MiB"}), json!({"plugins": {"maxComponent": "32MiB"}})).await;
}
