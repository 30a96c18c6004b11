//! Every pairing of a client's era with a server's, by both official clients: the server asks for a form and for a sample in
//! mid-call, reports progress, hears of a call that its client cancels, and says that its tools, and a resource that the client
//! watches, have changed. `rust` does the same with a third client, and here are two that speak nothing newer than 2024-11-05.

use portcullis_conformance::fixture::{Eras, Fixture};
use portcullis_e2e::{
    driver::{Driver, Sdk, text},
    eventually,
    http::{self, LEGACY, MODERN},
    product::{Product, resource},
};
use serde_json::{Value, json};

mod rust;

/// A resource of the fixture that changes when it is touched.
const WATCHED: &str = "test://watched-resource";

async fn said(client: &mut Driver, what: &str, tool: &str, arguments: Value) -> Value {
    client.call(tool, arguments).await.unwrap_or_else(|e| panic!("{what}: {tool}: {e}"))
}

/// A gateway for each fixture, called as it is.
pub fn gateways(legacy: &Fixture, modern: &Fixture) -> Vec<Value> {
    let mut resources = Vec::new();
    for (name, fixture) in [("legacy", legacy), ("modern", modern)] {
        resources.push(resource("McpServer", name, json!({"remote": {"url": fixture.url, "allowPrivate": true}})));
        let spec = json!({"anonymous": true, "auth": [], "servers": [{"server": name, "bareNames": true}]});
        resources.push(resource("Gateway", name, spec));
    }
    resources
}

/// How many calls of `fixture_hold` this fixture has begun, and how many of them were cancelled: asked directly.
async fn held(fixture: &Fixture) -> (u64, u64) {
    let url = fixture.url.replace("/mcp", "/held");
    let said = http::get(&url, &[]).await.unwrap().text();
    let said: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
    (said["begun"].as_u64().unwrap(), said["cancelled"].as_u64().unwrap())
}

#[tokio::test]
async fn clients_of_2024_are_asked_and_told_by_servers_of_both_eras() {
    let legacy = Fixture::start(Eras::Legacy).await.unwrap();
    let modern = Fixture::start(Eras::Modern).await.unwrap();
    let product = Product::start(&gateways(&legacy, &modern)).await.unwrap();
    for sdk in [Sdk::Python, Sdk::Node] {
        for server in ["legacy", "modern"] {
            let what = format!("{sdk:?} over HTTP with SSE on a {server} server");
            let url = format!("{}/sse", product.url(server));
            let mut client = Driver::over_sse(sdk, &url, None).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(client.version, "2024-11-05", "{what}");
            let sample = said(&mut client, &what, "test_sampling", json!({"prompt": "Say something"})).await;
            assert!(text(&sample).contains("a sample of the client"), "{what}: {sample}");
            let steps = said(&mut client, &what, "test_tool_with_progress", json!({})).await;
            let progress: Vec<f64> =
                steps["progress"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
            // That npm client drops progress which it reads together with the answer.
            let all = [0.0, 50.0, 100.0];
            let seen = if sdk == Sdk::Node { progress.len().clamp(1, 3) } else { 3 };
            assert_eq!(progress, all[..seen], "{what}: {steps}");
            client.close().await.unwrap();
        }
    }
    product.stop().await;
}

#[tokio::test]
async fn servers_ask_both_official_clients_in_every_pairing() {
    let legacy = Fixture::start(Eras::Legacy).await.unwrap();
    let modern = Fixture::start(Eras::Modern).await.unwrap();
    let product = Product::start(&gateways(&legacy, &modern)).await.unwrap();
    for sdk in [Sdk::Python, Sdk::Node] {
        for (mode, version) in [("legacy", LEGACY), (MODERN, MODERN)] {
            for (server, fixture) in [("legacy", &legacy), ("modern", &modern)] {
                let what = format!("{sdk:?}, a client of {version} on a {server} server");
                let mut client =
                    Driver::answering(sdk, &product.url(server), mode).await.unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_eq!(client.version, version, "{what}");

                let form = said(&mut client, &what, "test_elicitation", json!({"message": "Who are you?"})).await;
                assert!(
                    text(&form).contains("action=accept") && text(&form).contains("ada@example.com"),
                    "{what}: {form}"
                );
                let sample = said(&mut client, &what, "test_sampling", json!({"prompt": "Say something"})).await;
                assert!(text(&sample).contains("a sample of the client"), "{what}: {sample}");
                let steps = said(&mut client, &what, "test_tool_with_progress", json!({})).await;
                let progress: Vec<f64> = serde_json::from_value(steps["progress"].clone()).unwrap_or_default();
                assert_eq!(progress, [0.0, 50.0, 100.0], "{what}: {steps}");

                let before = held(fixture).await;
                client.cancel("fixture_hold", json!({})).await.unwrap_or_else(|e| panic!("{what}: {e}"));
                eventually(&format!("{what}: the server hears that it is cancelled"), || async {
                    let now = held(fixture).await;
                    (now == (before.0 + 1, before.1 + 1)).then_some(())
                })
                .await;

                client.watch(&[WATCHED]).await.unwrap_or_else(|e| panic!("{what}: {e}"));
                said(&mut client, &what, "test_trigger_tool_change", json!({})).await;
                said(&mut client, &what, "test_touch_resource", json!({"uri": WATCHED})).await;
                for change in ["notifications/tools/list_changed", "notifications/resources/updated"] {
                    let client = tokio::sync::Mutex::new(&mut client);
                    eventually(&format!("{what}: hears {change}"), || async {
                        let heard = client.lock().await.heard().await.ok()?;
                        heard.iter().any(|m| m == change).then_some(())
                    })
                    .await;
                }
                client.close().await.unwrap();
            }
        }
    }
    product.stop().await;
}
