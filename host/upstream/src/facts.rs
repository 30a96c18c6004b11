//! What a server says of itself: the answer to `server/discover` or `initialize`.

use std::sync::Arc;

use bytes::Bytes;
use portcullis_protocol::{Era, Version};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    error::UpstreamError,
    message::{Message, MessageKind},
};

/// The most bytes of capabilities and of who the server is: they are kept for each peer.
const MAX_OBJECT: usize = 64 << 10;
/// The most bytes of instructions; what is longer is left out.
const MAX_INSTRUCTIONS: usize = 64 << 10;

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// The revision that is spoken with it.
    pub version: Version,
    /// All revisions that it says it speaks, of those that are known here. A legacy server only ever names one.
    pub versions: Vec<Version>,
    /// What it offers: a JSON object as the server wrote it, such as `{"tools":{"listChanged":true}}`.
    pub capabilities: Bytes,
    /// Who it is: a JSON object as the server wrote it. `{}` where it does not say.
    pub server_info: Bytes,
    /// How to use it, for the model.
    pub instructions: Option<Box<str>>,
}

/// The capabilities that matter to whoever listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Announces {
    pub(crate) tools: bool,
    pub(crate) prompts: bool,
    pub(crate) resources: bool,
    pub(crate) subscribe: bool,
}

impl Announces {
    /// Whether any list is announced.
    pub(crate) fn any_list(self) -> bool {
        self.tools || self.prompts || self.resources
    }
}

impl ServerFacts {
    /// What a server that said nothing is taken for.
    pub(crate) fn unknown(version: Version) -> Self {
        Self {
            version,
            versions: vec![version],
            capabilities: Bytes::from_static(b"{}"),
            server_info: Bytes::from_static(b"{}"),
            instructions: None,
        }
    }

    /// Whether it says that it speaks a revision of this era.
    pub fn speaks(&self, era: Era) -> bool {
        self.versions.iter().any(|v| v.era() == era)
    }

    /// What the server tells of by itself.
    pub(crate) fn announces(&self) -> Announces {
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "camelCase", default)]
        struct List {
            list_changed: bool,
            subscribe: bool,
        }
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct All {
            tools: Option<List>,
            prompts: Option<List>,
            resources: Option<List>,
        }
        let all: All = serde_json::from_slice(&self.capabilities).unwrap_or_default();
        let changes = |list: &Option<List>| list.as_ref().is_some_and(|l| l.list_changed);
        Announces {
            tools: changes(&all.tools),
            prompts: changes(&all.prompts),
            resources: changes(&all.resources),
            subscribe: all.resources.is_some_and(|l| l.subscribe),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Discovered<'a> {
    supported_versions: Vec<String>,
    #[serde(borrow, default)]
    capabilities: Option<&'a RawValue>,
    #[serde(default)]
    instructions: Option<String>,
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<DiscoveredMeta<'a>>,
}

#[derive(Deserialize)]
struct DiscoveredMeta<'a> {
    #[serde(borrow, default, rename = "io.modelcontextprotocol/serverInfo")]
    server_info: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Unsupported {
    data: SupportedVersions,
}

#[derive(Deserialize)]
struct SupportedVersions {
    supported: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Initialized<'a> {
    protocol_version: String,
    #[serde(borrow, default)]
    capabilities: Option<&'a RawValue>,
    #[serde(borrow, default)]
    server_info: Option<&'a RawValue>,
    #[serde(default)]
    instructions: Option<String>,
}

/// What the answer to `server/discover` proves.
pub(crate) enum Proof {
    /// The modern era, and what the server says of itself, where it answered with a result.
    Modern(Option<Arc<ServerFacts>>),
    /// Most likely the legacy era: try `initialize`.
    Legacy,
}

/// Reads the answer to `server/discover` (2026-07-28, "Versioning": a recognised modern error means modern, anything
/// else legacy).
pub(crate) fn read_discovery(message: &Message) -> Proof {
    let modern = |versions: &[String]| versions.iter().any(|v| v == Version::LATEST.as_str());
    match message.kind {
        MessageKind::Result => match serde_json::from_str::<Discovered<'_>>(message.payload_text()) {
            Ok(found) if modern(&found.supported_versions) => Proof::Modern(Some(Arc::new(ServerFacts {
                version: Version::LATEST,
                versions: found.supported_versions.iter().filter_map(|v| v.parse().ok()).take(16).collect(),
                capabilities: object(found.capabilities),
                server_info: object(found.meta.and_then(|m| m.server_info)),
                instructions: bounded(found.instructions),
            }))),
            _ => Proof::Legacy,
        },
        _ => match message.code.unwrap_or(0) {
            -32020 | -32021 => Proof::Modern(None),
            -32022 => match serde_json::from_str::<Unsupported>(message.payload_text()) {
                Ok(error) if modern(&error.data.supported) => Proof::Modern(None),
                _ => Proof::Legacy,
            },
            _ => Proof::Legacy,
        },
    }
}

