//! What a configuration looks like, as JSON Schema: it stands in the component, so that Portcullis can tell an operator which
//! path of a configuration is wrong before the plugin is loaded.

use std::collections::{BTreeMap, HashMap};

use crate::json::{Piece, length};

/// A type whose JSON Schema is known while compiling. Derive it beside `Deserialize`:
///
/// ```
/// use portcullis_sdk::Schema;
///
/// /// When the office is open.
/// #[derive(serde::Deserialize, Schema)]
/// #[serde(rename_all = "camelCase", deny_unknown_fields)]
/// struct Hours {
///     /// The first hour, in UTC.
///     #[schema(maximum = 23)]
///     opens_at: u8,
///     /// The days on which it is open; all of them where left out.
///     #[serde(default)]
///     days: Vec<Day>,
/// }
///
/// #[derive(serde::Deserialize, Schema)]
/// #[serde(rename_all = "lowercase")]
/// enum Day {
///     Monday,
///     Tuesday,
/// }
///
/// let schema = portcullis_sdk::schema_of::<Hours>();
/// assert_eq!(schema["properties"]["opensAt"]["description"], "The first hour, in UTC.");
/// assert_eq!(schema["required"], serde_json::json!(["opensAt"]));
/// ```
pub trait Schema {
    /// The schema, in pieces.
    #[doc(hidden)]
    const PIECES: &'static [Piece];
}

/// The JSON Schema of a type, for tests.
///
/// # Panics
/// Where an `impl Schema` that was written by hand is no JSON.
pub fn schema_of<T: Schema>() -> serde_json::Value {
    fn write(pieces: &[Piece], out: &mut String) {
        for piece in pieces {
            match piece {
                Piece::Raw(text) => out.push_str(text),
                Piece::Text(text) => out.push_str(&serde_json::Value::from(*text).to_string()),
                Piece::All(inner) => write(inner, out),
                Piece::List(items) => {
                    for (at, item) in items.iter().enumerate() {
                        if at > 0 {
                            out.push(',');
                        }
                        write(std::slice::from_ref(item), out);
                    }
                }
            }
        }
    }
    let mut text = String::with_capacity(length(T::PIECES));
    write(T::PIECES, &mut text);
    #[allow(clippy::expect_used, reason = "for tests, and the derive writes JSON")]
    serde_json::from_str(&text).expect("a schema is JSON")
}

macro_rules! plain {
    ($($schema:literal: $($ty:ty),+;)+) => {
        $($(impl Schema for $ty {
            const PIECES: &'static [Piece] = &[Piece::Raw($schema)];
        })+)+
    };
}

plain! {
    r#"{"type":"string"}"#: String, &str, Box<str>;
    r#"{"type":"string","minLength":1,"maxLength":1}"#: char;
    r#"{"type":"boolean"}"#: bool;
    r#"{"type":"number"}"#: f32, f64;
    r#"{"type":"integer","minimum":0,"maximum":255}"#: u8;
    r#"{"type":"integer","minimum":0,"maximum":65535}"#: u16;
    r#"{"type":"integer","minimum":0,"maximum":4294967295}"#: u32;
    r#"{"type":"integer","minimum":0}"#: u64, usize;
    r#"{"type":"integer"}"#: i8, i16, i32, i64, isize;
    r#"{"type":"integer","minimum":1}"#: std::num::NonZeroU32, std::num::NonZeroU64, std::num::NonZeroUsize;
    "true": serde_json::Value;
    r#"{"type":"object"}"#: serde_json::Map<String, serde_json::Value>;
}

impl<T: Schema> Schema for Option<T> {
    const PIECES: &'static [Piece] =
        &[Piece::Raw("{\"anyOf\":["), Piece::All(T::PIECES), Piece::Raw(",{\"type\":\"null\"}]}")];
}

impl<T: Schema> Schema for Vec<T> {
    const PIECES: &'static [Piece] =
        &[Piece::Raw("{\"type\":\"array\",\"items\":"), Piece::All(T::PIECES), Piece::Raw("}")];
}

impl<T: Schema> Schema for Box<T> {
    const PIECES: &'static [Piece] = T::PIECES;
}

impl<K, T: Schema> Schema for BTreeMap<K, T> {
    const PIECES: &'static [Piece] =
        &[Piece::Raw("{\"type\":\"object\",\"additionalProperties\":"), Piece::All(T::PIECES), Piece::Raw("}")];
}

impl<K, T: Schema, S> Schema for HashMap<K, T, S> {
    const PIECES: &'static [Piece] = <BTreeMap<K, T> as Schema>::PIECES;
}

#[cfg(test)]
#[allow(dead_code, reason = "only their shape counts")]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::Schema;

    /// The whole.
    #[derive(Deserialize, Schema)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Whole {
        /// Where it is,
        /// with a "quoted" word.
        base_url: String,
        #[serde(default)]
        #[schema(minimum = 1, maximum = 9)]
        tries: u32,
        label: Option<String>,
        #[serde(rename = "type")]
        kind: Kind,
        #[serde(default, skip)]
        hidden: u8,
        #[serde(default = "nothing")]
        parts: Vec<Part>,
        #[serde(default, deserialize_with = "lenient")]
        #[schema(stands_for = bool)]
        flag: String,
    }

    fn nothing() -> Vec<Part> {
        Vec::new()
    }

    fn lenient<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
        bool::deserialize(from).map(|b| b.to_string())
    }

    #[derive(Deserialize, Schema)]
    #[serde(rename_all = "kebab-case")]
    enum Kind {
        PlainText,
        Of { size: u8 },
        Named(String),
    }

    #[derive(Deserialize, Schema)]
    #[serde(tag = "is", rename_all = "lowercase")]
    enum Part {
        Nothing,
        Some { what: BTreeMap<String, u64> },
    }

    #[derive(Deserialize, Schema)]
    #[serde(try_from = "String")]
    struct Parsed(u8);

    impl TryFrom<String> for Parsed {
        type Error = std::num::ParseIntError;
        fn try_from(text: String) -> Result<Self, Self::Error> {
            text.parse().map(Self)
        }
    }

    #[test]
    fn a_schema_follows_what_serde_is_told() {
        assert_eq!(
            schema_of::<Whole>(),
            json!({
                "type": "object",
                "description": "The whole.",
                "properties": {
                    "baseUrl": {"description": "Where it is, with a \"quoted\" word.", "allOf": [{"type": "string"}]},
                    "tries": {"minimum": 1, "maximum": 9, "allOf": [{"type": "integer", "minimum": 0, "maximum": 4_294_967_295_u32}]},
                    "label": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "type": {"anyOf": [
                        {"enum": ["plain-text"]},
                        {
                            "type": "object",
                            "properties": {"of": {
                                "type": "object",
                                "properties": {"size": {"type": "integer", "minimum": 0, "maximum": 255}},
                                "required": ["size"],
                            }},
                            "required": ["of"],
                            "additionalProperties": false,
                        },
                        {"type": "object", "properties": {"named": {"type": "string"}}, "required": ["named"], "additionalProperties": false},
                    ]},
                    "parts": {"type": "array", "items": {"anyOf": [
                        {"type": "object", "properties": {"is": {"const": "nothing"}}, "required": ["is"]},
                        {
                            "type": "object",
                            "properties": {
                                "is": {"const": "some"},
                                "what": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}},
                            },
                            "required": ["is", "what"],
                        },
                    ]}},
                    "flag": {"type": "boolean"},
                },
                "required": ["baseUrl", "type"],
                "additionalProperties": false,
            })
        );
        assert_eq!(schema_of::<Parsed>(), json!({"type": "string"}));
    }
}
