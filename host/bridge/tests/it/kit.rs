//! What the tests share: a bridge that runs, and a client that holds a session.

use std::{
    io::{BufRead, BufReader},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use portcullis_e2e::{
    PATIENCE,
    events::Events,
    eventually,
    http::{self, LEGACY, Reply},
    process,
};
use serde_json::{Value, json};

pub const FIXTURE: &str = env!("CARGO_BIN_EXE_bridge-fixture");

/// A bridge.
pub struct Bridge {
    pub child: Child,
    pub url: String,
    log: Arc<Mutex<String>>,
    _open: Option<Open>,
}

/// A place in which everybody may run programs: what was built need not lie in one.
struct Open(tempfile::TempDir);

impl Open {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    fn link(&self, program: &str) -> PathBuf {
        let here = self.0.path().join(Path::new(program).file_name().unwrap());
        if std::fs::hard_link(program, &here).is_err() {
            std::fs::copy(program, &here).unwrap();
        }
        here
    }
}

impl Bridge {
    /// One over the fixture with flags of its own, which stand before `--`, and the fixture's behind it.
    pub async fn fixture(flags: &[&str], server: &[&str]) -> Self {
        Self::over(flags, FIXTURE, server).await
    }

    pub async fn over<S: AsRef<std::ffi::OsStr>>(flags: &[&str], command: &str, args: &[S]) -> Self {
        let bridge = Self::start(flags, command, args);
        bridge.ready().await;
        bridge
    }

    /// One that need not come up.
    pub fn start<S: AsRef<std::ffi::OsStr>>(flags: &[&str], command: &str, args: &[S]) -> Self {
        Self::start_with(&[], flags, command, args)
    }

    /// The same with variables, and as nobody in particular where this test is root.
    pub fn start_with<S: AsRef<std::ffi::OsStr>>(
        variables: &[(&str, &str)],
        flags: &[&str],
        command: &str,
        args: &[S],
    ) -> Self {
        let (bridge, somebody) = (env!("CARGO_BIN_EXE_portcullis-bridge"), !variables.is_empty());
        let open = (somebody && std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)).then(Open::new);
        let at = |program: &str| open.as_ref().map_or_else(|| program.into(), |open| open.link(program));
        let mut program = Command::new(at(bridge));
        if open.is_some() {
            program.uid(65532).gid(65532);
        }
        let mut child = program
            .envs(variables.iter().copied())
            .args(["--listen", "127.0.0.1:0"])
            .args(flags)
            .arg("--")
            .arg(at(command))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (sender, address) = std::sync::mpsc::channel();
        let (stderr, kept) = (child.stderr.take().unwrap(), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some((_, url)) = line.split_once("listening at ") {
                    let _ = sender.send(url.trim().to_owned());
                }
                let mut kept = kept.lock().unwrap();
                if kept.len() < 1 << 20 {
                    kept.push_str(&line);
                    kept.push('\n');
                }
            }
        });
        let url =
            address.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("it does not listen: {}", log.lock().unwrap()));
        Self { child, url, log, _open: open }
    }

    pub async fn ready(&self) {
        let url = self.at("readyz");
        let ask = || async { http::get(&url, &[]).await.ok().filter(|r| r.status.is_success()) };
        eventually("the bridge is ready", ask).await;
    }

    pub fn at(&self, page: &str) -> String {
        self.url.replace("/mcp", &format!("/{page}"))
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub async fn logged(&self, text: &str) {
        eventually(&format!("the log says {text}"), || async { self.log().contains(text).then_some(()) }).await;
    }

    /// A figure of `/metrics`.
    pub async fn figure(&self, name: &str) -> i64 {
        let text = http::get(&self.at("metrics"), &[]).await.unwrap().text();
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("portcullis_bridge_{name} ")));
        line.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
    }

    pub fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Processes that it has started.
    pub fn tree(&self) -> std::collections::BTreeSet<u32> {
        process::descendants(self.child.id())
    }

    /// Waits until it has ended, and gives its status.
    pub async fn ended(&mut self) -> Option<i32> {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(tokio::time::Instant::now() < until, "it does not end: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A session.
pub struct Client {
    pub url: String,
    pub session: String,
}

pub fn initialize(capabilities: Value, version: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": version, "capabilities": capabilities, "clientInfo": {"name": "test", "version": "1"}}})
}

impl Client {
    /// A session of a client with these capabilities.
    pub async fn open(bridge: &Bridge, capabilities: Value) -> Self {
        let reply = http::post(&bridge.url, &[], initialize(capabilities, LEGACY).to_string()).await.unwrap();
        assert!(reply.status.is_success(), "{} {}", reply.status, reply.text());
        let session = reply.headers["mcp-session-id"].to_str().unwrap().to_owned();
        let client = Self { url: bridge.url.clone(), session };
        let done = client.post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        assert_eq!(done.status, 202);
        client
    }

    pub fn headers(&self) -> Vec<(&str, &str)> {
        vec![("mcp-session-id", &self.session), ("mcp-protocol-version", LEGACY)]
    }

    pub async fn post(&self, message: &Value) -> Reply {
        http::post(&self.url, &self.headers(), message.to_string()).await.unwrap()
    }

    pub fn call(id: impl Into<Value>, tool: &str, arguments: Value) -> Value {
        json!({"jsonrpc": "2.0", "id": id.into(), "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
    }

    /// Calls a tool of the fixture; what it says.
    pub async fn said(&self, tool: &str, arguments: Value) -> Value {
        let reply = self.post(&Self::call(7, tool, arguments)).await;
        let message = reply.message();
        assert_eq!(message["id"], 7, "{message}");
        assert!(message["result"].is_object(), "{message}");
        message["result"]["said"].clone()
    }

    /// The events that answer a message.
    pub async fn events(&self, message: &Value) -> Events {
        Events::open("POST", &self.url, &self.headers(), message.to_string()).await.unwrap()
    }

    /// The stream outside calls, or one that broke off.
    pub async fn listen(&self, last: Option<&str>) -> Events {
        let mut headers = self.headers();
        headers.push(("accept", "text/event-stream"));
        headers.extend(last.map(|last| ("last-event-id", last)));
        Events::open("GET", &self.url, &headers, String::new()).await.unwrap()
    }
}
