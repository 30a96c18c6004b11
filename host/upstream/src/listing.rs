//! `tools/list`, `resources/list`, `resources/templates/list` and `prompts/list` over all of their pages, bounded, each
//! item as the server wrote it.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use portcullis_protocol::{Version, splice};
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
/// The most items of one server and kind.
const MAX_ITEMS: usize = 50_000;
/// The most bytes of a name, URI or URI template.
const MAX_KEY: usize = 8 << 10;
/// The most bytes of a cursor.
const MAX_CURSOR: usize = 64 << 10;
/// The longest time that a server's `ttlMs` counts for: more is no better than never asking again.
const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListKind {
    /// `tools/list`, by name.
    Tools,
    /// `resources/list`, by URI.
    Resources,
    /// `resources/templates/list`, by URI template.
    Templates,
    /// `prompts/list`, by name.
    Prompts,
}

impl ListKind {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Tools, Self::Resources, Self::Templates, Self::Prompts];

    /// The method that lists them.
    pub fn method(self) -> &'static str {
        match self {
            Self::Tools => "tools/list",
            Self::Resources => "resources/list",
            Self::Templates => "resources/templates/list",
            Self::Prompts => "prompts/list",
        }
    }

    /// The member of the result that holds them.
    pub fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
            Self::Prompts => "prompts",
        }
    }

    /// The member of the server's capabilities that says whether it has any.
    pub fn capability(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Resources | Self::Templates => "resources",
            Self::Prompts => "prompts",
        }
    }
}

/// One thing that a server offers, as the server described it.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its name, URI or URI template at the server.
    pub key: String,
    /// Its JSON object, byte for byte.
    pub raw: Bytes,
}

/// All of one kind that a server offers.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The items, in the server's order; of several with one key, the first.
    pub items: Vec<Item>,
    /// How long the server says that it holds (`ttlMs`, the shortest of all pages, a day at most). Modern servers only.
    pub ttl: Option<Duration>,
    /// Whether every page said `cacheScope: public`: only then it may be shown to other accounts.
    pub public: bool,
    /// The revision that the server speaks.
    pub version: Version,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    #[serde(borrow, default)]
    tools: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    resources: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    resource_templates: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    prompts: Option<Vec<&'a RawValue>>,
    #[serde(default)]
    next_cursor: Option<String>,
    #[serde(default)]
    ttl_ms: Option<serde_json::Number>,
    #[serde(default)]
    cache_scope: Option<String>,
}

impl<'a> Page<'a> {
    /// The items of the kind that was asked for.
    fn take(&mut self, kind: ListKind) -> Option<Vec<&'a RawValue>> {
        match kind {
            ListKind::Tools => self.tools.take(),
            ListKind::Resources => self.resources.take(),
            ListKind::Templates => self.resource_templates.take(),
            ListKind::Prompts => self.prompts.take(),
        }
    }
}

/// What an item is known by.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Keys {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    uri: Option<String>,
    #[serde(default)]
    uri_template: Option<String>,
}

