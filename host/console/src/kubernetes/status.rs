//! What became of a custom resource, as its status says it.

use std::time::{SystemTime, UNIX_EPOCH};

use portcullis_cluster::Custom;
use portcullis_model::custom::{ACCEPTED, MAX_MESSAGE};
use portcullis_telemetry::rfc3339;
use serde_json::{Value, json};

use super::read::Refusal;

/// The status that a custom resource should have; None where it has it. `before` is what was written last, as far as the
/// cluster did not tell yet.
pub(super) fn wanted(custom: &Custom, became: &Result<Vec<String>, Refusal>, before: Option<&Value>) -> Option<Value> {
    let (status, reason, message) = match became {
        Ok(warnings) if warnings.is_empty() => ("True", "Accepted", "taken as it is written".to_owned()),
        Ok(warnings) => ("True", "Accepted", format!("taken, but: {}", warnings.join("; "))),
        Err(refusal) => ("False", refusal.reason, refusal.message.clone()),
    };
    let message = cut(message);
    let now = before.unwrap_or(&custom.status);
    let conditions = now["conditions"].as_array().cloned().unwrap_or_default();
    let earlier = conditions.iter().find(|c| c["type"] == ACCEPTED);
    let same = |name: &str, value: &Value| earlier.is_some_and(|c| c[name] == *value);
    let since = match earlier {
        Some(earlier) if earlier["status"] == status => earlier["lastTransitionTime"].clone(),
        // Whole seconds: the cluster keeps no more.
        _ => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            json!(rfc3339(std::time::Duration::from_secs(now.as_secs())))
        }
    };
    let generation = json!(custom.generation);
    let condition = json!({
        "type": ACCEPTED,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": since,
    });
    let there = ["status", "reason", "message", "observedGeneration", "lastTransitionTime"];
    if now["observedGeneration"] == generation && there.iter().all(|name| same(name, &condition[*name])) {
        return None;
    }
    // Another's conditions stay.
    let mut conditions: Vec<Value> = conditions.into_iter().filter(|c| c["type"] != ACCEPTED).collect();
    conditions.insert(0, condition);
    Some(json!({"observedGeneration": generation, "conditions": conditions}))
}

/// No longer than a condition's message may be.
fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        // The schema counts characters, of which there are no more than bytes.
        let mut end = MAX_MESSAGE - '…'.len_utf8();
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use portcullis_model::Kind;

    use super::*;

    fn custom(generation: i64, status: Value) -> Custom {
        Custom {
            kind: Kind::User,
            namespace: "ns".parse().unwrap(),
            name: "alice".to_owned(),
            uid: "u".to_owned(),
            generation,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            manager: None,
            spec: Value::Null,
            status,
        }
    }

    #[test]
    fn a_status_is_written_once_and_again_where_something_changed() {
        let taken = Ok(Vec::new());
        let first = wanted(&custom(1, Value::Null), &taken, None).unwrap();
        assert_eq!((&first["conditions"][0]["status"], &first["observedGeneration"]), (&json!("True"), &json!(1)));
        assert_eq!(wanted(&custom(1, first.clone()), &taken, None), None);
        assert_eq!(wanted(&custom(1, Value::Null), &taken, Some(&first)), None, "the cluster tells later");
        let next = wanted(&custom(2, first.clone()), &taken, None).unwrap();
        let since = |status: &Value| status["conditions"][0]["lastTransitionTime"].clone();
        assert_eq!(since(&next), since(&first), "it has been so since then");
        let refused = Err(Refusal::invalid("x"));
        let no = wanted(&custom(2, next), &refused, None).unwrap();
        assert_eq!((&no["conditions"][0]["reason"], &no["conditions"][0]["message"]), (&json!("Invalid"), &json!("x")));
    }

    #[test]
    fn a_long_message_is_cut_between_characters_and_others_conditions_stay() {
        let others = json!({"conditions": [{"type": "Mine", "status": "True"}]});
        let long = Err(Refusal::invalid("ü".repeat(MAX_MESSAGE)));
        let status = wanted(&custom(1, others), &long, None).unwrap();
        let message = status["conditions"][0]["message"].as_str().unwrap();
        assert!(message.len() <= MAX_MESSAGE && message.ends_with('…'));
        assert_eq!(status["conditions"][1]["type"], "Mine");
    }
}
