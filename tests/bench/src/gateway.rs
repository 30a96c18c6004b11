//! The gateway under test: the built binary with the resources that the cases need, and a token for it.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::{
    free_port,
    process::{self, Killed},
    upstream,
    wire::{self, Connection},
};

/// The small catalogue.
pub const FEW: usize = 10;
/// The large catalogue.
pub const MANY: usize = 10_000;
/// Connections, and streams, that the gateway takes of this machine: more than `streams` holds.
const MOST: usize = 15_000;
/// The gateways that are made, by what stands between client and server.
pub const STEPS: [&str; 6] =
    ["open", "auth", "auth-policy", "auth-policy-warm", "auth-policy-credential", "auth-policy-credential-warm"];

/// Further gateways without authentication, in front of the same server as it answers by events, and as it speaks 2025-11-25.
pub const DOORS: [&str; 2] = ["sse", "legacy"];

/// A running gateway.
pub struct Gateway {
    process: Killed,
    /// Where it listens.
    pub address: SocketAddr,
    /// The token of `user:bench`.
    pub token: String,
    /// From the start of the process to a call answered by each gateway, with compiled plugins cached.
    pub start: Duration,
    /// Resident memory before the load, everything loaded.
    pub idle_mb: f64,
    /// A 2025 session at the gateway `open`, and one at `legacy`.
    pub sessions: [String; 2],
}

