//! Conditions on the arguments of a call.

use std::cmp::Ordering;

use portcullis_sdk::Schema;
use serde::Deserialize;
use serde_json::Value;

use portcullis_plugin_kit::Pattern;

use crate::evaluate::Arguments;

/// One condition: an argument, and exactly one test of it.
#[derive(Debug, Deserialize, Schema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Condition {
    /// JSON Pointer (RFC 6901).
    argument: String,
    equals: Option<Value>,
    not_equals: Option<Value>,
    one_of: Option<Vec<Value>>,
    starts_with: Option<String>,
    /// A pattern: `*` any run of characters, `?` one.
    matches: Option<Pattern>,
    exists: Option<bool>,
    less_than: Option<f64>,
    greater_than: Option<f64>,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    Yes,
    No,
    /// The argument is not of a type that the condition can judge, or is absent where the condition says what it is not.
    Unclear,
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

impl Condition {
    pub(crate) fn check(&self) -> Result<(), String> {
        if !self.argument.starts_with('/') {
            return Err(format!(
                "argument: \"{}\" is no JSON Pointer: begin with a slash, such as /path",
                self.argument
            ));
        }
        let tests = [
            self.equals.is_some(),
            self.not_equals.is_some(),
            self.one_of.is_some(),
            self.starts_with.is_some(),
            self.matches.is_some(),
            self.exists.is_some(),
            self.less_than.is_some(),
            self.greater_than.is_some(),
        ];
        if tests.iter().filter(|test| **test).count() != 1 {
            return Err(
                "needs exactly one of equals, notEquals, oneOf, startsWith, matches, exists, lessThan, greaterThan \
                        (for null, write exists: false)"
                    .to_owned(),
            );
        }
        if self.one_of.as_ref().is_some_and(Vec::is_empty) {
            return Err("oneOf: is empty".to_owned());
        }
        Ok(())
    }

    pub(crate) fn test(&self, arguments: Arguments<'_>) -> Truth {
        let Some(json) = arguments(&self.argument) else { return self.absent() };
        let Ok(value) = serde_json::from_str::<Value>(&json) else { return Truth::Unclear };
        if value.is_null() {
            return self.absent();
        }
        let text = |holds: &dyn Fn(&str) -> bool| value.as_str().map_or(Truth::Unclear, |text| holds(text).into());
        let number = |wanted: f64, order: Ordering| match value.as_f64() {
            Some(found) => (found.partial_cmp(&wanted) == Some(order)).into(),
            None => Truth::Unclear,
        };
        if let Some(wanted) = &self.equals {
            same(&value, wanted)
        } else if let Some(unwanted) = &self.not_equals {
            match same(&value, unwanted) {
                Truth::Yes => Truth::No,
                Truth::No => Truth::Yes,
                Truth::Unclear => Truth::Unclear,
            }
        } else if let Some(list) = &self.one_of {
            let found = |truth| list.iter().any(|one| same(&value, one) == truth);
            if found(Truth::Yes) {
                Truth::Yes
            } else if found(Truth::No) {
                Truth::No
            } else {
                Truth::Unclear
            }
        } else if let Some(prefix) = &self.starts_with {
            text(&|text| text.starts_with(prefix.as_str()))
        } else if let Some(pattern) = &self.matches {
            text(&|text| pattern.matches(text))
        } else if let Some(limit) = self.less_than {
            number(limit, Ordering::Less)
        } else if let Some(limit) = self.greater_than {
            number(limit, Ordering::Greater)
        } else {
            self.exists.unwrap_or(true).into()
        }
    }

    /// The answer where the argument is absent, or null.
    fn absent(&self) -> Truth {
        match self.exists {
            Some(wanted) => (!wanted).into(),
            None if self.not_equals.is_some() => Truth::Unclear,
            None => Truth::No,
        }
    }
}

/// Equality of JSON values of one type; values of different types can't be told apart safely, since a server may read
/// `"1"` as 1, or `["prod"]` as "prod".
fn same(found: &Value, wanted: &Value) -> Truth {
    match (found, wanted) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i128(), b.as_i128()) {
            (Some(a), Some(b)) => (a == b).into(),
            _ => (a.as_f64() == b.as_f64()).into(),
        },
        (Value::String(_), Value::String(_))
        | (Value::Bool(_), Value::Bool(_))
        | (Value::Array(_), Value::Array(_))
        | (Value::Object(_), Value::Object(_)) => (found == wanted).into(),
        _ => Truth::Unclear,
    }
}
