//! What a server sends: one JSON-RPC message, read just far enough to route it.

use std::{borrow::Cow, fmt, ops::Range};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use portcullis_protocol::{Kind, ParseLimits, Version};

use crate::{error::UpstreamError, outgoing::write_number, server::InFlight};

/// What sort of message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// An answer with a `result`.
    Result,
    /// An answer with an `error`.
    Error,
    /// A request from the server.
    Request,
    /// A notification that is no progress of ours.
    Notification,
    /// `notifications/progress` with a token.
    Progress,
}

/// One message, byte for byte as the server wrote it, with the places that a relay rewrites.
#[derive(Clone, Debug)]
pub struct Message {
    /// The whole message.
    pub body: Bytes,
    /// What sort it is.
    pub kind: MessageKind,
    /// Where the value of `id` stands, where there is one that is not null.
    pub id: Option<Range<usize>>,
    /// Where the value of `result`, `error` or `params` stands; empty where there is none.
    pub payload: Range<usize>,
    /// Where the value of `params.progressToken` stands, for [`MessageKind::Progress`].
    pub token: Option<Range<usize>>,
    /// Where the value of `method` stands, with its quotes, for a request or notification.
    pub method: Option<Range<usize>>,
    /// Whether it is a tool's result that says `isError`.
    pub is_error: bool,
    /// Whether it is a result that wants input of the client (2026-07-28, multi round-trip requests).
    pub input_required: bool,
    /// The code of a [`MessageKind::Error`], where it has one that is an integer.
    pub code: Option<i64>,
}

const PROGRESS: &str = "notifications/progress";

/// A server's message is bounded where it is read, by `traffic.maxResponse`.
const LIMITS: ParseLimits = ParseLimits { max_bytes: usize::MAX, max_depth: 512 };

impl Message {
    /// Reads the envelope, as everything in the house does: by [`portcullis_protocol::parse`].
    ///
    /// # Errors
    /// In words, when it is no JSON-RPC message: not JSON, not an object, a member twice, or neither answer nor call.
    pub fn parse(body: Bytes) -> Result<Self, String> {
        let read = {
            let message = portcullis_protocol::parse(&body, &LIMITS).map_err(|e| e.to_string())?;
            let id = message.id.filter(|id| id.raw != "null").map(|id| id.range());
            let params = message.params.as_ref();
            let token = params.filter(|_| message.method() == PROGRESS).and_then(|p| p.progress_token);
            let kind = match (message.kind, &message.error, token) {
                (Kind::Request, ..) => MessageKind::Request,
                (Kind::Notification, _, Some(_)) => MessageKind::Progress,
                (Kind::Notification, ..) => MessageKind::Notification,
                (Kind::Response, Some(_), _) => MessageKind::Error,
                (Kind::Response, None, _) => MessageKind::Result,
            };
            let payload = message
                .result
                .as_ref()
                .map(|r| r.piece)
                .or(message.error.as_ref().map(|e| e.piece))
                .or(params.map(|p| p.piece));
            Self {
                body: Bytes::new(),
                kind,
                id,
                payload: payload.map(|p| p.range()).unwrap_or_default(),
                token: token.map(|t| t.range()),
                method: message.method.as_ref().map(|m| m.piece.range()),
                is_error: message.result.as_ref().is_some_and(|r| r.is_error),
                input_required: message
                    .result
                    .as_ref()
                    .and_then(|r| r.result_type.as_ref())
                    .is_some_and(|kind| kind.as_ref() == "input_required"),
                code: message.error.as_ref().and_then(|e| e.code),
            }
        };
        Ok(Self { body, ..read })
    }

    /// Whether it ends the call.
    pub fn is_answer(&self) -> bool {
        matches!(self.kind, MessageKind::Result | MessageKind::Error)
    }

    /// The value of `id` as text.
    pub fn id_text(&self) -> &str {
        self.id.clone().map_or("", |r| self.text(r))
    }

    /// The value of `result`, `error` or `params` as text.
    pub fn payload_text(&self) -> &str {
        self.text(self.payload.clone())
    }

