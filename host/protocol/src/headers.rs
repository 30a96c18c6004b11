//! The HTTP headers that mirror a message: checked towards clients, written towards servers.
//!
//! From 2026-07-28 on, an intermediary may route by them, so whoever processes the body has to refuse a message whose
//! headers say otherwise (2026-07-28, transports: "Server Validation").

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{Era, Kind, Message, Version, rpc};

/// `MCP-Protocol-Version`.
pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// `Mcp-Method`.
pub const METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// `Mcp-Name`.
pub const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// `Mcp-Session-Id`, of the legacy era.
pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// `Last-Event-ID`, of the legacy era.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// How the headers that mirror arguments begin.
pub const PARAM_PREFIX: &str = "mcp-param-";

const SENTINEL_START: &str = "=?base64?";
const SENTINEL_END: &str = "?=";

/// What a message turned out to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoken {
    /// The era that decides how it is answered.
    pub era: Era,
    /// The revision: of a legacy `initialize` the one it asks for, negotiated; of another legacy message what its header
    /// says, or nothing if it has none (its session knows).
    pub version: Option<Version>,
}

/// Why the headers of a message are refused. All are answered with HTTP 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// A header that has to be there is not.
    #[error("the header {0} is missing")]
    Missing(&'static str),
    /// A header says other than the body, or can't be read.
    #[error("the header {0} does not say what the body says")]
    Mismatch(&'static str),
    /// A header that may stand once stands several times.
    #[error("the header {0} stands more than once")]
    Repeated(&'static str),
    /// Nobody here speaks that revision.
    #[error("unsupported protocol version")]
    UnsupportedVersion {
        /// The revision asked for, cut to 64 characters.
        requested: String,
    },
    /// A modern request without what each has to say in `_meta`.
    #[error("params._meta lacks {0}")]
    MissingMeta(&'static str),
}

impl HeaderFault {
    /// The JSON-RPC error code.
    pub fn rpc_code(&self) -> i64 {
        match self {
            Self::Missing(_) | Self::Mismatch(_) | Self::Repeated(_) => rpc::HEADER_MISMATCH,
            Self::UnsupportedVersion { .. } => rpc::UNSUPPORTED_PROTOCOL_VERSION,
            Self::MissingMeta(_) => rpc::INVALID_PARAMS,
        }
    }

    /// The same as a fault of the caller.
    pub fn to_fault(&self) -> portcullis_model::Fault {
        let code = match self {
            Self::UnsupportedVersion { .. } => "unsupported-version",
            Self::MissingMeta(_) => "missing-meta",
            _ => "header-mismatch",
        };
        let next = match self {
            Self::UnsupportedVersion { .. } => "Send one of the versions in data.supported, or start with initialize.",
            Self::MissingMeta(_) => "Send it with each request, as revision 2026-07-28 asks.",
            _ => "Send MCP-Protocol-Version, Mcp-Method and Mcp-Name as the body has them.",
        };
        portcullis_model::Fault::new(portcullis_model::Side::Caller, code, self.to_string()).next(next)
    }
}

/// Decides the era of a message and, in the modern one, checks that its headers agree with its body.
///
/// A message is modern if its `_meta` or its header says so, or if its method exists in no other era. Whether a method
/// exists in the era found (`initialize` in the modern one) is for the caller to decide.
///
/// # Errors
/// [`HeaderFault`], answered with HTTP 400.
pub fn check(headers: &HeaderMap, message: &Message<'_>) -> Result<Spoken, HeaderFault> {
    let header = single(headers, &PROTOCOL_VERSION, "MCP-Protocol-Version")?;
    let meta = message.meta();
    let body = meta.and_then(|m| m.protocol_version.as_ref()).map(AsRef::as_ref);
    let known = |text: &str| {
        text.parse::<Version>()
            .map_err(|_| HeaderFault::UnsupportedVersion { requested: text.chars().take(64).collect() })
    };
    if let Some(body) = body {
        match header {
            None => return Err(HeaderFault::Missing("MCP-Protocol-Version")),
            Some(header) if header != body => {
                return Err(HeaderFault::Mismatch("MCP-Protocol-Version"));
            }
            Some(_) => {}
        }
    }
    let version = match header {
        Some(header) => Some(known(header)?),
        None => None,
    };
    let modern = body.is_some() || version.is_some_and(|v| v.era() == Era::Modern);
    if !modern && !matches!(message.method(), "server/discover" | "subscriptions/listen") {
        let version = match message.method() {
            "initialize" => {
                let asked = message.params.as_ref().and_then(|p| p.protocol_version.as_ref());
                Some(Version::negotiate(asked.map_or("", AsRef::as_ref)))
            }
            _ => version,
        };
        return Ok(Spoken { era: Era::Legacy, version });
    }
    check_modern(headers, message, body)?;
    match version {
        // A legacy date in `_meta`: whoever writes `_meta` speaks the modern era, in which that revision does not exist.
        Some(version) if version.era() == Era::Legacy => {
            Err(HeaderFault::UnsupportedVersion { requested: version.as_str().to_owned() })
        }
        version => Ok(Spoken { era: Era::Modern, version }),
    }
}

fn check_modern(headers: &HeaderMap, message: &Message<'_>, body: Option<&str>) -> Result<(), HeaderFault> {
    if message.kind == Kind::Request {
        if body.is_none() {
            return Err(HeaderFault::MissingMeta("io.modelcontextprotocol/protocolVersion"));
        }
        if message.meta().is_none_or(|m| m.client_capabilities.is_none()) {
            return Err(HeaderFault::MissingMeta("io.modelcontextprotocol/clientCapabilities"));
        }
    }
    if message.kind == Kind::Response {
        return Ok(());
    }
    match single(headers, &METHOD, "Mcp-Method")? {
        None => return Err(HeaderFault::Missing("Mcp-Method")),
        Some(method) if method != message.method() => {
            return Err(HeaderFault::Mismatch("Mcp-Method"));
        }
        Some(_) => {}
    }
    let name = single(headers, &NAME, "Mcp-Name")?;
    match (message.target(), name) {
        (Some(_), None) => Err(HeaderFault::Missing("Mcp-Name")),
        (Some(target), Some(name)) if decode_value(name).as_deref() != Some(target) => {
            Err(HeaderFault::Mismatch("Mcp-Name"))
        }
        _ => Ok(()),
    }
}

fn single<'h>(headers: &'h HeaderMap, name: &HeaderName, shown: &'static str) -> Result<Option<&'h str>, HeaderFault> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(HeaderFault::Repeated(shown));
    }
    value.to_str().map(Some).map_err(|_| HeaderFault::Mismatch(shown))
}

/// What a mirrored header says: plain, or as `=?base64?..?=`. Nothing if that wraps no UTF-8.
pub fn decode_value(value: &str) -> Option<Cow<'_, str>> {
    match value.strip_prefix(SENTINEL_START).and_then(|v| v.strip_suffix(SENTINEL_END)) {
        Some(inner) => String::from_utf8(STANDARD.decode(inner).ok()?).ok().map(Cow::Owned),
        None => Some(Cow::Borrowed(value)),
    }
}

