//! JSON Patch (RFC 6902) on JSON text: what no operation touches stays byte for byte, so that whoever reads the text next reads
//! the same numbers and keys.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

/// The most operations of one patch.
const MAX_OPERATIONS: usize = 1024;
/// The most work of one patch: bytes that are read, compared or copied.
const MAX_WORK: usize = 16 << 20;

/// Applies all operations, or none.
///
/// # Errors
/// Why not, in words for the plugin's author: no patch, a path that leads nowhere, a test that fails, a result above `max` bytes.
pub(crate) fn apply(text: &str, operations: &str, max: usize) -> Result<String, String> {
    let operations: Vec<Operation<'_>> =
        serde_json::from_str(operations).map_err(|error| format!("this is no JSON Patch: {error}"))?;
    if operations.len() > MAX_OPERATIONS {
        return Err(format!("more than {MAX_OPERATIONS} operations"));
    }
    let mut document = Document { root: Node::Raw(text.trim()), size: text.len(), work: 0, max };
    for (at, operation) in operations.iter().enumerate() {
        document.take(operation).map_err(|why| format!("operation {at}: {why}"))?;
    }
    let mut out = String::with_capacity(document.root.len());
    document.root.write(&mut out);
    if out.len() > max { Err(TOO_LARGE.into()) } else { Ok(out) }
}

const TOO_LARGE: &str = "the result is too large";
const NOWHERE: &str = "the path leads nowhere";

