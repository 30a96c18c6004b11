//! Every pairing of a client's era with a server's, by both official clients: the server asks for a form and for a sample in
//! mid-call, reports progress, and says that its tools, and a resource that the client watches, have changed.

use portcullis_conformance::fixture::{Eras, Fixture};
use portcullis_e2e::{
    driver::{Driver, Sdk, text},
    eventually,
    http::{LEGACY, MODERN},
    product::{Product, resource},
};
use serde_json::{Value, json};

/// A resource of the fixture that changes when it is touched.
const WATCHED: &str = "test://watched-resource";

async fn said(client: &mut Driver, what: &str, tool: &str, arguments: Value) -> Value {
    client.call(tool, arguments).await.unwrap_or_else(|e| panic!("{what}: {tool}: {e}"))
}

#[tokio::test]
async fn servers_ask_both_official_clients_in_every_pairing() {
    let legacy = Fixture::start(Eras::Legacy).await.unwrap();
    let modern = Fixture::start(Eras::Modern).await.unwrap();
    let mut resources = Vec::new();
    for (name, fixture) in [("legacy", &legacy), ("modern", &modern)] {
        resources.push(resource("McpServer", name, json!({"remote": {"url": fixture.url, "allowPrivate": true}})));
        let spec = json!({"anonymous": true, "auth": [], "servers": [{"server": name, "bareNames": true}]});
        resources.push(resource("Gateway", name, spec));
    }
    let product = Product::start(&resources).await.unwrap();
    for sdk in [Sdk::Python, Sdk::Node] {
        for (mode, version) in [("legacy", LEGACY), (MODERN, MODERN)] {
            for server in ["legacy", "modern"] {
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
