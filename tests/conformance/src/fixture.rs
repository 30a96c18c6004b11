//! Our own server with everything that the suite asks for (`fixture/`), started on a port of its own.

use std::process::Stdio;

use anyhow::Context;
use portcullis_e2e::{PATIENCE, parts::root};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::parts::Parts;

/// Which eras a fixture speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eras {
    /// Both, on one endpoint.
    Both,
    /// Revisions with a handshake.
    Legacy,
    /// 2026-07-28.
    Modern,
}

/// A running fixture. It ends with this value.
pub struct Fixture {
    _child: Child,
    /// Its MCP endpoint.
    pub url: String,
}

impl Fixture {
    /// Starts one and waits until it says where it listens.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn start(eras: Eras) -> anyhow::Result<Self> {
        let eras = match eras {
            Eras::Both => "both",
            Eras::Legacy => "legacy",
            Eras::Modern => "modern",
        };
        let mut child = Command::new(&Parts::get().suite_node)
            .arg(root().join("tests/conformance/fixture/main.mjs"))
            .args(["0", eras])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .context("starting the fixture")?;
        let mut lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.context("the fixture says nothing")??;
        let said: Value = serde_json::from_str(&line.context("the fixture ended")?)?;
        let url = said["url"].as_str().context("the fixture names no URL")?.to_owned();
        Ok(Self { _child: child, url })
    }
}
