//! Policy `arguments`: what the arguments of a tool may be: a JSON schema that they have to fit, and conditions in CEL that have to hold.
//! `docs/plugins/arguments.md` is its reference.

mod condition;
mod config;
mod format;
mod schema;

use condition::Facts;
use config::{Config, Unmatched};
use portcullis_sdk::{Call, Caller, ConfigCell, Decision, Error, Setup, ToolCall, export};

static CONFIG: ConfigCell<Config> = ConfigCell::new();

/// The policy.
pub struct Arguments;

impl Setup for Arguments {
    fn prepare() -> Result<(), Error> {
        CONFIG.read(|_| Ok(()))
    }
}

impl ToolCall for Arguments {
    fn decide(caller: Caller<'_>, call: Call<'_>) -> Result<Decision, Error> {
        CONFIG.read(|config| {
            let mut rules = config.rules.iter().enumerate().filter(|(_, rule)| rule.covers.call(call)).peekable();
            if rules.peek().is_none() {
                return Ok(match config.unmatched {
                    Unmatched::Allow => Decision::Allow,
                    Unmatched::Deny => refused(format!("no rule speaks of the tool {}", call.tool())),
                });
            }
            let arguments: serde_json::Value = call.arguments_as()?;
            let facts = Facts::new(caller, call, &arguments);
            for (at, rule) in rules {
                if let Some(schema) = &rule.schema
                    && let Err(misfit) = schema.check(&arguments)
                {
                    return Ok(refused(format!("the arguments of {} do not fit: {misfit}", call.tool())));
                }
                for (nth, condition) in rule.conditions.iter().enumerate() {
                    if let Err(why) = condition.check(&config.env, &facts) {
                        let message = condition.message.clone().unwrap_or_else(|| {
                            format!(
                                "condition {} of rule {} does not let these arguments of {} pass",
                                nth + 1,
                                at + 1,
                                call.tool()
                            )
                        });
                        return Ok(refused(match why {
                            condition::Refusal::False => message,
                            condition::Refusal::Unclear(why) => format!("{message} ({why})"),
                        }));
                    }
                }
            }
            Ok(Decision::Allow)
        })
    }
}

fn refused(message: String) -> Decision {
    Decision::deny("arguments", message)
}

export!(Arguments: Setup, ToolCall; config: Config; wants: {});

#[cfg(test)]
mod tests;
