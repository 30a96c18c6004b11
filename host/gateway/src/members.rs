//! The members of a JSON object in their order, each value as it was written: for answers of which a few members change.

use std::{borrow::Cow, fmt};

use portcullis_protocol::splice::quote;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// An object's members: keys with their escapes undone, values as JSON text.
#[derive(Clone, Debug, Default)]
pub struct Members<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Members<'a> {
    /// Reads an object; none for anything else.
    pub fn read(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The value of a member, as JSON text.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| &**value)
    }

    /// The value of a member that is a string.
    pub fn text(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.get(key)?).ok()
    }

    /// Replaces a member where it stands, or adds it at the end. `value` is JSON text that the caller vouches for.
    pub fn set(&mut self, key: &'a str, value: impl Into<Cow<'a, str>>) {
        let value = value.into();
        match self.0.iter_mut().find(|(k, _)| k == key) {
            Some(member) => member.1 = value,
            None => self.0.push((Cow::Borrowed(key), value)),
        }
    }

    /// Takes a member out, and gives its value.
    pub fn take(&mut self, key: &str) -> Option<Cow<'a, str>> {
        let at = self.0.iter().position(|(k, _)| k == key)?;
        Some(self.0.remove(at).1)
    }

    /// Calls a member otherwise, where there is one.
    pub fn rename(&mut self, key: &str, new: &'a str) {
        if let Some(member) = self.0.iter_mut().find(|(k, _)| k == key) {
            member.0 = Cow::Borrowed(new);
        }
    }

    /// Keeps the members that `which` says, by key and value.
    pub fn retain(&mut self, mut which: impl FnMut(&str, &str) -> bool) {
        self.0.retain(|(key, value)| which(key, value));
    }

    /// Keys and values, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Members<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (at, (key, value)) in self.0.iter().enumerate() {
            write!(f, "{}{}:{value}", if at > 0 { "," } else { "" }, quote(key))?;
        }
        f.write_str("}")
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut all = Vec::new();
                while let Some(key) = map.next_key::<Key<'de>>()? {
                    all.push((key.0, Cow::Borrowed(map.next_value::<&'de RawValue>()?.get())));
                }
                Ok(Members(all))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_change_stays_as_it_was_written() {
        let mut members = Members::read(r#"{ "b":1.10, "a" : [ 1 ],"c\u00e9":"x","d":null}"#).unwrap();
        members.set("a", "2");
        members.set("new", "{}");
        members.rename("d", "e");
        assert_eq!(members.take("b").as_deref(), Some("1.10"));
        assert_eq!(members.text("c\u{e9}").as_deref(), Some("x"));
        assert_eq!(members.to_string(), "{\"a\":2,\"c\u{e9}\":\"x\",\"e\":null,\"new\":{}}");
        members.retain(|key, _| key == "nobody");
        assert!(members.is_empty() && members.to_string() == "{}");
        assert!(Members::read("[1]").is_none() && Members::read("{").is_none());
    }
}
