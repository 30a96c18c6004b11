//! Policy `tool-access`: who may see and use which tools. One rule set decides both, through one function, so that the
//! list a caller sees and the calls they may make can't drift apart. `docs/plugins/tool-access.md` is its reference.

mod condition;
mod config;
mod evaluate;
mod glob;

use config::{Config, Effect};
use evaluate::{Asked, Facts, Verdict, evaluate};
use portcullis_sdk::{Call, Caller, ConfigCell, Decision, Error, Item, ListFilter, ToolCall, export};

static CONFIG: ConfigCell<Config> = ConfigCell::new();

/// The policy.
pub struct ToolAccess;

impl ToolCall for ToolAccess {
    fn decide(caller: Caller<'_>, call: Call<'_>) -> Result<Decision, Error> {
        CONFIG.read(|config| {
            let facts = Facts::new(caller);
            let (server, tool) = (call.server(), call.tool());
            let asked = Asked { server: &server, tool: Some(&tool) };
            let verdict = evaluate(config, &config.rules_for(&facts), asked, Some(&|pointer| call.argument(pointer)));
            Ok(match verdict {
                Verdict { effect: Effect::Allow, .. } => Decision::Allow,
                denied => Decision::deny("not-allowed", refusal(config, &denied, caller, asked)),
            })
        })
    }
}

impl ListFilter for ToolAccess {
    fn filter(caller: Caller<'_>, kind: &str, items: &[Item]) -> Result<Vec<u32>, Error> {
        CONFIG.read(|config| {
            let rules = config.rules_for(&Facts::new(caller));
            let visible = |item: &Item| {
                let tool = (kind == "tools").then_some(item.name.as_str());
                evaluate(config, &rules, Asked { server: &item.server, tool }, None).effect == Effect::Allow
            };
            Ok((0..).zip(items).filter(|(_, item)| visible(item)).map(|(at, _)| at).collect())
        })
    }
}

/// Says which rule refused, and nothing else about the rule set. Whom to ask is the gateway's to say.
fn refusal(config: &Config, verdict: &Verdict, caller: Caller<'_>, asked: Asked<'_>) -> String {
    let who = caller.subject();
    let tool = format!("\"{}\" of \"{}\"", asked.tool.unwrap_or_default(), asked.server);
    match verdict.rule {
        Some(at) => match &config.rules[at].message {
            Some(message) => format!("{message} (rule {})", at + 1),
            None => format!("rule {} does not let {who} use {tool} like this", at + 1),
        },
        None if verdict.conditional => format!("no rule lets {who} use {tool} with these arguments"),
        None => format!("no rule lets {who} use {tool}"),
    }
}

export!(ToolAccess: ToolCall, ListFilter);

#[cfg(test)]
mod tests;
