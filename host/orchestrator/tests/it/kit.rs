//! What the tests share: a house with one server, and patience.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis_model::{Name, spec::Traffic};
use portcullis_orchestrator::{Options, Orchestrator};
use portcullis_upstream::{
    Account, Endpoint, Incoming, LaunchSpec, Message, Options as Pool, Outgoing, Params, Peer, Target, TargetKey,
    UpstreamError, Upstreams,
};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const FIXTURE: &str = env!("CARGO_BIN_EXE_orchestrator-fixture");

/// An orchestrator and a pool over it.
pub struct House {
    pub orchestrator: Orchestrator,
    pub pool: Arc<Upstreams>,
    pub dir: TempDir,
}

pub fn tenant() -> Name {
    Name::default_tenant()
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

impl House {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::new(dir.path().join("run"));
        options.supervisor = Some(FIXTURE.into());
        options.grace = Duration::from_millis(300);
        change(&mut options);
        let orchestrator = Orchestrator::new(options).unwrap();
        let pool = Upstreams::new(Pool::new(Arc::new(orchestrator.clone()))).unwrap();
        Self { orchestrator, pool, dir }
    }

    /// The fixture as a server, with flags.
    pub fn server(&self, flags: &[&str]) -> Arc<Peer> {
        self.process(process(flags), Traffic::default())
    }

    pub fn process(&self, process: Value, traffic: Traffic) -> Arc<Peer> {
        let spec = LaunchSpec::plain(Arc::new(serde_json::from_value(process).unwrap()));
        self.peer("fixture", spec, traffic)
    }

    pub fn peer(&self, server: &str, spec: LaunchSpec, traffic: Traffic) -> Arc<Peer> {
        self.peer_of(server, Account::None, spec, traffic)
    }

    pub fn peer_of(&self, server: &str, account: Account, spec: LaunchSpec, traffic: Traffic) -> Arc<Peer> {
        let key =
            TargetKey { tenant: tenant(), server: name(server), generation: 1, account, conversation: None, era: None };
        let target = Target { key, endpoint: Endpoint::Stdio(Arc::new(spec)), traffic: Arc::new(traffic) };
        self.pool.peer(&target).unwrap()
    }

    pub async fn close(self) {
        self.orchestrator.shutdown(Duration::ZERO).await;
        assert_eq!(self.orchestrator.running(), 0);
        assert_eq!(private(&self.dir.path().join("run")), 0, "private directories are removed");
    }

    pub fn log(&self) -> String {
        let ring = self.orchestrator.logs(&tenant(), &name("fixture"));
        ring.map_or(String::new(), |r| r.tail(usize::MAX).into_iter().map(|l| l.text + "\n").collect())
    }
}

pub fn process(flags: &[&str]) -> Value {
    let mut args = vec!["server"];
    args.extend(flags);
    json!({"command": FIXTURE, "args": args})
}

pub async fn send(peer: &Peer, tool: &str, arguments: Value, patience: Duration) -> Result<Incoming, UpstreamError> {
    let members = format!(r#""name":"{tool}","arguments":{arguments}"#);
    let body = Params { method: "tools/call", members: &members };
    let deadline = Instant::now() + patience;
    peer.send(Outgoing { name: Some(tool), ..Outgoing::new("tools/call", &body, deadline) }).await
}

pub async fn call(peer: &Peer, tool: &str, arguments: Value) -> Result<Value, UpstreamError> {
    let message = match send(peer, tool, arguments, Duration::from_secs(20)).await? {
        Incoming::Json { message, .. } => message,
        Incoming::Stream { mut stream, .. } => stream.answer().await?,
    };
    Ok(payload(&message))
}

pub fn payload(message: &Message) -> Value {
    serde_json::from_str(message.payload_text()).unwrap()
}

/// How many directories with secrets there are: all but the lasting homes.
pub fn private(run: &Path) -> usize {
    std::fs::read_dir(run).unwrap().flatten().filter(|e| e.file_name() != "homes").count()
}

/// Waits until something holds.
pub async fn eventually(what: &str, check: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !check() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}

/// The living processes whose environment holds `HOME` below `dir`: whatever a test's servers started, wherever it went.
pub fn alive(dir: &Path) -> Vec<PathBuf> {
    let needle = dir.to_str().unwrap().as_bytes();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| std::fs::read(p.join("environ")).is_ok_and(|e| e.windows(needle.len()).any(|w| w == needle)))
        .collect()
}
