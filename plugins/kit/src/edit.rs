//! Edits of JSON text: what an editor does not change stays byte for byte as it was written, numbers and order of members included.

use std::{borrow::Cow, collections::HashSet, ops::Range};

use crate::Step;

/// How deep values may lie in each other.
const MAX_DEPTH: usize = 128;

/// Not JSON (RFC 8259), or nested too deeply; where, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub usize);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no JSON, or nested more than {MAX_DEPTH} deep, at byte {}", self.0)
    }
}

impl From<Broken> for portcullis_sdk::Error {
    fn from(broken: Broken) -> Self {
        Self::Other(broken.to_string())
    }
}

/// What stands in the place of something; none where it stays.
pub type Change = Option<String>;

/// Says what is changed. Each method gets where it is; what it returns becomes a JSON string there.
pub trait Editor {
    /// Why editing ends.
    type Error: From<Broken>;

    /// A value of any kind, before anything in it is looked at.
    ///
    /// # Errors
    /// Ends the whole edit.
    fn value(&mut self, _place: &[Step<'_>]) -> Result<Change, Self::Error> {
        Ok(None)
    }

    /// A string.
    ///
    /// # Errors
    /// Ends the whole edit.
    fn text(&mut self, place: &[Step<'_>], text: &str) -> Result<Change, Self::Error>;

    /// A number, as it is written.
    ///
    /// # Errors
    /// Ends the whole edit.
    fn number(&mut self, _place: &[Step<'_>], _digits: &str) -> Result<Change, Self::Error> {
        Ok(None)
    }

    /// A member's name; the place is that of its value.
    ///
    /// # Errors
    /// Ends the whole edit.
    fn key(&mut self, _place: &[Step<'_>], _key: &str) -> Result<Change, Self::Error> {
        Ok(None)
    }
}

/// The text with the editor's changes; none where there are none.
///
/// # Errors
/// Where the text is no JSON, and what the editor says.
pub fn edit<E: Editor>(json: &str, editor: &mut E) -> Result<Option<String>, E::Error> {
    let mut walk = Walk { json, at: 0, place: Vec::new(), out: None, copied: 0, editor };
    walk.value()?;
    walk.space();
    if walk.at != json.len() {
        return Err(Broken(walk.at).into());
    }
    Ok(walk.out.map(|mut out| {
        out.push_str(&json[walk.copied..]);
        out
    }))
}

struct Walk<'j, 'e, E> {
    json: &'j str,
    at: usize,
    place: Vec<Step<'j>>,
    /// The changed text so far, and up to where the old one is in it.
    out: Option<String>,
    copied: usize,
    editor: &'e mut E,
}

impl<'j, E: Editor> Walk<'j, '_, E> {
    fn broken<T>(&self) -> Result<T, E::Error> {
        Err(Broken(self.at).into())
    }

    fn peek(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn next_is(&mut self, byte: u8) -> bool {
        self.space();
        let is = self.peek() == Some(byte);
        self.at += usize::from(is);
        is
    }

    fn replace(&mut self, range: Range<usize>, with: &str) {
        let out = self.out.get_or_insert_default();
        out.push_str(&self.json[self.copied..range.start]);
        out.push_str(&quoted(with));
        self.copied = range.end;
    }

    fn value(&mut self) -> Result<(), E::Error> {
        self.space();
        let start = self.at;
        if let Some(with) = self.editor.value(&self.place)? {
            self.skip(0)?;
            self.replace(start..self.at, &with);
            return Ok(());
        }
        match self.peek() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => {
                let text = self.string()?;
                if let Some(with) = self.editor.text(&self.place, &text)? {
                    self.replace(start..self.at, &with);
                }
                Ok(())
            }
            Some(b'-' | b'0'..=b'9') => {
                let digits = self.number();
                if let Some(with) = self.editor.number(&self.place, digits)? {
                    self.replace(start..self.at, &with);
                }
                Ok(())
            }
            _ => self.word(),
        }
    }

    fn object(&mut self) -> Result<(), E::Error> {
        if self.place.len() >= MAX_DEPTH {
            return self.broken();
        }
        self.at += 1;
        if self.next_is(b'}') {
            return Ok(());
        }
        // Names as they are written: two may become one, and whoever reads the first must read what whoever reads the last does.
        let (mut names, mut changed) = (HashSet::new(), HashSet::new());
        loop {
            self.space();
            let start = self.at;
            let key = self.string()?;
            let name = start..self.at;
            self.place.push(Step::Key(key.clone()));
            match self.editor.key(&self.place, &key)? {
                Some(with) => {
                    let with = unlike(with, &names);
                    self.replace(name, &with);
                    names.insert(with.clone());
                    changed.insert(with);
                }
                None if changed.contains(&*key) => {
                    let with = unlike(key.into_owned(), &names);
                    self.replace(name, &with);
                    names.insert(with.clone());
                    changed.insert(with);
                }
                None => {
                    names.insert(key.into_owned());
                }
            }
            if !self.next_is(b':') {
                return self.broken();
            }
            self.value()?;
            self.place.pop();
            if self.next_is(b'}') {
                return Ok(());
            }
            if !self.next_is(b',') {
                return self.broken();
            }
        }
    }

    fn array(&mut self) -> Result<(), E::Error> {
        if self.place.len() >= MAX_DEPTH {
            return self.broken();
        }
        self.at += 1;
        if self.next_is(b']') {
            return Ok(());
        }
        for item in 0.. {
            self.place.push(Step::Item(item));
            self.value()?;
            self.place.pop();
            if self.next_is(b']') {
                return Ok(());
            }
            if !self.next_is(b',') {
                return self.broken();
            }
        }
        self.broken()
    }

    /// A string, unescaped.
    fn string(&mut self) -> Result<Cow<'j, str>, E::Error> {
        let start = self.at;
        if self.peek() != Some(b'"') {
            return self.broken();
        }
        self.at += 1;
        let mut escaped = false;
        loop {
            match self.peek() {
                None => return self.broken(),
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        let Some(written) = self.json.get(start..self.at) else { return self.broken() };
        if escaped {
            serde_json::from_str(written).map(Cow::Owned).map_err(|_| Broken(start).into())
        } else {
            Ok(Cow::Borrowed(&written[1..written.len() - 1]))
        }
    }

    fn number(&mut self) -> &'j str {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) {
            self.at += 1;
        }
        &self.json[start..self.at]
    }

    fn word(&mut self) -> Result<(), E::Error> {
        let rest = &self.json.as_bytes()[self.at..];
        let Some(word) = ["true", "false", "null"].into_iter().find(|word| rest.starts_with(word.as_bytes())) else {
            return self.broken();
        };
        self.at += word.len();
        Ok(())
    }

    /// Goes behind a value that is replaced as a whole.
    fn skip(&mut self, depth: usize) -> Result<(), E::Error> {
        if depth > MAX_DEPTH {
            return self.broken();
        }
        self.space();
        match self.peek() {
            Some(open @ (b'{' | b'[')) => {
                let close = open + 2;
                self.at += 1;
                if self.next_is(close) {
                    return Ok(());
                }
                loop {
                    self.space();
                    if open == b'{' {
                        self.string()?;
                        if !self.next_is(b':') {
                            return self.broken();
                        }
                    }
                    self.skip(depth + 1)?;
                    if self.next_is(close) {
                        return Ok(());
                    }
                    if !self.next_is(b',') {
                        return self.broken();
                    }
                }
            }
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => {
                self.number();
                Ok(())
            }
            _ => self.word(),
        }
    }
}

/// The name, or with a number where there is one such name already.
fn unlike(name: String, names: &HashSet<String>) -> String {
    if !names.contains(&name) {
        return name;
    }
    (2..).map(|n| format!("{name} {n}")).find(|other| !names.contains(other)).unwrap_or(name)
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::{Broken, Change, Editor, MAX_DEPTH, edit};
    use crate::Step;

    /// Makes `X` of every text, number and name that holds an x or a 7, and of values at a place.
    struct Marks(Option<&'static str>);

    impl Editor for Marks {
        type Error = Broken;

        fn value(&mut self, place: &[Step<'_>]) -> Result<Change, Broken> {
            let here = matches!((place.last(), self.0), (Some(Step::Key(key)), Some(wanted)) if key == wanted);
            Ok(here.then(|| "all".to_owned()))
        }

        fn text(&mut self, _: &[Step<'_>], text: &str) -> Result<Change, Broken> {
            Ok(text.contains('x').then(|| text.replace('x', "\"X\"")))
        }

        fn number(&mut self, _: &[Step<'_>], digits: &str) -> Result<Change, Broken> {
            Ok(digits.contains('7').then(|| "X".to_owned()))
        }

        fn key(&mut self, _: &[Step<'_>], key: &str) -> Result<Change, Broken> {
            Ok(key.starts_with('x').then(|| "X".to_owned()))
        }
    }

    #[test]
    fn what_is_not_changed_stays_as_it_was_written() {
        for same in
            ["{}", " [ 1.50e+3 , {\"b\":1,\"a\":\"\\u0041\"} ] ", "\"\"", "-0", "null", "12345689012345689012345689"]
        {
            assert_eq!(edit(same, &mut Marks(None)), Ok(None), "{same}");
        }
        let changed = edit("{ \"b\" : \"ax\",\"a\": [1.0, 27, \"\\u0078\\n\"] , \"n\":null}", &mut Marks(None));
        assert_eq!(
            changed.unwrap().unwrap(),
            "{ \"b\" : \"a\\\"X\\\"\",\"a\": [1.0, \"X\", \"\\\"X\\\"\\n\"] , \"n\":null}"
        );
    }

    #[test]
    fn names_that_become_one_stay_apart() {
        let edited = |json: &str| edit(json, &mut Marks(None)).unwrap().unwrap();
        assert_eq!(edited(r#"{"x1":1,"x2":2}"#), r#"{"X":1,"X 2":2}"#);
        // Also where the other one is not changed at all, whichever comes first.
        assert_eq!(edited(r#"{"X":1,"x1":2}"#), r#"{"X":1,"X 2":2}"#);
        assert_eq!(edited(r#"{"x1":1,"X":2,"X 2":3}"#), r#"{"X":1,"X 2":2,"X 2 2":3}"#);
    }

    #[test]
    fn whole_values_are_replaced() {
        let json = r#"{"p":{"x":[1,{"q":"}"}],"y":true},"r":{"p":-7.5e3},"s":[]}"#;
        let changed = edit(json, &mut Marks(Some("p"))).unwrap().unwrap();
        assert_eq!(changed, r#"{"p":"all","r":{"p":"all"},"s":[]}"#);
    }

    #[test]
    fn what_is_no_json_is_broken() {
        for broken in
            ["", "{", "{\"a\"}", "[1,]", "[1", "\"a", "\"\\", "tru", "1 2", "{\"a\":1,}", "{a:1}", "\"\\ud800\""]
        {
            for marks in [None, Some("a")] {
                assert!(edit(broken, &mut Marks(marks)).is_err(), "{broken}");
            }
        }
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(edit(&deep(MAX_DEPTH), &mut Marks(None)).is_ok());
        assert!(edit(&deep(MAX_DEPTH + 1), &mut Marks(None)).is_err());
        assert!(edit(&format!("{{\"p\":{}}}", deep(1_000)), &mut Marks(Some("p"))).is_err());
    }
}
