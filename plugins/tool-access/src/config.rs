//! What an operator writes, checked once when it is read.

use serde::Deserialize;

use crate::{condition::Condition, evaluate::Facts, glob};

/// What a rule does, and what happens where no rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Effect {
    Allow,
    #[default]
    Deny,
}

/// The plugin's configuration.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Written")]
pub(crate) struct Config {
    pub(crate) default: Effect,
    pub(crate) rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(default)]
    default: Effect,
    #[serde(default)]
    rules: Vec<Rule>,
}

/// One rule. What is left out is not asked about.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Rule {
    pub(crate) effect: Effect,
    principals: Option<Vec<String>>,
    servers: Option<Vec<String>>,
    tools: Option<Vec<String>>,
    /// All of them must hold.
    #[serde(default)]
    pub(crate) when: Vec<Condition>,
    /// Told to whoever the rule refuses, in place of our own words.
    pub(crate) message: Option<String>,
}

impl TryFrom<Written> for Config {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        for (i, rule) in written.rules.iter().enumerate() {
            rule.check().map_err(|what| format!("rules[{i}].{what}"))?;
        }
        Ok(Self { default: written.default, rules: written.rules })
    }
}

impl Config {
    /// Which rules speak of a caller, in order: asked once for a whole list.
    pub(crate) fn rules_for(&self, facts: &Facts<'_>) -> Vec<usize> {
        (0..self.rules.len()).filter(|at| self.rules[*at].speaks_of(facts)).collect()
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        for (field, list) in [("principals", &self.principals), ("servers", &self.servers), ("tools", &self.tools)] {
            // Whoever generates rules from an empty list means nobody; whoever reads one may take it for everybody.
            if list.as_ref().is_some_and(Vec::is_empty) {
                return Err(format!("{field}: is empty; leave it out for all of them, or leave the rule out for none"));
            }
            if let Some(at) = list.iter().flatten().position(String::is_empty) {
                return Err(format!("{field}[{at}]: is empty"));
            }
        }
        for (at, principal) in self.principals.iter().flatten().enumerate() {
            let known = match principal.split_once(':') {
                None => matches!(principal.as_str(), "*" | "organization" | "anonymous"),
                Some(("external", rest)) => rest == "*" || rest.contains('#'),
                Some(("user" | "team" | "agent" | "role" | "group", name)) => !name.is_empty(),
                Some(_) => false,
            };
            if !known {
                return Err(format!(
                    "principals[{at}]: \"{principal}\" names nobody: use user:NAME, team:NAME, agent:NAME, role:NAME, group:NAME, \
                     external:ISSUER#SUBJECT, organization, anonymous or *"
                ));
            }
        }
        for (at, condition) in self.when.iter().enumerate() {
            condition.check().map_err(|what| format!("when[{at}]: {what}"))?;
        }
        Ok(())
    }

    fn speaks_of(&self, facts: &Facts<'_>) -> bool {
        self.principals.as_ref().is_none_or(|list| list.iter().any(|principal| facts.is(principal)))
    }

    pub(crate) fn covers_server(&self, server: &str) -> bool {
        self.servers.as_ref().is_none_or(|globs| globs.iter().any(|pattern| glob::matches(pattern, server)))
    }

    /// `None` stands for what is no tool: a rule covers that only where it covers all tools.
    pub(crate) fn covers_tool(&self, tool: Option<&str>) -> bool {
        let covers = |pattern: &String| match tool {
            Some(tool) => glob::matches(pattern, tool),
            None => pattern == "*",
        };
        self.tools.as_ref().is_none_or(|globs| globs.iter().any(covers))
    }
}
