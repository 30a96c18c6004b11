//! HTTP/1.1 as the load needs it: fixed request bytes over one kept connection, whole answers read, nothing allocated.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// One kept connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

/// An answer: its status and its body, without transfer coding where it had a length.
pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
    head: &'a [u8],
}

impl<'a> Answer<'a> {
    /// A header of the answer.
    pub fn header(&self, wanted: &str) -> Option<&'a str> {
        let text = std::str::from_utf8(self.head).ok()?;
        let named = |line: &&str| line.split_once(':').is_some_and(|(name, _)| name.eq_ignore_ascii_case(wanted));
        text.split("\r\n").find(named).and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
    }
}

struct Head {
    status: u16,
    body_start: usize,
    length: Option<usize>,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 256 * 1024], filled: 0 })
    }

    /// Sends a whole request and reads its whole answer.
    pub async fn call(&mut self, request: &[u8]) -> anyhow::Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.filled = 0;
        let head = loop {
            self.fill().await?;
            if let Some(head) = head(&self.buffer[..self.filled])? {
                break head;
            }
        };
        let end = match head.length {
            Some(length) => {
                while self.filled < head.body_start + length {
                    self.fill().await?;
                }
                head.body_start + length
            }
            None => loop {
                // The last chunk is `0` without trailers in all that is measured here.
                if self.buffer[head.body_start..self.filled].ends_with(b"0\r\n\r\n") {
                    break self.filled;
                }
                self.fill().await?;
            },
        };
        Ok(Answer {
            status: head.status,
            body: &self.buffer[head.body_start..end],
            head: &self.buffer[..head.body_start],
        })
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let read = self.stream.read(&mut self.buffer[self.filled..]).await?;
        if read == 0 {
            bail!("the connection was closed in mid-answer");
        }
        self.filled += read;
        Ok(())
    }
}

fn head(bytes: &[u8]) -> anyhow::Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..end]).context("the head is not text")?;
    let mut lines = text.split("\r\n");
    let status =
        lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok()).context("no status line")?;
    let mut length = None;
    for line in lines {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = Some(value.trim().parse().context("content-length")?);
        }
    }
    Ok(Some(Head { status, body_start: end + 4, length }))
}

/// The id that requests are written with; see [`with_id`].
const ID: u32 = 1_000;

/// The same request under an id of its own: a 2025 session may use each id once at a time.
pub fn with_id(request: &[u8], at: usize) -> Vec<u8> {
    let (from, to) = (format!(r#""id":{ID},"#), format!(r#""id":{},"#, ID as usize + at % 9_000));
    let mut out = request.to_vec();
    if let Some(start) = request.windows(from.len()).position(|w| w == from.as_bytes()) {
        out[start..start + to.len()].copy_from_slice(to.as_bytes());
    }
    out
}

/// The bytes of a POST of one JSON-RPC message in a session of the 2025-11-25 revision.
pub fn in_session(address: SocketAddr, path: &str, session: &str, method: &str, params: &str) -> Vec<u8> {
    let body = format!(r#"{{"jsonrpc":"2.0","id":{ID},"method":"{method}","params":{{{params}}}}}"#);
    format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n\
         MCP-Protocol-Version: 2025-11-25\r\nMcp-Session-Id: {session}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A new session of the 2025-11-25 revision: its id.
pub async fn session(connection: &mut Connection, address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = connection.call(request.as_bytes()).await?;
    if answer.status != 200 {
        bail!("initialize: status {}", answer.status);
    }
    answer.header("mcp-session-id").map(str::to_owned).context("initialize gave no session")
}

/// The bytes of a POST of one JSON-RPC message of the 2026-07-28 revision, where every request stands alone.
pub fn request(address: SocketAddr, path: &str, token: Option<&str>, method: &str, params: &str) -> Vec<u8> {
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}}"#;
    let comma = if params.is_empty() { "" } else { "," };
    let body = format!(r#"{{"jsonrpc":"2.0","id":{ID},"method":"{method}","params":{{{params}{comma}{meta}}}}}"#);
    let name = params
        .split_once(r#""name":""#)
        .and_then(|(_, rest)| rest.split_once('"'))
        .map(|(name, _)| format!("Mcp-Name: {name}\r\n"))
        .unwrap_or_default();
    let token = token.map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n\
         MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: {method}\r\n{name}{token}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
