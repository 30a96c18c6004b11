//! Servers as people name them, by `npx` and `uvx`: package runners with a home of their own, and grandchildren that go
//! with the gateway.

use std::collections::BTreeSet;

use portcullis_e2e::{
    PATIENCE, eventually, http,
    parts::Parts,
    process,
    product::{Product, resource},
};
use serde_json::{Value, json};

/// Two public servers, from packages that are installed already: no network is used.
fn servers(parts: &Parts) -> [Value; 2] {
    let memory = json!({
        "command": "npx",
        // Refuses to fetch: the package stands in the lock file, and in the folder that it works in.
        "args": ["--no", "--offline", "mcp-server-memory"],
        "cwd": parts.node,
    });
    let time = json!({
        "command": parts.python("uvx"),
        "args": ["--offline", "--no-index", "--find-links", parts.wheels(), "mcp-server-time"],
    });
    [
        resource("McpServer", "memory", json!({"process": memory})),
        resource("McpServer", "time", json!({"process": time})),
    ]
}

#[tokio::test]
async fn npx_and_uvx_servers_answer_and_none_of_their_processes_is_left() {
    let [memory, time] = servers(Parts::get());
    let mut product = Product::start(&[
        resource("User", "alice", json!({})),
        memory,
        time,
        resource("Gateway", "main", json!({"servers": [{"server": "memory"}, {"server": "time"}]})),
    ])
    .await
    .unwrap();
    let (_, token) = product.token("user:alice").unwrap();
    let url = product.url("main");
    let call = async |tool: &str, arguments: Value| http::call(&url, Some(&token), tool, arguments).await.unwrap();

    let entity = json!({"entities": [{"name": "gate", "entityType": "thing", "observations": ["it closes"]}]});
    // The first start of `uvx` installs thirty packages, on a machine that other tests keep busy.
    let until = tokio::time::Instant::now() + 4 * PATIENCE;
    loop {
        // What it knows already it does not make again.
        call("memory__create_entities", entity.clone()).await;
        let made = call("memory__read_graph", json!({})).await.text();
        let told = call("time__get_current_time", json!({"timezone": "Europe/Vienna"})).await.text();
        if made.contains("it closes") && told.contains("is_dst") {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "both servers answer: {made} {told}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }

    // A runner is no server: what it started is a child of it.
    let commands: BTreeSet<String> = process::descendants(product.pid()).into_iter().map(process::command).collect();
    for program in ["mcp-server-memory", "mcp-server-time"] {
        let supervised = |c: &&String| c.contains(program) && !c.contains("supervise");
        assert!(commands.iter().filter(supervised).count() >= 2, "{program} and its runner: {commands:?}");
    }
    // What `uvx` installed is in the server's own home, not in that of whoever runs the gateway.
    assert!(product.data().join("run/homes/default_time/.cache/uv").is_dir(), "a home of its own keeps it");

    // Killed, the gateway takes runners and servers along; started again it finds what was installed.
    product.kill().await;
    product.launch().await.unwrap();
    eventually("uvx starts again", || async {
        let told = call("time__get_current_time", json!({"timezone": "UTC"})).await.text();
        told.contains("UTC").then_some(())
    })
    .await;
    product.stop().await;
}
