//! Reads an envelope in one pass.

use super::{ErrorView, Kind, Member, Message, Meta, Params, ParseError, ParseLimits, Piece, ResultView, Text};
use crate::scan::{Keys, RawStr, Scanner};

/// The most bytes of an id: ids are kept per call in flight.
const MAX_ID: usize = 512;
/// The scanner recurses once per level.
const MAX_DEPTH: usize = 512;

/// Reads one message. A batch (a JSON array) is refused: the only revision that had them (2025-03-26) has been replaced.
///
/// # Errors
/// Says what is wrong and where; [`ParseError::rpc_code`] has the code to answer with.
pub fn parse<'a>(bytes: &'a [u8], limits: &ParseLimits) -> Result<Message<'a>, ParseError> {
    if bytes.len() > limits.max_bytes {
        return Err(ParseError::TooLarge { size: bytes.len(), limit: limits.max_bytes });
    }
    let source = std::str::from_utf8(bytes).map_err(|e| ParseError::NotUtf8 { at: e.valid_up_to() })?;
    let mut scanner = Scanner::new(source, limits.max_depth.min(MAX_DEPTH));
    scanner.space();
    match scanner.peek() {
        Some(b'{') => {}
        Some(b'[') => {
            return Err(ParseError::Envelope("batches are not supported; send one message at a time"));
        }
        _ => {
            scanner.skip()?;
            return Err(ParseError::Envelope("the message must be an object"));
        }
    }
    let mut message =
        Message { source, kind: Kind::Request, id: None, method: None, params: None, result: None, error: None };
    let mut keys = Keys::default();
    let mut version_ok = false;
    const PLACE: &str = "the envelope";
    scanner.object(|s, key| {
        let key = key.decode()?;
        match &*key {
            "jsonrpc" => {
                keys.known(0, &key, PLACE)?;
                version_ok = text(s)?.is_some_and(|t| t.value == "2.0");
            }
            "id" => {
                keys.known(1, &key, PLACE)?;
                message.id = Some(piece(s)?);
            }
            "method" => {
                keys.known(2, &key, PLACE)?;
                message.method = Some(text(s)?.ok_or(ParseError::Envelope("method must be a string"))?);
            }
            "params" => {
                keys.known(3, &key, PLACE)?;
                message.params = Some(params(s)?);
            }
            "result" => {
                keys.known(4, &key, PLACE)?;
                message.result = Some(result(s)?);
            }
            "error" => {
                keys.known(5, &key, PLACE)?;
                message.error = Some(error(s)?);
            }
            _ => {
                keys.other(key, PLACE)?;
                s.skip()?;
            }
        }
        Ok(())
    })?;
    scanner.end()?;
    if !version_ok {
        return Err(ParseError::Envelope("jsonrpc must be \"2.0\""));
    }
    message.kind = kind(&message)?;
    Ok(message)
}

fn kind(message: &Message<'_>) -> Result<Kind, ParseError> {
    let null = match &message.id {
        Some(id) if id.raw.len() > MAX_ID => {
            return Err(ParseError::Envelope("the id is longer than 512 bytes"));
        }
        Some(id) => match id.raw.as_bytes().first() {
            Some(b'"' | b'-' | b'0'..=b'9') => false,
            Some(b'n') => true,
            _ => return Err(ParseError::Envelope("the id must be a string or a number")),
        },
        None => false,
    };
    match (message.method.is_some(), message.result.is_some(), message.error.is_some()) {
        (true, false, false) if null => Err(ParseError::Envelope("the id of a request must not be null")),
        (true, false, false) if message.id.is_some() => Ok(Kind::Request),
        (true, false, false) => Ok(Kind::Notification),
        (false, true, false) if message.id.is_none() || null => Err(ParseError::Envelope("a result without an id")),
        (false, true, false) | (false, false, true) => Ok(Kind::Response),
        (false, false, false) => Err(ParseError::Envelope("neither method, result nor error is there")),
        _ => Err(ParseError::Envelope("only one of method, result and error may be there")),
    }
}

fn piece<'a>(s: &mut Scanner<'a>) -> Result<Piece<'a>, ParseError> {
    let at = s.pos;
    s.skip()?;
    Ok(Piece { raw: s.since(at), at })
}

