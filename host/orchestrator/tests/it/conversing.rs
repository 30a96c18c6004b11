//! A real server that asks back, over all three transports: `server-everything` asks for roots, for a sample and for input.

use std::{sync::Arc, time::Duration};

use portcullis_e2e::parts::Parts;
use portcullis_model::spec::Traffic;
use portcullis_protocol::Version;
use portcullis_upstream::{
    Account, Conversation, Endpoint, HttpEndpoint, Incoming, LaunchError, LaunchSpec, Listen, Message, MessageKind,
    MessageStream, Peer, Target, TargetKey, UpstreamError,
};
use serde_json::{Value, json};

use crate::{
    kit::{FIXTURE, House, eventually, name, payload, send, tenant},
    servers::{Everything, free_port},
};

const CLIENT: &str = r#"{"elicitation":{},"sampling":{},"roots":{"listChanged":true}}"#;
const RESOURCE: &str = "demo://resource/dynamic/text/1";

fn soon() -> std::time::Instant {
    std::time::Instant::now() + Duration::from_secs(20)
}

fn target(conversation: Option<&str>, endpoint: Endpoint) -> Target {
    let conversation = conversation.map(|id| Arc::new(Conversation { id: id.into(), capabilities: CLIENT.into() }));
    let key = TargetKey {
        tenant: tenant(),
        server: name("everything"),
        generation: 1,
        account: Account::None,
        conversation,
        era: None,
    };
    Target { key, endpoint, traffic: Arc::new(Traffic::default()) }
}

fn http(port: u16, path: &str) -> Endpoint {
    let url = format!("http://127.0.0.1:{port}/{path}").parse().unwrap();
    Endpoint::Http(Arc::new(HttpEndpoint { url, headers: Vec::new(), allow_private: false }))
}

fn stdio() -> Endpoint {
    let parts = Parts::get();
    let process = json!({"command": parts.node_bin, "args": [parts.script("server-everything"), "stdio"]});
    Endpoint::Stdio(Arc::new(LaunchSpec::plain(Arc::new(serde_json::from_value(process).unwrap()))))
}

/// Answers as a person and a model would.
async fn answer(peer: &Peer, question: &Message) -> String {
    let method = question.method().unwrap().into_owned();
    let result = match &*method {
        "roots/list" => json!({"roots": [{"uri": "file:///attic", "name": "attic"}]}),
        "elicitation/create" => json!({"action": "accept", "content": {"name": "Ada", "check": true}}),
        "sampling/createMessage" => {
            json!({"role": "assistant", "model": "parrot", "content": {"type": "text", "text": "a sampled word"}})
        }
        other => panic!("asked {other}"),
    };
    let id: Value = serde_json::from_str(question.id_text()).unwrap();
    let reply = json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string();
    peer.reply(reply.into(), &[], soon()).await.unwrap();
    method
}

/// Calls a tool and answers whatever it asks, on its own stream or beside it.
async fn converse(peer: &Peer, heard: &mut MessageStream, tool: &str, arguments: Value) -> (Vec<String>, String) {
    let call = async {
        match send(peer, tool, arguments, Duration::from_secs(20)).await.unwrap() {
            Incoming::Json { message, .. } => (Vec::new(), message),
            Incoming::Stream { mut stream, .. } => {
                let mut asked = Vec::new();
                loop {
                    let message = stream.next().await.unwrap().unwrap();
                    match message.kind {
                        MessageKind::Request => asked.push(answer(peer, &message).await),
                        _ if message.is_answer() => break (asked, message),
                        _ => {}
                    }
                }
            }
        }
    };
    let beside = async {
        loop {
            let message = heard.next().await.unwrap().unwrap();
            if message.kind == MessageKind::Request {
                answer(peer, &message).await;
            }
        }
    };
    tokio::select! {
        (asked, message) = call => (asked, payload(&message)["content"].to_string()),
        () = beside => unreachable!("it never ends"),
    }
}

