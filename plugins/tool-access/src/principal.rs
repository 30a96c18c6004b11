//! Of whom a rule speaks.

use std::cell::OnceCell;

use portcullis_sdk::Caller;

/// A principal of a rule.
#[derive(Debug)]
pub(crate) enum Who {
    Everybody,
    /// One caller, by the whole subject.
    One(String),
    /// Every caller whose subject begins so: `user:`, `external:`, `external:ISSUER#`.
    All(String),
    /// Whoever is in a team, holds a role, is in a group: this one, or any.
    Team(Option<String>),
    Role(Option<String>),
    Group(Option<String>),
}

impl Who {
    /// None where the text has no form that a principal has.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let Some((kind, name)) = text.split_once(':') else {
            return match text {
                "*" => Some(Self::Everybody),
                "organization" | "anonymous" => Some(Self::One(text.to_owned())),
                _ => None,
            };
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
}

/// What rules ask about a caller, read from the host at the first question.
pub(crate) struct Facts<'a> {
    caller: Caller<'a>,
    subject: OnceCell<String>,
    teams: OnceCell<Vec<String>>,
    roles: OnceCell<Vec<String>>,
    groups: OnceCell<Vec<String>>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(caller: Caller<'a>) -> Self {
        Self {
            caller,
            subject: OnceCell::new(),
            teams: OnceCell::new(),
            roles: OnceCell::new(),
            groups: OnceCell::new(),
        }
    }

    pub(crate) fn subject(&self) -> &str {
        self.subject.get_or_init(|| self.caller.subject())
    }

    /// Whether the caller is, or belongs to, a principal of a rule.
    pub(crate) fn is(&self, who: &Who) -> bool {
        let has = |names: &[String], wanted: &Option<String>| match wanted {
            Some(wanted) => names.contains(wanted),
            None => !names.is_empty(),
        };
        match who {
            Who::Everybody => true,
            Who::One(subject) => self.subject() == subject,
            Who::All(beginning) => self.subject().starts_with(beginning.as_str()),
            Who::Team(wanted) => has(self.teams.get_or_init(|| self.caller.teams()), wanted),
            Who::Role(wanted) => has(self.roles.get_or_init(|| self.caller.roles()), wanted),
            Who::Group(wanted) => has(self.groups.get_or_init(|| self.caller.groups()), wanted),
        }
    }
}
