//! What an operator writes, checked once when it is read.

use portcullis_plugin_kit::{Covers, Pattern, Size};
use portcullis_sdk::Schema;
use serde::Deserialize;

/// The most that a result may have for us to shorten it: what is larger would not fit beside its shortened self.
pub(crate) const MAX_READ: u64 = 4 << 20;
/// The least that a result may be shortened to: the note has to fit.
const MIN_SHORT: u64 = 1 << 10;

/// The plugin's configuration.
#[derive(Deserialize, Schema)]
#[serde(try_from = "Written")]
pub(crate) struct Config {
    pub(crate) rules: Vec<Rule>,
}

/// One rule.
pub(crate) struct Rule {
    pub(crate) covers: Covers,
    /// The most bytes of the arguments.
    pub(crate) arguments: Option<u64>,
    /// The most bytes of a result.
    pub(crate) results: Option<u64>,
    pub(crate) action: Action,
    /// Told to the model beside our own words.
    pub(crate) hint: Option<String>,
}

/// What happens to a result that is too large.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Schema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    /// It is kept from the client.
    #[default]
    Deny,
    /// Its end is left out, and a note says so.
    Truncate,
}

#[derive(Deserialize, Schema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    /// Each that covers a call counts: the smallest limit first, and `deny` before `truncate`.
    rules: Vec<WrittenRule>,
}

#[derive(Deserialize, Schema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRule {
    /// Patterns of `McpServer` names.
    servers: Option<Vec<Pattern>>,
    /// Patterns of tools' own names.
    tools: Option<Vec<Pattern>>,
    /// The most bytes of the arguments.
    arguments: Option<Size>,
    /// The most bytes of a result.
    results: Option<Size>,
    /// What happens to a result that is too large.
    #[serde(default)]
    action: Action,
    /// Told to the model beside our own words.
    hint: Option<String>,
}

impl TryFrom<Written> for Config {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        if written.rules.is_empty() {
            return Err("rules: at least one is needed".to_owned());
        }
        let rules = written.rules.into_iter().enumerate();
        let rules = rules.map(|(at, rule)| Rule::new(rule).map_err(|why| format!("rules[{at}].{why}")));
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }
}

impl Rule {
    fn new(written: WrittenRule) -> Result<Self, String> {
        let WrittenRule { servers, tools, arguments, results, action, hint } = written;
        let covers = Covers { servers, tools };
        covers.check()?;
        if arguments.is_none() && results.is_none() {
            return Err("arguments: say how large arguments or results may be".to_owned());
        }
        if action == Action::Truncate {
            let Some(Size(results)) = results else {
                return Err("action: arguments are never shortened; truncate goes with results".to_owned());
            };
            if !(MIN_SHORT..=MAX_READ).contains(&results) {
                return Err(format!("results: between {} and {} can be shortened to", Size(MIN_SHORT), Size(MAX_READ)));
            }
        }
        let bytes = |size: Option<Size>| size.map(|Size(bytes)| bytes);
        Ok(Self { covers, arguments: bytes(arguments), results: bytes(results), action, hint })
    }
}