impl Gateway {
    /// Starts the binary twice: the first start fills the compile cache, the second is the one that is measured.
    pub async fn start(
        binary: &Path,
        home: &Path,
        upstream: SocketAddr,
        tools: usize,
        threads: usize,
    ) -> anyhow::Result<Self> {
        let address: SocketAddr = ([127, 0, 0, 1], free_port()?).into();
        fs::create_dir_all(home.join("resources"))?;
        let config = home.join("portcullis.yaml");
        fs::write(&config, settings(home, address, threads))?;
        fs::write(home.join("resources/bench.yaml"), resources(upstream, tools))?;
        let (first, _) = launch(binary, home, &config, address).await?;
        let token = token(binary, home)?;
        wait_for_calls(address, &token).await?;
        stop(first)?;
        let (process, started) = launch(binary, home, &config, address).await?;
        wait_for_calls(address, &token).await?;
        let start = started.elapsed();
        lists(address, tools).await?;
        let idle_mb = process::rss_mb(process.0.id())?;
        let mut connection = Connection::open(address).await?;
        let open = wire::session(&mut connection, address, "/mcp/open").await?;
        let legacy = wire::session(&mut connection, address, "/mcp/legacy").await?;
        Ok(Self { process, address, token, start, idle_mb, sessions: [open, legacy] })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

async fn launch(binary: &Path, home: &Path, config: &Path, address: SocketAddr) -> anyhow::Result<(Killed, Instant)> {
    let log = fs::File::create(home.join("log"))?;
    let started = Instant::now();
    let child = Command::new(binary)
        .arg("serve")
        .arg("--config")
        .arg(config)
        .env("BENCH_CREDENTIAL", upstream::CREDENTIAL)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", binary.display()))?;
    let mut process = Killed(child);
    let until = Instant::now() + Duration::from_secs(60);
    let ready = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: keep-alive\r\n\r\n");
    loop {
        if let Ok(mut connection) = Connection::open(address).await
            && let Ok(answer) = connection.call(ready.as_bytes()).await
            && answer.status == 200
        {
            return Ok((process, started));
        }
        if let Some(status) = process.0.try_wait()? {
            bail!("the gateway ended with {status}: {}", tail(home));
        }
        if Instant::now() > until {
            bail!("the gateway was not ready within a minute: {}", tail(home));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn stop(mut process: Killed) -> anyhow::Result<()> {
    let pid = rustix::process::Pid::from_child(&process.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    let until = Instant::now() + Duration::from_secs(10);
    while process.0.try_wait()?.is_none() {
        if Instant::now() > until {
            bail!("the gateway did not stop within ten seconds of SIGTERM");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The catalogue is read in the background, so the first calls may come before it is whole.
async fn wait_for_calls(address: SocketAddr, token: &str) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(60);
    let mut connection = Connection::open(address).await?;
    for step in STEPS.into_iter().chain(DOORS) {
        // A token at a gateway that takes none is refused, as it should be.
        let token = step.starts_with("auth").then_some(token);
        let params = r#""name":"small","arguments":{"path":"/home/bench/notes.txt"}"#;
        let request = wire::request(address, &format!("/mcp/{step}"), token, "tools/call", params);
        loop {
            let answer = connection.call(&request).await?;
            let text = String::from_utf8_lossy(answer.body);
            if answer.status == 200 && text.contains(r#""isError":false"#) {
                break;
            }
            if Instant::now() > until {
                let text: String = text.chars().take(400).collect();
                bail!("gateway {step} makes no call, status {}: {text}", answer.status);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    Ok(())
}

/// Whether the gateway without policies lists the whole catalogue, all pages.
async fn lists(address: SocketAddr, tools: usize) -> anyhow::Result<()> {
    let mut connection = Connection::open(address).await?;
    let (mut seen, mut cursor) = (0, String::new());
    loop {
        let request = wire::request(address, "/mcp/open", None, "tools/list", &cursor);
        let answer = connection.call(&request).await?;
        let page: serde_json::Value = serde_json::from_slice(answer.body).context("a page of the list")?;
        seen += page["result"]["tools"].as_array().map_or(0, Vec::len);
        match page["result"]["nextCursor"].as_str() {
            Some(next) => cursor = format!(r#""cursor":"{next}""#),
            None if seen == tools => return Ok(()),
            None => bail!("{seen} tools are listed, not {tools}"),
        }
    }
}

fn token(binary: &Path, home: &Path) -> anyhow::Result<String> {
    let output = Command::new(binary)
        .args(["token", "create", "--owner", "user:bench", "--name", "bench", "-o", "json", "--socket"])
        .arg(home.join("admin.sock"))
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        bail!("token create: {}", String::from_utf8_lossy(&output.stderr));
    }
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).context("token create printed no JSON")?;
    made["token"].as_str().map(str::to_owned).context("token create printed no token")
}

fn tail(home: &Path) -> String {
    let text = fs::read_to_string(home.join("log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn settings(home: &Path, address: SocketAddr, threads: usize) -> String {
    let home = home.display();
    format!(
        "listen: {address}\ndataDir: {home}/data\nsocket: {home}/admin.sock\nresources: [{home}/resources]\nthreads: {threads}\n\
         maxConnectionsPerAddress: {MOST}\nmaxStreamsPerCaller: {MOST}\n"
    )
}

/// One server without and one with a credential, and a gateway for each step.
fn resources(upstream: SocketAddr, tools: usize) -> String {
    let mut documents = vec![
        document("User", "bench", "{}"),
        document(
            "McpServer",
            "plain",
            &format!("{{remote: {{url: \"http://{upstream}/mcp/{tools}\", allowPrivate: true}}}}"),
        ),
        document(
            "McpServer",
            "secret",
            &format!(
                "{{remote: {{url: \"http://{upstream}/secret/{tools}\", allowPrivate: true}}, \
                 fields: [{{name: token, sensitive: true, required: true}}], \
                 credential: {{place: [{{field: token, header: Authorization, prefix: \"Bearer \"}}]}}}}"
            ),
        ),
        document(
            "Connection",
            "bench-secret",
            "{server: secret, owner: {user: bench}, ownerOnly: true, secrets: {token: {env: BENCH_CREDENTIAL}}}",
        ),
        document("Plugin", "tool-access-warm", "{source: {builtIn: tool-access}, isolation: tenant}"),
    ];
    for door in DOORS {
        let url = format!("http://{upstream}/{door}/{FEW}");
        documents.push(document("McpServer", door, &format!("{{remote: {{url: \"{url}\", allowPrivate: true}}}}")));
        let spec = format!("{{auth: [], anonymous: true, servers: [{{server: {door}, bareNames: true}}]}}");
        documents.push(document("Gateway", door, &spec));
    }
    for step in STEPS {
        let auth = if step == "open" { "auth: [], anonymous: true" } else { "auth: [{plugin: bearer-token}]" };
        let policy = match step {
            s if s.ends_with("warm") => format!("[{{plugin: tool-access-warm, config: {RULES}}}]"),
            s if s.contains("policy") => format!("[{{plugin: tool-access, config: {RULES}}}]"),
            _ => "[]".to_owned(),
        };
        let server = if step.contains("credential") { "secret" } else { "plain" };
        documents.push(document(
            "Gateway",
            step,
            &format!("{{{auth}, policies: {policy}, servers: [{{server: {server}, bareNames: true}}]}}"),
        ));
    }
    documents.join("---\n")
}

/// A rule set as a team writes it: the call that is measured matches the last rule, by a condition on its arguments.
const RULES: &str = "{rules: [\
    {effect: deny, principals: [\"team:suspended\"]}, \
    {effect: deny, tools: [\"delete_*\", \"drop_*\"]}, \
    {effect: allow, principals: [\"user:bench\"], when: [{argument: /path, startsWith: /home/bench/}]}]}";

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: portcullis.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}
