//! What an operator writes, checked once when it is read; schemas, expressions and patterns are compiled then.

use std::sync::Arc;

use cel::Env;
use portcullis_plugin_kit::{Covers, Pattern};
use serde::Deserialize;

use crate::{condition::Condition, schema::Schema};

/// The most rules, and conditions of one.
const MAX_RULES: usize = 100;
const MAX_CONDITIONS: usize = 32;

/// The plugin's configuration.
#[derive(Deserialize, portcullis_sdk::Schema)]
#[serde(try_from = "Written")]
pub(crate) struct Config {
    pub(crate) unmatched: Unmatched,
    pub(crate) rules: Vec<Rule>,
    /// What expressions may use.
    pub(crate) env: Arc<Env>,
}

/// What happens to calls that no rule covers.
#[derive(Clone, Copy, Debug, Default, Deserialize, portcullis_sdk::Schema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unmatched {
    #[default]
    Allow,
    Deny,
}

/// One rule: everything in it has to hold.
pub(crate) struct Rule {
    pub(crate) covers: Covers,
    pub(crate) schema: Option<Schema>,
    pub(crate) conditions: Vec<Condition>,
}

#[derive(Deserialize, portcullis_sdk::Schema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(default)]
    unmatched: Unmatched,
    rules: Vec<WrittenRule>,
}

#[derive(Deserialize, portcullis_sdk::Schema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRule {
    servers: Option<Vec<Pattern>>,
    tools: Option<Vec<Pattern>>,
    schema: Option<serde_json::Value>,
    #[serde(default)]
    conditions: Vec<WrittenCondition>,
}

#[derive(Deserialize, portcullis_sdk::Schema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenCondition {
    /// CEL.
    holds: String,
    /// Told to whoever is refused, in place of our words.
    message: Option<String>,
}

impl TryFrom<Written> for Config {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        if written.rules.is_empty() || written.rules.len() > MAX_RULES {
            return Err(format!("rules: 1 to {MAX_RULES} are needed, not {}", written.rules.len()));
        }
        let rules = written.rules.into_iter().enumerate();
        let rules = rules.map(|(at, rule)| Rule::new(rule).map_err(|why| format!("rules[{at}].{why}")));
        Ok(Self { unmatched: written.unmatched, rules: rules.collect::<Result<_, _>>()?, env: Arc::new(Env::stdlib()) })
    }
}

impl Rule {
    fn new(written: WrittenRule) -> Result<Self, String> {
        let WrittenRule { servers, tools, schema, conditions } = written;
        let covers = Covers { servers, tools };
        covers.check()?;
        if schema.is_none() && conditions.is_empty() {
            return Err("schema: say what must hold by a schema or by conditions".to_owned());
        }
        if conditions.len() > MAX_CONDITIONS {
            return Err(format!("conditions: {MAX_CONDITIONS} are the most"));
        }
        let schema = schema.map(|schema| Schema::new(&schema).map_err(|why| format!("schema{why}"))).transpose()?;
        let conditions = conditions.into_iter().enumerate().map(|(at, condition)| {
            let read = Condition::new(&condition.holds, condition.message);
            read.map_err(|why| format!("conditions[{at}].holds: {why}"))
        });
        Ok(Self { covers, schema, conditions: conditions.collect::<Result<_, _>>()? })
    }
}
