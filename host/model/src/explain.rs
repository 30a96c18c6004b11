//! What a call would meet: the answer of `portcullis explain`, one step for each thing that has a say, in the order in which a call
//! meets them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Name;

/// What a call, or a list of tools, would meet. Nothing of it was carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The gateway.
    pub gateway: Name,
    /// The tool, as clients name it; none where the list of tools was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Who would call.
    pub caller: String,
    /// Whether the call would go to its server, as far as that is known before it is made.
    pub runs: bool,
    /// What stops it, where something does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stop>,
    /// Under whose account it would run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executed_as: Option<String>,
    /// The connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Name>,
    /// The server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Name>,
    /// Everything that has a say, in order.
    pub steps: Vec<Step>,
}

/// Where a call ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stop {
    /// The phase.
    pub phase: String,
    /// The refusal's code, as in docs/errors.md.
    pub code: String,
    /// What the caller is told.
    pub message: String,
    /// The next step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One thing that has a say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The phase: `authenticate`, `route`, `admit`, `decide`, `resolve`, `call`, `review`.
    pub phase: String,
    /// What it is: a plugin, a connection, a server.
    pub name: String,
    /// What it says, in a word or two, such as `allow`, `deny`, `modify`, `not asked`.
    pub says: String,
    /// Why, or what else there is to know.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// What it changes of the arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

/// A change of arguments, as in a JSON Patch (RFC 6902).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// `add`, `remove` or `replace`.
    pub op: String,
    /// A JSON Pointer.
    pub path: String,
    /// What stands there then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
}

impl Step {
    /// A step.
    pub fn new(phase: &str, name: impl Into<String>, says: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            phase: phase.to_owned(),
            name: name.into(),
            says: says.into(),
            detail: detail.into(),
            changes: Vec::new(),
        }
    }
}

/// The most changes that are told.
const MOST: usize = 100;

/// What has to be changed of one document to make another of it; not more than a hundred changes, the rest is left out.
pub fn changes(before: &Value, after: &Value) -> Vec<Change> {
    let mut found = Vec::new();
    compare("", before, after, &mut found);
    found.truncate(MOST);
    found
}

fn compare(path: &str, before: &Value, after: &Value, found: &mut Vec<Change>) {
    if before == after || found.len() > MOST {
        return;
    }
    let change =
        |op: &str, path: String, value: Option<&Value>| Change { op: op.to_owned(), path, value: value.cloned() };
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let at = |name: &str| format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"));
            for (name, value) in old {
                match new.get(name) {
                    Some(now) => compare(&at(name), value, now, found),
                    None => found.push(change("remove", at(name), None)),
                }
            }
            let added = new.iter().filter(|(name, _)| !old.contains_key(*name));
            found.extend(added.map(|(name, value)| change("add", at(name), Some(value))));
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (i, (old, new)) in old.iter().zip(new).enumerate() {
                compare(&format!("{path}/{i}"), old, new, found);
            }
        }
        _ => found.push(change("replace", path.to_owned(), Some(after))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_are_told_where_they_are() {
        let before = json!({"a": 1, "b": {"x/y": [1, 2]}, "gone": true});
        let after = json!({"a": 1, "b": {"x/y": [1, 3]}, "new": "n"});
        let told: Vec<String> =
            changes(&before, &after).iter().map(|c| format!("{} {} {:?}", c.op, c.path, c.value)).collect();
        assert_eq!(told, ["replace /b/x~1y/1 Some(Number(3))", "remove /gone None", "add /new Some(String(\"n\"))"]);
        assert_eq!(changes(&before, &before), []);
        let many = json!((0..1000).map(|n| (n.to_string(), n)).collect::<std::collections::BTreeMap<_, _>>());
        assert_eq!(changes(&json!({}), &many).len(), 100);
    }
}