    /// The method of a request or notification.
    pub fn method(&self) -> Option<Cow<'_, str>> {
        let quoted = self.text(self.method.clone()?);
        match quoted.strip_prefix('"').and_then(|q| q.strip_suffix('"')) {
            Some(plain) if !plain.contains('\\') => Some(Cow::Borrowed(plain)),
            _ => serde_json::from_str::<String>(quoted).ok().map(Cow::Owned),
        }
    }

    /// The id as one of ours.
    pub fn our_id(&self) -> Option<u64> {
        self.id_text().parse().ok()
    }

    /// The progress token as one of ours.
    pub fn our_token(&self) -> Option<u64> {
        self.text(self.token.clone()?).parse().ok()
    }

    /// The answer with another id, everything else byte for byte. `id` is the raw JSON text of the caller's id.
    pub fn with_id(&self, id: &str) -> Vec<u8> {
        match &self.id {
            Some(at) => self.splice(at, id),
            None => {
                let member = if self.kind == MessageKind::Error { "error" } else { "result" };
                format!(r#"{{"jsonrpc":"2.0","id":{id},"{member}":{}}}"#, self.payload_text()).into_bytes()
            }
        }
    }

    /// The message with another `result`, `error` or `params`, everything else byte for byte.
    ///
    /// # Errors
    /// As [`Message::parse`].
    pub fn with_payload(&self, payload: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(payload).map_err(|e| e.to_string())?;
        Self::parse(Bytes::from(self.splice(&self.payload, text)))
    }

    /// The progress notification with another token, everything else byte for byte. `token` is raw JSON text.
    pub fn with_token(&self, token: &str) -> Vec<u8> {
        self.token.as_ref().map_or_else(|| self.body.to_vec(), |at| self.splice(at, token))
    }

    fn splice(&self, at: &Range<usize>, text: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len() - at.len() + text.len());
        out.extend_from_slice(&self.body[..at.start]);
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(&self.body[at.end..]);
        out
    }

    fn text(&self, at: Range<usize>) -> &str {
        // The envelope was read as JSON, so it is UTF-8.
        std::str::from_utf8(&self.body[at]).unwrap_or_default()
    }
}

/// An answer of ours to a request that a server sends: nothing was advertised, so nothing is served but `ping`.
pub(crate) fn refuse(request: &Message) -> Vec<u8> {
    let id = request.id_text();
    if request.method().is_some_and(|m| m == "ping") {
        return format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#).into_bytes();
    }
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"Method not found: this client advertised no such capability"}}}}"#
    )
    .into_bytes()
}

/// `notifications/cancelled` for one of our ids.
pub(crate) fn cancelled(id: u64) -> Vec<u8> {
    let mut out = br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"#.to_vec();
    write_number(id, &mut out);
    out.extend_from_slice(br#","reason":"the caller went away"}}"#);
    out
}

/// The answer to a request, or the way to it.
pub enum Incoming {
    /// The whole answer: a [`MessageKind::Result`] or [`MessageKind::Error`].
    Json {
        /// The answer.
        message: Message,
        /// The revision that the server speaks.
        version: Version,
    },
    /// Messages, the last of which is the answer.
    Stream {
        /// The messages.
        stream: MessageStream,
        /// The revision that the server speaks.
        version: Version,
    },
}

impl Incoming {
    /// What a call has come to: its answer, or the way there, which holds the call's places until it ends.
    pub(crate) fn of(
        exchanged: Result<(Message, impl Into<Source>, Version), UpstreamError>,
        mut in_flight: InFlight,
        child: Option<OwnedSemaphorePermit>,
    ) -> Result<Self, UpstreamError> {
        match exchanged {
            Ok((message, _, version)) if message.is_answer() => {
                in_flight.ended(None);
                Ok(Self::Json { message, version })
            }
            Ok((first, source, version)) => {
                let held = Held { server: Some(in_flight), child };
                let stream = MessageStream { first: Some(first), source: source.into(), done: false, held };
                Ok(Self::Stream { stream, version })
            }
            Err(error) => {
                in_flight.ended(Some(&error));
                Err(error)
            }
        }
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json { message, .. } => f.debug_tuple("Json").field(message).finish(),
            Self::Stream { .. } => f.write_str("Stream"),
        }
    }
}

/// Messages of one call, or of a listener, as they come. Dropping it before its end cancels the call at the server.
pub struct MessageStream {
    pub(crate) first: Option<Message>,
    pub(crate) source: Source,
    pub(crate) done: bool,
    /// What the call holds until it ends: its place among the server's calls in flight.
    pub(crate) held: Held,
}

