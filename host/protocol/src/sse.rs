//! Server-sent events (WHATWG HTML, "Server-sent events"): decoded from any chunking within bounds, and encoded.

use bytes::Bytes;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its type; nothing means `message`.
    pub event: Option<Box<str>>,
    /// Its data, lines joined by `\n`. May be empty (a priming event).
    pub data: Bytes,
    /// The last event id as of this event.
    pub id: Option<Box<str>>,
}

impl Event {
    /// Whether this is an event of the type `message`, the only one that MCP uses.
    pub fn is_message(&self) -> bool {
        self.event.as_deref().is_none_or(|e| e == "message")
    }
}

/// Why a stream can't be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// One event has more bytes than allowed.
    #[error("an event has more than {limit} bytes")]
    TooLarge {
        /// How many it may have.
        limit: usize,
    },
}

/// Reads events from chunks cut anywhere.
#[derive(Debug)]
pub struct Decoder {
    /// The unfinished line.
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    event: Option<Box<str>>,
    /// The id that the next event to be finished has.
    id: Option<Box<str>>,
    /// The id of the last event that was finished: one that was cut off has not been seen, so it must come again.
    last_id: Option<Box<str>>,
    retry_ms: Option<u64>,
    /// Bytes of the event so far, comments and ids included: an event that is never finished must not grow either.
    size: usize,
    limit: usize,
    first_line: bool,
    skip_lf: bool,
}

impl Decoder {
    /// A decoder at the start of a stream, for events of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            event: None,
            id: None,
            last_id: None,
            retry_ms: None,
            size: 0,
            limit,
            first_line: true,
            skip_lf: false,
        }
    }

    /// A decoder for the rest of a stream that broke: it goes on from the last event that was finished, and from the
    /// reconnection time.
    pub fn resumed(&self) -> Self {
        let id = self.last_id.clone();
        Self { id: id.clone(), last_id: id, retry_ms: self.retry_ms, ..Self::new(self.limit) }
    }

    /// The id of the last event that was finished, to resume from.
    pub fn last_event_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// The reconnection time that the stream asked for, in milliseconds.
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// Reads a chunk and appends the events that it finishes. What is unfinished when the stream ends is dropped, as the
    /// standard says.
    ///
    /// # Errors
    /// If an event is too large; events finished before it have been appended, and the stream is of no further use.
    pub fn feed(&mut self, chunk: &[u8], events: &mut Vec<Event>) -> Result<(), SseError> {
        let mut rest = chunk;
        while let Some(&byte) = rest.first() {
            if self.skip_lf {
                self.skip_lf = false;
                if byte == b'\n' {
                    rest = &rest[1..];
                    continue;
                }
            }
            let Some(end) = rest.iter().position(|b| matches!(b, b'\n' | b'\r')) else {
                self.grow(rest.len())?;
                self.line.extend_from_slice(rest);
                break;
            };
            self.grow(end)?;
            self.skip_lf = rest[end] == b'\r';
            if self.line.is_empty() {
                self.take_line(&rest[..end], events);
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(&rest[..end]);
                self.take_line(&line, events);
                line.clear();
                self.line = line;
            }
            rest = &rest[end + 1..];
        }
        Ok(())
    }

    fn grow(&mut self, by: usize) -> Result<(), SseError> {
        self.size = self.size.saturating_add(by);
        if self.size > self.limit { Err(SseError::TooLarge { limit: self.limit }) } else { Ok(()) }
    }

    fn take_line(&mut self, mut line: &[u8], events: &mut Vec<Event>) {
        if self.first_line {
            self.first_line = false;
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch(events);
        }
        let (field, value) = match line.iter().position(|b| *b == b':') {
            // A comment. Keep-alives are comments, so they must not add up to an event that is too large.
            Some(0) => {
                self.size = self.size.saturating_sub(line.len());
                return;
            }
            Some(colon) => {
                let value = &line[colon + 1..];
                (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &[][..]),
        };
        match field {
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            b"event" => self.event = Some(String::from_utf8_lossy(value).into()),
            b"id" if !value.contains(&0) => {
                self.id = (!value.is_empty()).then(|| String::from_utf8_lossy(value).into());
            }
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                self.retry_ms = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
            }
            _ => {}
        }
    }

    fn dispatch(&mut self, events: &mut Vec<Event>) {
        self.size = 0;
        if self.last_id != self.id {
            self.last_id.clone_from(&self.id);
        }
        let event = self.event.take().filter(|e| !e.is_empty());
        if std::mem::take(&mut self.has_data) {
            events.push(Event { event, data: Bytes::from(std::mem::take(&mut self.data)), id: self.id.clone() });
        }
    }
}

/// Appends one event. Line breaks in the data (white space in JSON) start a new `data` line, those in `id` are dropped.
pub fn encode(event: &Event, out: &mut Vec<u8>) {
    out.reserve(event.data.len() + 64);
    let mut field = |name: &str, value: &str| {
        out.extend_from_slice(name.as_bytes());
        out.extend(value.bytes().filter(|b| !matches!(b, b'\n' | b'\r' | 0)));
        out.push(b'\n');
    };
    if let Some(kind) = &event.event {
        field("event: ", kind);
    }
    if let Some(id) = &event.id {
        field("id: ", id);
    }
    data_lines(&event.data, out);
    out.push(b'\n');
}

