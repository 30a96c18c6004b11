//! The envelope of a message, read over borrowed bytes: what a gateway must know, and where it stands.
//!
//! Policies parse what [`crate::splice`] copies, so both have to read the same: in the envelope, in `params` and in `_meta`
//! a key may stand once only, whatever way it is escaped. [`crate::strict`] asks the same of everything below.

use std::{borrow::Cow, ops::Range};

mod read;

pub use read::parse;

/// Bounds on what is parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseLimits {
    /// The most bytes that a message may have.
    pub max_bytes: usize,
    /// The most objects and arrays that may stand in one another. At most 512, because the scanner recurses.
    pub max_depth: usize,
}

impl Default for ParseLimits {
    /// 4 MiB and 64 levels.
    fn default() -> Self {
        Self { max_bytes: 4 << 20, max_depth: 64 }
    }
}

/// Why a text is no message that can be passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// More bytes than [`ParseLimits::max_bytes`].
    #[error("the message has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// How many there are.
        size: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Not UTF-8.
    #[error("the message is not UTF-8 at byte {at}")]
    NotUtf8 {
        /// The first bad byte.
        at: usize,
    },
    /// Not JSON.
    #[error("the message is not JSON: {what} at byte {at}")]
    Syntax {
        /// Where.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// Nested deeper than [`ParseLimits::max_depth`].
    #[error("the message is nested deeper than {limit} levels")]
    TooDeep {
        /// How deep it may be.
        limit: usize,
    },
    /// More different keys than can be compared at a bounded cost.
    #[error("{place} has more than {limit} keys")]
    TooManyKeys {
        /// In which object.
        place: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// A key that stands twice in one object.
    #[error("{place} has the key {key:?} twice")]
    Duplicate {
        /// The key, cut to 80 characters.
        key: String,
        /// In which object.
        place: &'static str,
    },
    /// JSON, but not a JSON-RPC 2.0 message.
    #[error("not a JSON-RPC message: {0}")]
    Envelope(&'static str),
    /// A JSON-RPC message whose parameters can't be MCP's.
    #[error("invalid params: {0}")]
    Params(&'static str),
}

impl ParseError {
    /// The JSON-RPC error code: -32700 for what is not JSON, -32602 for parameters, -32600 for the rest.
    pub fn rpc_code(&self) -> i64 {
        match self {
            Self::NotUtf8 { .. } | Self::Syntax { .. } => crate::rpc::PARSE_ERROR,
            Self::Params(_) => crate::rpc::INVALID_PARAMS,
            _ => crate::rpc::INVALID_REQUEST,
        }
    }

    /// The same as a fault of the caller.
    pub fn to_fault(&self) -> portcullis_model::Fault {
        let code = match self {
            Self::TooLarge { .. } => "message-too-large",
            Self::TooDeep { .. } => "message-too-deep",
            Self::NotUtf8 { .. } | Self::Syntax { .. } => "not-json",
            Self::Duplicate { .. } | Self::TooManyKeys { .. } => "ambiguous-json",
            Self::Envelope(_) => "invalid-request",
            Self::Params(_) => "invalid-params",
        };
        let next = match self {
            Self::TooLarge { .. } | Self::TooDeep { .. } => {
                "Send a smaller message, or ask the operator to raise the gateway's limits."
            }
            _ => "Send one JSON-RPC 2.0 request or notification as the body.",
        };
        portcullis_model::Fault::new(portcullis_model::Side::Caller, code, self.to_string()).next(next)
    }
}

/// A value as it stands in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Its JSON text, byte for byte.
    pub raw: &'a str,
    /// Its offset in the source.
    pub at: usize,
}

impl Piece<'_> {
    /// Where it stands in the source.
    pub fn range(&self) -> Range<usize> {
        self.at..self.at + self.raw.len()
    }
}

/// A string: what it says, and how it stands in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text<'a> {
    /// What it says, escapes undone.
    pub value: Cow<'a, str>,
    /// The string with its quotes.
    pub piece: Piece<'a>,
}

impl AsRef<str> for Text<'_> {
    fn as_ref(&self) -> &str {
        &self.value
    }
}

/// What sort of message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It has a method and an id.
    Request,
    /// It has a method and no id.
    Notification,
    /// It has a result or an error.
    Response,
}

/// One JSON-RPC message.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// All of it.
    pub source: &'a str,
    /// What sort it is.
    pub kind: Kind,
    /// The id: a string or a number; of an error response also `null` or absent.
    pub id: Option<Piece<'a>>,
    /// The method of a request or notification.
    pub method: Option<Text<'a>>,
    /// The parameters of a request or notification.
    pub params: Option<Params<'a>>,
    /// The result of a response.
    pub result: Option<ResultView<'a>>,
    /// The error of a response.
    pub error: Option<ErrorView<'a>>,
}

