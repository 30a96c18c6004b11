//! A real identity provider, npm `oidc-provider`.

use std::{path::Path, process::Stdio};

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{
    http,
    parts::{Parts, root},
};

/// The provider, running until dropped.
pub struct Oidc {
    child: Child,
    /// Its issuer URL.
    pub issuer: String,
}

impl Oidc {
    /// Starts it on a port, 0 for any.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn start(port: u16) -> anyhow::Result<Self> {
        let parts = Parts::get();
        let mut child = Command::new(&parts.node_bin)
            .arg(root().join("tests/fixtures/node/oidc.mjs"))
            .arg(port.to_string())
            .env("PORTCULLIS_TEST_NODE", &parts.node)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("no standard output")?;
        let issuer = BufReader::new(stdout).lines().next_line().await?.context("the provider ended")?;
        Ok(Self { child, issuer })
    }

    /// Starts it again with other keys under the same issuer.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn rotate(&mut self) -> anyhow::Result<()> {
        let port = self.issuer.rsplit(':').next().and_then(|p| p.parse().ok()).context("no port in the issuer")?;
        self.child.kill().await?;
        *self = Self::start(port).await?;
        Ok(())
    }

    /// A signed access token of `alice` or `bob` for an audience.
    ///
    /// # Errors
    /// Where the provider refuses.
    pub async fn token(&self, client: &str, audience: &str) -> anyhow::Result<String> {
        self.ask(client, audience, &[]).await
    }

    /// The same, of the client `bound`, bound to a certificate (RFC 8705 section 3).
    ///
    /// # Errors
    /// Where the provider refuses, or the file can't be read.
    pub async fn bound_token(&self, audience: &str, certificate: &Path) -> anyhow::Result<String> {
        let pem = STANDARD.encode(std::fs::read(certificate)?);
        self.ask("bound", audience, &[("x-certificate", &pem)]).await
    }

    async fn ask(&self, client: &str, audience: &str, more: &[(&str, &str)]) -> anyhow::Result<String> {
        // The audience is a URL without anything that a form would have to escape but these two.
        let audience = audience.replace(':', "%3A").replace('/', "%2F");
        let body = format!(
            "grant_type=client_credentials&scope=tools&client_id={client}&client_secret=secret&resource={audience}"
        );
        let form = [&[("content-type", "application/x-www-form-urlencoded")], more].concat();
        let reply = http::post(&format!("{}/token", self.issuer), &form, body).await?;
        let answer = reply.message();
        answer["access_token"].as_str().map(str::to_owned).with_context(|| answer.to_string())
    }
}
