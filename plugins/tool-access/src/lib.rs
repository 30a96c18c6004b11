//! Policy `tool-access`: who may see and use which tools, resources and prompts, and be asked what by servers. One rule set decides both, through one
//! function, so that the list a caller sees and what they may use can't drift apart. `docs/plugins/tool-access.md` is its
//! reference.

mod condition;
mod config;
mod evaluate;
mod principal;

use std::cell::OnceCell;

use config::{Config, Effect};
use evaluate::{Arguments, Item, NO_ARGUMENTS, Verdict, evaluate};
use portcullis_plugin_kit::Template;
use portcullis_sdk::{
    Call, Caller, ConfigCell, Decision, Error, List, ListFilter, ListKind, Prompt, PromptGet, PromptPurpose, Question,
    Read, ReadPurpose, ResourceRead, ServerRequest, Setup, ToolCall, export,
};
use principal::Facts;

static CONFIG: ConfigCell<Config> = ConfigCell::new();

/// The policy.
pub struct ToolAccess;

impl Setup for ToolAccess {
    fn prepare() -> Result<(), Error> {
        CONFIG.read(|_| Ok(()))
    }
}

impl ToolCall for ToolAccess {
    fn decide(caller: Caller<'_>, call: Call<'_>) -> Result<Decision, Error> {
        let tool = call.tool();
        let item = Item::tool(&tool);
        let given: Arguments<'_> = &|pointer| call.argument(pointer);
        // The stand-in takes no arguments; whether some would be allowed is the question, as in the list.
        let arguments = (!matches!(item, Item::StandIn)).then_some(given);
        decide(caller, || call.server(), &item, arguments)
    }
}

impl ResourceRead for ToolAccess {
    fn decide(caller: Caller<'_>, read: Read<'_>) -> Result<Decision, Error> {
        let uri = read.uri();
        let item = match read.purpose() {
            ReadPurpose::Complete => Item::Template(Template::new(&uri)),
            _ => Item::Resource(&uri),
        };
        decide(caller, || read.server(), &item, Some(NO_ARGUMENTS))
    }
}

impl PromptGet for ToolAccess {
    fn decide(caller: Caller<'_>, prompt: Prompt<'_>) -> Result<Decision, Error> {
        let name = prompt.name();
        let given: Arguments<'_> = &|pointer| prompt.argument(pointer);
        // While arguments are being filled in, the question is the list's: whether some may be allowed.
        let arguments = (prompt.purpose() != PromptPurpose::Complete).then_some(given);
        decide(caller, || prompt.server(), &Item::Prompt(&name), arguments)
    }
}

impl ServerRequest for ToolAccess {
    fn decide(caller: Caller<'_>, question: Question<'_>) -> Result<Decision, Error> {
        let method = question.method();
        let what = match &*method {
            // A form where nothing is said (2025-11-25, elicitation).
            "elicitation/create" if question.param("/mode").as_deref() == Some("\"url\"") => "elicitation/url",
            "elicitation/create" => "elicitation/form",
            "sampling/createMessage" => "sampling",
            "roots/list" => "roots",
            other => other,
        };
        let given: Arguments<'_> = &|pointer| question.param(pointer);
        decide(caller, || question.server(), &Item::Request(what), Some(given))
    }
}

fn decide(
    caller: Caller<'_>,
    server: impl Fn() -> String,
    item: &Item<'_>,
    arguments: Option<Arguments<'_>>,
) -> Result<Decision, Error> {
    CONFIG.read(|config| {
        let facts = Facts::new(caller);
        let asked = OnceCell::new();
        let verdict = evaluate(config, item, arguments, |_, rule| {
            rule.covers_server(asked.get_or_init(&server)) && rule.speaks_of(&facts)
        });
        Ok(match verdict {
            Verdict { effect: Effect::Allow, .. } => Decision::Allow,
            denied => Decision::deny(
                "not-allowed",
                refusal(config, &denied, facts.subject(), asked.get_or_init(server), item),
            ),
        })
    })
}

impl ListFilter for ToolAccess {
    fn filter(caller: Caller<'_>, list: List<'_>) -> Result<Vec<u32>, Error> {
        CONFIG.read(|config| {
            let (kind, entries, facts) = (list.kind(), list.entries(), Facts::new(caller));
            // Which rules concern the caller, for each server: asked once, not for each entry.
            let concerns: Vec<Vec<bool>> = {
                let of_caller: Vec<bool> = config.rules.iter().map(|rule| rule.speaks_of(&facts)).collect();
                let for_server = |server: &String| {
                    config.rules.iter().zip(&of_caller).map(|(rule, yes)| *yes && rule.covers_server(server)).collect()
                };
                entries.servers().iter().map(for_server).collect()
            };
            let kept = (0..).zip(entries.iter()).filter(|(_, entry)| {
                let (item, arguments) = match kind {
                    ListKind::Tools => (Item::tool(entry.name), None),
                    ListKind::Prompts => (Item::Prompt(entry.name), None),
                    ListKind::Resources => (Item::Resource(entry.name), Some(NO_ARGUMENTS)),
                    ListKind::Templates => (Item::Template(Template::new(entry.name)), Some(NO_ARGUMENTS)),
                    // A list that nobody could write rules for yet.
                    _ => return false,
                };
                let here = concerns.get(entry.server_at);
                let concerned = |at: usize, _: &config::Rule| here.and_then(|rules| rules.get(at)) == Some(&true);
                evaluate(config, &item, arguments, concerned).effect == Effect::Allow
            });
            Ok(kept.map(|(at, _)| at).collect())
        })
    }
}

/// Says which rule refused, and nothing else about the rule set. Whom to ask is the gateway's to say.
fn refusal(config: &Config, verdict: &Verdict, who: &str, server: &str, item: &Item<'_>) -> String {
    let what = match item {
        Item::Tool(name) => format!("use \"{name}\" of \"{server}\""),
        Item::StandIn => format!("use anything of \"{server}\""),
        Item::Resource(uri) => format!("read the resource \"{uri}\" of \"{server}\""),
        Item::Template(_) => format!("use this resource template of \"{server}\""),
        Item::Prompt(name) => format!("use the prompt \"{name}\" of \"{server}\""),
        Item::Request(what) => format!("be asked by \"{server}\" for \"{what}\""),
    };
    match verdict.rule {
        Some(at) => match &config.rules[at].message {
            Some(message) => format!("{message} (rule {})", at + 1),
            None => format!("rule {} does not let {who} {what} like this", at + 1),
        },
        None if verdict.conditional => format!("no rule lets {who} {what} with these arguments"),
        None => format!("no rule lets {who} {what}"),
    }
}

export!(ToolAccess: Setup, ToolCall, ResourceRead, PromptGet, ServerRequest, ListFilter; config: Config; wants: {});

#[cfg(test)]
mod tests;
