//! JSON between the house and guests: values, and one value out of a text by JSON Pointer without building the rest.

use std::borrow::Cow;

use serde_json::Value;

use crate::bindings::portcullis::types::context::Value as Wit;

/// A JSON value as guests see it.
pub(crate) fn to_wit(value: &Value) -> Wit {
    match value {
        Value::String(text) => Wit::Text(text.clone()),
        Value::Bool(truth) => Wit::Truth(*truth),
        Value::Number(number) => match number.as_f64() {
            // From 2^53 on a double names another number than the text does.
            Some(n) if n.abs() < 9_007_199_254_740_992.0 => Wit::Number(n),
            _ => Wit::Other(number.to_string()),
        },
        Value::Array(items) if items.iter().all(Value::is_string) => {
            Wit::Texts(items.iter().filter_map(|i| i.as_str().map(str::to_owned)).collect())
        }
        other => Wit::Other(other.to_string()),
    }
}

/// A guest's value as JSON. A number that JSON has no word for becomes null.
pub(crate) fn from_wit(value: Wit) -> Value {
    match value {
        Wit::Text(text) => Value::String(text),
        Wit::Truth(truth) => Value::Bool(truth),
        Wit::Number(n) => serde_json::Number::from_f64(n).map_or(Value::Null, Value::Number),
        Wit::Texts(texts) => Value::Array(texts.into_iter().map(Value::String).collect()),
        Wit::Other(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
    }
}

/// The JSON text that a pointer (RFC 6901) points at, exactly as it stands in `json`. Nothing is built and nothing copied: what lies
/// beside the way is stepped over. Of a text that is no JSON the answer is none, or a piece of it.
pub(crate) fn point<'a>(json: &'a str, pointer: &str) -> Option<&'a str> {
    let mut at = json.trim_matches(WHITESPACE);
    if pointer.is_empty() {
        return Some(at);
    }
    for token in pointer.strip_prefix('/')?.split('/') {
        let token = match token.contains('~') {
            true => Cow::Owned(token.replace("~1", "/").replace("~0", "~")),
            false => Cow::Borrowed(token),
        };
        let mut walk = Walk { text: at, at: 0 };
        at = match walk.peek()? {
            b'{' => walk.member(&token)?,
            b'[' => walk.element(&token)?,
            _ => return None,
        };
    }
    Some(at)
}

const WHITESPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Walks over one JSON value.
struct Walk<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Walk<'a> {
    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while matches!(bytes.get(self.at)?, b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    /// Steps over that byte, if it is next.
    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// The value of an object's first member of this name.
    fn member(&mut self, name: &str) -> Option<&'a str> {
        self.eat(b'{')?;
        loop {
            self.peek().filter(|byte| *byte == b'"')?;
            let key = self.value()?;
            self.eat(b':')?;
            let value = self.value()?;
            let inside = key.get(1..key.len().checked_sub(1)?)?;
            let found = match inside.contains('\\') {
                true => serde_json::from_str::<String>(key).is_ok_and(|key| key == name),
                false => inside == name,
            };
            if found {
                return Some(value);
            }
            self.eat(b',')?;
        }
    }

    /// The value at a position of an array.
    fn element(&mut self, position: &str) -> Option<&'a str> {
        let plain = position == "0" || (!position.starts_with('0') && position.bytes().all(|b| b.is_ascii_digit()));
        let wanted: usize = if plain { position.parse().ok()? } else { return None };
        self.eat(b'[')?;
        for _ in 0..wanted {
            self.value()?;
            self.eat(b',')?;
        }
        match self.peek()? {
            b']' => None,
            _ => self.value(),
        }
    }

    /// Steps over a value; that is its text.
    fn value(&mut self) -> Option<&'a str> {
        let first = self.peek()?;
        let start = self.at;
        match first {
            b'"' => self.string()?,
            b'{' | b'[' => {
                // Brackets are counted, not matched: the text was checked where it came in.
                let mut depth = 0usize;
                loop {
                    match self.text.as_bytes().get(self.at)? {
                        b'"' => {
                            self.string()?;
                            continue;
                        }
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => depth -= 1,
                        _ => {}
                    }
                    self.at += 1;
                    if depth == 0 {
                        break;
                    }
                }
            }
            _ => {
                let rest = self.text.get(start..)?;
                let len = rest.find(|c| matches!(c, ',' | ']' | '}') || WHITESPACE.contains(&c)).unwrap_or(rest.len());
                self.at += len;
            }
        }
        self.text.get(start..self.at).filter(|value| !value.is_empty())
    }

    /// Steps over a string, which is next.
    fn string(&mut self) -> Option<()> {
        let bytes = self.text.as_bytes();
        self.at += 1;
        loop {
            match bytes.get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_without_changing_a_byte() {
        let json = r#" {"a":{"b/c":[1, 123456789012345678901234567890 ,{"x":null}]},"~":"t\u0041","n":1e2} "#;
        for (pointer, want) in [
            ("/a/b~1c/1", Some("123456789012345678901234567890")),
            ("/a/b~1c/2/x", Some("null")),
            ("/~0", Some(r#""t\u0041""#)),
            ("/n", Some("1e2")),
            ("/a/b~1c/01", None),
            ("/a/b~1c/9", None),
            ("/n/x", None),
            ("/missing", None),
            ("a", None),
        ] {
            assert_eq!(point(json, pointer), want, "{pointer}");
        }
        assert_eq!(point("{}", ""), Some("{}"));
        assert_eq!(point("{}", "/a"), None);
        assert_eq!(point("[]", "/0"), None);
        assert_eq!(point(r#"{"a\u0062":"\"}","c":[[1,"]"],2]}"#, "/ab"), Some(r#""\"}""#));
        assert_eq!(point(r#"{"a":"\"}\\","c" : [ [1,"]"] ,2 ] }"#, "/c/0/1"), Some(r#""]""#));
        assert_eq!(point(r#"{"":{"":1}}"#, "//"), Some("1"));
    }

    #[test]
    fn points_where_a_parser_would() {
        let json = r#"{"k":[{"a":1,"b\n":[true,false,null]},"\\",{"":{}},[[],[0]],-1.5e+3,"x\"y"],"é":{"é":"é"}}"#;
        let value: Value = serde_json::from_str(json).unwrap();
        // Every place of the value, and places beside it.
        fn places(value: &Value, at: &str, all: &mut Vec<String>) {
            all.extend([
                at.to_owned(),
                format!("{at}/nothing"),
                format!("{at}/0"),
                format!("{at}/7"),
                format!("{at}/"),
            ]);
            match value {
                Value::Object(map) => {
                    map.iter().for_each(|(k, v)| places(v, &format!("{at}/{}", k.replace('~', "~0")), all))
                }
                Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| places(v, &format!("{at}/{i}"), all)),
                _ => {}
            }
        }
        let mut all = Vec::new();
        places(&value, "", &mut all);
        assert!(all.len() > 50);
        for place in all {
            let found = point(json, &place).map(|text| serde_json::from_str::<Value>(text).unwrap());
            assert_eq!(found.as_ref(), value.pointer(&place), "{place}");
        }
    }

    #[test]
    fn what_is_no_json_is_walked_without_harm() {
        let json = r#"{"a":[1,{"b":"c\"d"},[2,3]],"e":null}"#;
        for cut in 0..json.len() {
            for pointer in ["/a/1/b", "/e", "/a/2/1", "/a/9", "/"] {
                let _ = point(&json[..cut], pointer);
                let _ = point(&json[cut..], pointer);
            }
        }
        for odd in ["}", "]", "{]", "[}", "{\"", "{\"a\\", "{\"a\":}", "[,]", "\\", "{\"a\"\u{e9}"] {
            let _ = (point(odd, "/a"), point(odd, "/0"));
        }
    }

    #[test]
    fn big_numbers_stay_exact() {
        let big: Value = serde_json::from_str("9007199254740993").unwrap();
        assert!(matches!(to_wit(&big), Wit::Other(text) if text == "9007199254740993"));
    }
}
