//! A server on standard input and output that does what a test asks of it, in either era.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use std::{
    collections::HashMap,
    io::{BufRead, Write},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

fn main() {
    let flags: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| flags.iter().any(|f| f == flag);
    if has("die-at-once") {
        std::process::exit(3);
    }
    if has("flood") {
        thread::spawn(|| {
            loop {
                eprintln!("{}", "noise ".repeat(2000));
            }
        });
        for _ in 0..2_000 {
            println!("this is no message");
        }
    }
    let server = Arc::new(Server::default());
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let message: Value = serde_json::from_str(&line).unwrap();
        server.take(message, has("modern"));
    }
    if has("stay") {
        thread::sleep(Duration::from_secs(1000));
    }
}

#[derive(Default)]
struct Server {
    questions: Mutex<HashMap<String, mpsc::SyncSender<Value>>>,
    capabilities: Mutex<Value>,
    level: Mutex<Value>,
    listens: Mutex<Vec<Value>>,
}

fn send(message: &Value) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{message}").unwrap();
    out.flush().unwrap();
}

fn notify(method: &str, params: Value) {
    send(&json!({"jsonrpc": "2.0", "method": method, "params": params}));
}

impl Server {
    fn take(self: &Arc<Self>, message: Value, modern: bool) {
        let id = message["id"].clone();
        let params = message["params"].clone();
        let kind = if modern { "complete" } else { "" };
        let reply = |mut result: Value| {
            if !kind.is_empty() {
                result["resultType"] = json!(kind);
            }
            send(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
        };
        match message["method"].as_str().unwrap_or("") {
            "server/discover" if modern => reply(json!({
                "supportedVersions": ["2026-07-28"], "ttlMs": 0, "cacheScope": "private",
                "capabilities": {"tools": {"listChanged": true}},
            })),
            "initialize" if !modern => {
                *self.capabilities.lock().unwrap() = params["capabilities"].clone();
                reply(json!({
                    "protocolVersion": params["protocolVersion"], "serverInfo": {"name": "fixture", "version": "1"},
                    "capabilities": {"tools": {"listChanged": true}, "logging": {}, "resources": {"subscribe": true}},
                }));
            }
            "subscriptions/listen" => {
                let tag = json!({"io.modelcontextprotocol/subscriptionId": id});
                notify("notifications/subscriptions/acknowledged", json!({"_meta": tag, "notifications": {}}));
                self.listens.lock().unwrap().push(id);
            }
            "logging/setLevel" => {
                *self.level.lock().unwrap() = params["level"].clone();
                reply(json!({}));
            }
            "resources/subscribe" | "resources/unsubscribe" => {
                eprintln!("{} {}", message["method"], params["uri"]);
                reply(json!({}));
            }
            "tools/list" => reply(
                json!({"tools": [{"name": "echo", "inputSchema": {"type": "object"}}], "ttlMs": 0, "cacheScope": "private"}),
            ),
            "tools/call" => {
                let server = self.clone();
                thread::spawn(move || server.tool(&id, &params, modern));
            }
            "notifications/cancelled" => eprintln!("cancelled {}", params["requestId"]),
            "" => {
                let key = id.to_string();
                if let Some(waits) = self.questions.lock().unwrap().remove(&key) {
                    waits.send(message).unwrap();
                }
            }
            _ if !id.is_null() => {
                send(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "unknown method"}}));
            }
            _ => {}
        }
    }

    fn tool(&self, id: &Value, params: &Value, modern: bool) {
        let args = &params["arguments"];
        let reply = |structured: Value| {
            let mut result = json!({"content": [{"type": "text", "text": structured.to_string()}], "said": structured});
            if modern {
                result["resultType"] = json!("complete");
            }
            send(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
        };
        let pause = Duration::from_millis(args["ms"].as_u64().unwrap_or(0));
        match params["name"].as_str().unwrap_or("") {
            // Says what it got after a while, with progress on the way.
            "echo" => {
                if let Some(token) = params["_meta"].get("progressToken") {
                    notify(
                        "notifications/progress",
                        json!({"progressToken": token, "progress": 1, "message": args["text"]}),
                    );
                }
                thread::sleep(pause);
                reply(args.clone());
            }
            "log" => {
                notify("notifications/message", json!({"level": args["level"], "data": args["text"]}));
                thread::sleep(pause);
                reply(json!(null));
            }
            "changed" => {
                for id in &*self.listens.lock().unwrap() {
                    let tag = json!({"io.modelcontextprotocol/subscriptionId": id});
                    notify("notifications/tools/list_changed", json!({"_meta": tag}));
                }
                if !modern {
                    notify("notifications/tools/list_changed", json!({}));
                    notify("notifications/resources/updated", json!({"uri": args["uri"]}));
                }
                reply(json!(null));
            }
            "ask" => {
                let question = format!("\"q-{}\"", args["text"].as_str().unwrap_or(""));
                let (sender, answer) = mpsc::sync_channel(1);
                self.questions.lock().unwrap().insert(question.clone(), sender);
                let name: Value = serde_json::from_str(&question).unwrap();
                send(&json!({"jsonrpc": "2.0", "id": name, "method": "roots/list"}));
                let answer = answer.recv_timeout(Duration::from_secs(20)).unwrap();
                reply(answer);
            }
            "huge" => reply(json!("x".repeat(usize::try_from(args["bytes"].as_u64().unwrap()).unwrap()))),
            "die" => std::process::exit(7),
            "never" => {}
            "told" => reply(json!({
                "pid": std::process::id(), "capabilities": *self.capabilities.lock().unwrap(), "level": *self.level.lock().unwrap(),
            })),
            other => eprintln!("unknown tool {other}"),
        }
    }
}
