//! Arguments that the operator pins: set for every call, over what the caller sent.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use globset::{GlobBuilder, GlobMatcher};
use portcullis_model::spec::{ServerAssignment, Traffic};
use serde_json::{Value, value::RawValue};

/// Pinned arguments of one server, by tool glob.
#[derive(Debug, Default)]
pub struct Pinned(Vec<(GlobMatcher, Vec<(String, String)>)>);

impl Pinned {
    /// What a server's traffic, its assignment and single tools of that pin: the later wins.
    ///
    /// # Errors
    /// In words, for a glob that is none.
    pub fn of(traffic: &Traffic, assignment: &ServerAssignment) -> Result<Self, String> {
        let mut all = Self::new(&traffic.pinned_arguments)?;
        all.0.extend(Self::new(&assignment.pinned_arguments)?.0);
        let own = assignment.tools.iter().filter(|(_, how)| !how.pinned_arguments.is_empty());
        let own = own.map(|(tool, how)| (globset::escape(tool), how.pinned_arguments.clone())).collect();
        all.0.extend(Self::new(&own)?.0);
        Ok(all)
    }

    fn new(spec: &BTreeMap<String, BTreeMap<String, Value>>) -> Result<Self, String> {
        spec.iter()
            .map(|(glob, values)| {
                let matcher = GlobBuilder::new(glob).build().map_err(|e| e.to_string())?.compile_matcher();
                Ok((matcher, values.iter().map(|(k, v)| (k.clone(), v.to_string())).collect()))
            })
            .collect::<Result<_, String>>()
            .map(Self)
    }

    /// Whether any argument of this tool is pinned.
    pub fn any(&self, tool: &str) -> bool {
        self.0.iter().any(|(glob, _)| glob.is_match(tool))
    }

    /// Arguments that a policy wrote, with the pinned ones put back: no policy changes what the operator has pinned.
    ///
    /// # Errors
    /// In words, where they are no object.
    pub fn apply_again(&self, tool: &str, arguments: Bytes) -> Result<Bytes, &'static str> {
        let text = std::str::from_utf8(&arguments).map_err(|_| "arguments must be UTF-8")?;
        match self.apply(tool, text)? {
            Cow::Owned(pinned) => Ok(pinned.into()),
            Cow::Borrowed(_) => Ok(arguments),
        }
    }

    /// The arguments with the pinned ones in place; those that are not pinned stay byte for byte.
    ///
    /// # Errors
    /// In words, where the arguments are no object.
    pub fn apply<'a>(&self, tool: &str, arguments: &'a str) -> Result<Cow<'a, str>, &'static str> {
        if !self.any(tool) {
            return Ok(Cow::Borrowed(arguments));
        }
        // Where two pin the same, the later one stays.
        let pins: BTreeMap<&str, &str> = self
            .0
            .iter()
            .filter(|(glob, _)| glob.is_match(tool))
            .flat_map(|(_, values)| values)
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        let sent: Ordered<'_> = serde_json::from_str(arguments).map_err(|_| "arguments must be an object")?;
        let kept = sent.0.iter().filter(|(k, _)| !pins.contains_key(&**k)).map(|(k, v)| (&**k, v.get()));
        let mut out = String::with_capacity(arguments.len() + 64);
        out.push('{');
        for (key, value) in kept.chain(pins.iter().map(|(k, v)| (*k, *v))) {
            if out.len() > 1 {
                out.push(',');
            }
            out.push_str(&portcullis_protocol::splice::quote(key));
            out.push(':');
            out.push_str(value);
        }
        out.push('}');
        Ok(Cow::Owned(out))
    }
}

/// An object's members in their order, values unread.
struct Ordered<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Ordered<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> serde::de::Visitor<'de> for Members {
            type Value = Ordered<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    members.push((key, map.next_value()?));
                }
                Ok(Ordered(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_win_and_the_rest_stays_as_it_was() {
        let spec = serde_json::from_str(r#"{"list_*":{"owner":"us","n":1},"get":{"x":true}}"#).unwrap();
        let pinned = Pinned::new(&spec).unwrap();
        let apply = |tool, arguments| pinned.apply(tool, arguments).map(Cow::into_owned);
        assert_eq!(
            apply("list_repos", r#"{"owner":"them","big":12345678901234567890123,"o\"k":1.10}"#).unwrap(),
            r#"{"big":12345678901234567890123,"o\"k":1.10,"n":1,"owner":"us"}"#
        );
        assert_eq!(apply("list_repos", "{}").unwrap(), r#"{"n":1,"owner":"us"}"#);
        assert_eq!(apply("other", r#"{ "a": 1 }"#).unwrap(), r#"{ "a": 1 }"#);
        assert!(apply("get", "[]").is_err());
        let again = |tool, text: &'static str| pinned.apply_again(tool, Bytes::from_static(text.as_bytes()));
        assert_eq!(again("get", r#"{"x":false,"y":1}"#).unwrap(), r#"{"y":1,"x":true}"#, "a policy can't change it");
        assert_eq!(again("get", "{}").unwrap(), r#"{"x":true}"#, "nor leave it out");
        assert_eq!(again("other", "[ 1]").unwrap(), "[ 1]", "byte for byte where nothing is pinned");
        assert!(again("get", "null").is_err());
        // The assignment's win over the server's, and a tool's own over both.
        let traffic: Traffic = serde_json::from_str(r#"{"pinnedArguments":{"*":{"a":1,"b":1,"c":1}}}"#).unwrap();
        let assignment =
            r#"{"server":"s","pinnedArguments":{"l*":{"b":2,"c":2}},"tools":{"l[1]":{"pinnedArguments":{"c":3}}}}"#;
        let all = Pinned::of(&traffic, &serde_json::from_str(assignment).unwrap()).unwrap();
        assert_eq!(all.apply("l[1]", r#"{"c":9}"#).unwrap(), r#"{"a":1,"b":2,"c":3}"#);
        assert_eq!(all.apply("l1", "{}").unwrap(), r#"{"a":1,"b":2,"c":2}"#, "a tool's name is no glob");
        assert_eq!(all.apply("other", "{}").unwrap(), r#"{"a":1,"b":1,"c":1}"#);
        // A key written with an escape is the same key.
        assert_eq!(apply("get", r#"{"\u0078":false}"#).unwrap(), r#"{"x":true}"#);
    }
}
