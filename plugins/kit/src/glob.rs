//! Patterns of names: `*` stands for any run of characters, `?` for one.

use portcullis_sdk::Schema;
use serde::Deserialize;

/// A pattern, read once.
#[derive(Clone, Debug, Deserialize, Schema)]
#[serde(from = "String")]
pub enum Pattern {
    /// `*`.
    Any,
    /// Without wildcards.
    Exact(String),
    /// Its only wildcard is a `*` at its end, which is not part of the text here.
    Prefix(String),
    /// Any other.
    Glob(String),
}

impl From<String> for Pattern {
    fn from(text: String) -> Self {
        let wild = |text: &str| text.contains(['*', '?']);
        match text.strip_suffix('*') {
            Some("") => Self::Any,
            Some(prefix) if !wild(prefix) => Self::Prefix(prefix.to_owned()),
            _ if wild(&text) => Self::Glob(text),
            _ => Self::Exact(text),
        }
    }
}

impl Pattern {
    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Exact(text) if text.is_empty())
    }

    /// Whether a whole text fits. Takes at most the product of their lengths, whatever the pattern.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == text,
            Self::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Self::Glob(pattern) => matches(pattern.as_bytes(), text.as_bytes()),
        }
    }

    /// Whether every text that a template can become fits. May say no where it does.
    pub fn matches_all_of(&self, template: &Template) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => !template.0.contains(&HOLE) && exact.as_bytes() == template.0,
            Self::Prefix(prefix) => template.0.starts_with(prefix.as_bytes()),
            Self::Glob(pattern) => matches(pattern.as_bytes(), &template.0),
        }
    }

    /// Whether some text that a template can become fits.
    pub fn matches_some_of(&self, template: &Template) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(text) => meet(text.as_bytes(), false, &template.0),
            Self::Prefix(prefix) => meet(prefix.as_bytes(), true, &template.0),
            Self::Glob(pattern) => meet(pattern.as_bytes(), false, &template.0),
        }
    }
}

/// Stands in a template's bytes for an expression: any text, or none. Never a byte of UTF-8.
const HOLE: u8 = 0xff;
/// What is longer is cut, and the rest taken for a hole: a template is written by a stranger.
const MAX_TEMPLATE: usize = 256;

/// A URI template (RFC 6570), as far as it matters here: literal text with holes.
#[derive(Debug)]
pub struct Template(Vec<u8>);

impl Template {
    /// Of its text. What is too long is cut.
    pub fn new(text: &str) -> Self {
        let mut bytes = Vec::with_capacity(text.len().min(MAX_TEMPLATE) + 1);
        let mut inside = false;
        for byte in text.bytes() {
            match (inside, byte) {
                (false, b'{') => (inside, _) = (true, bytes.push(HOLE)),
                (true, b'}') => inside = false,
                (true, _) => {}
                (false, _) if bytes.len() >= MAX_TEMPLATE => {
                    bytes.push(HOLE);
                    break;
                }
                (false, byte) => bytes.push(byte),
            }
        }
        Self(bytes)
    }
}

/// Bytes do: what is compared is whole characters of UTF-8, and a step over one is as wide as its first byte says. A hole of
/// a template is swallowed by a `*` only.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (pattern, text);
    // The pattern behind the last `*`, and the text that it has not swallowed so far.
    let mut star: Option<(&[u8], &[u8])> = None;
    while let [first, rest @ ..] = t {
        match p {
            [b'*', after @ ..] => {
                star = Some((after, t));
                p = after;
            }
            [b'?', after @ ..] if *first != HOLE => (p, t) = (after, after_one(t)),
            [same, after @ ..] if same == first => (p, t) = (after, rest),
            _ => {
                let Some((after, unswallowed)) = star else { return false };
                let unswallowed = after_one(unswallowed);
                star = Some((after, unswallowed));
                (p, t) = (after, unswallowed);
            }
        }
    }
    p.iter().all(|c| *c == b'*')
}

/// A text without its first character.
fn after_one(text: &[u8]) -> &[u8] {
    let width = match text.first() {
        None | Some(..0x80 | &HOLE) => 1,
        Some(..0xe0) => 2,
        Some(..0xf0) => 3,
        Some(_) => 4,
    };
    text.get(width..).unwrap_or_default()
}

