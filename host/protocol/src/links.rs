//! Resource URIs in results: where they stand, so that a gateway can rewrite those that would lead elsewhere.
//!
//! Only where the specification puts links: content blocks of a tool's result and of a prompt's messages, and the contents of
//! a resource. Text and structured content are data.

use std::{borrow::Cow, ops::Range};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::splice::quote;

/// A URI, and where its string stands in the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link<'a> {
    /// What it says.
    pub uri: Cow<'a, str>,
    /// The string with its quotes.
    pub at: Range<usize>,
    /// Whether the resource itself stands beside it, so that nobody has to follow the link.
    pub embedded: bool,
}

#[derive(Deserialize)]
struct Holder<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    contents: Option<&'a RawValue>,
    #[serde(borrow, default)]
    messages: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    uri: Option<&'a RawValue>,
    #[serde(borrow, default)]
    resource: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

/// Whether a result may have links at all: a search, which is all that most results cost.
pub fn may_have(result: &str) -> bool {
    // `resource`, `resource_link` and `contents`; a key with an escape in it is nothing that an SDK writes.
    result.contains("\"resource") || result.contains("\"contents\"")
}

/// The links of a result, in the order in which they stand. What is not as the specification has it has none.
pub fn of_result(result: &str) -> Vec<Link<'_>> {
    let mut links = Vec::new();
    let Ok(holder) = serde_json::from_str::<Holder<'_>>(result) else { return links };
    for part in [holder.content, holder.contents, holder.messages].into_iter().flatten() {
        collect(result, part, &mut links);
    }
    links.sort_by_key(|link| link.at.start);
    links
}

/// A block, or an array of them.
fn collect<'a>(whole: &'a str, part: &'a RawValue, links: &mut Vec<Link<'a>>) {
    if let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(part.get()) {
        for item in items {
            block(whole, item, links);
        }
    } else {
        block(whole, part, links);
    }
}

fn block<'a>(whole: &'a str, raw: &'a RawValue, links: &mut Vec<Link<'a>>) {
    let Ok(found) = serde_json::from_str::<Block<'a>>(raw.get()) else { return };
    let embedded = found.kind.as_deref() == Some("resource");
    let uri = match (found.kind.as_deref(), found.resource) {
        (Some("resource_link"), _) => found.uri,
        (Some("resource"), Some(resource)) => {
            serde_json::from_str::<Block<'a>>(resource.get()).ok().and_then(|resource| resource.uri)
        }
        // The contents of a resource have no type; other blocks have no link.
        (None, _) => found.uri,
        _ => None,
    };
    if let Some(uri) = uri
        && let Ok(text) = serde_json::from_str::<Cow<'a, str>>(uri.get())
    {
        // Borrowed from `whole`, so the difference of the addresses is the place.
        let at = uri.get().as_ptr() as usize - whole.as_ptr() as usize;
        links.push(Link { uri: text, at: at..at + uri.get().len(), embedded });
    }
    if found.kind.is_none()
        && let Some(content) = found.content
    {
        collect(whole, content, links);
    }
}

/// The result with these links written otherwise, everything else byte for byte. `new` says how, in order.
pub fn rewrite(result: &str, new: &[(Range<usize>, String)]) -> String {
    let mut out = String::with_capacity(result.len() + new.iter().map(|(_, uri)| uri.len()).sum::<usize>());
    let mut done = 0;
    for (at, uri) in new {
        out.push_str(&result[done..at.start]);
        out.push_str(&quote(uri));
        done = at.end;
    }
    out.push_str(&result[done..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uris(result: &str) -> Vec<String> {
        of_result(result).into_iter().map(|l| l.uri.into_owned()).collect()
    }

    #[test]
    fn finds_links_where_they_are_links() {
        let tool = r#"{"content":[{"type":"text","text":"{\"uri\":\"no\"}"},{"uri":"a://1","type":"resource_link","name":"x"},
            {"type":"resource","resource":{"uri":"a:\/\/2","text":"t"}},{"type":"image","uri":"no"}],
            "structuredContent":{"uri":"no","content":[{"uri":"no"}]}}"#;
        assert!(may_have(tool));
        assert_eq!(uris(tool), ["a://1", "a://2"]);
        assert_eq!(of_result(tool).iter().map(|l| l.embedded).collect::<Vec<_>>(), [false, true]);
        assert_eq!(uris(r#"{"contents":[{"uri":"a://1"},{"uri":"a://2","blob":""}]}"#), ["a://1", "a://2"]);
        let prompt = r#"{"messages":[{"role":"user","content":{"type":"resource","resource":{"uri":"a://1"}}},
            {"role":"user","content":[{"type":"resource_link","uri":"a://2"},{"type":"text","text":"x"}]}]}"#;
        assert_eq!(uris(prompt), ["a://1", "a://2"]);
        for none in ["{}", "[]", "", "{\"content\":7}", r#"{"content":[{"type":"text","text":"resource"}]}"#] {
            assert!(uris(none).is_empty(), "{none}");
        }
        assert!(!may_have(r#"{"content":[{"type":"text","text":"hello"}]}"#));
    }

    #[test]
    fn rewrites_nothing_else() {
        let raw = r#"{ "content" : [ {"type":"resource_link","uri": "a://1" ,"n":1.10}, {"type":"resource_link","uri":"a://2"} ] }"#;
        let new: Vec<_> = of_result(raw).into_iter().map(|l| (l.at, l.uri.replace("a:", "b:"))).collect();
        assert_eq!(rewrite(raw, &new), raw.replace("a://", "b://"));
    }
}
