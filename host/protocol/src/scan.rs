//! One pass over JSON text (RFC 8259): what it skips it has checked, and what it finds it finds by byte offset.

use std::{borrow::Cow, collections::HashSet};

use crate::envelope::ParseError;

/// The most unknown keys that an object may have where duplicates are looked for.
const MAX_KEYS: usize = 1024;
/// Up to here a walk over the keys seen is faster than hashing them.
const LINEAR_KEYS: usize = 24;

/// A reader over text that is known to be UTF-8.
pub(crate) struct Scanner<'a> {
    text: &'a str,
    /// The offset of the next byte.
    pub(crate) pos: usize,
    depth: usize,
    max_depth: usize,
}

/// A JSON string as it stands in the text.
#[derive(Clone, Copy)]
pub(crate) struct RawStr<'a> {
    /// With its quotes.
    pub(crate) quoted: &'a str,
    /// The offset of the opening quote.
    pub(crate) at: usize,
    escaped: bool,
}

impl<'a> RawStr<'a> {
    /// What the string says. Fails for a lone surrogate, which no UTF-8 text can say.
    pub(crate) fn decode(&self) -> Result<Cow<'a, str>, ParseError> {
        if self.escaped {
            serde_json::from_str::<String>(self.quoted)
                .map(Cow::Owned)
                .map_err(|_| ParseError::Syntax { at: self.at, what: "a string that is not Unicode" })
        } else {
            Ok(Cow::Borrowed(&self.quoted[1..self.quoted.len() - 1]))
        }
    }
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str, max_depth: usize) -> Self {
        Self { text, pos: 0, depth: 0, max_depth }
    }

    /// The text from `start` to here.
    pub(crate) fn since(&self, start: usize) -> &'a str {
        &self.text[start..self.pos]
    }

    pub(crate) fn fail<T>(&self, what: &'static str) -> Result<T, ParseError> {
        Err(ParseError::Syntax { at: self.pos, what })
    }

    #[inline]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.pos).copied()
    }

    #[inline]
    pub(crate) fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.pos += 1;
        }
    }

    /// Fails unless nothing but white space is left.
    pub(crate) fn end(&mut self) -> Result<(), ParseError> {
        self.space();
        if self.pos == self.text.len() { Ok(()) } else { self.fail("something after the end") }
    }

    #[inline]
    fn enter(&mut self) -> Result<(), ParseError> {
        self.depth += 1;
        if self.depth > self.max_depth {
            return Err(ParseError::TooDeep { limit: self.max_depth });
        }
        Ok(())
    }

    /// Reads an object, calling `member` at each value with its key and the key's offset; `member` has to consume the value.
    /// The scanner stands at `{`. Returns whether the object was empty.
    #[inline]
    pub(crate) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, RawStr<'a>) -> Result<(), ParseError>,
    ) -> Result<bool, ParseError> {
        self.enter()?;
        self.pos += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.pos += 1;
            self.depth -= 1;
            return Ok(true);
        }
        loop {
            if self.peek() != Some(b'"') {
                return self.fail("expected a key in quotes");
            }
            let key = self.string()?;
            self.space();
            if self.peek() != Some(b':') {
                return self.fail("expected ':'");
            }
            self.pos += 1;
            self.space();
            member(self, key)?;
            self.space();
            match self.peek() {
                Some(b',') => self.pos += 1,
                Some(b'}') => break,
                _ => return self.fail("expected ',' or '}'"),
            }
            self.space();
        }
        self.pos += 1;
        self.depth -= 1;
        Ok(false)
    }

    /// Reads an array, calling `item` at each value. The scanner stands at `[`.
    #[inline]
    pub(crate) fn array(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<(), ParseError>,
    ) -> Result<(), ParseError> {
        self.enter()?;
        self.pos += 1;
        self.space();
        if self.peek() == Some(b']') {
            self.pos += 1;
            self.depth -= 1;
            return Ok(());
        }
        loop {
            self.space();
            item(self)?;
            self.space();
            match self.peek() {
                Some(b',') => self.pos += 1,
                Some(b']') => break,
                _ => return self.fail("expected ',' or ']'"),
            }
        }
        self.pos += 1;
        self.depth -= 1;
        Ok(())
    }

    /// Skips a value of any type, checking its syntax. Recursion is bounded by `max_depth`.
    pub(crate) fn skip(&mut self) -> Result<(), ParseError> {
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b'{') => self.object(|s, _| s.skip()).map(drop),
            Some(b'[') => self.array(Self::skip),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            None => self.fail("the text ends too early"),
            Some(_) => self.fail("expected a value"),
        }
    }

    fn literal(&mut self, word: &'static str) -> Result<(), ParseError> {
        if self.text.as_bytes()[self.pos..].starts_with(word.as_bytes()) {
            self.pos += word.len();
            Ok(())
        } else {
            self.fail("expected true, false or null")
        }
    }

    fn digits(&mut self) -> Result<(), ParseError> {
        let start = self.pos;
        while let Some(b'0'..=b'9') = self.peek() {
            self.pos += 1;
        }
        if self.pos == start { self.fail("expected a digit") } else { Ok(()) }
    }

    fn number(&mut self) -> Result<(), ParseError> {
        if self.peek() == Some(b'-') {
            self.pos += 1;
        }
        if self.peek() == Some(b'0') {
            self.pos += 1;
            if let Some(b'0'..=b'9') = self.peek() {
                return self.fail("a number with a leading zero");
            }
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.pos += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.pos += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.pos += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// Reads a string. The scanner stands at its opening quote.
    pub(crate) fn string(&mut self) -> Result<RawStr<'a>, ParseError> {
        let at = self.pos;
        let bytes = self.text.as_bytes();
        let mut pos = at + 1;
        let mut escaped = false;
        loop {
            pos = plain_run(bytes, pos);
            match bytes.get(pos) {
                Some(b'"') => {
                    self.pos = pos + 1;
                    return Ok(RawStr { quoted: self.since(at), at, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    match bytes.get(pos + 1) {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => pos += 2,
                        Some(b'u') => {
                            let hex = bytes.get(pos + 2..pos + 6);
                            if !hex.is_some_and(|h| h.iter().all(u8::is_ascii_hexdigit)) {
                                self.pos = pos;
                                return self.fail("a broken \\u escape");
                            }
                            pos += 6;
                        }
                        _ => {
                            self.pos = pos;
                            return self.fail("an unknown escape");
                        }
                    }
                }
                Some(_) => {
                    self.pos = pos;
                    return self.fail("a control character in a string");
                }
                None => {
                    self.pos = pos;
                    return self.fail("a string without an end");
                }
            }
        }
    }
}

/// The offset of the first `"`, `\` or control character from `pos` on, eight bytes at a time.
#[inline]
fn plain_run(bytes: &[u8], mut pos: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero_byte = |v: u64| v.wrapping_sub(ONES) & !v & HIGH;
    while let Some(chunk) = bytes.get(pos..pos + 8) {
        let mut word = [0u8; 8];
        word.copy_from_slice(chunk);
        let word = u64::from_le_bytes(word);
        let quote = zero_byte(word ^ (ONES * u64::from(b'"')));
        let slash = zero_byte(word ^ (ONES * u64::from(b'\\')));
        // Bytes below 0x20: subtracting borrows into the high bit; bytes of 0x80 and more are masked out by `!word`.
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let hit = quote | slash | control;
        if hit != 0 {
            // Borrows travel upwards only, so the lowest mark is always a true one.
            return pos + (hit.trailing_zeros() / 8) as usize;
        }
        pos += 8;
    }
    while let Some(byte) = bytes.get(pos) {
        if matches!(byte, b'"' | b'\\' | 0..=0x1f) {
            break;
        }
        pos += 1;
    }
    pos
}

/// The keys of one object seen so far, to find a duplicate. Costs nothing for an object whose keys are all known.
#[derive(Default)]
pub(crate) struct Keys<'a> {
    few: Vec<Cow<'a, str>>,
    many: HashSet<Cow<'a, str>>,
    known: u32,
}

impl<'a> Keys<'a> {
    /// Notes a key that has a bit of its own.
    #[inline]
    pub(crate) fn known(&mut self, bit: u32, key: &str, place: &'static str) -> Result<(), ParseError> {
        let mask = 1 << bit;
        if self.known & mask != 0 {
            return Err(duplicate(key, place));
        }
        self.known |= mask;
        Ok(())
    }

    /// Notes any other key.
    pub(crate) fn other(&mut self, key: Cow<'a, str>, place: &'static str) -> Result<(), ParseError> {
        if self.few.contains(&key) || (!self.many.is_empty() && self.many.contains(&key)) {
            return Err(duplicate(&key, place));
        }
        if self.few.len() < LINEAR_KEYS {
            self.few.push(key);
        } else if self.many.len() < MAX_KEYS {
            self.many.insert(key);
        } else {
            return Err(ParseError::TooManyKeys { place, limit: MAX_KEYS });
        }
        Ok(())
    }
}

pub(crate) fn duplicate(key: &str, place: &'static str) -> ParseError {
    ParseError::Duplicate { key: key.chars().take(80).collect(), place }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_runs_end_where_they_should() {
        for stop in [b'"', b'\\', 0, 0x1f, b'\n'] {
            for len in 0..40 {
                let mut bytes = vec![b'a'; len];
                bytes.push(stop);
                bytes.extend_from_slice(&[b'"'; 9]);
                assert_eq!(plain_run(&bytes, 0), len, "{stop} after {len}");
            }
        }
        let wide = "é€😀\u{7f} !#[]".repeat(4);
        assert_eq!(plain_run(wide.as_bytes(), 0), wide.len());
    }

    #[test]
    fn keys_are_found_twice_however_many() {
        let mut keys = Keys::default();
        for i in 0..500 {
            keys.other(Cow::Owned(format!("k{i}")), "x").unwrap();
        }
        for i in [0, 23, 24, 499] {
            assert!(keys.other(Cow::Owned(format!("k{i}")), "x").is_err());
        }
    }
}
