//! Policy `redact`: takes out of arguments and results what should not pass: by well-known patterns, by expressions, by places in
//! JSON. `docs/plugins/redact.md` is its reference.

mod apply;
mod config;
mod known;
mod seal;

use apply::{Redacted, redact};
use config::{Config, Rule, Side};
use portcullis_sdk::{
    Call, Caller, ConfigCell, Decision, Error, Setup, ToolCall, ToolOutcome, ToolResult, Value, export,
};

static CONFIG: ConfigCell<Config> = ConfigCell::new();

/// The policy.
pub struct Redact;

impl Setup for Redact {
    fn prepare() -> Result<(), Error> {
        CONFIG.read(|_| Ok(()))
    }
}

impl ToolCall for Redact {
    fn decide(_: Caller<'_>, call: Call<'_>) -> Result<Decision, Error> {
        judge(call, Side::Arguments, || call.arguments())
    }
}

impl ToolResult for Redact {
    fn review(_: Caller<'_>, call: Call<'_>, outcome: ToolOutcome<'_>) -> Result<Decision, Error> {
        judge(call, Side::Results, || outcome.content())
    }
}

fn judge(call: Call<'_>, side: Side, json: impl Fn() -> Vec<u8>) -> Result<Decision, Error> {
    CONFIG.read(|config| {
        let rules: Vec<&Rule> =
            config.rules.iter().filter(|rule| rule.looks_at(side) && rule.covers.call(call)).collect();
        if rules.is_empty() {
            return Ok(Decision::Allow);
        }
        let json = String::from_utf8(json()).map_err(|_| "what is to be redacted is no UTF-8")?;
        let (what, key) = match side {
            Side::Arguments => ("arguments", "redacted-arguments"),
            Side::Results => ("result", "redacted-result"),
        };
        let Redacted { text, by } = match redact(config, &rules, side, &json) {
            Ok(redacted) => redacted,
            Err(apply::Stop::Denied(rule)) => {
                return Ok(Decision::deny(
                    "redacted",
                    format!("the {what} of {} held what may not pass: {rule}", call.tool()),
                ));
            }
            Err(broken) => return Err(broken.into()),
        };
        match text {
            None => Ok(Decision::Allow),
            Some(text) => {
                call.annotate(key, &Value::Texts(by.into_iter().take(16).collect()));
                Ok(Decision::Modify(text.into_bytes()))
            }
        }
    })
}

export!(Redact: Setup, ToolCall, ToolResult; config: Config; wants: {});

#[cfg(test)]
mod tests;
