//! JSON compared as it was written: the order of members, and the text of each number and string.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// An object whose members stay in order.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Where two texts first differ; none where they are the same but for members named in `but`.
pub fn difference(wanted: &str, found: &str, but: &[&str]) -> Option<String> {
    if wanted == found {
        return None;
    }
    walk(String::new(), wanted.trim(), found.trim(), but)
}

fn walk(at: String, wanted: &str, found: &str, but: &[&str]) -> Option<String> {
    if let (Ok(a), Ok(b)) = (serde_json::from_str::<Members>(wanted), serde_json::from_str::<Members>(found)) {
        let (a, b) = (kept(a, but), kept(b, but));
        let names = |of: &[(String, Box<RawValue>)]| of.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
        let (wanted, found) = (names(&a), names(&b));
        if wanted != found {
            return Some(format!("{at}: members {found:?}, not {wanted:?}"));
        }
        return a.iter().zip(&b).find_map(|((name, a), (_, b))| walk(format!("{at}.{name}"), a.get(), b.get(), but));
    }
    let list = |text: &str| serde_json::from_str::<Vec<Box<RawValue>>>(text).ok();
    if let (Some(a), Some(b)) = (list(wanted), list(found)) {
        if a.len() != b.len() {
            return Some(format!("{at}: {} items, not {}", b.len(), a.len()));
        }
        let mut pairs = a.iter().zip(&b).enumerate();
        return pairs.find_map(|(n, (a, b))| walk(format!("{at}[{n}]"), a.get(), b.get(), but));
    }
    (wanted != found).then(|| format!("{at}: {}, not {}", short(found), short(wanted)))
}

/// The members that are compared; a `_meta` that holds nothing else is left out like what it held.
fn kept(members: Members, but: &[&str]) -> Vec<(String, Box<RawValue>)> {
    let empty = |name: &str, value: &RawValue| {
        name == "_meta" && serde_json::from_str::<Members>(value.get()).is_ok_and(|m| kept(m, but).is_empty())
    };
    members.0.into_iter().filter(|(name, value)| !but.contains(&name.as_str()) && !empty(name, value)).collect()
}

fn short(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_the_text_of_numbers_count() {
        let same = |a, b| difference(a, b, &["skip"]).is_none();
        assert!(same(r#"{"a":1, "b":[1.10]}"#, r#"{"a":1,"b":[1.10]}"#));
        assert!(same(r#"{"a":1,"skip":1}"#, r#"{"a":1,"skip":2,"_meta":{"skip":1}}"#));
        assert!(!same(r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#));
        assert!(!same(r#"{"a":1.10}"#, r#"{"a":1.1}"#));
        assert!(!same(r#"{"a":"\u00e9"}"#, r#"{"a":"é"}"#));
        assert!(!same(r#"{"a":1}"#, r#"{"a":1,"b":2}"#));
        assert!(!same(r#"[1,2]"#, r#"[1]"#));
    }
}