async fn talks(house: &House, endpoint: Endpoint) {
    let peer = house.pool.peer(&target(Some("one"), endpoint.clone())).unwrap();
    let facts = peer.connect(&[], soon()).await.unwrap();
    assert_eq!(facts.version, Version::V2025_11_25);
    let capabilities: Value = serde_json::from_slice(&facts.capabilities).unwrap();
    assert_eq!(capabilities["resources"]["subscribe"], true);
    assert!(facts.instructions.is_some());
    let mut heard = peer.listen(&Listen::default(), &[], soon()).await.unwrap();
    // Outside any call, a moment after the handshake.
    let roots = tokio::time::timeout(Duration::from_secs(10), heard.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(answer(&peer, &roots).await, "roots/list");

    let (asked, text) = converse(&peer, &mut heard, "trigger-elicitation-request", json!({})).await;
    assert_eq!(asked, ["elicitation/create"], "on the call's own stream");
    assert!(text.contains("Ada"), "{text}");
    let (asked, text) = converse(&peer, &mut heard, "trigger-sampling-request", json!({"prompt": "hm"})).await;
    assert_eq!(asked, ["sampling/createMessage"]);
    assert!(text.contains("a sampled word"), "{text}");
    let (_, text) = converse(&peer, &mut heard, "get-roots-list", json!({})).await;
    assert!(text.contains("file:///attic"), "{text}");
    drop(heard);

    // Somebody who only listens to a resource, beside the conversation.
    let shared = house.pool.peer(&target(None, endpoint)).unwrap();
    let listen = Listen { uris: &[RESOURCE], ..Listen::default() };
    let mut heard = shared.listen(&listen, &[], soon()).await.unwrap();
    send(&shared, "toggle-subscriber-updates", json!({}), Duration::from_secs(10)).await.unwrap();
    let updated = tokio::time::timeout(Duration::from_secs(15), heard.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(payload(&updated)["uri"], RESOURCE);
    drop(heard);
    house.pool.retain(|_| false);
}

#[tokio::test]
async fn over_pipes() {
    let house = House::new();
    talks(&house, stdio()).await;
    eventually("the children of both are let go", || house.orchestrator.running() == 0).await;
    house.close().await;
}

#[tokio::test]
async fn over_streamable_http() {
    let house = House::new();
    let server = Everything::start_as("streamableHttp", free_port()).await;
    talks(&house, http(server.port, "mcp")).await;
    house.close().await;
}

/// The transport of 2024-11-05.
#[tokio::test]
async fn over_http_and_sse() {
    let house = House::new();
    let server = Everything::start_as("sse", free_port()).await;
    talks(&house, http(server.port, "sse")).await;
    house.close().await;
}

/// Stopped is stopped for conversations that have not begun, too; and one that is over leaves no trace in the status.
#[tokio::test]
async fn a_stopped_server_starts_for_nobody() {
    let house = House::new();
    let fixture = json!({"command": FIXTURE, "args": ["server"]});
    let endpoint = Endpoint::Stdio(Arc::new(LaunchSpec::plain(Arc::new(serde_json::from_value(fixture).unwrap()))));
    let conversation = |id: &str| {
        let mut target = target(Some(id), endpoint.clone());
        // This fixture wants to be told of no capabilities.
        let quiet = Conversation { id: id.into(), capabilities: "{}".into() };
        target.key.conversation = Some(Arc::new(quiet));
        target
    };
    let first = house.pool.peer(&conversation("first")).unwrap();
    first.connect(&[], soon()).await.unwrap();
    assert_eq!(house.orchestrator.status().len(), 1);
    house.orchestrator.stop(&tenant(), &name("everything"), Duration::ZERO).await;
    let second = house.pool.peer(&conversation("second")).unwrap();
    let error = second.connect(&[], soon()).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Launch(LaunchError::Stopped)), "{error}");
    assert!(house.orchestrator.status().is_empty());
    house.orchestrator.start(&tenant(), &name("everything"));
    second.connect(&[], soon()).await.unwrap();
    house.close().await;
}