impl<'a> Message<'a> {
    /// The method, or nothing for a response.
    pub fn method(&self) -> &str {
        self.method.as_ref().map_or("", |m| &m.value)
    }

    /// The request's `_meta`.
    pub fn meta(&self) -> Option<&Meta<'a>> {
        self.params.as_ref().and_then(|p| p.meta.as_ref())
    }

    /// `params.name`.
    pub fn name(&self) -> Option<&str> {
        self.params.as_ref().and_then(|p| p.name.as_ref()).map(AsRef::as_ref)
    }

    /// What `Mcp-Name` has to say for this message: the name, the URI or the task id, by method.
    pub fn target(&self) -> Option<&str> {
        let params = self.params.as_ref()?;
        match self.method() {
            "tools/call" | "prompts/get" => params.name.as_ref(),
            "resources/read" => params.uri.as_ref(),
            "tasks/get" | "tasks/update" | "tasks/cancel" => params.task_id.as_ref(),
            _ => None,
        }
        .map(AsRef::as_ref)
    }
}

/// The parameters of a request or notification.
#[derive(Clone, Debug)]
pub struct Params<'a> {
    /// All of them.
    pub piece: Piece<'a>,
    /// Whether there are none (`{}`).
    pub empty: bool,
    /// `name`, where it is a string.
    pub name: Option<Text<'a>>,
    /// `uri`, where it is a string.
    pub uri: Option<Text<'a>>,
    /// `cursor`, where it is a string.
    pub cursor: Option<Text<'a>>,
    /// `taskId`, where it is a string.
    pub task_id: Option<Text<'a>>,
    /// `arguments`, of any type.
    pub arguments: Option<Piece<'a>>,
    /// `progressToken` of `notifications/progress`.
    pub progress_token: Option<Piece<'a>>,
    /// `requestId` of `notifications/cancelled`.
    pub request_id: Option<Piece<'a>>,
    /// `protocolVersion` of `initialize`.
    pub protocol_version: Option<Text<'a>>,
    /// `capabilities` of `initialize`.
    pub capabilities: Option<Piece<'a>>,
    /// `clientInfo` of `initialize`.
    pub client_info: Option<Piece<'a>>,
    /// `requestState` of a retried request.
    pub request_state: Option<Piece<'a>>,
    /// `inputResponses` of a retried request.
    pub input_responses: Option<Piece<'a>>,
    /// `_meta`.
    pub meta: Option<Meta<'a>>,
}

/// `params._meta`.
#[derive(Clone, Debug)]
pub struct Meta<'a> {
    /// All of it.
    pub piece: Piece<'a>,
    /// How many members it has.
    pub len: usize,
    /// `io.modelcontextprotocol/protocolVersion`.
    pub protocol_version: Option<Text<'a>>,
    /// `io.modelcontextprotocol/clientCapabilities`, an object.
    pub client_capabilities: Option<Piece<'a>>,
    /// `io.modelcontextprotocol/clientInfo`, an object.
    pub client_info: Option<Piece<'a>>,
    /// `io.modelcontextprotocol/logLevel`.
    pub log_level: Option<Piece<'a>>,
    /// `progressToken`, a string or a number.
    pub progress_token: Option<Piece<'a>>,
    /// `traceparent`, where it is a string (W3C Trace Context).
    pub traceparent: Option<Text<'a>>,
    /// Where the per-request protocol members stand, to take them out.
    pub(crate) protocol_members: [Option<Member>; 4],
}

/// Where a member of an object stands, with its neighbours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    /// The offset of the key's quote.
    pub(crate) start: usize,
    /// The offset after the value.
    pub(crate) end: usize,
    /// The end of the member before, if there is one.
    pub(crate) prev_end: Option<usize>,
    /// The start of the member after, if there is one.
    pub(crate) next_start: Option<usize>,
}

/// The result of a response.
#[derive(Clone, Debug)]
pub struct ResultView<'a> {
    /// All of it.
    pub piece: Piece<'a>,
    /// Whether it is an object, as MCP wants.
    pub is_object: bool,
    /// Whether it is `{}`.
    pub empty: bool,
    /// `resultType`; absent means complete.
    pub result_type: Option<Text<'a>>,
    /// `isError` of a tool's result.
    pub is_error: bool,
    /// `ttlMs`.
    pub ttl_ms: Option<Piece<'a>>,
    /// `cacheScope`.
    pub cache_scope: Option<Piece<'a>>,
}

/// The error of a response.
#[derive(Clone, Debug)]
pub struct ErrorView<'a> {
    /// All of it.
    pub piece: Piece<'a>,
    /// Its code, where that is an integer.
    pub code: Option<i64>,
    /// Its message, where that is a string.
    pub message: Option<Text<'a>>,
}
