//! A component behind its pipes, as whoever reads and writes them meets it: both eras, calls side by side, calls that are given up.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{sync::Arc, time::Duration};

use portcullis_model::{Name, spec::ComponentServer};
use portcullis_package::Packages;
use portcullis_plugin::{Host, HostOptions, Services, Toolshed};
use portcullis_telemetry::Metrics;
use portcullis_tools::Components;
use portcullis_upstream::{Account, LaunchError, LaunchSpec, Launcher, Pipes, TargetKey, launch::NoLauncher};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};

/// `add` of two whole numbers, and `spin`, which never ends.
const ADDER: &str = r#"(component
  (core module $m
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "spin") (loop (br 0))))
  (core instance $i (instantiate $m))
  (func (export "add") (param "a" s32) (param "b" s32) (result s32) (canon lift (core func $i "add")))
  (func (export "spin") (canon lift (core func $i "spin"))))"#;

type Input = Box<dyn tokio::io::AsyncWrite + Send + Unpin>;
type Output = Lines<BufReader<Box<dyn tokio::io::AsyncRead + Send + Unpin>>>;

struct Talk {
    pipes: (Input, Output),
    _child: Box<dyn portcullis_upstream::launch::Child>,
}

impl Talk {
    async fn say(&mut self, message: Value) {
        self.pipes.0.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        let line = tokio::time::timeout(Duration::from_secs(60), self.pipes.1.next_line()).await.unwrap();
        serde_json::from_str(&line.unwrap().unwrap()).unwrap()
    }

    async fn ask(&mut self, id: u64, method: &str, params: Value) -> Value {
        self.say(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        let answer = self.hear().await;
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }
}

/// With so much time for a call, and room for so many at once.
async fn launch(wasm: &[u8], cpu: &str, at_once: u32) -> Result<Talk, LaunchError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adder.wasm");
    std::fs::write(&path, wasm).unwrap();
    let server: ComponentServer = serde_json::from_value(json!({
        "source": {"file": {"path": path}},
        "descriptions": {"add": "Adds."},
        "limits": {"cpu": cpu},
        "maxInFlight": at_once,
    }))
    .unwrap();
    let host = Host::new(HostOptions { pool_instances: 8, ..HostOptions::default() }).unwrap();
    let client = portcullis_outbound::Client::new().unwrap();
    let packages = Packages::open(&Default::default(), &dir.path().join("kept"), client, Metrics::new()).unwrap();
    let components = Components::new(Toolshed::new(host, Services::default(), packages), Arc::new(NoLauncher));
    let key = TargetKey {
        tenant: Name::default_tenant(),
        server: "adder".parse().unwrap(),
        generation: 1,
        account: Account::None,
        conversation: None,
        era: None,
    };
    let mut spec = LaunchSpec::plain(Arc::new(server.as_process()));
    spec.component = Some(Arc::new(server));
    let Pipes { stdin, stdout, child, .. } = components.launch(&key, &spec).await?;
    Ok(Talk { pipes: (stdin, BufReader::new(stdout).lines()), _child: child })
}

#[tokio::test]
async fn tools_are_listed_and_called_in_both_eras() {
    let mut talk = launch(&wat::parse_str(ADDER).unwrap(), "500ms", 16).await.unwrap();
    let hello = talk.ask(1, "initialize", json!({"protocolVersion": "2025-06-18"})).await;
    assert_eq!(hello["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(hello["result"]["serverInfo"]["name"], "adder");
    let list = talk.ask(2, "tools/list", json!({})).await;
    let add = &list["result"]["tools"][0];
    assert_eq!((&add["name"], &add["description"]), (&json!("add"), &json!("Adds.")));
    assert_eq!(add["inputSchema"]["required"], json!(["a", "b"]));
    assert_eq!(list["result"]["tools"].as_array().unwrap().len(), 2);
    let sum = talk.ask(3, "tools/call", json!({"name": "add", "arguments": {"a": 2, "b": 3}})).await;
    assert_eq!(
        sum["result"],
        json!({"content": [{"type": "text", "text": "{\"result\":5}"}], "structuredContent": {"result": 5}})
    );
    let wrong = talk.ask(4, "tools/call", json!({"name": "add", "arguments": {"a": 2}})).await;
    assert!(wrong["result"]["isError"] == true && wrong.to_string().contains("/b: is missing"), "{wrong}");
    let long = "1".repeat(1 << 20);
    let long = talk.ask(9, "tools/call", json!({"name": "add", "arguments": {"a": long}})).await;
    assert!(long["result"]["isError"] == true && long.to_string().contains("larger than"), "{long}");
    let unknown = talk.ask(5, "tools/call", json!({"name": "sub"})).await;
    assert_eq!(unknown["error"]["code"], -32602);
    assert_eq!(talk.ask(6, "prompts/list", json!({})).await["error"]["code"], -32601);
    let modern = json!({"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}});
    let discovered = talk.ask(7, "server/discover", modern.clone()).await;
    assert_eq!(discovered["result"]["resultType"], "complete");
    assert_eq!(talk.ask(8, "tools/list", modern).await["result"]["cacheScope"], "public");
}

#[tokio::test]
async fn calls_run_side_by_side_and_can_be_given_up() {
    let mut talk = launch(&wat::parse_str(ADDER).unwrap(), "60s", 2).await.unwrap();
    let spin = |id: u64| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "spin"}});
    let add = json!({"name": "add", "arguments": {"a": 1, "b": 1}});
    talk.say(spin(1)).await;
    let sum = talk.ask(2, "tools/call", add.clone()).await;
    assert_eq!(sum["result"]["structuredContent"]["result"], 2, "while another one spins");
    talk.say(spin(3)).await;
    for id in [1, 3] {
        talk.say(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}})).await;
    }
    // Both places are free again, and what was given up has no answer.
    assert_eq!(talk.ask(4, "tools/call", add).await["result"]["structuredContent"]["result"], 2);
    assert_eq!(talk.ask(5, "ping", json!({})).await["result"], json!({}));
}

#[tokio::test]
async fn a_tool_that_never_ends_is_an_error_of_the_tool() {
    let mut talk = launch(&wat::parse_str(ADDER).unwrap(), "5ms", 16).await.unwrap();
    let endless = talk.ask(1, "tools/call", json!({"name": "spin"})).await;
    assert!(endless["result"]["isError"] == true && endless.to_string().contains("CPU time"), "{endless}");
}

#[tokio::test]
async fn what_is_no_component_says_so() {
    let refused = launch(b"\0asm\x01\0\0\0", "5ms", 16).await.err().unwrap();
    assert!(refused.to_string().contains("core module"), "{refused}");
}