/// Reads all pages within the server's limits.
pub(crate) async fn list(
    peer: &Peer,
    kind: ListKind,
    headers: &[(HeaderName, HeaderValue)],
    deadline: Instant,
) -> Result<Listing, UpstreamError> {
    let limit = peer.traffic().max_response.get();
    let method = kind.method();
    let mut listing = Listing { items: Vec::new(), ttl: None, public: true, version: Version::LATEST };
    let mut seen = HashSet::new();
    let mut cursors = HashSet::new();
    let mut members = String::new();
    let mut bytes = 0u64;
    for _ in 0..MAX_PAGES {
        let body = Params { method, members: &members };
        let outgoing = Outgoing { headers, ..Outgoing::new(method, &body, deadline) };
        let (message, version) = match peer.send(outgoing).await? {
            Incoming::Json { message, version } => (message, version),
            Incoming::Stream { mut stream, version } => (stream.answer().await?, version),
        };
        listing.version = version;
        if message.kind == MessageKind::Error {
            let code = message.code.unwrap_or(0);
            // A server that offers none may not know the method.
            if code == -32601 && listing.items.is_empty() {
                listing.public = false;
                return Ok(listing);
            }
            return Err(UpstreamError::Protocol(format!("{method} was answered with error {code}")));
        }
        bytes = bytes.saturating_add(message.body.len() as u64);
        if bytes > limit {
            return Err(UpstreamError::TooLarge { limit });
        }
        let malformed = || UpstreamError::Protocol(format!("the result of {method} is malformed"));
        let mut page: Page<'_> = serde_json::from_str(message.payload_text()).map_err(|_| malformed())?;
        let items = page.take(kind).ok_or_else(malformed)?;
        if let Some(ttl) = page.ttl_ms.as_ref().map(ttl) {
            listing.ttl = Some(listing.ttl.map_or(ttl, |t| t.min(ttl)));
        }
        listing.public &= page.cache_scope.as_deref() == Some("public");
        for raw in items {
            let Some(key) = key(kind, raw.get()) else {
                tracing::warn!(target = %peer.key(), method, "left out an item without a name or URI of a sane length");
                continue;
            };
            if listing.items.len() >= MAX_ITEMS {
                return Err(UpstreamError::Protocol(format!("{method} has more than {MAX_ITEMS} items")));
            }
            if seen.insert(key.clone()) {
                // Copied: a slice would keep the whole page for as long as one of its items is kept.
                listing.items.push(Item { key, raw: Bytes::copy_from_slice(raw.get().as_bytes()) });
            }
        }
        let Some(cursor) = page.next_cursor.filter(|c| !c.is_empty()) else {
            return Ok(listing);
        };
        if cursor.len() > MAX_CURSOR {
            return Err(UpstreamError::Protocol(format!("{method} gave a cursor of more than {MAX_CURSOR} bytes")));
        }
        members = format!(r#""cursor":{}"#, splice::quote(&cursor));
        if !cursors.insert(cursor) {
            return Err(UpstreamError::Protocol(format!("{method} gave the same cursor twice")));
        }
    }
    Err(UpstreamError::Protocol(format!("{method} has more than {MAX_PAGES} pages")))
}

/// What an item of this kind is known by; nothing for one that lacks it.
fn key(kind: ListKind, raw: &str) -> Option<String> {
    let keys: Keys = serde_json::from_str(raw).ok()?;
    let key = match kind {
        ListKind::Tools | ListKind::Prompts => keys.name,
        ListKind::Resources => keys.uri,
        ListKind::Templates => keys.uri_template,
    };
    key.filter(|k| !k.is_empty() && k.len() <= MAX_KEY)
}

/// How long a page holds. Negative and fractional times are no times.
fn ttl(number: &serde_json::Number) -> Duration {
    number.as_u64().map_or(Duration::ZERO, |ms| Duration::from_millis(ms).min(MAX_TTL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_key() {
        let raw = r#"{"name":"n","uri":"u","uriTemplate":"t","size":1.0}"#;
        assert_eq!(ListKind::ALL.map(|k| key(k, raw).unwrap()), ["n", "u", "t", "n"]);
        let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(MAX_KEY + 1));
        for bad in [r#"{"name":1}"#, r#"{"name":""}"#, "[]", "{}", "\"x\"", &long] {
            assert_eq!(key(ListKind::Tools, bad), None, "{bad}");
        }
    }

    #[test]
    fn odd_times_are_short_or_bounded() {
        let of = |text: &str| ttl(&serde_json::from_str(text).unwrap());
        assert_eq!(of("250"), Duration::from_millis(250));
        assert_eq!((of("-1"), of("1.5"), of("1e99")), (Duration::ZERO, Duration::ZERO, Duration::ZERO));
        assert_eq!(of("18446744073709551615"), MAX_TTL);
    }
}
