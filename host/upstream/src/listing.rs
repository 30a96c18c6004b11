//! `tools/list` over all of its pages, bounded, each tool as the server wrote it.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use portcullis_protocol::Version;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    error::UpstreamError,
    message::{Incoming, MessageKind},
    outgoing::{Outgoing, Params},
    upstreams::Peer,
};

/// The most pages, so that a server whose cursor never ends doesn't keep us.
const MAX_PAGES: usize = 1_000;
/// The most tools of one server.
const MAX_TOOLS: usize = 50_000;

/// A tool as the server described it.
#[derive(Clone, Debug)]
pub struct Tool {
    /// Its name at the server.
    pub name: String,
    /// Its JSON object, byte for byte.
    pub raw: Bytes,
}

/// All tools of a server.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The tools, in the server's order; of several with one name, the first.
    pub tools: Vec<Tool>,
    /// How long the server says that it holds (`ttlMs`, the shortest of all pages). Modern servers only.
    pub ttl: Option<Duration>,
    /// Whether every page said `cacheScope: public`: only then it may be shown to other accounts.
    pub public: bool,
    /// The revision that the server speaks.
    pub version: Version,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    #[serde(borrow)]
    tools: Vec<&'a RawValue>,
    #[serde(default)]
    next_cursor: Option<String>,
    #[serde(default)]
    ttl_ms: Option<u64>,
    #[serde(default)]
    cache_scope: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct RpcError {
    #[serde(default)]
    code: i64,
}

/// Reads all pages within the server's limits.
pub(crate) async fn list_tools(
    peer: &Peer,
    headers: &[(HeaderName, HeaderValue)],
    deadline: Instant,
) -> Result<Listing, UpstreamError> {
    let limit = peer.traffic().max_response.get();
    let mut listing = Listing { tools: Vec::new(), ttl: None, public: true, version: Version::LATEST };
    let mut seen = HashSet::new();
    let mut cursors = HashSet::new();
    let mut members = String::new();
    let mut bytes = 0u64;
    for _ in 0..MAX_PAGES {
        let body = Params { method: "tools/list", members: &members };
        let outgoing = Outgoing { method: "tools/list", name: None, body: &body, headers, deadline, progress: false };
        let (message, version) = match peer.send(outgoing).await? {
            Incoming::Json { message, version } => (message, version),
            Incoming::Stream { mut stream, version } => (stream.answer().await?, version),
        };
        listing.version = version;
        if message.kind == MessageKind::Error {
            let code = serde_json::from_str::<RpcError>(message.payload_text()).map_or(0, |e| e.code);
            // A server without tools may not know the method.
            if code == -32601 && listing.tools.is_empty() {
                listing.public = false;
                return Ok(listing);
            }
            return Err(UpstreamError::Protocol(format!("tools/list was answered with error {code}")));
        }
        bytes = bytes.saturating_add(message.body.len() as u64);
        if bytes > limit {
            return Err(UpstreamError::TooLarge { limit });
        }
        let page: Page<'_> = serde_json::from_str(message.payload_text())
            .map_err(|_| UpstreamError::Protocol("the result of tools/list is malformed".to_owned()))?;
        if let Some(ms) = page.ttl_ms {
            let ttl = Duration::from_millis(ms);
            listing.ttl = Some(listing.ttl.map_or(ttl, |t| t.min(ttl)));
        }
        listing.public &= page.cache_scope.as_deref() == Some("public");
        for raw in page.tools {
            let Ok(named) = serde_json::from_str::<Named>(raw.get()) else {
                tracing::warn!(target = %peer.key(), "left out a tool without a name");
                continue;
            };
            if listing.tools.len() >= MAX_TOOLS {
                return Err(UpstreamError::Protocol(format!("more than {MAX_TOOLS} tools")));
            }
            if seen.insert(named.name.clone()) {
                // Copied: a slice would keep the whole page for as long as one of its tools is kept.
                listing.tools.push(Tool { name: named.name, raw: Bytes::copy_from_slice(raw.get().as_bytes()) });
            }
        }
        let Some(cursor) = page.next_cursor.filter(|c| !c.is_empty()) else {
            return Ok(listing);
        };
        if cursor.len() > 64 << 10 || !cursors.insert(cursor.clone()) {
            return Err(UpstreamError::Protocol("tools/list gave the same cursor twice".to_owned()));
        }
        members = format!(r#""cursor":{}"#, serde_json::Value::String(cursor));
    }
    Err(UpstreamError::Protocol(format!("tools/list has more than {MAX_PAGES} pages")))
}
