//! A request on its way to a server: written straight into the bytes that go out.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use portcullis_protocol::{
    Era, Message, Version,
    splice::{self, MetaEdit, Raw, RequestEdit},
};

/// What the transport decides about a request's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire<'w> {
    /// The JSON-RPC id to write, as a number.
    pub id: u64,
    /// The revision that the server speaks; 2026-07-28 wants its `_meta` fields in every request.
    pub version: Version,
    /// The progress token to write in place of the caller's, as a number. `None` where the caller gave none.
    pub progress: Option<u64>,
    /// What the client can do, as a JSON object: said in each request to a server of the modern era.
    pub capabilities: &'w str,
    /// The log level that a server of the modern era is asked for; `None` leaves what the client's request says.
    pub log_level: Option<&'w str>,
}

impl Wire<'_> {
    /// A request of our own, which offers the server nothing.
    pub(crate) fn own(id: u64, version: Version) -> Self {
        Self { id, version, progress: None, capabilities: NO_CAPABILITIES, log_level: None }
    }
}

/// What whoever can do nothing advertises.
pub const NO_CAPABILITIES: &str = "{}";

/// Something that can write itself as one JSON-RPC request. The gateway splices the caller's bytes; [`Params`] writes a
/// request of our own.
pub trait Body: Send + Sync {
    /// One complete JSON-RPC request.
    fn build(&self, wire: &Wire<'_>) -> Bytes;
}

/// Is told that a server closed the stream of its answer without one and will go on when it is asked again: a client of the
/// same revision would be let go in the same moment (2025-11-25, transports, "Sending Messages to the Server" 6).
pub trait LetGo: Send + Sync {
    /// Must not block. May be said more than once.
    fn let_go(&self);
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
    /// What the caller can do, as a JSON object: a server of the modern era may ask for that, and no more, in its answer.
    /// [`NO_CAPABILITIES`] where nobody would answer. To a legacy server the target's [`crate::Conversation`] speaks.
    pub capabilities: &'a str,
    /// The log level that the caller wants of a server of the modern era, such as `info`; `None` leaves what the request
    /// says.
    pub log_level: Option<&'a str>,
    /// Who wants to know when the server lets go of its stream. The call goes on either way.
    pub watcher: Option<Arc<dyn LetGo>>,
}

impl<'a> Outgoing<'a> {
    /// What the transport decides, once it has an id and knows the server's revision.
    pub(crate) fn wire(&self, id: u64, version: Version) -> Wire<'a> {
        Wire {
            id,
            version,
            progress: self.progress.then_some(id),
            capabilities: self.capabilities,
            log_level: self.log_level,
        }
    }

    /// A request without `Mcp-Name`, headers, progress or capabilities.
    pub fn new(method: &'a str, body: &'a dyn Body, deadline: Instant) -> Self {
        Self {
            method,
            name: None,
            body,
            headers: &[],
            deadline,
            progress: false,
            capabilities: NO_CAPABILITIES,
            log_level: None,
            watcher: None,
        }
    }
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
    fn build(&self, wire: &Wire<'_>) -> Bytes {
        let meta = match wire.version.era() {
            Era::Legacy => MetaEdit::Legacy,
            Era::Modern => MetaEdit::Modern {
                version: wire.version.as_str(),
                capabilities: wire.capabilities,
                client_info: Some(CLIENT_INFO),
                log_level: wire.log_level,
            },
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

/// What a request of our own says in `_meta` to a server of the modern era, up to the capabilities.
const MODERN_META: &str = concat!(
    r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
    r#""io.modelcontextprotocol/clientInfo":{"name":"portcullis","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""},"io.modelcontextprotocol/clientCapabilities":"#
);

impl Body for Params<'_> {
    fn build(&self, wire: &Wire<'_>) -> Bytes {
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
            into.extend_from_slice(wire.capabilities.as_bytes());
            if let Some(level) = wire.log_level {
                into.extend_from_slice(br#","io.modelcontextprotocol/logLevel":"#);
                into.extend_from_slice(splice::quote(level).as_bytes());
            }
            if let Some(token) = wire.progress {
                into.extend_from_slice(br#","progressToken":"#);
                write_number(token, &mut into);
            }
            into.push(b'}');
        } else if let Some(token) = wire.progress {
            if !self.members.is_empty() {
                into.push(b',');
            }
            into.extend_from_slice(br#""_meta":{"progressToken":"#);
            write_number(token, &mut into);
            into.push(b'}');
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
            let out = Params { method: "tools/list", members }.build(&Wire::own(u64::MAX, version));
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
