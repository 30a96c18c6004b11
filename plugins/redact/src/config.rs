//! What an operator writes, checked once when it is read; the expressions are compiled then.

use portcullis_plugin_kit::{Covers, JsonPath, Pattern};
use portcullis_sdk::Schema;
use regex::{Regex, RegexBuilder};
use serde::Deserialize;

use crate::{known, seal::Salt};

/// The most rules.
const MAX_RULES: usize = 32;
/// The most bytes of an expression, and of what it is compiled to.
const MAX_REGEX: usize = 1_000;
const MAX_COMPILED: usize = 256 << 10;
/// How deep groups may lie in each other.
const MAX_NESTED: u32 = 32;

/// The plugin's configuration.
#[derive(Deserialize, Schema)]
#[serde(try_from = "Written")]
pub(crate) struct Config {
    pub(crate) rules: Vec<Rule>,
    pub(crate) salt: Option<Salt>,
}

#[derive(Deserialize, Schema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    /// Each is applied to what the earlier ones left.
    rules: Vec<WrittenRule>,
    /// For `hash` only: a long text that callers don't know.
    salt: Option<String>,
}

#[derive(Deserialize, Schema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRule {
    /// Stands in replacements, refusals and the audit record.
    name: Option<String>,
    /// Well-known things by name.
    patterns: Option<Vec<String>>,
    /// An expression of your own.
    regex: Option<String>,
    /// Where it looks; with neither `patterns` nor `regex`, the whole value there is taken.
    paths: Option<Vec<JsonPath>>,
    /// What it looks at; both where left out.
    r#in: Option<Vec<Side>>,
    /// What happens to what is found.
    #[serde(default)]
    action: Action,
    /// What `replace` puts there.
    with: Option<String>,
    /// Patterns of `McpServer` names.
    servers: Option<Vec<Pattern>>,
    /// Patterns of tools' own names.
    tools: Option<Vec<Pattern>>,
}

/// What a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Schema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    Arguments,
    Results,
}

/// What happens to what is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Schema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    /// Another text stands in its place.
    #[default]
    Replace,
    /// A keyed hash stands in its place, so that equal ones can be told.
    Hash,
    /// The call, or its result, is refused.
    Deny,
}

/// One rule.
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) covers: Covers,
    sides: Vec<Side>,
    /// Where it looks; everywhere where empty.
    pub(crate) paths: Vec<JsonPath>,
    /// What it looks for; the whole value where empty.
    pub(crate) finders: Vec<Finder>,
    pub(crate) action: Action,
    pub(crate) with: String,
}

/// Finds one kind of thing in a text.
pub(crate) struct Finder {
    regex: Regex,
    accept: fn(&str) -> Option<usize>,
}

impl Finder {
    fn new(regex: &str, accept: fn(&str) -> Option<usize>) -> Result<Self, String> {
        let regex = RegexBuilder::new(regex)
            .size_limit(MAX_COMPILED)
            .dfa_size_limit(MAX_COMPILED)
            .nest_limit(MAX_NESTED)
            .build()
            .map_err(|error| error.to_string())?;
        // The first search makes what later ones need: it is kept with the memory that instances start from.
        if regex.is_match("") {
            return Err("it fits the empty text, so it would fit everywhere".to_owned());
        }
        Ok(Self { regex, accept })
    }

    /// The next one from a place in the text on.
    pub(crate) fn find(&self, text: &str, mut from: usize) -> Option<std::ops::Range<usize>> {
        loop {
            let found = self.regex.find_at(text, from)?;
            if let Some(length) = (self.accept)(found.as_str()) {
                return Some(found.start()..found.start() + length);
            }
            // What looked like one may hide one that begins later.
            from = found.start() + found.as_str().chars().next().map_or(1, char::len_utf8);
        }
    }
}

impl TryFrom<Written> for Config {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        if written.rules.is_empty() || written.rules.len() > MAX_RULES {
            return Err(format!("rules: 1 to {MAX_RULES} are needed, not {}", written.rules.len()));
        }
        let salt = written.salt.map(|text| Salt::new(&text)).transpose()?;
        let rules = written.rules.into_iter().enumerate();
        let rules: Vec<Rule> = rules
            .map(|(at, rule)| Rule::new(rule).map_err(|why| format!("rules[{at}].{why}")))
            .collect::<Result<_, _>>()?;
        if salt.is_none() && rules.iter().any(|rule| rule.action == Action::Hash) {
            return Err("salt: the action hash needs one: 16 characters or more that callers don't know".to_owned());
        }
        Ok(Self { rules, salt })
    }
}

impl Rule {
    fn new(written: WrittenRule) -> Result<Self, String> {
        let WrittenRule { name, patterns, regex, paths, r#in, action, with, servers, tools } = written;
        let covers = Covers { servers, tools };
        covers.check()?;
        let mut finders = Vec::new();
        for (at, name) in patterns.iter().flatten().enumerate() {
            let known = known::by_name(name);
            if known.is_empty() {
                return Err(format!("patterns[{at}]: nobody knows \"{name}\"; known are {}", known::names()));
            }
            for one in known {
                finders.push(Finder::new(one.regex, one.accept).map_err(|why| format!("patterns[{at}]: {why}"))?);
            }
        }
        if let Some(regex) = &regex {
            if regex.len() > MAX_REGEX {
                return Err(format!("regex: {MAX_REGEX} bytes are the most"));
            }
            finders.push(Finder::new(regex, |text| Some(text.len())).map_err(|why| format!("regex: {why}"))?);
        }
        for (field, empty) in [
            ("patterns", patterns.as_ref().is_some_and(Vec::is_empty)),
            ("paths", paths.as_ref().is_some_and(Vec::is_empty)),
            ("in", r#in.as_ref().is_some_and(Vec::is_empty)),
        ] {
            if empty {
                return Err(format!("{field}: is empty; leave it out"));
            }
        }
        let paths = paths.unwrap_or_default();
        if finders.is_empty() && paths.is_empty() {
            return Err("patterns: say what is redacted by patterns, regex or paths".to_owned());
        }
        if with.is_some() && action != Action::Replace {
            return Err("with: goes with the action replace only".to_owned());
        }
        let name = name.or_else(|| patterns.map(|names| names.join("+"))).unwrap_or_else(|| "redacted".to_owned());
        Ok(Self {
            with: with.unwrap_or_else(|| format!("[{name}]")),
            name,
            covers,
            sides: r#in.unwrap_or_else(|| vec![Side::Arguments, Side::Results]),
            paths,
            finders,
            action,
        })
    }

    pub(crate) fn looks_at(&self, side: Side) -> bool {
        self.sides.contains(&side)
    }
}
