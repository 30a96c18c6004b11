//! What an operator writes, checked once when it is read.

use portcullis_plugin_kit::{Covers, Pattern};
use portcullis_sdk::Schema;
use serde::Deserialize;

/// How long an answer may take, in milliseconds.
const USUAL_TIMEOUT: u32 = 2_000;
const MAX_TIMEOUT: u32 = 10_000;
/// The most claims and headers that are sent.
const MAX_NAMES: usize = 32;

/// The plugin's configuration.
#[derive(Deserialize, Schema)]
#[serde(try_from = "Written")]
pub(crate) struct Config {
    pub(crate) url: String,
    /// The name under which the key of signatures is granted.
    pub(crate) signing_secret: String,
    pub(crate) timeout_ms: u32,
    pub(crate) covers: Covers,
    /// Whether arguments are sent; only their size otherwise.
    pub(crate) arguments: bool,
    pub(crate) claims: Vec<String>,
    pub(crate) headers: Vec<String>,
}

/// A service that decides.
#[derive(Deserialize, Schema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    /// Where it is asked: https, or http at a loopback address.
    url: String,
    /// The name under which the key of signatures is granted.
    #[schema(minLength = 1)]
    signing_secret: String,
    /// How long an answer may take; 2,000 where left out.
    #[schema(minimum = 1, maximum = 10000)]
    timeout_ms: Option<u32>,
    /// Patterns of `McpServer` names; all where left out.
    servers: Option<Vec<Pattern>>,
    /// Patterns of tools' own names; all where left out. What is not covered passes unasked.
    tools: Option<Vec<Pattern>>,
    /// Whether arguments are sent; only their size otherwise.
    #[serde(default = "yes")]
    arguments: bool,
    /// Claims of the caller that are sent.
    #[serde(default)]
    claims: Vec<String>,
    /// Headers of the request that are sent.
    #[serde(default)]
    headers: Vec<String>,
}

fn yes() -> bool {
    true
}

impl TryFrom<Written> for Config {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { url, signing_secret, timeout_ms, servers, tools, arguments, claims, mut headers } = written;
        let local = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
        let is_local = local
            .iter()
            .any(|start| url.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/'])));
        if !url.starts_with("https://") && !is_local {
            return Err("url: must be https, or http at a loopback address".to_owned());
        }
        let covers = Covers { servers, tools };
        covers.check()?;
        let timeout_ms = timeout_ms.unwrap_or(USUAL_TIMEOUT);
        if !(1..=MAX_TIMEOUT).contains(&timeout_ms) {
            return Err(format!("timeoutMs: between 1 and {MAX_TIMEOUT}"));
        }
        if claims.len() + headers.len() > MAX_NAMES {
            return Err(format!("claims: {MAX_NAMES} claims and headers together are the most"));
        }
        for header in &mut headers {
            header.make_ascii_lowercase();
        }
        Ok(Self { url, signing_secret, timeout_ms, covers, arguments, claims, headers })
    }
}