#[derive(Deserialize)]
struct Operation<'a> {
    op: Cow<'a, str>,
    path: String,
    from: Option<String>,
    /// `null` is a value too.
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A value: as text until somebody has to look inside.
#[derive(Clone)]
enum Node<'a> {
    Raw(&'a str),
    Object(Vec<(String, Node<'a>)>),
    Array(Vec<Node<'a>>),
}

struct Document<'a> {
    root: Node<'a>,
    /// About how long it is.
    size: usize,
    work: usize,
    max: usize,
}

type Done<T = ()> = Result<T, Cow<'static, str>>;

impl<'a> Document<'a> {
    fn take(&mut self, operation: &Operation<'a>) -> Done {
        let path = tokens(&operation.path)?;
        let value = || operation.value.map(|raw| Node::Raw(raw.get())).ok_or("`value` is missing");
        match &*operation.op {
            "add" => {
                let value = value()?;
                self.add(&path, value)
            }
            "remove" => self.remove(&path).map(drop),
            "replace" => {
                let value = value()?;
                *self.at(&path)? = value;
                Ok(())
            }
            "move" | "copy" => {
                let from = tokens(operation.from.as_deref().ok_or("`from` is missing")?)?;
                if operation.op == "move" {
                    if path.len() > from.len() && path.starts_with(&from) {
                        return Err("nothing can be moved into itself".into());
                    }
                    let moved = if path == from { return self.at(&path).map(drop) } else { self.remove(&from)? };
                    return self.add(&path, moved);
                }
                let (copied, len) = {
                    let found = self.at(&from)?;
                    (found.clone(), found.len())
                };
                self.spend(len)?;
                self.size = self.size.saturating_add(len);
                if self.size > self.max.saturating_mul(2) {
                    return Err(TOO_LARGE.into());
                }
                self.add(&path, copied)
            }
            "test" => {
                let value = operation.value.ok_or("`value` is missing")?.get();
                let mut there = String::new();
                let found = self.at(&path)?;
                let len = found.len();
                found.write(&mut there);
                self.spend(len + value.len())?;
                let read =
                    |text: &str| serde_json::from_str::<serde_json::Value>(text).map_err(|_| "it can't be compared");
                if same(&read(&there)?, &read(value)?) { Ok(()) } else { Err("the test fails".into()) }
            }
            _ => Err("there is no such `op`".into()),
        }
    }

    fn spend(&mut self, work: usize) -> Done {
        self.work = self.work.saturating_add(work);
        if self.work > MAX_WORK { Err("this is more work than a patch may be".into()) } else { Ok(()) }
    }

    /// The value at a path.
    fn at(&mut self, path: &[String]) -> Done<&mut Node<'a>> {
        let mut work = self.work;
        let mut node = &mut self.root;
        for token in path {
            node.open(&mut work)?;
            node = match node {
                Node::Raw(_) => return Err(NOWHERE.into()),
                Node::Object(members) => {
                    work = work.saturating_add(members.len() * 8);
                    members.iter_mut().find(|(name, _)| name == token).map(|(_, value)| value).ok_or(NOWHERE)?
                }
                Node::Array(items) => {
                    let index = index(token, items.len())?;
                    items.get_mut(index).ok_or(NOWHERE)?
                }
            };
        }
        self.work = work;
        if self.work > MAX_WORK { Err("this is more work than a patch may be".into()) } else { Ok(node) }
    }

    /// What holds the value at a path, opened, and the last step to it.
    fn holder<'p>(&mut self, path: &'p [String]) -> Done<(&mut Node<'a>, &'p str)> {
        let Some((last, before)) = path.split_last() else { return Err(NOWHERE.into()) };
        let holder = self.at(before)?;
        // Paid for once: what is open stays open.
        holder.open(&mut 0)?;
        Ok((holder, last))
    }

    fn add(&mut self, path: &[String], value: Node<'a>) -> Done {
        if path.is_empty() {
            self.root = value;
            return Ok(());
        }
        let work = match self.holder(path)? {
            (Node::Object(members), name) => {
                match members.iter_mut().find(|(known, _)| known == name) {
                    Some((_, there)) => *there = value,
                    None => members.push((name.to_owned(), value)),
                }
                members.len() * 8
            }
            (Node::Array(items), token) => {
                let at = if token == "-" { items.len() } else { index(token, items.len() + 1)? };
                items.insert(at, value);
                items.len() * 8
            }
            (Node::Raw(_), _) => return Err(NOWHERE.into()),
        };
        self.spend(work)
    }

    fn remove(&mut self, path: &[String]) -> Done<Node<'a>> {
        if path.is_empty() {
            return Err("the whole can't be removed".into());
        }
        let (removed, work) = match self.holder(path)? {
            (Node::Object(members), name) => {
                let at = members.iter().position(|(known, _)| known == name).ok_or(NOWHERE)?;
                (members.remove(at).1, members.len() * 8)
            }
            (Node::Array(items), token) => {
                let at = index(token, items.len())?;
                (items.remove(at), items.len() * 8)
            }
            (Node::Raw(_), _) => return Err(NOWHERE.into()),
        };
        self.spend(work)?;
        Ok(removed)
    }
}

impl<'a> Node<'a> {
    /// Looks inside an object or an array, where nobody has yet.
    fn open(&mut self, work: &mut usize) -> Done {
        let Node::Raw(text) = *self else { return Ok(()) };
        *work = work.saturating_add(text.len());
        match text.as_bytes().first() {
            Some(b'{') => {
                let Members(members) = serde_json::from_str(text).map_err(|error| error.to_string())?;
                *self = Node::Object(members);
            }
            Some(b'[') => {
                let items: Vec<&'a RawValue> = serde_json::from_str(text).map_err(|error| error.to_string())?;
                *self = Node::Array(items.into_iter().map(|item| Node::Raw(item.get())).collect());
            }
            _ => {}
        }
        Ok(())
    }

    fn len(&self) -> usize {
        match self {
            Node::Raw(text) => text.len(),
            Node::Object(members) => {
                2 + members.iter().map(|(name, value)| name.len() + 4 + value.len()).sum::<usize>()
            }
            Node::Array(items) => 2 + items.iter().map(|item| 1 + item.len()).sum::<usize>(),
        }
    }

