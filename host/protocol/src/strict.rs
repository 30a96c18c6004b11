//! Text that every JSON parser reads the same way: asked of arguments that a policy reads or that are pinned.

use std::borrow::Cow;

use crate::{
    envelope::{ParseError, ParseLimits},
    scan::{Scanner, duplicate},
};

const PLACE: &str = "an object in the arguments";

/// Checks that `raw` is JSON without a duplicate key at any depth, nested no deeper than the limit, in UTF-8, and whose
/// strings are all Unicode (no lone surrogates, which parsers treat differently).
///
/// # Errors
/// What is wrong; [`ParseError::Duplicate`] names the key.
pub fn check(raw: &[u8], limits: &ParseLimits) -> Result<(), ParseError> {
    if raw.len() > limits.max_bytes {
        return Err(ParseError::TooLarge { size: raw.len(), limit: limits.max_bytes });
    }
    let text = std::str::from_utf8(raw).map_err(|e| ParseError::NotUtf8 { at: e.valid_up_to() })?;
    let mut scanner = Scanner::new(text, limits.max_depth.min(512));
    scanner.space();
    let mut keys = Vec::new();
    value(&mut scanner, &mut keys)?;
    scanner.end()
}

/// `keys` is a stack that all levels share: each object looks only at what it pushed itself.
fn value<'a>(s: &mut Scanner<'a>, keys: &mut Vec<Cow<'a, str>>) -> Result<(), ParseError> {
    match s.peek() {
        Some(b'{') => {
            let base = keys.len();
            s.object(|s, key| {
                keys.push(key.decode()?);
                value(s, keys)
            })?;
            let own = &mut keys[base..];
            // Sorting keeps an object of many keys from costing their square.
            own.sort_unstable();
            if let Some(pair) = own.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(duplicate(&pair[0], PLACE));
            }
            keys.truncate(base);
            Ok(())
        }
        Some(b'[') => s.array(|s| value(s, keys)),
        Some(b'"') => s.string()?.decode().map(drop),
        _ => s.skip(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict(text: &str) -> Result<(), ParseError> {
        check(text.as_bytes(), &ParseLimits { max_bytes: 1 << 20, max_depth: 8 })
    }

    #[test]
    fn finds_duplicates_at_any_depth_and_however_escaped() {
        assert_eq!(strict(r#" {"a":{"a":1},"b":[{"a":2},{"a":3}]} "#), Ok(()));
        for bad in [r#"{"a":1,"a":2}"#, r#"{"x":[{"a":1,"b":0,"a":2}]}"#, r#"{"path":1,"p\u0061th":2}"#] {
            assert!(matches!(strict(bad), Err(ParseError::Duplicate { .. })), "{bad}");
        }
    }

    #[test]
    fn refuses_what_parsers_read_differently() {
        assert!(matches!(strict("[[[[[[[[[1]]]]]]]]]"), Err(ParseError::TooDeep { limit: 8 })));
        for bad in [r#"{"a":"\ud800"}"#, "{", "1 2", "", "nul", "01", "\"\u{1}\"", "[1,]"] {
            assert!(matches!(strict(bad), Err(ParseError::Syntax { .. })), "{bad}");
        }
        assert!(matches!(check(b"\"\xff\"", &ParseLimits::default()), Err(ParseError::NotUtf8 { at: 1 })));
    }
}
