//! `portcullis-bench streams`: what an idle session and an idle stream cost in memory.
//!
//! Legacy sessions are opened and left alone; then streams are held open by processes of their own, since one process of
//! ours, one of the gateway and ten thousand sockets in each would meet the limit of open files otherwise.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    gateway::{FEW, Gateway},
    process::{self, Killed},
    upstream::Upstream,
    wire::{self, Connection},
};

/// Connections of one holding process.
const EACH: usize = 2_500;

/// What a holding process keeps open.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Kind {
    /// The GET stream of a 2025 session.
    Get,
    /// `subscriptions/listen` of 2026-07-28.
    Listen,
}

/// Measures memory of so many sessions, then of so many streams of each kind.
pub async fn run(binary: &Path, count: usize, threads: usize) -> anyhow::Result<()> {
    open_files()?;
    let scratch = tempfile::tempdir()?;
    let upstream = Upstream::start().await?;
    println!("| {count} of | before MB | after MB | bytes each |");
    println!("|---|--:|--:|--:|");
    let start = |name: &str| {
        let home = scratch.path().join(name);
        let address = upstream.address;
        async move { Gateway::start(binary, &home, address, FEW, threads).await }
    };
    // A gateway of its own for each figure: memory that one left behind would hide what the next takes.
    let gateway = start("sessions").await?;
    let before = process::rss_mb(gateway.pid())?;
    let mut connection = Connection::open(gateway.address).await?;
    for _ in 0..count {
        wire::session(&mut connection, gateway.address, "/mcp/open").await?;
    }
    row("idle 2025 sessions, no stream", before, process::rss_mb(gateway.pid())?, count);
    drop(gateway);
    for (kind, what) in [(Kind::Get, "2025 sessions with a GET stream"), (Kind::Listen, "2026 listen streams")] {
        let gateway = start(&format!("{kind:?}")).await?;
        let before = process::rss_mb(gateway.pid())?;
        let mut holders = Vec::new();
        let mut left = count;
        while left > 0 {
            let some = left.min(EACH);
            holders.push(holder(gateway.address, kind, some)?);
            left -= some;
        }
        row(what, before, process::rss_mb(gateway.pid())?, count);
    }
    Ok(())
}

fn row(what: &str, before: f64, after: f64, count: usize) {
    println!("| {what} | {before:.1} | {after:.1} | {:.0} |", (after - before) * 1e6 / count as f64);
}

/// As many open files as may be had, here and in the processes that are started from here.
fn open_files() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).context("open files")
}

/// Starts this program again to hold streams; returns once all of them stand.
fn holder(address: SocketAddr, kind: Kind, count: usize) -> anyhow::Result<Killed> {
    let kind = format!("{kind:?}").to_lowercase();
    let mut child = Command::new(std::env::current_exe()?)
        .args(["hold", &address.to_string(), &kind, &count.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().context("no standard output")?;
    let holder = Killed(child);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    match line.trim() {
        "held" => Ok(holder),
        other => bail!("streams could not be opened: {other}"),
    }
}

/// Holds streams until killed; says `held` when all of them stand.
pub async fn hold(address: SocketAddr, kind: Kind, count: usize) -> anyhow::Result<()> {
    let mut connection = Connection::open(address).await?;
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let request = match kind {
            Kind::Listen => wire::request(
                address,
                "/mcp/open",
                None,
                "subscriptions/listen",
                r#""notifications":{"toolsListChanged":true}"#,
            ),
            Kind::Get => {
                let session = wire::session(&mut connection, address, "/mcp/open").await?;
                format!(
                    "GET /mcp/open HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\
                     MCP-Protocol-Version: 2025-11-25\r\nMcp-Session-Id: {session}\r\n\r\n"
                )
                .into_bytes()
            }
        };
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&request).await?;
        let mut head = [0; 1024];
        let read = stream.read(&mut head).await?;
        let head = String::from_utf8_lossy(&head[..read]);
        if !head.starts_with("HTTP/1.1 200") || !head.to_ascii_lowercase().contains("text/event-stream") {
            bail!("no stream: {head}");
        }
        held.push(stream);
    }
    println!("held");
    std::io::stdout().flush()?;
    std::future::pending().await
}
