//! MCP as bytes, without an SDK in between: what a server answers, to the byte, over stdio or HTTP, in either era.

use std::{ffi::OsString, process::Stdio};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{
    PATIENCE,
    http::{self, LEGACY, MODERN},
};

/// What a server answered: the member of the message, byte for byte.
#[derive(Debug)]
pub enum Answer {
    /// `result`.
    Result(Box<RawValue>),
    /// `error`.
    Error(Box<RawValue>),
}

impl Answer {
    /// The member's bytes.
    pub fn raw(&self) -> &str {
        match self {
            Self::Result(raw) | Self::Error(raw) => raw.get(),
        }
    }

    /// The member, parsed.
    ///
    /// # Panics
    /// Never: it came out of a parsed message.
    pub fn value(&self) -> Value {
        serde_json::from_str(self.raw()).unwrap_or_else(|e| panic!("{e}: {}", self.raw()))
    }
}

/// A conversation with a server, or with the gateway.
pub struct Wire {
    line: Line,
    version: &'static str,
    id: u64,
}

#[allow(clippy::large_enum_variant, reason = "a handful of these live at a time")]
enum Line {
    Stdio { _child: Child, stdin: ChildStdin, stdout: Lines<BufReader<ChildStdout>> },
    Http { url: String, token: Option<String>, session: Option<String> },
}

#[derive(Deserialize)]
struct Incoming {
    id: Option<Value>,
    method: Option<String>,
    result: Option<Box<RawValue>>,
    error: Option<Box<RawValue>>,
}

impl Wire {
    /// Starts a server as a child and speaks to it directly.
    ///
    /// # Errors
    /// Where it does not start or does not shake hands.
    pub async fn spawn(
        program: &str,
        args: &[String],
        environment: &[(&str, OsString)],
        version: &'static str,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", "/tmp");
        command.envs(environment.iter().map(|(n, v)| (n, v)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| program.to_owned())?;
        let stdin = child.stdin.take().context("no standard input")?;
        let stdout = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Self { line: Line::Stdio { _child: child, stdin, stdout }, version, id: 0 }.greeted().await
    }

    /// Speaks to a URL.
    ///
    /// # Errors
    /// Where no session is to be had.
    pub async fn connect(url: &str, token: Option<&str>, version: &'static str) -> anyhow::Result<Self> {
        let line = Line::Http { url: url.to_owned(), token: token.map(str::to_owned), session: None };
        Self { line, version, id: 0 }.greeted().await
    }

    async fn greeted(mut self) -> anyhow::Result<Self> {
        if self.version == LEGACY {
            let hello = json!({"protocolVersion": LEGACY, "capabilities": {},
                "clientInfo": {"name": "portcullis-tests", "version": "1"}});
            if let Answer::Error(error) = self.ask("initialize", hello).await? {
                bail!("initialize: {error}");
            }
            self.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}), None).await?;
        }
        Ok(self)
    }

    /// Asks, and waits for the answer; notifications before it are left out.
    ///
    /// # Errors
    /// Where none comes, or something that is no answer.
    pub async fn ask(&mut self, method: &str, params: Value) -> anyhow::Result<Answer> {
        self.id += 1;
        let mut message = match self.version {
            MODERN => http::modern(method, params),
            _ => json!({"jsonrpc": "2.0", "method": method, "params": params}),
        };
        message["id"] = json!(self.id);
        let found = self.send(&message, Some(self.id)).await?.context("no answer")?;
        match (found.result, found.error) {
            (Some(result), None) => Ok(Answer::Result(result)),
            (None, Some(error)) => Ok(Answer::Error(error)),
            _ => bail!("neither result nor error"),
        }
    }

    /// All items of a list, page after page, each byte for byte. A server that has no such list has none of them.
    ///
    /// # Errors
    /// Where none comes, or something that is no list.
    pub async fn list(&mut self, method: &str, member: &str) -> anyhow::Result<Vec<Box<RawValue>>> {
        let mut items = Vec::new();
        let mut params = json!({});
        loop {
            let Answer::Result(result) = self.ask(method, params).await? else { return Ok(items) };
            let page: std::collections::HashMap<String, Box<RawValue>> = serde_json::from_str(result.get())?;
            let listed = page.get(member).with_context(|| format!("{method}: no {member}"))?;
            items.extend(serde_json::from_str::<Vec<Box<RawValue>>>(listed.get())?);
            match page.get("nextCursor").filter(|c| c.get() != "null") {
                Some(cursor) => params = json!({"cursor": serde_json::from_str::<String>(cursor.get())?}),
                None => return Ok(items),
            }
        }
    }

    async fn send(&mut self, message: &Value, wanted: Option<u64>) -> anyhow::Result<Option<Incoming>> {
        let ours = |found: &Incoming| found.method.is_none() && found.id.as_ref().and_then(Value::as_u64) == wanted;
        match &mut self.line {
            Line::Stdio { stdin, stdout, .. } => {
                stdin.write_all(format!("{message}\n").as_bytes()).await?;
                stdin.flush().await?;
                while wanted.is_some() {
                    let line = timeout(3 * PATIENCE, stdout.next_line()).await.context("no answer in time")??;
                    let found: Incoming = serde_json::from_str(&line.context("the server ended")?)?;
                    if ours(&found) {
                        return Ok(Some(found));
                    }
                }
                Ok(None)
            }
            Line::Http { url, token, session } => {
                let mut headers = vec![("mcp-protocol-version", self.version)];
                let authorization = token.as_ref().map(|t| format!("Bearer {t}"));
                headers.extend(authorization.as_deref().map(|a| ("authorization", a)));
                headers.extend(session.as_deref().map(|s| ("mcp-session-id", s)));
                let text = |pointer: &str| message.pointer(pointer).and_then(Value::as_str);
                if self.version == MODERN {
                    headers.extend(text("/method").map(|m| ("mcp-method", m)));
                    headers.extend(text("/params/name").or(text("/params/uri")).map(|n| ("mcp-name", n)));
                }
                let reply = http::post(url, &headers, message.to_string()).await?;
                if let Some(id) = reply.headers.get("mcp-session-id") {
                    *session = Some(id.to_str()?.to_owned());
                }
                if wanted.is_none() {
                    return Ok(None);
                }
                let body = reply.text();
                let events: Vec<&str> = body.lines().filter_map(|l| l.strip_prefix("data:")).collect();
                let messages = if events.is_empty() { vec![body.as_str()] } else { events };
                for message in messages.into_iter().filter(|m| !m.trim().is_empty()) {
                    let found: Incoming =
                        serde_json::from_str(message).with_context(|| format!("{}: {message}", reply.status))?;
                    if ours(&found) {
                        return Ok(Some(found));
                    }
                }
                bail!("{}: no answer in {body}", reply.status)
            }
        }
    }
}
