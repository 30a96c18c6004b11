//! The inspector's command line as a third real client: one that neither we nor a driver of ours steers.

use std::process::Output;

use portcullis_e2e::{
    echo::Echo,
    eventually,
    parts::Parts,
    product::{Product, resource},
};
use serde_json::{Value, json};

/// Runs the inspector once, as somebody would who has a URL and a token.
async fn inspect(product: &Product, token: &str, era: &str, more: &[&str]) -> Output {
    let parts = Parts::get();
    tokio::process::Command::new(&parts.node_bin)
        .arg(parts.inspector())
        .args(["--cli", &product.url("main"), "--transport", "http", "--protocol-era", era, "--format", "json"])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        // Without a terminal it would wait for a browser that nobody looks at.
        .arg("--stored-auth-only")
        .args(more)
        .env("HOME", product.home())
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}

fn result(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}{said}", output.status);
    serde_json::from_str::<Value>(&text).unwrap_or_else(|e| panic!("{e}: {text}{said}"))["result"].clone()
}

#[tokio::test]
async fn the_inspector_lists_and_calls_in_both_eras() {
    let echo = Echo::start().await.unwrap();
    let product = Product::start(&[
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        echo.open("echo", "modern"),
        resource(
            "Gateway",
            "main",
            json!({
                "policies": [{"plugin": "tool-access", "config": {"rules": [
                    {"effect": "allow", "principals": ["user:alice"], "tools": ["echo", "whoami"]},
                ]}}],
                "servers": [{"server": "echo"}],
            }),
        ),
    ])
    .await
    .unwrap();
    let (id, alice) = product.token("user:alice").unwrap();
    let (_, bob) = product.token("user:bob").unwrap();

    for era in ["legacy", "modern", "auto"] {
        // The catalogue is filled in the background.
        eventually("the inspector lists the tools that alice may use", || async {
            let listed = result(&inspect(&product, &alice, era, &["--method", "tools/list"]).await);
            let mut names: Vec<&str> = listed["tools"].as_array()?.iter().filter_map(|t| t["name"].as_str()).collect();
            names.sort_unstable();
            (names == ["echo__echo", "echo__whoami"]).then_some(())
        })
        .await;
        let call =
            ["--method", "tools/call", "--tool-name", "echo__echo", "--tool-arg", "message=seen by the inspector"];
        let called = result(&inspect(&product, &alice, era, &call).await);
        assert!(called.to_string().contains("seen by the inspector"), "{era}: {called}");

        let listed = result(&inspect(&product, &bob, era, &["--method", "tools/list"]).await);
        assert_eq!(listed["tools"], json!([]), "{era}");
        let refused = inspect(&product, &bob, era, &call).await;
        assert!(!refused.status.success(), "{era}: {}", String::from_utf8_lossy(&refused.stdout));
    }

    product.ask(&["token", "revoke", &id], "").unwrap();
    let refused = inspect(&product, &alice, "auto", &["--method", "tools/list"]).await;
    assert!(!refused.status.success(), "{}", String::from_utf8_lossy(&refused.stdout));
    product.stop().await;
}
