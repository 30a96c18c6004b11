//! A digest of what a JSON text says: the same for every order of keys, every white space and every way to write a string,
//! and another one for anything else.
//!
//! Numbers count as they are written, because no type of ours holds all of them: `1.0` and `1` are two. Whoever sends the
//! same request again writes its numbers the same way again.

use sha2::{Digest, Sha256};

use crate::{
    Message,
    envelope::{ParseError, ParseLimits},
    scan::Scanner,
};

/// Members of `params` that differ between a request and its retry with the client's input (2026-07-28, multi round-trip
/// requests), and so are no part of what is asked for.
const OF_THE_ROUND: [&str; 3] = ["_meta", "inputResponses", "requestState"];
/// The scanner recurses once per level.
const MAX_DEPTH: usize = 512;

/// The digest of a JSON text.
///
/// # Errors
/// When it is no JSON, or nested deeper than 512 levels.
pub fn digest(raw: &str) -> Result<[u8; 32], ParseError> {
    let mut scanner = Scanner::new(raw, MAX_DEPTH);
    scanner.space();
    let digest = value(&mut scanner, &[])?;
    scanner.end()?;
    Ok(digest)
}

/// The digest of what a request asks for: its parameters without `_meta`, `inputResponses` and `requestState`. No
/// parameters are the same as empty ones.
///
/// # Errors
/// None for a message that has been parsed within [`ParseLimits::default`].
pub fn params(message: &Message<'_>) -> Result<[u8; 32], ParseError> {
    let raw = message.params.as_ref().map_or("{}", |p| p.piece.raw);
    let mut scanner = Scanner::new(raw, MAX_DEPTH.max(ParseLimits::default().max_depth));
    value(&mut scanner, &OF_THE_ROUND)
}

/// The digest of the value that stands here. Its kind and length go in front of what it holds, so that no two values come
/// to the same bytes.
fn value(s: &mut Scanner<'_>, left_out: &[&str]) -> Result<[u8; 32], ParseError> {
    let mut hash = Sha256::new();
    match s.peek() {
        Some(b'{') => {
            let mut members = Vec::new();
            s.object(|s, key| {
                let key = key.decode()?;
                if left_out.contains(&&*key) {
                    return s.skip();
                }
                members.push((key, value(s, &[])?));
                Ok(())
            })?;
            // A key that stands twice keeps both of its values, in an order of their own: who reads the first and who reads
            // the last never take another request for this one.
            members.sort_by(|a, b| a.0.cmp(&b.0));
            hash.update(b"{");
            hash.update((members.len() as u64).to_be_bytes());
            for (key, digest) in &members {
                hash.update((key.len() as u64).to_be_bytes());
                hash.update(key.as_bytes());
                hash.update(digest);
            }
        }
        Some(b'[') => {
            let mut items = 0u64;
            let mut all = Sha256::new();
            s.array(|s| {
                items += 1;
                all.update(value(s, &[])?);
                Ok(())
            })?;
            hash.update(b"[");
            hash.update(items.to_be_bytes());
            hash.update(all.finalize());
        }
        Some(b'"') => {
            let text = s.string()?.decode()?;
            hash.update(b"\"");
            hash.update(text.as_bytes());
        }
        _ => {
            let start = s.pos;
            s.skip()?;
            hash.update(b".");
            hash.update(s.since(start));
        }
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    #[test]
    fn the_same_is_the_same_however_it_is_written() {
        let one = digest(r#"{"a":1,"b":[true,"\u00e9\/",{"x":null,"y":-1.5e3}]}"#).unwrap();
        assert_eq!(
            digest(" {\n \"b\" : [ true , \"é/\" , {\"y\":-1.5e3,\"x\":null} ] , \"\\u0061\" : 1 } ").unwrap(),
            one
        );
    }

    #[test]
    fn anything_else_is_something_else() {
        let all = [
            "{}",
            "[]",
            "\"\"",
            "0",
            "null",
            "false",
            "\"0\"",
            "\"null\"",
            "[[]]",
            "[{}]",
            "[0]",
            "[0,0]",
            "[[0],0]",
            "[0,[0]]",
            r#"{"a":0}"#,
            r#"{"a":"0"}"#,
            r#"{"a":{"b":0}}"#,
            r#"{"a":0,"b":0}"#,
            r#"{"ab":0}"#,
            r#"{"a":0,"a":1}"#,
            r#"{"a":1,"a":0}"#,
            "12345678901234567890123",
            "12345678901234567890124",
            "1.0",
            "1",
            r#"["a","b"]"#,
            r#"["ab"]"#,
        ];
        for (i, one) in all.iter().enumerate() {
            for other in &all[i + 1..] {
                assert_ne!(digest(one).unwrap(), digest(other).unwrap(), "{one} {other}");
            }
        }
        assert!(digest("{").is_err() && digest("1 2").is_err() && digest("").is_err());
    }

    #[test]
    fn a_retry_asks_for_the_same() {
        let of = |text: &str| params(&parse(text.as_bytes(), &ParseLimits::default()).unwrap()).unwrap();
        let first =
            of(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"a":1,"_meta":2}}}"#);
        let again = of(
            r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"_meta":{"progressToken":1},"requestState":"s","arguments":{"_meta":2,"a":1},"inputResponses":{"q":{}},"name":"x"}}"#,
        );
        assert_eq!(first, again);
        let other =
            of(r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"x","arguments":{"a":1,"_meta":3}}}"#);
        assert_ne!(first, other, "only the members of params itself are left out");
        let none = of(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
        assert_eq!(none, of(r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{}}}"#));
    }
}
