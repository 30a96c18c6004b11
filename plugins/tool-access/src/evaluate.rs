//! The one function that decides both what is listed and what may be called.

use std::cell::OnceCell;

use portcullis_sdk::Caller;

use crate::{
    condition::Truth,
    config::{Config, Effect},
};

/// What is asked about.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) server: &'a str,
    /// None for a resource, a template or a prompt.
    pub(crate) tool: Option<&'a str>,
}

/// What the rules say.
pub(crate) struct Verdict {
    pub(crate) effect: Effect,
    /// The rule that decided, by position; none where the default did.
    pub(crate) rule: Option<usize>,
    /// Whether a rule would have allowed it with other arguments.
    pub(crate) conditional: bool,
}

/// One argument of a call by JSON Pointer, as JSON text.
pub(crate) type Arguments<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The first of the rules (positions, ascending) that matches decides, or else the default.
///
/// In a list there are no arguments yet. There a condition is unknown, and the question is whether any arguments would be
/// allowed: an allow rule with conditions counts as matching, a deny rule with conditions as not matching.
pub(crate) fn evaluate(
    config: &Config,
    rules: &[usize],
    asked: Asked<'_>,
    arguments: Option<Arguments<'_>>,
) -> Verdict {
    let mut conditional = false;
    for &at in rules {
        let rule = &config.rules[at];
        if !rule.covers_server(asked.server) || !rule.covers_tool(asked.tool) {
            continue;
        }
        let matches = match arguments {
            None => rule.when.is_empty() || rule.effect == Effect::Allow,
            Some(arguments) => rule.when.iter().all(|condition| match condition.test(arguments) {
                Truth::Yes => true,
                Truth::No => false,
                // What can't be judged is refused: it fits a rule that denies, and none that allows.
                Truth::Unclear => rule.effect == Effect::Deny,
            }),
        };
        if matches {
            return Verdict { effect: rule.effect, rule: Some(at), conditional };
        }
        conditional |= rule.effect == Effect::Allow;
    }
    Verdict { effect: config.default, rule: None, conditional }
}

/// What rules ask about a caller, read from the host at the first question.
pub(crate) struct Facts<'a> {
    caller: Caller<'a>,
    subject: String,
    teams: OnceCell<Vec<String>>,
    roles: OnceCell<Vec<String>>,
    groups: OnceCell<Vec<String>>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(caller: Caller<'a>) -> Self {
        let subject = caller.subject();
        Self { caller, subject, teams: OnceCell::new(), roles: OnceCell::new(), groups: OnceCell::new() }
    }

    /// Whether the caller is, or belongs to, a principal of a rule.
    pub(crate) fn is(&self, principal: &str) -> bool {
        if principal == "*" || principal == self.subject {
            return true;
        }
        let Some((kind, name)) = principal.split_once(':') else { return false };
        let has = |names: &[String]| names.iter().any(|one| name == "*" || one == name);
        match kind {
            "team" => has(self.teams.get_or_init(|| self.caller.teams())),
            "role" => has(self.roles.get_or_init(|| self.caller.roles())),
            "group" => has(self.groups.get_or_init(|| self.caller.groups())),
            "user" | "agent" => name == "*" && self.subject.split_once(':').is_some_and(|(mine, _)| mine == kind),
            // `external:*` is everybody of an identity provider, `external:ISSUER#*` everybody of this one. An issuer is a
            // URL without a fragment, so its end is the first `#`.
            "external" => {
                let of_any = name == "*" && self.subject.starts_with("external:");
                let of_this = name.ends_with("#*") && self.subject.starts_with(&principal[..principal.len() - 1]);
                of_any || of_this
            }
            _ => false,
        }
    }
}
