//! `x-mcp-header`: which arguments of a tool travel in `Mcp-Param-*` headers too (2026-07-28, transports: "Custom Headers
//! from Tool Parameters"). Read from a tool's definition once, then written towards servers and checked towards clients.

use std::{borrow::Cow, collections::HashSet};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, value::RawValue};

use crate::headers::{HeaderFault, PARAM_PREFIX, decode_value, encode_value};

/// The annotation's key.
const ANNOTATION: &str = "x-mcp-header";
/// The most arguments of one tool that are mirrored.
const MAX_MIRRORED: usize = 64;
/// Integers that every client can hold exactly (the same section).
const SAFE: i64 = (1 << 53) - 1;
/// Keywords whose values are data, in which the annotation's key means nothing.
const DATA: [&str; 5] = ["default", "const", "enum", "examples", "example"];

/// One mirrored argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// Its header.
    pub header: HeaderName,
    /// Where its value stands in the arguments: keys, from the root on.
    pub path: Box<[Box<str>]>,
}

/// Why a tool's annotations are invalid, so that clients have to leave the tool out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    /// Not the name of a header.
    #[error("x-mcp-header {0:?} is no header name")]
    Name(String),
    /// Used twice, whatever the case.
    #[error("x-mcp-header {0:?} stands twice")]
    Twice(String),
    /// On something that is neither string, integer nor boolean.
    #[error("x-mcp-header {0:?} is on something other than a string, an integer or a boolean")]
    Type(String),
    /// On something that can't be found from the root by `properties` alone.
    #[error("x-mcp-header is on something that `properties` alone do not lead to")]
    Place,
    /// More than are read.
    #[error("more than {MAX_MIRRORED} x-mcp-header")]
    TooMany,
}

/// The mirrored arguments of a tool, from its definition. None for almost every tool, which costs a search for the key.
///
/// # Errors
/// [`MirrorError`] where the annotations break the rules of the specification.
pub fn of_tool(raw: &str) -> Result<Box<[Mirrored]>, MirrorError> {
    // A key may be written with escapes, which a search does not find.
    if !raw.contains(ANNOTATION) && !raw.contains("\\u00") {
        return Ok(Box::default());
    }
    let Ok(Value::Object(tool)) = serde_json::from_str::<Value>(raw) else { return Ok(Box::default()) };
    let Some(Value::Object(schema)) = tool.get("inputSchema") else { return Ok(Box::default()) };
    let mut found = Found::default();
    found.schema(schema, Some(&mut Vec::new()))?;
    Ok(found.mirrored.into())
}

#[derive(Default)]
struct Found {
    mirrored: Vec<Mirrored>,
    names: HashSet<String>,
}

impl Found {
    /// `path` leads here by `properties` alone; none where something else stands in between.
    fn schema(&mut self, schema: &Map<String, Value>, mut path: Option<&mut Vec<String>>) -> Result<(), MirrorError> {
        if let Some(annotation) = schema.get(ANNOTATION) {
            let path = path.as_deref().filter(|p| !p.is_empty()).ok_or(MirrorError::Place)?;
            self.add(annotation, schema.get("type"), path)?;
        }
        for (key, value) in schema {
            match (key.as_str(), value) {
                ("properties", Value::Object(properties)) => {
                    for (name, property) in properties {
                        let Value::Object(property) = property else { continue };
                        match path.as_deref_mut() {
                            Some(path) => {
                                path.push(name.clone());
                                self.schema(property, Some(path))?;
                                path.pop();
                            }
                            None => self.schema(property, None)?,
                        }
                    }
                }
                // Maps from names to schemas: their keys are no keywords.
                ("$defs" | "definitions" | "patternProperties" | "dependentSchemas", Value::Object(named)) => {
                    for schema in named.values().filter_map(Value::as_object) {
                        self.schema(schema, None)?;
                    }
                }
                (key, _) if DATA.contains(&key) => {}
                (_, value) => self.elsewhere(value)?,
            }
        }
        Ok(())
    }

    fn elsewhere(&mut self, value: &Value) -> Result<(), MirrorError> {
        match value {
            Value::Object(schema) => self.schema(schema, None),
            Value::Array(items) => items.iter().try_for_each(|item| self.elsewhere(item)),
            _ => Ok(()),
        }
    }

