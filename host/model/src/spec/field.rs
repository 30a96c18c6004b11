//! `McpServer.spec.fields`: what is asked for when a server is connected, and which values are taken.

use std::collections::BTreeSet;

use regex_automata::meta::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::Problem;

/// The most bytes of one value.
pub const MAX_VALUE: usize = 64 << 10;
/// The most characters of a pattern.
const MAX_PATTERN: usize = 1000;
/// The most bytes of a compiled pattern, so that none of a few characters takes much memory.
const MAX_COMPILED: usize = 256 << 10;
/// The most choices of one field.
const MAX_OPTIONS: usize = 200;

/// Something asked for when a server is connected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Field {
    /// Its name in `${field.NAME}`, placements and `portcullis connect`.
    pub name: String,
    /// What people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Where to find the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What a value is.
    #[serde(default, rename = "type", skip_serializing_if = "FieldType::is_string")]
    pub kind: FieldType,
    /// Whether it must be given.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// Whether it is a secret: sealed, never shown again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sensitive: bool,
    /// The value where none is given. Not for sensitive fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// A regular expression that the whole value matches (the syntax of Rust's `regex`: no look-around, no back-references).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// The only values that are taken. Not for sensitive fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// What a field's value is. Values are texts whatever they mean: the type says which texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FieldType {
    /// Any text.
    #[default]
    String,
    /// A text that may have several lines, such as a private key.
    Text,
    /// A decimal number, such as `8080` or `-0.5`.
    Number,
    /// `true` or `false`.
    Boolean,
    /// An `http` or `https` URL without a user or password in it.
    Url,
    /// An e-mail address.
    Email,
}

impl FieldType {
    fn is_string(&self) -> bool {
        *self == Self::String
    }

    /// The word used in YAML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Text => "text",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Url => "url",
            Self::Email => "email",
        }
    }
}

impl Field {
    /// What people read.
    pub fn label(&self) -> &str {
        self.title.as_deref().unwrap_or(&self.name)
    }

    /// Whether a value is taken.
    ///
    /// # Errors
    /// What it has to be, as the end of a sentence that begins with the field's name. Never quotes the value, which may be a
    /// secret.
    pub fn accepts(&self, value: &str) -> Result<(), String> {
        if value.len() > MAX_VALUE {
            return Err(format!("has to be {MAX_VALUE} bytes at most"));
        }
        if value.contains('\0') {
            return Err("holds a character that no value may hold".to_owned());
        }
        let right = match self.kind {
            FieldType::String | FieldType::Text => true,
            FieldType::Number => is_number(value),
            FieldType::Boolean => matches!(value, "true" | "false"),
            FieldType::Url => is_url(value),
            FieldType::Email => is_email(value),
        };
        if !right {
            return Err(match self.kind {
                FieldType::String | FieldType::Text => "has to be a text",
                FieldType::Number => "has to be a number, such as 8080 or -0.5",
                FieldType::Boolean => "has to be true or false",
                FieldType::Url => "has to be a URL such as https://example.com, without a user or password in it",
                FieldType::Email => "has to be an e-mail address, such as name@example.com",
            }
            .to_owned());
        }
        if !self.options.is_empty() && !self.options.iter().any(|o| o == value) {
            return Err(format!("has to be one of: {}", self.options.join(", ")));
        }
        if let Some(pattern) = &self.pattern {
            // One that does not compile was refused with its server, so this fails closed.
            if !compile(pattern).is_some_and(|regex| regex.is_match(value)) {
                return Err(format!("has to match the pattern {pattern}"));
            }
        }
        Ok(())
    }

    pub(super) fn check(&self, path: &str, problems: &mut Vec<Problem>) {
        let mut problem =
            |part: &str, message: &str| problems.push(Problem::new(format!("{path}.{part}"), message.to_owned()));
        if self.name.is_empty() || !self.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            problem("name", "use letters, digits, '_' and '-'");
        }
        if self.sensitive && self.default.is_some() {
            problem("default", "a sensitive field has no default");
        }
        if self.sensitive && !self.options.is_empty() {
            problem("options", "a sensitive field has no options: what everybody can read is no secret");
        }
        if self.kind == FieldType::Boolean && (self.pattern.is_some() || !self.options.is_empty()) {
            problem("type", "a boolean has neither pattern nor options");
        }
        let mut compiles = true;
        if let Some(pattern) = &self.pattern
            && compile(pattern).is_none()
        {
            compiles = false;
            problem(
                "pattern",
                "is not a regular expression that can be used: at most 1000 characters, no look-around, no back-references",
            );
        }
        if self.options.len() > MAX_OPTIONS {
            problem("options", "200 are the most");
        }
        if self.options.iter().collect::<BTreeSet<_>>().len() != self.options.len() {
            problem("options", "holds one of them twice");
        }
        if !compiles {
            return;
        }
        let plain = Self { options: Vec::new(), ..self.clone() };
        for (i, option) in self.options.iter().take(MAX_OPTIONS).enumerate() {
            if let Err(why) = plain.accepts(option) {
                problem(&format!("options[{i}]"), &why);
            }
        }
        if let Some(Err(why)) = self.default.as_ref().filter(|_| !self.sensitive).map(|d| self.accepts(d)) {
            problem("default", &why);
        }
    }
}

