//! The official clients, driven by lines of JSON (`tests/fixtures/python/driver.py`, `tests/fixtures/node/driver.mjs`).

use std::{path::Path, process::Stdio};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{
    PATIENCE,
    authority::Pair,
    parts::{Parts, root},
};

/// Which client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sdk {
    /// PyPI `mcp`.
    Python,
    /// npm `@modelcontextprotocol/client`.
    Node,
}

/// A client, connected.
pub struct Driver {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    /// The revision that was negotiated.
    pub version: String,
}

impl Driver {
    /// Connects to a URL. `mode` is `legacy`, `auto` or a revision.
    ///
    /// # Errors
    /// What the client says where it can't connect.
    pub async fn connect(sdk: Sdk, url: &str, token: Option<&str>, mode: &str) -> anyhow::Result<Self> {
        let headers = token.map_or_else(|| json!({}), |t| json!({"authorization": format!("Bearer {t}")}));
        Self::open(sdk, &json!({"url": url, "headers": headers, "mode": mode})).await
    }

    /// Connects to a URL as a client that answers what servers ask: a form, a sample, its roots.
    ///
    /// # Errors
    /// What the client says where it can't connect.
    pub async fn answering(sdk: Sdk, url: &str, mode: &str) -> anyhow::Result<Self> {
        Self::open(sdk, &json!({"url": url, "headers": {}, "mode": mode, "answers": true})).await
    }

    /// The same over HTTP with SSE, the transport of 2024-11-05: PyPI `mcp`'s `sse_client`, and npm
    /// `@modelcontextprotocol/sdk` 1.x, whose `SSEClientTransport` later versions do not have.
    ///
    /// # Errors
    /// What the client says where it can't connect.
    pub async fn over_sse(sdk: Sdk, url: &str, token: Option<&str>) -> anyhow::Result<Self> {
        let headers = token.map_or_else(|| json!({}), |t| json!({"authorization": format!("Bearer {t}")}));
        Self::open(sdk, &json!({"url": url, "headers": headers, "mode": "legacy", "answers": true, "sse": true})).await
    }

    /// Calls a tool, cancels the call as soon as it is under way, and gives what the client made of it.
    ///
    /// # Errors
    /// Where the client does not say.
    pub async fn cancel(&mut self, tool: &str, arguments: Value) -> anyhow::Result<String> {
        let said = self.send(&json!({"do": "cancel", "tool": tool, "arguments": arguments})).await?;
        said["cancelled"].as_str().map(str::to_owned).context("it was not cancelled")
    }

    /// Connects with a token, as a client that opens the pages that it is asked to: their URLs are written to the file `opened`.
    ///
    /// # Errors
    /// What the client says where it can't connect.
    pub async fn opening(sdk: Sdk, url: &str, token: &str, mode: &str, opened: &Path) -> anyhow::Result<Self> {
        let headers = json!({"authorization": format!("Bearer {token}")});
        Self::open(sdk, &json!({"url": url, "headers": headers, "mode": mode, "opened": opened})).await
    }

    /// Connects over TLS: to a server of this authority, proving this certificate where there is one.
    ///
    /// # Errors
    /// What the client says where it can't connect.
    pub async fn over_tls(
        url: &str,
        token: Option<&str>,
        authority: &Path,
        own: Option<&Pair>,
    ) -> anyhow::Result<Self> {
        let headers = token.map_or_else(|| json!({}), |t| json!({"authorization": format!("Bearer {t}")}));
        let mut tls = json!({"authority": authority});
        if let Some(own) = own {
            tls["certificate"] = json!(own.certificate);
            tls["key"] = json!(own.key);
        }
        Self::open(Sdk::Python, &json!({"url": url, "headers": headers, "mode": "auto", "tls": tls})).await
    }

    /// Wants to hear when the tools or these resources change: by `subscriptions/listen`, or by `resources/subscribe`.
    ///
    /// # Errors
    /// What the client says where that is refused.
    pub async fn watch(&mut self, uris: &[&str]) -> anyhow::Result<()> {
        self.send(&json!({"do": "watch", "uris": uris})).await.map(drop)
    }