/// The string that stands here; nothing if it is of another type, which is skipped.
fn text<'a>(s: &mut Scanner<'a>) -> Result<Option<Text<'a>>, ParseError> {
    if s.peek() == Some(b'"') {
        let raw: RawStr<'a> = s.string()?;
        Ok(Some(Text { value: raw.decode()?, piece: Piece { raw: raw.quoted, at: raw.at } }))
    } else {
        s.skip()?;
        Ok(None)
    }
}

/// A progress token or a request id: a string or a number.
fn token<'a>(s: &mut Scanner<'a>, wrong: &'static str) -> Result<Option<Piece<'a>>, ParseError> {
    let piece = piece(s)?;
    match piece.raw.as_bytes().first() {
        Some(b'"' | b'-' | b'0'..=b'9') if piece.raw.len() <= MAX_ID => Ok(Some(piece)),
        _ => Err(ParseError::Params(wrong)),
    }
}

fn object_piece<'a>(s: &mut Scanner<'a>, wrong: &'static str) -> Result<Option<Piece<'a>>, ParseError> {
    let piece = piece(s)?;
    if piece.raw.starts_with('{') { Ok(Some(piece)) } else { Err(ParseError::Params(wrong)) }
}

fn params<'a>(s: &mut Scanner<'a>) -> Result<Params<'a>, ParseError> {
    const PLACE: &str = "params";
    let at = s.pos;
    if s.peek() != Some(b'{') {
        s.skip()?;
        return Err(ParseError::Params("params must be an object"));
    }
    let mut params = Params {
        piece: Piece { raw: "", at },
        empty: false,
        name: None,
        uri: None,
        cursor: None,
        task_id: None,
        arguments: None,
        progress_token: None,
        request_id: None,
        protocol_version: None,
        capabilities: None,
        client_info: None,
        request_state: None,
        input_responses: None,
        meta: None,
    };
    let mut keys = Keys::default();
    let p = &mut params;
    let empty = s.object(|s, key| {
        let key = key.decode()?;
        let bit = match &*key {
            "name" => 0,
            "arguments" => 1,
            "_meta" => 2,
            "uri" => 3,
            "cursor" => 4,
            "taskId" => 5,
            "progressToken" => 6,
            "requestId" => 7,
            "protocolVersion" => 8,
            "capabilities" => 9,
            "clientInfo" => 10,
            "requestState" => 11,
            "inputResponses" => 12,
            _ => {
                keys.other(key, PLACE)?;
                return s.skip();
            }
        };
        keys.known(bit, &key, PLACE)?;
        match bit {
            0 => p.name = text(s)?,
            1 => p.arguments = Some(piece(s)?),
            2 => p.meta = Some(meta(s)?),
            3 => p.uri = text(s)?,
            4 => p.cursor = text(s)?,
            5 => p.task_id = text(s)?,
            6 => p.progress_token = token(s, "progressToken must be a string or a number")?,
            7 => p.request_id = token(s, "requestId must be a string or a number")?,
            8 => p.protocol_version = text(s)?,
            9 => p.capabilities = Some(piece(s)?),
            10 => p.client_info = Some(piece(s)?),
            11 => p.request_state = Some(piece(s)?),
            _ => p.input_responses = Some(piece(s)?),
        }
        Ok(())
    })?;
    params.empty = empty;
    params.piece = Piece { raw: s.since(at), at };
    Ok(params)
}