/// Matches in linear time, whatever is asked of it.
fn compile(pattern: &str) -> Option<Regex> {
    if pattern.chars().count() > MAX_PATTERN {
        return None;
    }
    let config = Regex::config().nfa_size_limit(Some(MAX_COMPILED));
    let builder = || {
        let mut builder = Regex::builder();
        builder.configure(config.clone());
        builder
    };
    // By itself first: what closes a group that it did not open would get out of the anchors.
    builder().build(pattern).ok()?;
    builder().build(&format!(r"\A(?:{pattern})\z")).ok()
}

fn is_number(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let (whole, part) = digits.split_once('.').map_or((digits, None), |(w, p)| (w, Some(p)));
    let all = |text: &str| !text.is_empty() && text.len() <= 40 && text.bytes().all(|b| b.is_ascii_digit());
    all(whole) && part.is_none_or(all)
}

fn is_url(value: &str) -> bool {
    // What the parser mends silently (spaces, backslashes, line breaks) another program may read otherwise.
    if value.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
        return false;
    }
    Url::parse(value).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
    })
}

fn is_email(value: &str) -> bool {
    let Some((local, domain)) = value.rsplit_once('@') else { return false };
    let plain = |text: &str| !text.chars().any(|c| c.is_whitespace() || c.is_control() || "<>()[]\\,;:\"".contains(c));
    value.len() <= 254
        && !local.is_empty()
        && !local.contains('@')
        && plain(local)
        && plain(domain)
        && domain.split('.').all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(kind: FieldType) -> Field {
        Field { name: "f".to_owned(), kind, ..Field::default() }
    }

    #[track_caller]
    fn takes(field: &Field, good: &[&str], bad: &[&str]) {
        for value in good {
            assert_eq!(field.accepts(value), Ok(()), "{value}");
        }
        for value in bad {
            let why = field.accepts(value).expect_err(value);
            assert!(value.len() < 3 || !why.contains(value), "{why} quotes the value");
        }
    }

    #[test]
    fn types_say_which_texts_are_taken() {
        takes(&field(FieldType::String), &["", "any thing", "漢字"], &["nul\0"]);
        takes(&field(FieldType::Number), &["0", "8080", "-0.5", "007"], &["", "1e9", ".5", "5.", "--1", "0x10", " 1"]);
        takes(&field(FieldType::Boolean), &["true", "false"], &["", "yes", "True", "1"]);
        takes(
            &field(FieldType::Url),
            &["https://example.com", "http://127.0.0.1:9/a?b=c"],
            &[
                "",
                "mcp.test",
                "javascript:alert(1)",
                "https://u:p@e.com",
                "https:\\\\e.com",
                "https://e.com/a b",
                "file:///etc",
            ],
        );
        takes(
            &field(FieldType::Email),
            &["a@b.example", "first.last+tag@example.com", "a@localhost"],
            &["", "a", "@b", "a@", "a@b@c", "a b@c.de", "a@.b", "a@b..c", "<a@b.c>", "a@-b.c"],
        );
        let long = "x".repeat(MAX_VALUE + 1);
        assert!(field(FieldType::String).accepts(&long).is_err());
    }

    #[test]
    fn a_pattern_matches_the_whole_value() {
        let mut f = field(FieldType::String);
        f.pattern = Some("ghp_[A-Za-z0-9]{4}|a|ab".to_owned());
        takes(&f, &["ghp_Ab12", "a", "ab"], &["", "ghp_Ab123", "xghp_Ab12", "ghp_Ab12\n", "abc"]);
        // Alternatives that could slip out of the anchors.
        f.pattern = Some("^x|y$".to_owned());
        takes(&f, &["x", "y"], &["xz", "zy"]);
        // Takes no longer for being asked for something that would make others think long.
        f.pattern = Some("(a+)+b".to_owned());
        takes(&f, &["aab"], &[&"a".repeat(MAX_VALUE)]);
    }

    #[test]
    fn options_are_the_only_values() {
        let f = Field { options: vec!["eu".to_owned(), "us".to_owned()], ..field(FieldType::String) };
        takes(&f, &["eu", "us"], &["", "EU", "eu,us"]);
    }

    #[test]
    fn what_a_registry_entry_may_ask_for() {
        let problems = |f: &Field| {
            let mut found = Vec::new();
            f.check("f", &mut found);
            found.into_iter().map(|p| p.path).collect::<Vec<_>>()
        };
        assert!(problems(&field(FieldType::Url)).is_empty());
        let number = |default: &str| Field { default: Some(default.to_owned()), ..field(FieldType::Number) };
        assert!(problems(&number("1")).is_empty());
        assert_eq!(problems(&number("one")), ["f.default"]);
        let pattern = |p: &str| Field { pattern: Some(p.to_owned()), ..field(FieldType::String) };
        assert!(problems(&pattern("[a-z]+")).is_empty());
        for bad in ["(", "(?=x)", r"(a)\1", "(((((a{100}){100}){100}){100}){100})", &"a".repeat(1001), ")(", "a)(b"] {
            assert_eq!(problems(&pattern(bad)), ["f.pattern"], "{bad}");
        }
        let secret = Field { sensitive: true, options: vec!["x".to_owned()], ..field(FieldType::String) };
        assert_eq!(problems(&secret), ["f.options"]);
        let twice = Field { options: vec!["x".to_owned(), "x".to_owned()], ..field(FieldType::String) };
        assert_eq!(problems(&twice), ["f.options"]);
        let other = Field { options: vec!["x".to_owned()], ..field(FieldType::Number) };
        assert_eq!(problems(&other), ["f.options[0]"]);
        assert_eq!(problems(&Field { pattern: Some("t".to_owned()), ..field(FieldType::Boolean) }), ["f.type"]);
    }
}