    fn add(&mut self, annotation: &Value, kind: Option<&Value>, path: &[String]) -> Result<(), MirrorError> {
        let name = match annotation {
            Value::String(name) => name.as_str(),
            other => return Err(MirrorError::Name(other.to_string().chars().take(64).collect())),
        };
        let shown = || name.chars().take(64).collect::<String>();
        // Checked by itself: behind the prefix an empty name would be one.
        let header = name
            .parse::<HeaderName>()
            .ok()
            .and_then(|n| HeaderName::try_from(format!("{PARAM_PREFIX}{n}")).ok())
            .ok_or_else(|| MirrorError::Name(shown()))?;
        if !matches!(kind.and_then(Value::as_str), Some("string" | "integer" | "boolean")) {
            return Err(MirrorError::Type(shown()));
        }
        if !self.names.insert(name.to_ascii_lowercase()) {
            return Err(MirrorError::Twice(shown()));
        }
        if self.mirrored.len() >= MAX_MIRRORED {
            return Err(MirrorError::TooMany);
        }
        let path = path.iter().map(|key| Box::from(key.as_str())).collect();
        self.mirrored.push(Mirrored { header, path });
        Ok(())
    }
}

/// The headers that go with these arguments, for the server.
pub fn headers(mirrored: &[Mirrored], arguments: &str) -> Vec<(HeaderName, HeaderValue)> {
    let text = |m: &Mirrored| Some((m.header.clone(), encode_value(&value_at(arguments, &m.path)?)));
    mirrored.iter().filter_map(text).collect()
}

/// Whether the headers of a request say what its arguments say.
///
/// # Errors
/// [`HeaderFault`] where one that has to be there is not, one says otherwise, or one stands more than once.
pub fn check(mirrored: &[Mirrored], arguments: &str, sent: &HeaderMap) -> Result<(), HeaderFault> {
    const SHOWN: &str = "Mcp-Param-*";
    for one in mirrored {
        let mut values = sent.get_all(&one.header).iter();
        let (value, further) = (values.next(), values.next());
        if further.is_some() {
            return Err(HeaderFault::Repeated(SHOWN));
        }
        match (value_at(arguments, &one.path), value) {
            (None, None) => {}
            (Some(_), None) => return Err(HeaderFault::Missing(SHOWN)),
            (None, Some(_)) => return Err(HeaderFault::Mismatch(SHOWN)),
            (Some(body), Some(value)) => {
                let said = value.to_str().ok().filter(|v| is_plain(v)).and_then(decode_value);
                if !said.is_some_and(|said| same(&said, &body)) {
                    return Err(HeaderFault::Mismatch(SHOWN));
                }
            }
        }
    }
    Ok(())
}

/// Visible ASCII, spaces and tabs within.
fn is_plain(value: &str) -> bool {
    value.bytes().all(|b| matches!(b, 0x20..=0x7e | b'\t'))
}

/// Equal, or the same integer written otherwise (`42` and `42.0`).
fn same(said: &str, body: &str) -> bool {
    said == body || matches!((integer(said), integer(body)), (Some(a), Some(b)) if a == b)
}

fn integer(text: &str) -> Option<i64> {
    let whole = text
        .split_once('.')
        .map_or(Some(text), |(whole, rest)| (!rest.is_empty() && rest.bytes().all(|b| b == b'0')).then_some(whole))?;
    whole.parse().ok().filter(|n: &i64| n.abs() <= SAFE)
}

/// The text of a primitive at this place of the arguments; none where there is nothing, `null`, or something else.
fn value_at(arguments: &str, path: &[Box<str>]) -> Option<String> {
    let mut here: &RawValue = serde_json::from_str(arguments).ok()?;
    for key in path {
        let members: Members<'_> = serde_json::from_str(here.get()).ok()?;
        here = members.0.into_iter().find_map(|(name, value)| (*name == **key).then_some(value))?;
    }
    match here.get().as_bytes().first()? {
        b'"' => serde_json::from_str(here.get()).ok(),
        b't' | b'f' => Some(here.get().to_owned()),
        b'-' | b'0'..=b'9' => Some(integer(here.get()).map_or_else(|| here.get().to_owned(), |n| n.to_string())),
        _ => None,
    }
}

