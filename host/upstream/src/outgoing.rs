//! A request on its way to a server: written straight into the bytes that go out.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use portcullis_protocol::{
    Era, Message, Version,
    splice::{self, MetaEdit, Raw, RequestEdit},
};

/// What the transport decides about a request's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    /// The JSON-RPC id to write, as a number.
    pub id: u64,
    /// The revision that the server speaks; 2026-07-28 wants its `_meta` fields in every request.
    pub version: Version,
    /// The progress token to write in place of the caller's, as a number. `None` where the caller gave none.
    pub progress: Option<u64>,
}

/// Something that can write itself as one JSON-RPC request. The gateway splices the caller's bytes; [`Params`] writes a
/// request of our own.
pub trait Body: Send + Sync {
    /// One complete JSON-RPC request.
    fn build(&self, wire: &Wire) -> Bytes;
}

/// One request for [`crate::Upstreams::send`].
pub struct Outgoing<'a> {
    /// The JSON-RPC method.
    pub method: &'a str,
    /// What the `Mcp-Name` header has to say: the tool's or prompt's name, or the resource's URI, as the server knows it.
    pub name: Option<&'a str>,
    /// The request itself.
    pub body: &'a dyn Body,
    /// The credential's headers, marked sensitive, and any `Mcp-Param-*`. Processes get none.
    pub headers: &'a [(HeaderName, HeaderValue)],
    /// When the caller's patience ends.
    pub deadline: Instant,
    /// Whether the caller asked for progress: then its token is replaced by one of ours, and progress is relayed.
    pub progress: bool,
}

/// A client's request, spliced: the transport's id and progress token go in, `_meta` becomes what the server's era wants,
/// and `edit` says what else changes. Every other byte passes as it came.
pub struct Spliced<'a> {
    /// What the client sent.
    pub message: &'a Message<'a>,
    /// What changes besides id, progress token and `_meta`.
    pub edit: RequestEdit<'a>,
}

impl Body for Spliced<'_> {
    fn build(&self, wire: &Wire) -> Bytes {
        let meta = match wire.version.era() {
            Era::Legacy => MetaEdit::Legacy,
            Era::Modern => {
                MetaEdit::Modern { version: wire.version.as_str(), capabilities: "{}", client_info: Some(CLIENT_INFO) }
            }
        };
        let progress_token = wire.progress.map(Raw::Number);
        let edit = RequestEdit { id: Some(Raw::Number(wire.id)), progress_token, meta, ..self.edit };
        splice::request(self.message, &edit)
    }
}

/// Who we are, as a JSON object.
pub(crate) const CLIENT_INFO: &str = concat!(r#"{"name":"portcullis","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);

/// A request of our own: a method and its parameters.
#[derive(Clone, Copy, Debug)]
pub struct Params<'a> {
    /// The JSON-RPC method.
    pub method: &'a str,
    /// The members of `params` without the braces, such as `"cursor":"x"`; may be empty.
    pub members: &'a str,
}

/// The `_meta` object of a request of our own to a server of the modern era. We advertise no capabilities: the session or
/// child behind it is shared (security decision 16).
pub(crate) const MODERN_META: &str = concat!(
    r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"#,
    r#""io.modelcontextprotocol/clientInfo":{"name":"portcullis","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}}"#
);

impl Body for Params<'_> {
    fn build(&self, wire: &Wire) -> Bytes {
        let mut into = Vec::with_capacity(320 + self.members.len());
        into.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
        write_number(wire.id, &mut into);
        into.extend_from_slice(br#","method":""#);
        into.extend_from_slice(self.method.as_bytes());
        into.extend_from_slice(br#"","params":{"#);
        into.extend_from_slice(self.members.as_bytes());
        if wire.version.era() == Era::Modern {
            if !self.members.is_empty() {
                into.push(b',');
            }
            into.extend_from_slice(MODERN_META.as_bytes());
        }
        into.extend_from_slice(b"}}");
        into.into()
    }
}

/// Appends a number in decimal, without an allocation.
pub(crate) fn write_number(mut n: u64, into: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(n % 10).unwrap_or(0);
        n /= 10;
        if n == 0 {
            break;
        }
    }
    into.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_both_eras() {
        let write = |version, members| {
            let out = Params { method: "tools/list", members }.build(&Wire { id: u64::MAX, version, progress: None });
            serde_json::from_slice::<serde_json::Value>(&out).unwrap()
        };
        let old = write(Version::V2025_11_25, "");
        assert_eq!(old["id"], u64::MAX);
        assert_eq!(old["params"], serde_json::json!({}));
        let new = write(Version::V2026_07_28, r#""cursor":"c""#);
        assert_eq!(new["params"]["cursor"], "c");
        assert_eq!(new["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    }
}