    /// The methods of the notifications that it got so far.
    ///
    /// # Errors
    /// Where it does not say.
    pub async fn heard(&mut self) -> anyhow::Result<Vec<String>> {
        let heard = self.send(&json!({"do": "heard"})).await?;
        serde_json::from_value(heard["methods"].clone()).context("no methods")
    }

    /// Starts a server as a child and connects to it, with nothing of ours in between.
    ///
    /// # Errors
    /// What the client says where it can't connect.
    pub async fn spawn(sdk: Sdk, command: &str, args: &[String]) -> anyhow::Result<Self> {
        let environment = json!({"PATH": std::env::var("PATH").unwrap_or_default(), "HOME": "/tmp"});
        Self::open(sdk, &json!({"command": command, "args": args, "env": environment, "mode": "auto"})).await
    }

    async fn open(sdk: Sdk, target: &Value) -> anyhow::Result<Self> {
        let parts = Parts::get();
        let fixtures = root().join("tests/fixtures");
        let mut command = match sdk {
            Sdk::Python => {
                let mut command = Command::new(parts.python("python"));
                command.arg(fixtures.join("python/driver.py"));
                command
            }
            Sdk::Node => {
                let mut command = Command::new(&parts.node_bin);
                let script = if target["sse"] == true { "node/old.mjs" } else { "node/driver.mjs" };
                command.arg(fixtures.join(script)).env("PORTCULLIS_TEST_NODE", &parts.node);
                command
            }
        };
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true).spawn()?;
        let stdin = child.stdin.take().context("no standard input")?;
        let stdout = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let mut driver = Self { child, stdin, stdout, version: String::new() };
        let hello = driver.send(target).await?;
        driver.version = hello["version"].as_str().unwrap_or_default().to_owned();
        Ok(driver)
    }

    /// The tools that the client sees, all pages together.
    ///
    /// # Errors
    /// What the client says where listing fails.
    pub async fn list(&mut self) -> anyhow::Result<Vec<Value>> {
        let listed = self.send(&json!({"do": "list"})).await?;
        listed["tools"].as_array().cloned().context("no tools in the list")
    }

    /// The names of [`Self::list`], sorted.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub async fn names(&mut self) -> anyhow::Result<Vec<String>> {
        let mut names: Vec<String> =
            self.list().await?.iter().filter_map(|t| t["name"].as_str().map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    }

    /// Calls a tool; the result object as the client understood it.
    ///
    /// # Errors
    /// A JSON-RPC error, as the client reports it. A tool's own error is a result.
    pub async fn call(&mut self, tool: &str, arguments: Value) -> anyhow::Result<Value> {
        self.send(&json!({"do": "call", "tool": tool, "arguments": arguments})).await
    }

    /// Ends the client as a person would, and waits for it. Dropping kills it, which leaves its own children to notice.
    ///
    /// # Errors
    /// Where it does not end.
    pub async fn close(self) -> anyhow::Result<()> {
        let Self { mut child, stdin, .. } = self;
        drop(stdin);
        timeout(PATIENCE, child.wait()).await.context("the client does not end")??;
        Ok(())
    }

    /// Has the client do something else: see the drivers for what they understand.
    ///
    /// # Errors
    /// A JSON-RPC error, as the client reports it.
    pub async fn perform(&mut self, command: Value) -> anyhow::Result<Value> {
        self.send(&command).await
    }

    async fn send(&mut self, command: &Value) -> anyhow::Result<Value> {
        self.stdin.write_all(format!("{command}\n").as_bytes()).await?;
        self.stdin.flush().await?;
        let line = timeout(3 * PATIENCE, self.stdout.next_line()).await.context("the client does not answer")??;
        let answer: Value = serde_json::from_str(&line.context("the client ended")?)?;
        match answer.get("ok") {
            Some(ok) => Ok(ok.clone()),
            None => anyhow::bail!("{}", answer["error"]),
        }
    }
}

/// The texts of a tool's result, one after another.
pub fn text(result: &Value) -> String {
    let blocks = result["content"].as_array().cloned().unwrap_or_default();
    blocks.iter().filter_map(|b| b["text"].as_str()).collect::<Vec<_>>().join("\n")
}
