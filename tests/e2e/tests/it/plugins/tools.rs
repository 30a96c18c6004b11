//! A server that is a component: listed, called, limited by policies and bound to connections like any other, and no process is started.

use portcullis_e2e::{
    driver::{Driver, Sdk},
    eventually, http,
    process::descendants,
    product::{Product, resource},
};
use serde_json::{Value, json};

/// `add` of two whole numbers, and `spin`, which never ends.
const ADDER: &str = r#"(component
  (core module $m
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "spin") (loop (br 0))))
  (core instance $i (instantiate $m))
  (func (export "add") (param "a" s32) (param "b" s32) (result s32) (canon lift (core func $i "add")))
  (func (export "spin") (canon lift (core func $i "spin"))))"#;

fn component(path: &std::path::Path, more: Value) -> Value {
    let mut spec = json!({"component": {
        "source": {"file": {"path": path}},
        "descriptions": {"add": "Adds two whole numbers."},
        "limits": {"cpu": "20ms"},
    }});
    for (name, value) in more.as_object().unwrap() {
        spec[name] = value.clone();
    }
    resource("McpServer", "adder", spec)
}

#[tokio::test]
async fn a_component_is_a_server_without_a_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adder.wasm");
    std::fs::write(&path, wat::parse_str(ADDER).unwrap()).unwrap();
    let policy = json!([{"plugin": "tool-access", "config": {"rules": [
        {"effect": "deny", "tools": ["add"], "when": [{"argument": "/a", "greaterThan": 1000}]},
        {"effect": "allow"},
    ]}}]);
    let resources = [
        resource("User", "alice", json!({})),
        component(&path, json!({})),
        resource("Gateway", "main", json!({"policies": policy, "servers": [{"server": "adder"}]})),
    ];
    let product = Product::start(&resources).await.unwrap();
    let token = product.token("user:alice").unwrap().1;
    let url = product.url("main");
    for (sdk, mode) in [(Sdk::Python, "2026-07-28"), (Sdk::Node, "legacy")] {
        let mut client = Driver::connect(sdk, &url, Some(&token), mode).await.unwrap();
        let tools = client.list().await.unwrap();
        let add = tools.iter().find(|tool| tool["name"] == "adder__add").expect("it is listed");
        assert_eq!(add["description"], "Adds two whole numbers.");
        assert_eq!(add["inputSchema"]["required"], json!(["a", "b"]));
        let sum = client.call("adder__add", json!({"a": 2, "b": 3})).await.unwrap();
        assert_eq!(sum["structuredContent"], json!({"result": 5}), "{sum}");
        let wrong = client.call("adder__add", json!({"a": 2})).await.unwrap();
        assert!(wrong["isError"] == true && wrong.to_string().contains("/b: is missing"), "{wrong}");
        let denied = client.call("adder__add", json!({"a": 2000, "b": 3})).await.unwrap();
        assert!(denied.to_string().contains("rule 1"), "{denied}");
        let endless = client.call("adder__spin", json!({})).await.unwrap();
        assert!(endless["isError"] == true && endless.to_string().contains("CPU time"), "{endless}");
        let again = client.call("adder__add", json!({"a": -2, "b": 2})).await.unwrap();
        assert_eq!(again["structuredContent"], json!({"result": 0}), "it still works: {again}");
        client.close().await.unwrap();
    }
    assert!(descendants(product.pid()).is_empty(), "no process was started for it");
}

#[tokio::test]
async fn a_component_that_can_not_be_loaded_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adder.wasm");
    std::fs::write(&path, b"\0asm\x01\0\0\0").unwrap();
    let resources = [
        resource("User", "alice", json!({})),
        component(&path, json!({})),
        resource("Gateway", "main", json!({"servers": [{"server": "adder"}]})),
    ];
    let product = Product::start(&resources).await.unwrap();
    let token = product.token("user:alice").unwrap().1;
    eventually("the refusal has a reason", || async {
        let reply = http::call(&product.url("main"), Some(&token), "adder__add", json!({})).await.ok()?;
        reply.text().contains("core module").then_some(())
    })
    .await;
}