    fn write(&self, out: &mut String) {
        match self {
            Node::Raw(text) => out.push_str(text),
            Node::Object(members) => {
                out.push('{');
                for (at, (name, value)) in members.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    out.push_str(&serde_json::Value::from(name.as_str()).to_string());
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
            Node::Array(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
        }
    }
}

/// The steps of a JSON Pointer (RFC 6901).
fn tokens(pointer: &str) -> Done<Vec<String>> {
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let steps = pointer.strip_prefix('/').ok_or("a path begins with /")?;
    Ok(steps.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect())
}

/// A position below `end`.
fn index(token: &str, end: usize) -> Done<usize> {
    let plain = token == "0" || (!token.starts_with('0') && token.bytes().all(|byte| byte.is_ascii_digit()));
    let found = if plain { token.parse().ok() } else { None };
    found.filter(|at| *at < end).ok_or_else(|| NOWHERE.into())
}

/// Equal as RFC 6902 section 4.6 has it: numbers by their value.
fn same(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Number, Object};
    match (a, b) {
        (Number(a), Number(b)) => a == b || (a.is_f64() || b.is_f64()) && a.as_f64() == b.as_f64(),
        (Array(a), Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Object(a), Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, value)| b.get(name).is_some_and(|other| same(value, other)))
        }
        (a, b) => a == b,
    }
}

