//! The one function that decides both what is listed and what may be used.

use portcullis_plugin_kit::Template;

use crate::{
    condition::Truth,
    config::{Config, Effect, Rule},
};

/// What is asked about.
pub(crate) enum Item<'a> {
    Tool(&'a str),
    /// What stands in place of a server's tools until somebody has connected an account.
    StandIn,
    Resource(&'a str),
    /// All resources that a template can name.
    Template(Template),
    Prompt(&'a str),
    /// What a server asks of the client.
    Request(&'a str),
}

/// The name that the stand-in of a server's tools goes by; none of a server's own.
const STAND_IN: &str = "portcullis.dev/connect";

impl<'a> Item<'a> {
    /// A tool, or the stand-in.
    pub(crate) fn tool(name: &'a str) -> Self {
        if name == STAND_IN { Self::StandIn } else { Self::Tool(name) }
    }
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

/// A resource has none.
pub(crate) const NO_ARGUMENTS: Arguments<'static> = &|_| None;

/// The first rule that matches decides, or else the default. What servers ask is allowed where no rule speaks of that: it comes
/// in the calls of tools that are allowed. `concerns` says whether a rule speaks of the caller and the server;
/// it is asked last, since it may have to ask the host.
///
/// In a list of tools or prompts there are no arguments yet. There a condition is unknown, and the question is whether any
/// arguments would be allowed: an allow rule with conditions counts as matching, a deny rule with conditions as not matching.
pub(crate) fn evaluate(
    config: &Config,
    item: &Item<'_>,
    arguments: Option<Arguments<'_>>,
    concerns: impl Fn(usize, &Rule) -> bool,
) -> Verdict {
    let mut conditional = false;
    for (at, rule) in config.rules.iter().enumerate() {
        if !rule.covers(item) || !concerns(at, rule) {
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
    let unnamed = matches!(item, Item::Request(_)) && !config.names_requests;
    Verdict { effect: if unnamed { Effect::Allow } else { config.default }, rule: None, conditional }
}