/// An object's members, values unread.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    members.push((key, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(properties: &str) -> String {
        format!(r#"{{"name":"t","inputSchema":{{"type":"object","properties":{properties}}}}}"#)
    }

    fn read(properties: &str) -> Result<Box<[Mirrored]>, MirrorError> {
        of_tool(&tool(properties))
    }

    #[test]
    fn finds_what_properties_lead_to() {
        let found = read(
            r#"{"region":{"type":"string","x-mcp-header":"Region"},"q":{"type":"string"},
                "o":{"type":"object","properties":{"n":{"type":"integer","x-mcp-header":"N"},
                "x-mcp-header":{"type":"string"}}},"d":{"default":{"x-mcp-header":"data"}}}"#,
        )
        .unwrap();
        let mut shown: Vec<_> = found.iter().map(|m| (m.header.as_str(), m.path.join("/"))).collect();
        shown.sort();
        assert_eq!(shown, [("mcp-param-n", "o/n".to_owned()), ("mcp-param-region", "region".to_owned())]);
        assert!(of_tool(r#"{"name":"t","inputSchema":{"type":"object"}}"#).unwrap().is_empty());
    }

    #[test]
    fn refuses_invalid_annotations() {
        for bad in [
            r#"{"a":{"type":"string","x-mcp-header":""}}"#,
            r#"{"a":{"type":"string","x-mcp-header":"a b"}}"#,
            r#"{"a":{"type":"string","x-mcp-header":"a:b"}}"#,
            r#"{"a":{"type":"string","x-mcp-header":"a\r\nb"}}"#,
            r#"{"a":{"type":"string","x-mcp-header":"é"}}"#,
            r#"{"a":{"type":"string","x-mcp-header":7}}"#,
            r#"{"a":{"type":"string","x-mcp-header":"X"},"b":{"type":"string","x-mcp-header":"x"}}"#,
            r#"{"a":{"type":"number","x-mcp-header":"X"}}"#,
            r#"{"a":{"type":"object","x-mcp-header":"X"}}"#,
            r#"{"a":{"x-mcp-header":"X"}}"#,
            r#"{"a":{"type":"array","items":{"type":"string","x-mcp-header":"X"}}}"#,
            r#"{"a":{"oneOf":[{"type":"string","x-mcp-header":"X"}]}}"#,
            r#"{"a":{"type":"array","items":{"properties":{"b":{"type":"string","x-mcp-header":"X"}}}}}"#,
            r#"{"a":{"type":"string","x-mcp-heade\u0072":""}}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let defs = r#"{"name":"t","inputSchema":{"$defs":{"x-mcp-header":{"type":"string","x-mcp-header":"X"}}}}"#;
        assert_eq!(of_tool(defs), Err(MirrorError::Place));
    }

    #[test]
    fn writes_what_it_accepts() {
        let found = read(
            r#"{"s":{"type":"string","x-mcp-header":"S"},"n":{"type":"integer","x-mcp-header":"N"},
                "b":{"type":"boolean","x-mcp-header":"B"}}"#,
        )
        .unwrap();
        for (arguments, wanted) in [
            (r#"{"s":"us","n":42,"b":false}"#, vec![("b", "false"), ("n", "42"), ("s", "us")]),
            (r#"{"s":null,"n":null}"#, vec![]),
            ("{}", vec![]),
            (r#"{"s":" padded "}"#, vec![("s", "=?base64?IHBhZGRlZCA=?=")]),
            (r#"{"s":"=?base64?literal?="}"#, vec![("s", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?=")]),
            (r#"{"s":"a\r\nb","n":7.0}"#, vec![("n", "7"), ("s", "=?base64?YQ0KYg==?=")]),
            (r#"{"\u0073":""}"#, vec![("s", "")]),
        ] {
            let made = headers(&found, arguments);
            let mut shown: Vec<_> =
                made.iter().map(|(n, v)| (&n.as_str()[PARAM_PREFIX.len()..], v.to_str().unwrap())).collect();
            shown.sort_unstable();
            assert_eq!(shown, wanted, "{arguments}");
            let map: HeaderMap = made.into_iter().collect();
            assert_eq!(check(&found, arguments, &map), Ok(()), "{arguments}");
        }
    }

    #[test]
    fn refuses_headers_that_say_otherwise() {
        let found = read(r#"{"s":{"type":"string","x-mcp-header":"S"},"n":{"type":"integer","x-mcp-header":"N"}}"#);
        let found = found.unwrap();
        let check = |arguments, pairs: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in pairs {
                map.append(*name, HeaderValue::from_static(value));
            }
            check(&found, arguments, &map)
        };
        const S: &str = "mcp-param-s";
        assert_eq!(check(r#"{"s":"a"}"#, &[(S, "a")]), Ok(()));
        assert_eq!(check(r#"{"s":"a"}"#, &[(S, "=?base64?YQ==?=")]), Ok(()));
        assert_eq!(check(r#"{"n":42}"#, &[("mcp-param-n", "42.0")]), Ok(()));
        assert!(matches!(check(r#"{"s":"a"}"#, &[]), Err(HeaderFault::Missing(_))));
        assert!(matches!(check(r#"{"s":"a"}"#, &[(S, "b")]), Err(HeaderFault::Mismatch(_))));
        assert!(matches!(check(r#"{"s":"a"}"#, &[(S, "=?base64?!?=")]), Err(HeaderFault::Mismatch(_))));
        assert!(matches!(check("{}", &[(S, "b")]), Err(HeaderFault::Mismatch(_))));
        assert!(matches!(check(r#"{"s":"a"}"#, &[(S, "a"), (S, "a")]), Err(HeaderFault::Repeated(_))));
        assert_eq!(check(r#"{"s":"a"}"#, &[(S, "a"), ("mcp-param-unknown", "z")]), Ok(()));
    }
}