fn meta<'a>(s: &mut Scanner<'a>) -> Result<Meta<'a>, ParseError> {
    const PLACE: &str = "params._meta";
    let at = s.pos;
    if s.peek() != Some(b'{') {
        s.skip()?;
        return Err(ParseError::Params("_meta must be an object"));
    }
    let mut meta = Meta {
        piece: Piece { raw: "", at },
        len: 0,
        protocol_version: None,
        client_capabilities: None,
        client_info: None,
        log_level: None,
        progress_token: None,
        traceparent: None,
        protocol_members: [None; 4],
    };
    let mut keys = Keys::default();
    let m = &mut meta;
    let mut prev_end = None;
    let mut prev_slot: Option<usize> = None;
    s.object(|s, raw_key| {
        let key = raw_key.decode()?;
        if let Some(member) = prev_slot.and_then(|slot| m.protocol_members[slot].as_mut()) {
            member.next_start = Some(raw_key.at);
        }
        let mut slot = None;
        match key.strip_prefix("io.modelcontextprotocol/") {
            Some("protocolVersion") => {
                keys.known(0, &key, PLACE)?;
                m.protocol_version = text(s)?;
                if m.protocol_version.is_none() {
                    return Err(ParseError::Params("_meta io.modelcontextprotocol/protocolVersion must be a string"));
                }
                slot = Some(0);
            }
            Some("clientCapabilities") => {
                keys.known(1, &key, PLACE)?;
                m.client_capabilities =
                    object_piece(s, "_meta io.modelcontextprotocol/clientCapabilities must be an object")?;
                slot = Some(1);
            }
            Some("clientInfo") => {
                keys.known(2, &key, PLACE)?;
                m.client_info = object_piece(s, "_meta io.modelcontextprotocol/clientInfo must be an object")?;
                slot = Some(2);
            }
            Some("logLevel") => {
                keys.known(3, &key, PLACE)?;
                m.log_level = Some(piece(s)?);
                slot = Some(3);
            }
            _ if key == "progressToken" => {
                keys.known(4, &key, PLACE)?;
                m.progress_token = token(s, "_meta progressToken must be a string or a number")?;
            }
            _ if key == "traceparent" => {
                keys.known(5, &key, PLACE)?;
                m.traceparent = text(s)?;
            }
            _ => {
                keys.other(key, PLACE)?;
                s.skip()?;
            }
        }
        m.len += 1;
        if let Some(slot) = slot {
            m.protocol_members[slot] = Some(Member { start: raw_key.at, end: s.pos, prev_end, next_start: None });
        }
        prev_slot = slot;
        prev_end = Some(s.pos);
        Ok(())
    })?;
    meta.piece = Piece { raw: s.since(at), at };
    Ok(meta)
}

fn result<'a>(s: &mut Scanner<'a>) -> Result<ResultView<'a>, ParseError> {
    const PLACE: &str = "result";
    let at = s.pos;
    let mut view = ResultView {
        piece: Piece { raw: "", at },
        is_object: false,
        empty: false,
        result_type: None,
        is_error: false,
        ttl_ms: None,
        cache_scope: None,
    };
    if s.peek() == Some(b'{') {
        let mut keys = Keys::default();
        let v = &mut view;
        let empty = s.object(|s, key| {
            let key = key.decode()?;
            match &*key {
                "resultType" => {
                    keys.known(0, &key, PLACE)?;
                    v.result_type = text(s)?;
                    if v.result_type.is_none() {
                        return Err(ParseError::Envelope("resultType must be a string"));
                    }
                }
                "isError" => {
                    keys.known(1, &key, PLACE)?;
                    v.is_error = piece(s)?.raw == "true";
                }
                "ttlMs" => {
                    keys.known(2, &key, PLACE)?;
                    v.ttl_ms = Some(piece(s)?);
                }
                "cacheScope" => {
                    keys.known(3, &key, PLACE)?;
                    v.cache_scope = Some(piece(s)?);
                }
                // Other members pass untouched, as the server wrote them.
                _ => s.skip()?,
            }
            Ok(())
        })?;
        view.is_object = true;
        view.empty = empty;
    } else {
        s.skip()?;
    }
    view.piece = Piece { raw: s.since(at), at };
    Ok(view)
}

fn error<'a>(s: &mut Scanner<'a>) -> Result<ErrorView<'a>, ParseError> {
    let at = s.pos;
    if s.peek() != Some(b'{') {
        s.skip()?;
        return Err(ParseError::Envelope("error must be an object"));
    }
    let mut code = None;
    let mut message = None;
    let mut keys = Keys::default();
    s.object(|s, key| {
        let key = key.decode()?;
        match &*key {
            "code" => {
                keys.known(0, &key, "error")?;
                code = piece(s)?.raw.parse().ok();
            }
            "message" => {
                keys.known(1, &key, "error")?;
                message = text(s)?;
            }
            _ => s.skip()?,
        }
        Ok(())
    })?;
    Ok(ErrorView { piece: Piece { raw: s.since(at), at }, code, message })
}
