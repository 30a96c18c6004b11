//! Where the suite and its Node are installed.

use std::{env, path::PathBuf, process::Command, sync::OnceLock};

use anyhow::{Context, bail};
use portcullis_e2e::parts::root;
use serde::Deserialize;

/// Installed parts of the conformance runs.
#[derive(Clone, Debug, Deserialize)]
pub struct Parts {
    /// The folder that holds the suite's `node_modules`.
    pub suite: PathBuf,
    /// A Node of version 22 or newer, which the suite needs.
    pub suite_node: PathBuf,
}

impl Parts {
    /// The parts as `cargo xtask` says in the environment; without it they are installed now.
    ///
    /// # Panics
    /// Where they can't be installed: nothing could be measured.
    pub fn get() -> &'static Self {
        static PARTS: OnceLock<Parts> = OnceLock::new();
        PARTS.get_or_init(|| match Self::find() {
            Ok(parts) => parts,
            Err(error) => panic!("the parts that the conformance runs need: {error:#}"),
        })
    }

    fn find() -> anyhow::Result<Self> {
        let told = |name: &str| env::var_os(name).map(PathBuf::from);
        if let (Some(suite), Some(suite_node)) = (told("PORTCULLIS_TEST_SUITE"), told("PORTCULLIS_TEST_SUITE_NODE")) {
            return Ok(Self { suite, suite_node });
        }
        let output = Command::new("cargo").current_dir(root()).args(["xtask", "setup", "--print"]).output()?;
        if !output.status.success() {
            bail!("cargo xtask setup: {}", String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).context("cargo xtask setup printed no places")
    }

    /// The suite's script.
    pub fn script(&self) -> PathBuf {
        self.suite.join("node_modules/@modelcontextprotocol/conformance/dist/index.js")
    }
}