/// What a call holds until it ends.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) server: Option<InFlight>,
    #[expect(dead_code, reason = "held for what dropping it does")]
    pub(crate) child: Option<OwnedSemaphorePermit>,
}

pub(crate) enum Source {
    Http(Box<crate::http::answer::HttpAnswer>),
    Link(Box<crate::link::Call>),
    Listener(Box<Listening>),
}

/// A listener, and what it keeps from being closed.
pub(crate) struct Listening {
    pub(crate) listener: crate::listen::hub::Listener,
    #[expect(dead_code, reason = "held so that the session or child stays")]
    pub(crate) transport: crate::upstreams::Transport,
}

impl MessageStream {
    /// The next message; `None` after the answer. The answer or an error is the last thing that comes.
    pub async fn next(&mut self) -> Option<Result<Message, UpstreamError>> {
        if self.done {
            return None;
        }
        let next = match self.first.take() {
            Some(first) => Ok(first),
            None => match &mut self.source {
                Source::Http(answer) => answer.next().await,
                Source::Link(call) => call.next().await,
                Source::Listener(listening) => listening.listener.next().await,
            },
        };
        if !matches!(&next, Ok(m) if !m.is_answer()) {
            self.done = true;
            if let Some(server) = &mut self.held.server {
                server.ended(next.as_ref().err());
            }
            self.held = Held::default();
        }
        Some(next)
    }

    /// Waits for the answer and leaves out what comes before it.
    ///
    /// # Errors
    /// As [`MessageStream::next`].
    pub async fn answer(&mut self) -> Result<Message, UpstreamError> {
        while let Some(next) = self.next().await {
            match next {
                Ok(message) if !message.is_answer() => {}
                other => return other,
            }
        }
        Err(UpstreamError::Closed { sent: crate::error::Sent::Maybe })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &'static str) -> Result<Message, String> {
        Message::parse(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn keeps_every_byte_but_the_id() {
        let odd = r#"{ "result" : {"n":12345678901234567890123, "x":1.10,"id":7}, "jsonrpc":"2.0", "vendor":[1], "id" : 42 }"#;
        let message = parse(odd).unwrap();
        assert_eq!((message.kind, message.our_id()), (MessageKind::Result, Some(42)));
        assert_eq!(String::from_utf8(message.with_id("\"a\"")).unwrap(), odd.replace(": 42", ": \"a\""));
    }

    #[test]
    fn tells_kinds_apart() {
        for (text, kind) in [
            (r#"{"jsonrpc":"2.0","id":1,"error":{"code":1}}"#, MessageKind::Error),
            (r#"{"jsonrpc":"2.0","id":null,"error":{"code":1}}"#, MessageKind::Error),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, MessageKind::Request),
            (r#"{"jsonrpc":"2.0","method":"notifications/message"}"#, MessageKind::Notification),
            (
                r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":9,"progress":1}}"#,
                MessageKind::Progress,
            ),
        ] {
            assert_eq!(parse(text).unwrap().kind, kind, "{text}");
        }
        let progress =
            parse(r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":9,"progress":1}}"#)
                .unwrap();
        assert_eq!(progress.our_token(), Some(9));
        assert!(String::from_utf8(progress.with_token("\"t\"")).unwrap().contains(r#""progressToken":"t","#));
    }

    #[test]
    fn refuses_what_is_no_message() {
        for text in [
            "",
            "[]",
            "1",
            "{}",
            r#"{"jsonrpc":"2.0","id":1,"id":2,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
            r#"{"id":1"#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(Message::parse(Bytes::from_static(b"{\"id\":1,\"result\":\"\xff\"}")).is_err());
    }

    #[test]
    fn serves_nothing_but_ping() {
        let ping = parse(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#).unwrap();
        assert_eq!(refuse(&ping), br#"{"jsonrpc":"2.0","id":"p","result":{}}"#);
        let sampling = parse(r#"{"jsonrpc":"2.0","id":3,"method":"sampling/createMessage","params":{}}"#).unwrap();
        assert!(String::from_utf8(refuse(&sampling)).unwrap().contains("-32601"));
    }
}
