//! JSON between the house and guests: values, and one value out of a text by JSON Pointer without building the rest.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, value::RawValue};

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

/// The JSON text that a pointer (RFC 6901) points at, exactly as it stands in `json`.
pub(crate) fn point<'a>(json: &'a str, pointer: &str) -> Option<&'a str> {
    let mut at = json.trim();
    if pointer.is_empty() {
        return Some(at);
    }
    for token in pointer.strip_prefix('/')?.split('/') {
        let token = token.replace("~1", "/").replace("~0", "~");
        let mut deserializer = serde_json::Deserializer::from_str(at);
        at = Step(&token).deserialize(&mut deserializer).ok()??.get();
    }
    Some(at)
}

/// One step of a pointer: into an object by name, into an array by position.
struct Step<'t>(&'t str);

impl<'de> DeserializeSeed<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if found.is_none() && key == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let plain = self.0 == "0" || (!self.0.starts_with('0') && self.0.bytes().all(|b| b.is_ascii_digit()));
        let wanted = if plain { self.0.parse::<usize>().ok() } else { None };
        let mut found = None;
        let mut at = 0usize;
        while let Some(item) = seq.next_element::<&'de RawValue>()? {
            if Some(at) == wanted {
                found = Some(item);
            }
            at += 1;
        }
        Ok(found)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
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
    }

    #[test]
    fn big_numbers_stay_exact() {
        let big: Value = serde_json::from_str("9007199254740993").unwrap();
        assert!(matches!(to_wit(&big), Wit::Other(text) if text == "9007199254740993"));
    }
}
