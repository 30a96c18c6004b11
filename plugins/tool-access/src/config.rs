//! What an operator writes, checked once when it is read.

use portcullis_plugin_kit::Pattern;
use portcullis_sdk::Schema;
use serde::Deserialize;

use crate::{
    condition::Condition,
    evaluate::Item,
    principal::{Facts, Who},
};

/// What a rule does, and what happens where no rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Schema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Effect {
    Allow,
    #[default]
    Deny,
}

/// The plugin's configuration.
#[derive(Debug, Deserialize, Schema)]
#[serde(try_from = "Written")]
pub(crate) struct Config {
    pub(crate) default: Effect,
    pub(crate) rules: Vec<Rule>,
    /// Whether any rule says what servers may ask: else that is not what the rules are about.
    pub(crate) names_requests: bool,
}

#[derive(Debug, Deserialize, Schema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    /// What happens where no rule matches.
    #[serde(default)]
    default: Effect,
    /// In order; the first that matches decides.
    #[serde(default)]
    rules: Vec<WrittenRule>,
}

/// One rule as it is written. What is left out is not asked about.
#[derive(Debug, Deserialize, Schema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRule {
    /// What it does.
    effect: Effect,
    /// Whom it is about: `user:NAME`, `team:NAME`, `agent:NAME`, `role:NAME`.
    principals: Option<Vec<String>>,
    /// Patterns of `McpServer` names.
    servers: Option<Vec<Pattern>>,
    /// Patterns of tools' own names.
    tools: Option<Vec<Pattern>>,
    /// Patterns of URIs.
    resources: Option<Vec<Pattern>>,
    /// Patterns of prompts' own names.
    prompts: Option<Vec<Pattern>>,
    /// Patterns of methods with which servers ask clients.
    requests: Option<Vec<Pattern>>,
    /// All of them must hold.
    #[serde(default)]
    when: Vec<Condition>,
    /// Told to whoever the rule refuses, in place of our own words.
    message: Option<String>,
}

/// One rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) effect: Effect,
    principals: Option<Vec<Who>>,
    servers: Option<Vec<Pattern>>,
    tools: Scope,
    resources: Scope,
    prompts: Scope,
    requests: Scope,
    pub(crate) when: Vec<Condition>,
    pub(crate) message: Option<String>,
}

/// What a rule covers of one kind of thing.
#[derive(Debug)]
enum Scope {
    All,
    Nothing,
    Those(Vec<Pattern>),
}

impl TryFrom<Written> for Config {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let names_requests = written.rules.iter().any(|rule| rule.requests.is_some());
        let rules = written.rules.into_iter().enumerate();
        let rules = rules.map(|(i, rule)| Rule::new(rule).map_err(|what| format!("rules[{i}].{what}")));
        Ok(Self { default: written.default, rules: rules.collect::<Result<_, _>>()?, names_requests })
    }
}

/// Whoever generates rules from an empty list means nobody; whoever reads one may take it for everybody.
fn not_empty<T>(field: &str, list: Option<&Vec<T>>, empty: impl Fn(&T) -> bool) -> Result<(), String> {
    let Some(list) = list else { return Ok(()) };
    if list.is_empty() {
        return Err(format!("{field}: is empty; leave it out for all of them, or leave the rule out for none"));
    }
    match list.iter().position(empty) {
        Some(at) => Err(format!("{field}[{at}]: is empty")),
        None => Ok(()),
    }
}

impl Rule {
    fn new(written: WrittenRule) -> Result<Self, String> {
        let WrittenRule { effect, principals, servers, tools, resources, prompts, requests, when, message } = written;
        not_empty("principals", principals.as_ref(), String::is_empty)?;
        for (field, list) in [
            ("servers", &servers),
            ("tools", &tools),
            ("resources", &resources),
            ("prompts", &prompts),
            ("requests", &requests),
        ] {
            not_empty(field, list.as_ref(), Pattern::is_empty)?;
        }
        let who = |(at, text): (usize, &String)| {
            Who::parse(text).ok_or_else(|| {
                format!(
                    "principals[{at}]: \"{text}\" names nobody: use user:NAME, team:NAME, agent:NAME, role:NAME, group:NAME, \
                     external:ISSUER#SUBJECT, organization, anonymous or *"
                )
            })
        };
        let principals = principals.map(|list| list.iter().enumerate().map(who).collect()).transpose()?;
        for (at, condition) in when.iter().enumerate() {
            condition.check().map_err(|what| format!("when[{at}]: {what}"))?;
        }
        // A rule that names what it covers covers nothing else: who allows tools has not thought of resources. But who denies
        // every tool of a server, and says no more, means the server.
        let names = tools.is_some() || resources.is_some() || prompts.is_some() || requests.is_some();
        let every_tool = tools.as_ref().is_some_and(|list| list.iter().any(|one| matches!(one, Pattern::Any)));
        let others = resources.is_some() || prompts.is_some() || requests.is_some();
        let whole = !names || (effect == Effect::Deny && every_tool && !others);
        let scope = |list| match list {
            Some(patterns) => Scope::Those(patterns),
            None if whole => Scope::All,
            None => Scope::Nothing,
        };
        let (tools, resources, prompts) = (scope(tools), scope(resources), scope(prompts));
        let requests = scope(requests);
        Ok(Self { effect, principals, servers, tools, resources, prompts, requests, when, message })
    }

    pub(crate) fn speaks_of(&self, facts: &Facts<'_>) -> bool {
        self.principals.as_ref().is_none_or(|list| list.iter().any(|who| facts.is(who)))
    }

    pub(crate) fn covers_server(&self, server: &str) -> bool {
        self.servers.as_ref().is_none_or(|patterns| patterns.iter().any(|one| one.matches(server)))
    }

    pub(crate) fn covers(&self, item: &Item<'_>) -> bool {
        let (scope, fits): (_, &dyn Fn(&Pattern) -> bool) = match item {
            Item::Tool(name) => (&self.tools, &|one| one.matches(name)),
            // Who may use any tool of a server may learn how to connect it; a rule that takes some away does not take that away.
            Item::StandIn if self.effect == Effect::Allow => (&self.tools, &|_| true),
            Item::StandIn => (&self.tools, &|one| match one {
                Pattern::Any => true,
                Pattern::Exact(name) => name == "connect",
                _ => false,
            }),
            Item::Resource(uri) => (&self.resources, &|one| one.matches(uri)),
            Item::Prompt(name) => (&self.prompts, &|one| one.matches(name)),
            Item::Request(what) => (&self.requests, &|one| one.matches(what)),
            // A template is judged by the URIs that it can become: it is shown where some of them may be allowed.
            Item::Template(template) if self.effect == Effect::Allow => {
                (&self.resources, &|one| one.matches_some_of(template))
            }
            Item::Template(template) => (&self.resources, &|one| one.matches_all_of(template)),
        };
        match scope {
            Scope::All => true,
            Scope::Nothing => false,
            Scope::Those(patterns) => patterns.iter().any(fits),
        }
    }
}
