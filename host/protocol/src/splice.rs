//! Messages made of other messages: a few members replaced, every other byte kept.
//!
//! Numbers, unknown members, key order and white space pass as they came, because nothing is parsed into values and
//! written again.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{Message, Piece, envelope::Member};

/// A JSON value to put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raw<'e> {
    /// A number.
    Number(u64),
    /// JSON text, which the caller vouches for.
    Json(&'e str),
}

/// What to say in `_meta` about the protocol.
#[derive(Clone, Copy, Debug, Default)]
pub enum MetaEdit<'e> {
    /// What the client said: modern to modern, or legacy to legacy.
    #[default]
    Keep,
    /// These, whatever the client said: legacy to modern, or modern to modern under other capabilities.
    Modern {
        /// The revision, as its date.
        version: &'e str,
        /// The capabilities, as a JSON object.
        capabilities: &'e str,
        /// Who the gateway is, as a JSON object.
        client_info: Option<&'e str>,
        /// The log level, as text; `None` keeps the client's.
        log_level: Option<&'e str>,
    },
    /// Nothing: modern to legacy.
    Legacy,
}

/// What to replace in a request or notification on its way to a server. `None` keeps what is there; nothing is added that
/// was not there, but for `_meta` and `arguments`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestEdit<'e> {
    /// The id.
    pub id: Option<Raw<'e>>,
    /// `params.name`, as text.
    pub name: Option<&'e str>,
    /// `params.uri`, as text.
    pub uri: Option<&'e str>,
    /// `params._meta.progressToken`, where there is one.
    pub progress_token: Option<Raw<'e>>,
    /// `params.requestId` of `notifications/cancelled`.
    pub request_id: Option<Raw<'e>>,
    /// `params.arguments`, as JSON text which the caller vouches for.
    pub arguments: Option<&'e str>,
    /// The protocol members of `params._meta`.
    pub meta: MetaEdit<'e>,
}

/// Members that a modern result must have (2026-07-28, "Result"); see [`ResponseEdit::defaults`].
pub const MODERN_RESULT: &[(&str, &str)] = &[("resultType", "\"complete\"")];
/// The same for a result that has to say how long it may be kept.
pub const MODERN_CACHEABLE: &[(&str, &str)] =
    &[("resultType", "\"complete\""), ("ttlMs", "0"), ("cacheScope", "\"private\"")];

/// What to replace in a response on its way to a client.
#[derive(Clone, Copy, Debug)]
pub struct ResponseEdit<'e> {
    /// The client's id, as JSON text.
    pub id: &'e str,
    /// Members that the result gets where it lacks them, as JSON text. Known are `resultType`, `ttlMs` and `cacheScope`.
    pub defaults: &'e [(&'e str, &'e str)],
}

struct Edit<'e> {
    start: usize,
    end: usize,
    text: Cow<'e, str>,
}

/// Edits in any order, applied in the order of their place.
struct Edits<'e>(Vec<Edit<'e>>);

impl<'e> Edits<'e> {
    fn replace(&mut self, piece: Piece<'_>, text: impl Into<Cow<'e, str>>) {
        self.0.push(Edit { start: piece.at, end: piece.at + piece.raw.len(), text: text.into() });
    }

    fn raw(&mut self, piece: Piece<'_>, raw: Raw<'e>) {
        match raw {
            Raw::Number(n) => self.replace(piece, n.to_string()),
            Raw::Json(json) => self.replace(piece, json),
        }
    }

    fn insert(&mut self, at: usize, text: impl Into<Cow<'e, str>>) {
        self.0.push(Edit { start: at, end: at, text: text.into() });
    }

    fn apply(mut self, source: &str) -> Bytes {
        self.0.sort_by_key(|e| (e.start, e.end));
        let grown: usize = self.0.iter().map(|e| e.text.len()).sum();
        let mut out = Vec::with_capacity(source.len() + grown);
        let mut done = 0;
        for edit in &self.0 {
            out.extend_from_slice(&source.as_bytes()[done..edit.start]);
            out.extend_from_slice(edit.text.as_bytes());
            done = edit.end;
        }
        out.extend_from_slice(&source.as_bytes()[done..]);
        Bytes::from(out)
    }
}

/// Writes a text as a JSON string.
pub fn quote(text: &str) -> Cow<'static, str> {
    let plain = text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\');
    if plain {
        let mut out = String::with_capacity(text.len() + 2);
        out.push('"');
        out.push_str(text);
        out.push('"');
        Cow::Owned(out)
    } else {
        Cow::Owned(serde_json::Value::from(text).to_string())
    }
}

/// The message that a server gets for the message that a client sent.
pub fn request(message: &Message<'_>, edit: &RequestEdit<'_>) -> Bytes {
    let mut edits = Edits(Vec::with_capacity(8));
    if let (Some(piece), Some(id)) = (message.id, edit.id) {
        edits.raw(piece, id);
    }
    if let Some(params) = &message.params {
        if let (Some(text), Some(name)) = (&params.name, edit.name) {
            edits.replace(text.piece, quote(name));
        }
        if let (Some(text), Some(uri)) = (&params.uri, edit.uri) {
            edits.replace(text.piece, quote(uri));
        }
        if let (Some(piece), Some(id)) = (params.request_id, edit.request_id) {
            edits.raw(piece, id);
        }
        if let (Some(piece), Some(token)) = (params.meta.as_ref().and_then(|m| m.progress_token), edit.progress_token) {
            edits.raw(piece, token);
        }
        if let (Some(piece), Some(arguments)) = (params.arguments, edit.arguments) {
            edits.replace(piece, arguments);
        }
    }
    add_members(message, edit, &mut edits);
    edits.apply(message.source)
}

