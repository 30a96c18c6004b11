//! Policy `size-cap`: how large arguments and results may be. Asks for sizes first, which costs nothing; a result is read only
//! where it has to be shortened. `docs/plugins/size-cap.md` is its reference.

mod config;
mod shorten;

use config::{Action, Config, MAX_READ, Rule};
use portcullis_plugin_kit::Size;
use portcullis_sdk::{
    Call, Caller, ConfigCell, Decision, Error, Setup, ToolCall, ToolOutcome, ToolResult, Value, export,
};

static CONFIG: ConfigCell<Config> = ConfigCell::new();

/// The policy.
pub struct SizeCap;

impl Setup for SizeCap {
    fn prepare() -> Result<(), Error> {
        CONFIG.read(|_| Ok(()))
    }
}

impl ToolCall for SizeCap {
    fn decide(_: Caller<'_>, call: Call<'_>) -> Result<Decision, Error> {
        CONFIG.read(|config| {
            let size = call.arguments_size();
            let over = |rule: &&Rule| rule.arguments.is_some_and(|most| size > most) && rule.covers.call(call);
            Ok(match config.rules.iter().find(over) {
                None => Decision::Allow,
                Some(rule) => too_large("arguments", call, size, rule.arguments.unwrap_or_default(), rule),
            })
        })
    }
}

impl ToolResult for SizeCap {
    fn review(_: Caller<'_>, call: Call<'_>, outcome: ToolOutcome<'_>) -> Result<Decision, Error> {
        CONFIG.read(|config| {
            let size = outcome.content_size();
            let over = |rule: &&Rule| rule.results.is_some_and(|most| size > most) && rule.covers.call(call);
            let Some(rule) =
                config.rules.iter().filter(over).min_by_key(|rule| (rule.results, rule.action == Action::Truncate))
            else {
                return Ok(Decision::Allow);
            };
            let most = rule.results.unwrap_or_default();
            if rule.action == Action::Deny || size > MAX_READ {
                return Ok(too_large("result", call, size, most, rule));
            }
            let shortened = shorten::shorten(&outcome.content(), most, rule.hint.as_deref())?;
            call.annotate("shortened-from", &Value::Number(size as f64));
            Ok(Decision::Modify(shortened))
        })
    }
}

fn too_large(what: &str, call: Call<'_>, size: u64, most: u64, rule: &Rule) -> Decision {
    let hint = rule.hint.as_ref().map(|hint| format!(": {hint}")).unwrap_or_default();
    let (tool, size, most) = (call.tool(), Size(size), Size(most));
    Decision::deny("too-large", format!("the {what} of {tool} take {size}, and {most} are the most here{hint}"))
}

export!(SizeCap: Setup, ToolCall, ToolResult; config: Config; wants: {});

#[cfg(test)]
mod tests;