/// How a text is written into a mirrored header: as it is where that is safe, else as `=?base64?..?=`.
pub fn encode_value(text: &str) -> HeaderValue {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    let padded = edge(bytes.first()) || edge(bytes.last());
    let ambiguous = text.starts_with(SENTINEL_START) && text.ends_with(SENTINEL_END);
    let plain = !padded && !ambiguous && bytes.iter().all(|b| matches!(b, 0x20..=0x7e));
    let value = if plain {
        HeaderValue::from_str(text)
    } else {
        HeaderValue::from_str(&format!("{SENTINEL_START}{}{SENTINEL_END}", STANDARD.encode(bytes)))
    };
    // Both forms are visible ASCII, which every header value may be.
    value.unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The headers to send a server with a message: `name` is what `Mcp-Name` mirrors (see [`Message::target`]), as the
/// server knows it. For legacy servers only the negotiated version, from the revision on that has the header.
pub fn upstream_headers(
    method: &str,
    name: Option<&str>,
    version: Version,
) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
    let modern = version.era() == Era::Modern;
    let named = version >= Version::V2025_06_18;
    let version = named.then(|| (PROTOCOL_VERSION, HeaderValue::from_static(version.as_str())));
    let method = modern.then(|| (METHOD, encode_value(method)));
    let name = name.filter(|_| modern).map(|n| (NAME, encode_value(n)));
    [version, method, name].into_iter().flatten()
}

/// The `Mcp-Param-*` headers of a request, which an intermediary passes on whether it knows them or not.
pub fn param_headers(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    headers.iter().filter(|(name, _)| name.as_str().starts_with(PARAM_PREFIX))
}