/// Whether a pattern (with another `*` at its end, where `open`) and a template have a text in common. By bytes: it may take a
/// part of a character in a hole for a whole one, so it says yes too often rather than not often enough.
fn meet(pattern: &[u8], open: bool, template: &[u8]) -> bool {
    // Which rests of the template the pattern read so far can be followed by.
    let mut reach = vec![false; template.len() + 1];
    reach[0] = true;
    spread(&mut reach, template);
    for &token in pattern.iter().chain(open.then_some(&b'*')) {
        let mut next = vec![false; template.len() + 1];
        for (at, _) in reach.iter().enumerate().filter(|(_, here)| **here) {
            match (token, template.get(at)) {
                (b'*', _) => next[at..].fill(true),
                // One byte of the pattern is one of the hole's.
                (_, Some(&HOLE)) => next[at] = true,
                (b'?', Some(_)) => next[template.len() - after_one(&template[at..]).len()] = true,
                (byte, Some(&same)) if byte == same => next[at + 1] = true,
                _ => {}
            }
        }
        spread(&mut next, template);
        reach = next;
    }
    reach[template.len()]
}

/// A hole may be empty.
fn spread(reach: &mut [bool], template: &[u8]) {
    for (at, byte) in template.iter().enumerate() {
        if *byte == HOLE && reach[at] {
            reach[at + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Pattern, Template};

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::from(pattern.to_owned()).matches(text)
    }

    #[test]
    fn fits_whole_texts() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "a"),
            ("a", "a"),
            ("", ""),
            ("a*", "a"),
            ("a*", "abc"),
            ("*c", "abc"),
            ("a*c", "abbc"),
            ("a?c", "abc"),
            ("*b*", "abc"),
            ("a*b*c", "axxbxxc"),
            ("**", "x"),
            ("*.*", "a.b"),
            ("?", "é"),
            ("*?é*", "日本é"),
            ("??b", "é日b"),
            ("*ab", "aab"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("a", "A"),
            ("a", "ab"),
            ("?", ""),
            ("a?", "a"),
            ("a*", "b"),
            ("a*c", "ab"),
            ("*c", "cb"),
            ("a*b*c", "acb"),
            ("a", ""),
            ("get_*", "forget_it"),
            ("[a]", "a"),
            ("??", "é"),
            ("*?", ""),
            ("è", "é"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_time() {
        assert!(!matches(&"*a".repeat(200), &format!("{}b", "a".repeat(2_000))));
    }

    #[test]
    fn templates_are_judged_by_what_they_can_become() {
        // Pattern, template, whether all that it can become fits, whether some does.
        for (pattern, template, all, some) in [
            ("*", "file:///{path}", true, true),
            ("file:///*", "file:///{path}", true, true),
            ("file:///pub/*", "file:///{path}", false, true),
            ("file:///pub/*", "file:///pub/{+path}{?q}", true, true),
            ("file:///pub/*", "db://{table}", false, false),
            ("file:///pub/x", "file:///{a}/{b}", false, true),
            ("file:///pub", "file:///{a}/{b}", false, false),
            ("*.txt", "file:///{path}", false, true),
            ("*.txt", "file:///{path}.txt", true, true),
            ("*.txt", "file:///{path}.md", false, false),
            ("a?c", "a{x}c", false, true),
            ("a?c", "aéc", true, true),
            ("a??c", "aéc", false, false),
            ("ac", "a{x}c", false, true),
            ("ab", "a{x}c", false, false),
            ("a", "a", true, true),
            ("{x}", "{x}", false, true),
            ("db://a?", "db://a", false, false),
        ] {
            let (pattern, template) = (Pattern::from(pattern.to_owned()), Template::new(template));
            assert_eq!(pattern.matches_all_of(&template), all, "all: {pattern:?}");
            assert_eq!(pattern.matches_some_of(&template), some, "some: {pattern:?}");
        }
        let long = Template::new(&format!("db://{}", "x".repeat(10_000)));
        assert!(Pattern::from("db://*y".to_owned()).matches_some_of(&long), "the end is not looked at");
        assert!(!Pattern::from("file://*".to_owned()).matches_some_of(&long));
    }
}