/// Adds what may have to be added: `arguments` and the members of `_meta`, with whatever holds them.
fn add_members<'e>(message: &Message<'_>, edit: &RequestEdit<'e>, edits: &mut Edits<'e>) {
    let mut added = String::new();
    let params = message.params.as_ref();
    if let Some(arguments) = edit.arguments.filter(|_| params.is_none_or(|p| p.arguments.is_none())) {
        added.push_str("\"arguments\":");
        added.push_str(arguments);
    }
    let members = match edit.meta {
        MetaEdit::Modern { version, capabilities, client_info, log_level } => {
            let mut text = format!(
                "\"io.modelcontextprotocol/protocolVersion\":{},\"io.modelcontextprotocol/clientCapabilities\":{capabilities}",
                quote(version)
            );
            if let Some(info) = client_info {
                text.push_str(",\"io.modelcontextprotocol/clientInfo\":");
                text.push_str(info);
            }
            if let Some(level) = log_level {
                text.push_str(",\"io.modelcontextprotocol/logLevel\":");
                text.push_str(&quote(level));
            }
            Some(text)
        }
        MetaEdit::Keep | MetaEdit::Legacy => None,
    };
    match params.and_then(|p| p.meta.as_ref()) {
        Some(meta) => {
            let kept_log_level = matches!(edit.meta, MetaEdit::Modern { log_level: None, .. });
            let mut gone: Vec<Member> = Vec::with_capacity(4);
            if !matches!(edit.meta, MetaEdit::Keep) {
                // The log level is the client's wish, and legal in a modern request: only a legacy server must not see it.
                let slots = if kept_log_level { 3 } else { 4 };
                gone.extend(meta.protocol_members.iter().take(slots).flatten());
                gone.sort_by_key(|m| m.start);
            }
            if let Some(mut text) = members {
                if gone.len() < meta.len {
                    text.push(',');
                }
                edits.insert(meta.piece.at + 1, text);
            }
            remove(&gone, edits);
        }
        None => {
            if let Some(text) = members {
                if !added.is_empty() {
                    added.push(',');
                }
                added.push_str("\"_meta\":{");
                added.push_str(&text);
                added.push('}');
            }
        }
    }
    if added.is_empty() {
        return;
    }
    match (params, &message.method) {
        (Some(params), _) => {
            if !params.empty {
                added.push(',');
            }
            edits.insert(params.piece.at + 1, added);
        }
        (None, Some(method)) => {
            edits.insert(method.piece.range().end, format!(",\"params\":{{{added}}}"));
        }
        (None, None) => {}
    }
}

/// Takes members out of an object, run by run, each with the comma that it leaves over. `gone` is sorted.
fn remove(gone: &[Member], edits: &mut Edits<'_>) {
    let mut rest = gone;
    while let Some(first) = rest.first() {
        let mut run = 1;
        while run < rest.len() && rest[run - 1].next_start == Some(rest[run].start) {
            run += 1;
        }
        let last = &rest[run - 1];
        let (start, end) = match (last.next_start, first.prev_end) {
            (Some(next), _) => (first.start, next),
            (None, Some(prev)) => (prev, last.end),
            (None, None) => (first.start, last.end),
        };
        edits.0.push(Edit { start, end, text: Cow::Borrowed("") });
        rest = &rest[run..];
    }
}

/// The response that a client gets for the response that a server gave. Errors keep all but their id.
pub fn response(message: &Message<'_>, edit: &ResponseEdit<'_>) -> Bytes {
    let mut edits = Edits(Vec::with_capacity(2));
    match message.id {
        Some(id) => edits.replace(id, edit.id),
        // Only an error may lack its id; the client that asked still has to recognise it.
        None => {
            if let Some(error) = &message.error {
                edits.insert(error.piece.range().end, format!(",\"id\":{}", edit.id));
            }
        }
    }
    if let Some(result) = message.result.as_ref().filter(|r| r.is_object) {
        let mut text = String::new();
        for (key, value) in edit.defaults {
            let there = match *key {
                "resultType" => result.result_type.is_some(),
                "ttlMs" => result.ttl_ms.is_some(),
                "cacheScope" => result.cache_scope.is_some(),
                _ => true,
            };
            if !there {
                if !text.is_empty() {
                    text.push(',');
                }
                text.push('"');
                text.push_str(key);
                text.push_str("\":");
                text.push_str(value);
            }
        }
        if !text.is_empty() {
            if !result.empty {
                text.push(',');
            }
            edits.insert(result.piece.at + 1, text);
        }
    }
    edits.apply(message.source)
}

/// A notification on its way to a client: its progress token is the client's again.
pub fn notification(message: &Message<'_>, progress_token: Option<&str>) -> Bytes {
    let mut edits = Edits(Vec::with_capacity(1));
    if let (Some(piece), Some(token)) = (message.params.as_ref().and_then(|p| p.progress_token), progress_token) {
        edits.replace(piece, token);
    }
    edits.apply(message.source)
}