/// One JSON-RPC message as an event of the type `message`.
pub fn encode_message(message: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(message.len() + 32);
    out.extend_from_slice(b"event: message\n");
    data_lines(message, &mut out);
    out.push(b'\n');
    Bytes::from(out)
}

/// A comment, sent to keep a connection open.
pub const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

fn data_lines(data: &[u8], out: &mut Vec<u8>) {
    let mut rest = data;
    loop {
        out.extend_from_slice(b"data: ");
        let Some(end) = rest.iter().position(|b| matches!(b, b'\n' | b'\r')) else {
            out.extend_from_slice(rest);
            out.push(b'\n');
            return;
        };
        out.extend_from_slice(&rest[..end]);
        out.push(b'\n');
        let wide = rest[end..].starts_with(b"\r\n");
        rest = &rest[end + if wide { 2 } else { 1 }..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(chunks: &[&[u8]]) -> Vec<Event> {
        let mut decoder = Decoder::new(1000);
        let mut events = Vec::new();
        for chunk in chunks {
            decoder.feed(chunk, &mut events).unwrap();
        }
        events
    }

    fn data(events: &[Event]) -> Vec<&[u8]> {
        events.iter().map(|e| &e.data[..]).collect()
    }

    #[test]
    fn reads_every_line_ending_and_the_byte_order_mark() {
        let events = all(&[b"\xef\xbb\xbfdata: a\r\ndata:b\r\n\r\n: hi\ndata:  c\n\ndata: d\r\rdata: lost"]);
        assert_eq!(data(&events), [&b"a\nb"[..], b" c", b"d"]);
    }

    #[test]
    fn an_event_needs_a_data_line_but_no_data() {
        let mut decoder = Decoder::new(100);
        let mut events = Vec::new();
        decoder
            .feed(b"id: 1\nretry: 250\n\nid: 2\ndata:\n\nevent: ping\ndata\n\nid\ndata: x\n\n", &mut events)
            .unwrap();
        assert_eq!(data(&events), [&b""[..], b"", b"x"]);
        assert_eq!(events[0].id.as_deref(), Some("2"));
        assert_eq!((events[1].is_message(), events[2].is_message()), (false, true));
        assert_eq!(events[2].id, None);
        assert_eq!(decoder.retry_ms(), Some(250));
    }

    #[test]
    fn a_stream_is_resumed_after_its_last_finished_event_wherever_it_is_cut() {
        let stream = b"id: 1\ndata:\n\nid: 2\r\ndata: two\r\n\r\nid: 3\nretry: 7\ndata: three\n\n";
        for cut in 0..=stream.len() {
            let mut decoder = Decoder::new(1000);
            let mut events = Vec::new();
            decoder.feed(&stream[..cut], &mut events).unwrap();
            let last = decoder.last_event_id().map(str::to_owned);
            assert_eq!(last, events.last().and_then(|e| e.id.as_deref()).map(str::to_owned), "cut at {cut}");
            // What a server sends from there on.
            let rest: &[u8] = match last.as_deref() {
                None => stream,
                Some("1") => &stream[14..],
                Some("2") => &stream[34..],
                Some(_) => b"",
            };
            let mut decoder = decoder.resumed();
            assert_eq!(decoder.last_event_id(), last.as_deref());
            decoder.feed(rest, &mut events).unwrap();
            assert_eq!(data(&events), [&b""[..], b"two", b"three"], "cut at {cut}");
            assert_eq!(decoder.retry_ms(), Some(7));
        }
    }

    #[test]
    fn a_line_break_cut_in_two_is_one() {
        assert_eq!(data(&all(&[b"data: a\r", b"\n\r", b"\ndata: b\r\n", b"\n"])), [&b"a"[..], b"b"]);
    }

    #[test]
    fn what_is_too_large_ends_the_stream_but_keep_alives_do_not() {
        let mut decoder = Decoder::new(64);
        let mut events = Vec::new();
        for _ in 0..100 {
            decoder.feed(b": keep-alive\n", &mut events).unwrap();
        }
        decoder.feed(b"data: ok\n\n", &mut events).unwrap();
        assert_eq!(events.len(), 1);
        let endless = [b'x'; 40];
        decoder.feed(b"data: ", &mut events).unwrap();
        decoder.feed(&endless, &mut events).unwrap();
        assert_eq!(decoder.feed(&endless, &mut events), Err(SseError::TooLarge { limit: 64 }));
    }

    #[test]
    fn ids_cannot_smuggle_lines() {
        let mut out = Vec::new();
        let event = Event { event: None, data: Bytes::from_static(b"{\r\n}"), id: Some("a\ndata: evil".into()) };
        encode(&event, &mut out);
        assert_eq!(out, b"id: adata: evil\ndata: {\ndata: }\n\n");
    }
}
