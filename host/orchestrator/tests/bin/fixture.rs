//! One binary for the tests of the orchestrator: the supervisor mode as the product has it, servers that misbehave, and a
//! gateway to be killed.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use std::{
    io::{BufRead, Write},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis_model::spec::{Process, Traffic};
use portcullis_orchestrator::{Options, Orchestrator};
use portcullis_upstream::{
    Account, Endpoint, LaunchSpec, Options as Pool, Outgoing, Params, Target, TargetKey, Upstreams,
};
use serde_json::{Value, json};

fn main() {
    let mut args = std::env::args_os().skip(1);
    match args.next().and_then(|a| a.into_string().ok()).as_deref() {
        Some("supervise") => portcullis_child::supervise_main(args),
        Some("server") => server(&args.filter_map(|a| a.into_string().ok()).collect::<Vec<_>>()),
        Some("gateway") => {
            let dir = args.next().unwrap();
            tokio::runtime::Runtime::new().unwrap().block_on(gateway(dir.into()));
        }
        other => panic!("unknown mode {other:?}"),
    }
}

fn send(message: &Value) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{message}").unwrap();
    out.flush().unwrap();
}

/// A legacy or modern server on standard input and output. Flags change how it behaves.
#[expect(clippy::zombie_processes, reason = "what it leaves behind is the point")]
fn server(flags: &[String]) {
    let has = |flag: &str| flags.iter().any(|f| f == flag);
    let modern = has("modern");
    if has("die-at-once") {
        std::process::exit(3);
    }
    if has("flood-stderr") {
        std::thread::spawn(|| {
            loop {
                eprintln!("{}", "noise ".repeat(2000));
            }
        });
    }
    if has("fork") {
        // A grandchild in a session of its own that ignores SIGTERM and holds no stream of ours.
        for _ in 0..2 {
            Command::new("setsid")
                .args([
                    "sh",
                    "-c",
                    "trap '' TERM; sleep 1000 & exec sh -c \"trap '' TERM; while :; do sleep 1000; done\"",
                ])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
        }
    }
    if has("fill-stdout") {
        for _ in 0..20_000 {
            println!("this is no JSON at all");
        }
        println!("{{\"jsonrpc\":\"2.0\",\"id\":999999,\"result\":{{}}}}");
        println!("[]");
    }
    let mut list_changed_sent = false;
    let mut held: Vec<Value> = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let message: Value = serde_json::from_str(&line).unwrap();
        let id = message["id"].clone();
        let params = &message["params"];
        let reply = |result: Value| send(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
        match message["method"].as_str().unwrap_or("") {
            "server/discover" if modern => reply(json!({
                "resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": 0, "cacheScope": "private",
                "capabilities": {"tools": {"listChanged": true}},
            })),
            "subscriptions/listen" => {
                assert_eq!(params["notifications"]["toolsListChanged"], true);
                send(&json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
            }
            "server/discover" if has("mute-discover") => {}
            "initialize" if !modern => {
                assert_eq!(params["capabilities"], json!({}), "a shared child is told of no capabilities");
                reply(
                    json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "fixture"}}),
                );
            }
            "notifications/initialized" if !list_changed_sent => {
                list_changed_sent = true;
                send(&json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
            }
            "tools/list" => reply(match params["cursor"].as_str() {
                None => {
                    json!({"tools": [{"name": "a", "x": 1.10}, {"name": "a"}], "nextCursor": "2", "ttlMs": 500, "cacheScope": "public"})
                }
                Some("2") if !has("endless") => json!({"tools": [{"name": "b"}], "ttlMs": 900, "cacheScope": "public"}),
                Some(_) => json!({"tools": [], "nextCursor": "2"}),
            }),
            "tools/call" => tool(&id, params, &mut held),
            "notifications/cancelled" => {
                eprintln!("cancelled {}", params["requestId"]);
            }
            method if !id.is_null() && !method.is_empty() => {
                send(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "unknown method"}}));
            }
            "" => eprintln!("answered {}", message["error"]["code"]),
            _ => {}
        }
    }
    if has("stay") {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

fn tool(id: &Value, params: &Value, held: &mut Vec<Value>) {
    let reply = |id: &Value, result: Value| send(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
    let args = &params["arguments"];
    match params["name"].as_str().unwrap_or("") {
        "echo" => reply(id, json!({"content": [], "echo": args})),
        // Answers in another order than asked: in pairs, the second first.
        "shuffle" => {
            held.push(json!({"id": id, "args": args}));
            if held.len() >= 2 {
                for one in held.drain(..).rev() {
                    reply(&one["id"], json!({"echo": one["args"]}));
                }
            }
        }
        "env" => {
            let env: std::collections::BTreeMap<String, String> = std::env::vars().collect();
            reply(id, json!({"env": env, "cwd": std::env::current_dir().unwrap()}));
        }
        "limits" => reply(
            id,
            json!({"limits": std::fs::read_to_string("/proc/self/limits").unwrap(),
            "status": std::fs::read_to_string("/proc/self/status").unwrap(),
            "fds": std::fs::read_dir("/proc/self/fd").unwrap().count()}),
        ),
        "die" => std::process::exit(7),
        "never" => {}
        "twice" => {
            reply(id, json!({"n": 1}));
            reply(id, json!({"n": 2}));
        }
        "wrong-id" => send(&json!({"jsonrpc": "2.0", "id": 424_242, "result": {}})),
        "huge" => reply(id, json!({"text": "x".repeat(usize::try_from(args["bytes"].as_u64().unwrap()).unwrap())})),
        "progress" => {
            let token = &params["_meta"]["progressToken"];
            for n in 1..=3 {
                send(
                    &json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": n}}),
                );
            }
            reply(id, json!({"done": true}));
        }
        "ask" => {
            send(&json!({"jsonrpc": "2.0", "id": "from-server", "method": "sampling/createMessage", "params": {}}));
            reply(id, json!({"asked": true}));
        }
        "try" => {
            let path = args["path"].as_str().unwrap();
            let went = match args["what"].as_str().unwrap() {
                "read" => std::fs::read(path).map(drop),
                "write" => std::fs::write(path, "x"),
                "bind" => std::net::TcpListener::bind("127.0.0.1:0").map(drop),
                _ => rustix::process::test_kill_process(rustix::process::Pid::from_raw(path.parse().unwrap()).unwrap())
                    .map_err(Into::into),
            };
            reply(id, json!({"went": went.err().map_or("ok".to_owned(), |e| format!("{:?}", e.kind()))}));
        }
        "pid" => reply(id, json!({"pid": std::process::id()})),
        "slow" => {
            std::thread::sleep(Duration::from_millis(args["ms"].as_u64().unwrap()));
            reply(id, json!({"slow": true}));
        }
        other => panic!("unknown tool {other}"),
    }
}

/// Starts a server that forks, prints that it runs, and waits to be killed.
async fn gateway(dir: std::path::PathBuf) {
    let exe = std::env::current_exe().unwrap();
    let options = Options { grace: Duration::from_millis(300), ..Options::new(dir) };
    let orchestrator = Orchestrator::new(options).unwrap();
    let pool = Upstreams::new(Pool::new(Arc::new(orchestrator))).unwrap();
    let process: Process = serde_json::from_value(json!({"command": exe, "args": ["server", "fork", "stay"]})).unwrap();
    let key = TargetKey {
        tenant: "default".parse().unwrap(),
        server: "doomed".parse().unwrap(),
        generation: 1,
        account: Account::None,
        conversation: None,
        era: None,
    };
    let endpoint = Endpoint::Stdio(Arc::new(LaunchSpec::plain(Arc::new(process))));
    let target = Target { key, endpoint, traffic: Arc::new(Traffic::default()) };
    let body = Params { method: "tools/call", members: r#""name":"pid""# };
    let deadline = Instant::now() + Duration::from_secs(20);
    let outgoing = Outgoing { name: Some("pid"), ..Outgoing::new("tools/call", &body, deadline) };
    pool.send(&target, outgoing).await.unwrap();
    println!("up");
    std::future::pending::<()>().await;
}
