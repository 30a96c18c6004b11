//! Real token exchange: an identity provider (npm `oidc-provider`), independent servers (PyPI `idpyoidc` and Authlib), and an MCP
//! server that checks by an issuer's keys whom it lets in, and tells whom it saw.

use std::{path::Path, process::Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::{
    PATIENCE, http,
    parts::{Parts, root},
};

/// Something that serves until it is dropped.
pub struct Running {
    _child: Child,
    /// What it printed first: its URL.
    pub url: String,
    /// Where its own pages are.
    pages: String,
}

impl Running {
    pub(crate) async fn start(mut command: Command) -> anyhow::Result<Self> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().context("no standard output")?;
        let line = timeout(3 * PATIENCE, BufReader::new(stdout).lines().next_line()).await??;
        let line = line.context("it ended")?;
        let (url, pages) = line.split_once(' ').unwrap_or((&line, line.trim_end_matches("/mcp")));
        Ok(Self { _child: child, url: url.to_owned(), pages: pages.to_owned() })
    }

    fn node(script: &str) -> Command {
        let parts = Parts::get();
        let mut command = Command::new(&parts.node_bin);
        command.arg(root().join("tests/fixtures/node").join(script)).env("PORTCULLIS_TEST_NODE", &parts.node);
        command
    }

    pub(crate) fn python(script: &str) -> Command {
        let mut command = Command::new(Parts::get().python("python"));
        command.arg(root().join("tests/fixtures/python").join(script));
        command
    }

    /// The identity provider that swaps tokens, on a port or on any (0).
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn provider(port: u16) -> anyhow::Result<Self> {
        let mut command = Self::node("exchange.mjs");
        command.arg(port.to_string());
        Self::start(command).await
    }

    /// The same, where people sign in as well: whoever types a login is that person, and comes back to `redirect`.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn signing_in(redirect: &str) -> anyhow::Result<Self> {
        let mut command = Self::node("exchange.mjs");
        command.args(["0", redirect]);
        Self::start(command).await
    }

    /// `idpyoidc` as provider and exchange server, for these resources.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn idpyoidc(resources: &[&str]) -> anyhow::Result<Self> {
        let mut command = Self::python("token_exchange.py");
        command.args(resources);
        Self::start(command).await
    }

    /// Authlib's authorization server, which takes ID-JAGs of a provider.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn authlib(provider: &str) -> anyhow::Result<Self> {
        let mut command = Self::python("id_jag.py");
        command.arg(provider);
        Self::start(command).await
    }

    /// A client's metadata document over https, with a certificate that is written to `ca`.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn document(redirect: &str, ca: &Path) -> anyhow::Result<Self> {
        let mut command = Self::python("document.py");
        command.arg(redirect).arg(ca);
        Self::start(command).await
    }

    /// An MCP server that lets in whoever comes with a token of these issuers, for this audience (`-`: any), in this header.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn guarded(audience: &str, header: &str, issuers: &[&str], tls: Option<&str>) -> anyhow::Result<Self> {
        let mut command = Self::node("guarded.mjs");
        command.arg(audience).arg(header).args(issuers.iter().map(|i| format!("{i}={i}/jwks")));
        if let Some(tls) = tls {
            command.env("PORTCULLIS_TEST_TLS", tls);
        }
        Self::start(command).await
    }

    /// Asks a fixture's own page.
    ///
    /// # Errors
    /// Where it does not answer 200 with JSON.
    pub async fn fixture(&self, what: &str) -> anyhow::Result<Value> {
        let reply = http::get(&format!("{}/fixture/{what}", self.pages), &[]).await?;
        ensure!(reply.status == 200, "{}: {}", reply.status, reply.text());
        Ok(serde_json::from_slice(&reply.body)?)
    }

    /// A signed token of the provider.
    ///
    /// # Errors
    /// Where it gives none.
    pub async fn token(&self, subject: &str, audiences: &[&str], more: &str) -> anyhow::Result<String> {
        let escape = |text: &str| text.replace(':', "%3A").replace('/', "%2F");
        let aud: String = audiences.iter().map(|a| format!("&aud={}", escape(a))).collect();
        let made = self.fixture(&format!("token?sub={subject}{aud}{more}")).await?;
        made["token"].as_str().map(str::to_owned).context("no token")
    }

    /// Makes the provider's token endpoint misbehave, or behave again (`ok`).
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn mode(&self, is: &str) -> anyhow::Result<()> {
        self.fixture(&format!("mode?is={is}")).await.map(drop)
    }

    /// The token requests that arrived and were understood.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn asked(&self) -> anyhow::Result<Vec<Value>> {
        Ok(self.fixture("asked").await?.as_array().cloned().unwrap_or_default())
    }
}