/// Reads the answer to `initialize`.
///
/// # Errors
/// When the server refuses, or wants a revision that is no legacy one spoken here.
pub(crate) fn read_initialized(message: &Message) -> Result<Arc<ServerFacts>, UpstreamError> {
    if message.kind == MessageKind::Error {
        let code = message.code.unwrap_or(0);
        return Err(UpstreamError::Protocol(format!("initialize was answered with error {code}")));
    }
    let result: Initialized<'_> = serde_json::from_str(message.payload_text())
        .map_err(|_| UpstreamError::Protocol("the result of initialize is malformed".to_owned()))?;
    match result.protocol_version.parse::<Version>() {
        Ok(version) if version.era() == Era::Legacy => Ok(Arc::new(ServerFacts {
            version,
            versions: vec![version],
            capabilities: object(result.capabilities),
            server_info: object(result.server_info),
            instructions: bounded(result.instructions),
        })),
        _ => Err(UpstreamError::Protocol("the server wants a protocol version that nobody else speaks".to_owned())),
    }
}

/// The object as it stands; an empty one for what is none or too large.
fn object(raw: Option<&RawValue>) -> Bytes {
    match raw.map(RawValue::get) {
        Some(text) if text.starts_with('{') && text.len() <= MAX_OBJECT => Bytes::copy_from_slice(text.as_bytes()),
        _ => Bytes::from_static(b"{}"),
    }
}

fn bounded(instructions: Option<String>) -> Option<Box<str>> {
    instructions.filter(|text| text.len() <= MAX_INSTRUCTIONS).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Message {
        Message::parse(Bytes::copy_from_slice(format!(r#"{{"jsonrpc":"2.0","id":1,{body}}}"#).as_bytes())).unwrap()
    }

    #[test]
    fn initialize_says_all_as_it_was_written() {
        let facts = read_initialized(&answer(
            r#""result":{"protocolVersion":"2025-06-18","capabilities":{ "tools":{"listChanged":true},"resources":{"subscribe":true}, "x":1.10 },"serverInfo":{"name":"s"},"instructions":"do"}"#,
        ))
        .unwrap();
        assert_eq!((facts.version, facts.speaks(Era::Modern)), (Version::V2025_06_18, false));
        assert_eq!(
            &facts.capabilities[..],
            br#"{ "tools":{"listChanged":true},"resources":{"subscribe":true}, "x":1.10 }"#
        );
        assert_eq!((&facts.server_info[..], facts.instructions.as_deref()), (&br#"{"name":"s"}"#[..], Some("do")));
        assert_eq!(facts.announces(), Announces { tools: true, subscribe: true, ..Announces::default() });
    }

    #[test]
    fn what_is_missing_or_odd_is_nothing() {
        let facts =
            read_initialized(&answer(r#""result":{"protocolVersion":"2024-11-05","capabilities":[1]}"#)).unwrap();
        assert_eq!(*facts, ServerFacts::unknown(Version::V2024_11_05));
        assert!(read_initialized(&answer(r#""result":{"protocolVersion":"2026-07-28"}"#)).is_err());
        assert!(read_initialized(&answer(r#""error":{"code":-1,"message":""}"#)).is_err());
    }

    #[test]
    fn only_the_modern_era_proves_itself() {
        let modern = |body: &str| matches!(read_discovery(&answer(body)), Proof::Modern(_));
        assert!(modern(r#""result":{"supportedVersions":["2026-07-28"],"capabilities":{}}"#));
        assert!(modern(r#""error":{"code":-32021,"message":""}"#));
        assert!(modern(r#""error":{"code":-32022,"message":"","data":{"supported":["2026-07-28"]}}"#));
        assert!(!modern(r#""error":{"code":-32022,"message":"","data":{"supported":["2099-01-01"]}}"#));
        assert!(!modern(r#""result":{"supportedVersions":["2099-01-01"],"capabilities":{}}"#));
        assert!(!modern(r#""error":{"code":-32601,"message":""}"#));
    }
}