/// An object's members in their order, values unread.
struct Members<'a>(Vec<(String, Node<'a>)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                let mut names = std::collections::HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    // Of two members of one name, a reader may take either: changing one of them would change nothing for some.
                    if !names.insert(name.clone()) {
                        return Err(de::Error::custom("a key stands twice"));
                    }
                    members.push((name, Node::Raw(map.next_value::<&'de RawValue>()?.get())));
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

    fn patched(text: &str, operations: &str) -> Result<String, String> {
        apply(text, operations, 1 << 20)
    }

    #[test]
    fn the_examples_of_the_specification() {
        // RFC 6902 appendix A, by its numbers.
        for (text, operations, expected) in [
            (r#"{"foo":"bar"}"#, r#"[{"op":"add","path":"/baz","value":"qux"}]"#, r#"{"foo":"bar","baz":"qux"}"#),
            (
                r#"{"foo":["bar","baz"]}"#,
                r#"[{"op":"add","path":"/foo/1","value":"qux"}]"#,
                r#"{"foo":["bar","qux","baz"]}"#,
            ),
            (r#"{"baz":"qux","foo":"bar"}"#, r#"[{"op":"remove","path":"/baz"}]"#, r#"{"foo":"bar"}"#),
            (r#"{"foo":["bar","qux","baz"]}"#, r#"[{"op":"remove","path":"/foo/1"}]"#, r#"{"foo":["bar","baz"]}"#),
            (
                r#"{"baz":"qux","foo":"bar"}"#,
                r#"[{"op":"replace","path":"/baz","value":"boo"}]"#,
                r#"{"baz":"boo","foo":"bar"}"#,
            ),
            (
                r#"{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}"#,
                r#"[{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]"#,
                r#"{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}"#,
            ),
            (
                r#"{"foo":["all","grass","cows","eat"]}"#,
                r#"[{"op":"move","from":"/foo/1","path":"/foo/3"}]"#,
                r#"{"foo":["all","cows","eat","grass"]}"#,
            ),
            (
                r#"{"baz":"qux"}"#,
                r#"[{"op":"test","path":"/baz","value":"qux"},{"op":"add","path":"/n","value":null}]"#,
                r#"{"baz":"qux","n":null}"#,
            ),
            (
                r#"{"foo":"bar"}"#,
                r#"[{"op":"add","path":"/child","value":{"a":{}}}]"#,
                r#"{"foo":"bar","child":{"a":{}}}"#,
            ),
            (r#"{"foo":"bar"}"#, r#"[{"op":"add","path":"/baz","value":"q","xyz":123}]"#, r#"{"foo":"bar","baz":"q"}"#),
            (r#"{"/":9,"~1":10}"#, r#"[{"op":"test","path":"/~01","value":10.0}]"#, r#"{"/":9,"~1":10}"#),
            (r#"{"foo":["bar"]}"#, r#"[{"op":"add","path":"/foo/-","value":["abc"]}]"#, r#"{"foo":["bar",["abc"]]}"#),
            (
                r#"{"a":1}"#,
                r#"[{"op":"copy","from":"/a","path":"/b"},{"op":"move","from":"/a","path":"/a"}]"#,
                r#"{"a":1,"b":1}"#,
            ),
            (r#"{"a":1}"#, r#"[{"op":"replace","path":"","value":[]}]"#, "[]"),
        ] {
            assert_eq!(patched(text, operations).as_deref(), Ok(expected), "{operations}");
        }
        for (text, operations, why) in [
            (r#"{"baz":"qux"}"#, r#"[{"op":"test","path":"/baz","value":"bar"}]"#, "test fails"),
            (r#"{"foo":"bar"}"#, r#"[{"op":"add","path":"/baz/bat","value":"qux"}]"#, "nowhere"),
            (r#"{"/":9,"~1":10}"#, r#"[{"op":"test","path":"/~01","value":"10"}]"#, "test fails"),
            (r#"{"a":[1]}"#, r#"[{"op":"add","path":"/a/2","value":2}]"#, "nowhere"),
            (r#"{"a":[1]}"#, r#"[{"op":"replace","path":"/a/01","value":2}]"#, "nowhere"),
            (r#"{"a":{"b":1}}"#, r#"[{"op":"move","from":"/a","path":"/a/b"}]"#, "into itself"),
            (r#"{"a":1}"#, r#"[{"op":"remove","path":""}]"#, "whole"),
            (r#"{"a":1}"#, r#"[{"op":"add","path":"/b"}]"#, "missing"),
            (r#"{"a":1}"#, r#"[{"op":"copy","path":"/b"}]"#, "missing"),
            (r#"{"a":1}"#, r#"[{"op":"spin","path":"/b"}]"#, "no such"),
            (r#"{"a":1}"#, r#"{"op":"remove","path":"/a"}"#, "no JSON Patch"),
            (r#"{"a":{"b":1,"b":2}}"#, r#"[{"op":"remove","path":"/a/b"}]"#, "twice"),
        ] {
            let error = patched(text, operations).unwrap_err();
            assert!(error.contains(why), "{operations}: {error}");
        }
    }

    #[test]
    fn what_is_not_touched_stays_byte_for_byte() {
        let text = r#"{"big":123456789012345678901234567890,"f":1.10,"s":"t\u0041","o": {"deep" : [ 1 ]},"x":1}"#;
        let got = patched(text, r#"[{"op":"replace","path":"/x","value":98765432109876543210}]"#).unwrap();
        assert_eq!(
            got,
            r#"{"big":123456789012345678901234567890,"f":1.10,"s":"t\u0041","o":{"deep" : [ 1 ]},"x":98765432109876543210}"#
        );
    }

    #[test]
    fn a_patch_is_no_bomb() {
        // Each copy doubles the whole.
        let doubling: Vec<String> = (0..60).map(|i| format!(r#"{{"op":"copy","from":"","path":"/k{i}"}}"#)).collect();
        let error =
            patched(&format!(r#"{{"a":"{}"}}"#, "x".repeat(1000)), &format!("[{}]", doubling.join(","))).unwrap_err();
        assert!(error.contains("too large") || error.contains("more work"), "{error}");
        // Each test reads a megabyte.
        let tests = vec![r#"{"op":"test","path":"/a","value":1}"#; 1000].join(",");
        let large = format!(r#"{{"a":[{}]}}"#, vec!["1"; 400_000].join(","));
        assert!(patched(&large, &format!("[{tests}]")).is_err());
        let many = vec![r#"{"op":"add","path":"/a","value":1}"#; 1025].join(",");
        assert!(patched("{}", &format!("[{many}]")).unwrap_err().contains("more than"));
        assert!(
            apply("{}", r#"[{"op":"add","path":"/a","value":"long enough"}]"#, 8).unwrap_err().contains("too large")
        );
    }
}
