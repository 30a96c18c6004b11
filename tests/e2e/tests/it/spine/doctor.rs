//! What `portcullis doctor` says of servers that can't be reached, and that it stops saying it.

use portcullis_e2e::{
    echo::Echo,
    eventually, http,
    product::{Product, resource},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

#[tokio::test]
async fn a_remote_server_that_can_not_be_reached_is_named() {
    let echo = Echo::start().await.unwrap();
    // Somebody else could take the port meanwhile, but nobody who speaks MCP.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gone = json!({"remote": {"url": format!("http://{nobody}/mcp"), "allowPrivate": true}});
    let gateway = json!({"servers": [{"server": "there"}, {"server": "gone"}]});
    let mut all = [
        resource("User", "alice", json!({})),
        echo.open("there", "modern"),
        resource("McpServer", "gone", gone),
        resource("Gateway", "main", gateway),
    ];
    let product = Product::start(&all).await.unwrap();
    let (_, token) = product.token("user:alice").unwrap();
    let list = async || http::ask(&product.url("main"), Some(&token), "tools/list", json!({})).await.unwrap().status;
    let doctor = || {
        let output = product.cli(&["doctor", "-o", "json"], "").unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = found.as_array().or_else(|| found["items"].as_array()).cloned().unwrap();
        (output.status.code(), found)
    };
    let of = |found: &[Value], name: &str| -> Vec<Value> {
        found.iter().filter(|f| f["subject"] == format!("McpServer/{name}")).cloned().collect()
    };
    let told = eventually("the doctor knows", async || {
        list().await;
        let (code, found) = doctor();
        of(&found, "gone").first().cloned().map(|told| (code, told, of(&found, "there")))
    })
    .await;
    assert_eq!((told.0, told.2.len()), (Some(1), 0), "{told:?}");
    assert_eq!(told.1["grade"], "error", "{told:?}");
    let message = told.1["message"].as_str().unwrap();
    assert!(message.starts_with("Reachable: Unreachable: "), "{message}");
    assert!(told.1["next"].as_str().unwrap().contains("portcullis describe server gone"), "{told:?}");
    // Where it is there, nothing is said any more.
    all[2] = echo.open("gone", "modern");
    product.write("resources.yaml", &all).unwrap();
    eventually("the doctor knows that, too", async || {
        list().await;
        of(&doctor().1, "gone").is_empty().then_some(())
    })
    .await;
    product.stop().await;
}
