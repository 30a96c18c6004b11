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
    if has("mute") {
        thread::sleep(Duration::from_secs(1000));
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
    kept: Mutex<Vec<Value>>,
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
            "tools/list" => {
                let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
                let tools = ["echo", "keep", "seen", "told", "ask", "die"].map(tool);
                reply(json!({"tools": tools, "ttlMs": 0, "cacheScope": "private"}));
            }
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
            // Remembers, after a while, and says all that it was told.
            "keep" => {
                eprintln!("keeping {}", args["text"]);
                thread::sleep(pause);
                let mut kept = self.kept.lock().unwrap();
                kept.extend(args.get("text").cloned());
                reply(json!({"pid": std::process::id(), "kept": *kept}));
            }
            "seen" => reply(seen()),
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

/// What it was started with, and whether it finds the key of its bridge anywhere.
fn seen() -> Value {
    let mut found = Vec::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes.filter(|p| p.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit())) {
        for file in ["environ", "cmdline", "mem"] {
            let path = process.path().join(file);
            let text = match file {
                "mem" => std::fs::File::open(&path).map(|_| Vec::new()),
                _ => std::fs::read(&path),
            };
            let name = process.file_name().to_string_lossy().into_owned();
            match text {
                Ok(_) if file == "mem" && name == "1" => found.push("the bridge's memory".to_owned()),
                Ok(text) if String::from_utf8_lossy(&text).contains("PORTCULLIS_BRIDGE_KEY") => {
                    found.push(path.display().to_string());
                }
                _ => {}
            }
        }
    }
    let file = std::env::var_os("TOKEN_FILE").and_then(|path| std::fs::read_to_string(path).ok());
    json!({
        "args": std::env::args().skip(1).collect::<Vec<_>>(), "token": std::env::var("TOKEN").ok(), "file": file,
        "host": std::env::var("HOSTNAME").ok(), "variables": std::env::vars().map(|(name, _)| name).collect::<Vec<_>>(),
        "found": found, "user": std::fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m)).ok(),
        "writes": std::fs::write("/written", "").is_ok(), "temporary": std::fs::write("/tmp/written", "").is_ok(),
    })
}
