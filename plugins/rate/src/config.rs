//! What an operator writes, checked once when it is read.

use std::{collections::BTreeSet, fmt, time::Duration};

use portcullis_plugin_kit::{Covers, Pattern};
use portcullis_sdk::Schema;
use serde::Deserialize;

/// The most rules, and things that one counts by.
const MAX_RULES: usize = 32;
const MAX_PER: usize = 4;
/// The longest period: what is remembered longer is lost with the process anyway.
const MAX_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// The plugin's configuration.
#[derive(Deserialize, Schema)]
#[serde(try_from = "Written")]
pub(crate) struct Config {
    pub(crate) rules: Vec<Rule>,
}

/// One rule. A call has to have a token in each that covers it.
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) covers: Covers,
    pub(crate) per: Vec<Per>,
    pub(crate) limit: u32,
    pub(crate) every: Every,
    pub(crate) burst: u32,
    pub(crate) message: Option<String>,
}

/// What has a bucket of its own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Schema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Per {
    /// Whoever calls.
    Caller,
    /// Each team of the caller.
    Team,
    /// The gateway that the client spoke to.
    Gateway,
    /// The server of the tool.
    Server,
    /// The tool.
    Tool,
    /// A claim of the caller.
    Claim(String),
    /// An attribute that an earlier policy of the call set.
    Attribute(String),
}

/// A period, as it was written.
#[derive(Clone, Debug, Deserialize, Schema)]
#[serde(try_from = "String")]
pub(crate) struct Every(String, Duration);

impl Every {
    pub(crate) fn duration(&self) -> Duration {
        self.1
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Every {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let units = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
        let read = units.iter().find_map(|(unit, seconds)| {
            let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
            Some(Duration::from_secs(number.checked_mul(*seconds)?))
        });
        match read {
            Some(every) if !every.is_zero() && every <= MAX_EVERY => Ok(Self(text, every)),
            _ => Err(format!("\"{text}\" is no period such as 10s, 1m or 1h, a day at most")),
        }
    }
}

/// How often tools may be called.
#[derive(Deserialize, Schema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    /// A call takes from a bucket of each rule that covers it.
    #[schema(minItems = 1, maxItems = 32)]
    rules: Vec<WrittenRule>,
}

#[derive(Deserialize, Schema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRule {
    /// Tells its buckets from those of other rules.
    #[schema(minLength = 1)]
    name: String,
    /// Patterns of `McpServer` names; all where left out.
    servers: Option<Vec<Pattern>>,
    /// Patterns of tools' own names; all where left out.
    tools: Option<Vec<Pattern>>,
    /// What has a bucket of its own.
    #[schema(maxItems = 4)]
    per: Vec<Per>,
    /// How many calls come back in each `every`.
    #[schema(minimum = 1)]
    limit: u32,
    /// A period such as 10s, 1m or 1h, a day at most.
    every: Every,
    /// How many calls fit into a bucket; `limit` where left out.
    burst: Option<u32>,
    /// Told to whoever is refused.
    message: Option<String>,
}

impl TryFrom<Written> for Config {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        if written.rules.is_empty() || written.rules.len() > MAX_RULES {
            return Err(format!("rules: 1 to {MAX_RULES} are needed, not {}", written.rules.len()));
        }
        let rules = written.rules.into_iter().enumerate();
        let rules: Vec<Rule> = rules
            .map(|(at, rule)| Rule::new(rule).map_err(|why| format!("rules[{at}].{why}")))
            .collect::<Result<_, _>>()?;
        let mut names = BTreeSet::new();
        match rules.iter().position(|rule| !names.insert(&rule.name)) {
            // Buckets are kept by name: two rules would take from one.
            Some(at) => Err(format!("rules[{at}].name: another rule has it")),
            None => Ok(Self { rules }),
        }
    }
}

impl Rule {
    fn new(written: WrittenRule) -> Result<Self, String> {
        let WrittenRule { name, servers, tools, per, limit, every, burst, message } = written;
        let covers = Covers { servers, tools };
        covers.check()?;
        if name.is_empty() {
            return Err("name: is empty".to_owned());
        }
        if per.len() > MAX_PER {
            return Err(format!("per: {MAX_PER} are the most"));
        }
        if let Some(at) = (1..per.len()).find(|at| per[..*at].contains(&per[*at])) {
            return Err(format!("per[{at}]: stands there already"));
        }
        if limit == 0 || burst == Some(0) {
            return Err("limit: must be 1 or more; to forbid a tool, use tool-access".to_owned());
        }
        Ok(Self { name, covers, per, limit, every, burst: burst.unwrap_or(limit), message })
    }
}
