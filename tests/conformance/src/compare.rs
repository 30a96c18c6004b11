//! Two runs of the suite, compared check by check: what passes directly has to pass through the gateway, and what the
//! suite noted about it has to be the same but for `VARIES`.

use serde_json::{Value, json};

use crate::suite::{Check, Found, Place};

/// What differs between two runs by nature, or because the gateway speaks for itself there. Compared by shape.
const VARIES: [&str; 30] = [
    // Made anew each time.
    "date",
    "eventId",
    "hostHeader",
    "io.modelcontextprotocol/subscriptionId",
    "last-event-id",
    "lastEventId",
    "lastEventIdUsed",
    "mcp-session-id",
    "originHeader",
    "requestState",
    "serverUrl",
    "sessionId",
    "sessionIdSent",
    "subscriptionId",
    "taskId",
    "url",
    // A stream of events holds what is listed here as text, and each side frames its events.
    "data",
    "event",
    // How many messages a poll took.
    "eventCount",
    "messagesValidated",
    "framesFound",
    // How the connection is kept.
    "headers",
    // Node's own wording of a failed request; where an error is the gateway's, so is its wording.
    "message",
    // The gateway speaks for itself where it answers in its own name, and says for how long and for whom an answer holds.
    "serverInfo",
    "instructions",
    "ttlMs",
    "cacheScope",
    "supported",
    "supportedVersions",
    "retryValue",
];

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The scenario, or the request where payloads are compared.
    pub scenario: String,
    /// The check with its case and number.
    pub check: String,
    /// What differs.
    pub what: String,
}

/// Every check that passed directly and does not pass through, or failed only through, or noted something else.
pub fn compare(direct: &Found, through: &Found) -> Vec<Difference> {
    let mut differences = Vec::new();
    for (place, wanted) in &direct.checks {
        let found = through.checks.get(place);
        if let Some(what) = judge(wanted, found) {
            differences.push(difference(place, what));
        }
    }
    for (place, found) in &through.checks {
        if !direct.checks.contains_key(place) && matches!(&*found.status, "FAILURE" | "WARNING") {
            differences.push(difference(place, format!("only through: {}", said(found))));
        }
    }
    differences
}

fn difference(place: &Place, what: String) -> Difference {
    Difference { scenario: place.scenario.clone(), check: place.check.clone(), what }
}

fn judge(wanted: &Check, found: Option<&Check>) -> Option<String> {
    // What the suite only tells, such as each request it sends, is no verdict.
    if wanted.status == "INFO" {
        return None;
    }
    let Some(found) = found else { return Some(format!("{} directly, not reached through", wanted.status)) };
    if wanted.status != found.status {
        return Some(format!("{} directly, {}", wanted.status, said(found)));
    }
    let (wanted, found) = (steady(&wanted.details), steady(&found.details));
    (wanted != found).then(|| format!("payload: {}", first_difference(&wanted, &found)))
}

fn said(check: &Check) -> String {
    format!("{}: {}", check.status, check.error_message.as_deref().unwrap_or("no message"))
}

/// A value without what varies.
fn steady(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            // What an error says besides its code is the gateway's where the gateway found the fault.
            if let Some(code) = members.get("code").filter(|_| members.contains_key("message")) {
                return json!({"code": code});
            }
            let one = |(name, value): (&String, &Value)| {
                let value = if VARIES.contains(&name.as_str()) { shape(value) } else { steady(value) };
                // Said by one era only, and there only if the server wants.
                let named =
                    name == "io.modelcontextprotocol/serverInfo" || (name == "resultType" && value == "complete");
                let empty = name == "_meta" && value.as_object().is_some_and(serde_json::Map::is_empty);
                (!named && !empty).then(|| (name.clone(), value))
            };
            members.iter().filter_map(one).collect()
        }
        Value::Array(items) => items.iter().map(steady).collect(),
        other => other.clone(),
    }
}

/// Only what kind of value it is.
fn shape(value: &Value) -> Value {
    json!(match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    })
}

/// Where two values first differ, and how.
pub fn first_difference(wanted: &Value, found: &Value) -> String {
    fn walk(at: &str, wanted: &Value, found: &Value) -> Option<String> {
        match (wanted, found) {
            (Value::Object(a), Value::Object(b)) => {
                let inner = a.iter().find_map(|(name, value)| match b.get(name) {
                    Some(other) => walk(&format!("{at}.{name}"), value, other),
                    None => Some(format!("{at}.{name} is missing: {}", short(value))),
                });
                inner.or_else(|| {
                    b.iter()
                        .find(|(name, _)| !a.contains_key(*name))
                        .map(|(name, value)| format!("{at}.{name} is new: {}", short(value)))
                })
            }
            (Value::Array(a), Value::Array(b)) => a
                .iter()
                .zip(b)
                .enumerate()
                .find_map(|(n, (a, b))| walk(&format!("{at}[{n}]"), a, b))
                .or_else(|| (a.len() != b.len()).then(|| format!("{at} has {} items, not {}", b.len(), a.len()))),
            _ => (wanted != found).then(|| format!("{at} is {}, not {}", short(found), short(wanted))),
        }
    }
    walk("", wanted, found).unwrap_or_default()
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(240) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(checks: &[(&str, &str, Value)]) -> Found {
        let one = |(id, status, details): &(&str, &str, Value)| {
            let place = Place { scenario: "s".to_owned(), check: (*id).to_owned() };
            let check = Check {
                id: (*id).to_owned(),
                name: String::new(),
                status: (*status).to_owned(),
                error_message: None,
                details: details.clone(),
            };
            (place, check)
        };
        Found { checks: checks.iter().map(one).collect() }
    }

    #[test]
    fn whatever_is_lost_on_the_way_is_a_difference() {
        let direct = found(&[("a", "SUCCESS", json!({"n": 1, "date": "now"})), ("b", "SKIPPED", json!(null))]);
        let same = found(&[("a", "SUCCESS", json!({"n": 1, "date": "later"})), ("b", "SKIPPED", json!(null))]);
        assert_eq!(compare(&direct, &same), []);
        let count = |through: &[(&str, &str, Value)]| compare(&direct, &found(through)).len();
        let b = ("b", "SKIPPED", json!(null));
        assert_eq!(count(&[("a", "FAILURE", json!({"n": 1, "date": ""})), b.clone()]), 1);
        assert_eq!(count(&[("a", "SUCCESS", json!({"n": 2, "date": ""})), b.clone()]), 1);
        assert_eq!(count(&[("a", "SUCCESS", json!({"n": 1, "date": 5})), b.clone()]), 1);
        assert_eq!(count(std::slice::from_ref(&b)), 1);
        assert_eq!(count(&[("a", "SUCCESS", json!({"n": 1, "date": ""})), b, ("c", "FAILURE", json!(null))]), 1);
    }
}
