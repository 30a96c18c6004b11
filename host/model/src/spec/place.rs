//! A plugin at a place in a gateway: with which configuration it is asked there, when, and whether its answer counts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Name, Principal, Problem, spec::Failure};

/// A plugin at a place in a gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PluginUse {
    /// A `Plugin` resource of the tenant, or a built-in plugin where no resource has the name.
    pub plugin: String,
    /// Its configuration here; the `Plugin` resource's own where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
    /// What its failure means here; the `Plugin` resource's `onError` where left out. Auth providers always deny.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_error: Option<Failure>,
    /// Whether its answer counts.
    #[serde(default, skip_serializing_if = "Mode::is_enforce")]
    pub mode: Mode,
    /// What a policy is asked about; everything where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
}

/// Whether a plugin's answer counts at a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// A policy is asked, and what it would have done is counted and recorded; it neither refuses nor changes anything.
    Monitor,
    /// It is not asked, and need not even load.
    Disabled,
}

impl Mode {
    /// Whether it is the usual one.
    pub fn is_enforce(&self) -> bool {
        *self == Self::Enforce
    }
}

/// What a policy is asked about: each of these that is there has to fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct When {
    /// Globs of `McpServer` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servers: Option<Vec<String>>,
    /// Globs of tools' own names, as their server knows them. With them, it is asked about tools and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<String>>,
    /// Who is calling, one of these: `user:NAME`, `team:NAME`, `agent:NAME`, `role:NAME`, `group:NAME`, `external:ISSUER#SUBJECT`,
    /// `organization`, `anonymous`; `*` in place of a name or a subject is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principals: Option<Vec<String>>,
}

/// One of [`When::principals`], read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// One caller, by the whole subject.
    One(String),
    /// Every caller whose subject begins so: `user:`, `external:ISSUER#`.
    All(String),
    /// Whoever is in this team, or in any.
    Team(Option<String>),
    /// Whoever holds this role, or any.
    Role(Option<String>),
    /// Whoever is in this group, or in any.
    Group(Option<String>),
}

impl Whom {
    /// None where the text has no form that a principal has.
    pub fn parse(text: &str) -> Option<Self> {
        let Some((kind, name)) = text.split_once(':') else {
            return matches!(text, "organization" | "anonymous").then(|| Self::One(text.to_owned()));
        };
        let one = || (name != "*").then(|| name.to_owned());
        match kind {
            _ if name.is_empty() => None,
            "team" => Some(Self::Team(one())),
            "role" => Some(Self::Role(one())),
            "group" => Some(Self::Group(one())),
            "user" | "agent" | "external" if name == "*" => Some(Self::All(format!("{kind}:"))),
            "user" | "agent" => Some(Self::One(text.to_owned())),
            // An issuer is a URL without a fragment, so its end is the first `#`.
            "external" if name.ends_with("#*") => Some(Self::All(text.trim_end_matches('*').to_owned())),
            "external" if name.contains('#') => Some(Self::One(text.to_owned())),
            _ => None,
        }
    }

    /// Whether the caller is, or belongs to, this one.
    pub fn is(&self, principal: &Principal) -> bool {
        fn has<'n>(mut names: impl Iterator<Item = &'n str>, wanted: Option<&str>) -> bool {
            names.any(|name| wanted.is_none_or(|wanted| name == wanted))
        }
        match self {
            Self::One(subject) => *principal.subject_text == **subject,
            Self::All(beginning) => principal.subject_text.starts_with(beginning.as_str()),
            Self::Team(wanted) => has(principal.teams.iter().map(Name::as_str), wanted.as_deref()),
            Self::Role(wanted) => has(principal.roles.iter().map(Name::as_str), wanted.as_deref()),
            Self::Group(wanted) => has(principal.groups.iter().map(String::as_str), wanted.as_deref()),
        }
    }
}

impl PluginUse {
    /// Of a policy.
    pub(crate) fn check_policy(&self, path: &str, problems: &mut Vec<Problem>) {
        let Some(when) = &self.when else { return };
        for (name, list) in [("servers", &when.servers), ("tools", &when.tools), ("principals", &when.principals)] {
            // It may be read as everything or as nothing.
            if list.as_ref().is_some_and(|list| list.is_empty() || list.iter().any(String::is_empty)) {
                problems.push(Problem::new(format!("{path}.when.{name}"), "must name something; leave it out for all"));
            }
        }
        for (i, text) in when.principals.iter().flatten().enumerate() {
            if Whom::parse(text).is_none() && !text.is_empty() {
                problems.push(Problem::new(
                    format!("{path}.when.principals[{i}]"),
                    "names nobody: use user:NAME, team:NAME, agent:NAME, role:NAME, group:NAME, external:ISSUER#SUBJECT, \
                     organization or anonymous",
                ));
            }
        }
    }

    /// Of an auth provider, whose answer always counts: nobody is let in by a provider that is only watched.
    pub(crate) fn check_provider(&self, path: &str, problems: &mut Vec<Problem>) {
        if self.mode == Mode::Monitor {
            problems.push(Problem::new(
                format!("{path}.mode"),
                "is for policies; an auth provider is enforced or disabled",
            ));
        }
        if self.when.is_some() {
            problems.push(Problem::new(format!("{path}.when"), "is for policies: who is calling is not known yet"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Subject;

    #[test]
    fn conditions_name_somebody_and_something() {
        let read = |when: serde_json::Value| {
            let place: PluginUse =
                serde_json::from_value(serde_json::json!({"plugin": "p", "when": when})).expect("a place");
            let mut problems = Vec::new();
            place.check_policy("p", &mut problems);
            problems.len()
        };
        assert_eq!(
            read(serde_json::json!({"servers": ["git*"], "tools": ["a"], "principals": ["user:ann", "role:*"]})),
            0
        );
        assert_eq!(read(serde_json::json!({"servers": [], "tools": [""], "principals": ["ann"]})), 3);
    }

    #[test]
    fn callers_are_matched_by_what_they_are() {
        let mut ann = Principal::new(Name::default_tenant(), Subject::User("ann".parse().expect("a name")));
        ann.teams = vec!["blue".parse().expect("a name")];
        let is = |text: &str| Whom::parse(text).expect(text).is(&ann);
        for yes in ["user:ann", "user:*", "team:blue", "team:*"] {
            assert!(is(yes), "{yes}");
        }
        for no in ["user:an", "agent:*", "team:red", "role:*", "group:blue", "anonymous", "external:*"] {
            assert!(!is(no), "{no}");
        }
    }
}
