//! Whether a live object still is what was applied: of all that the cluster and others add to it, only what is ours is compared.

use serde_json::{Map, Value};

/// Of a live object, what stands where the applied one says something, as the cluster writes it (`1000m` is `1` there). Two of
/// these are equal for as long as nobody changed what is ours.
pub fn ours(live: &Value, applied: &Value) -> Value {
    match (live, applied) {
        (Value::Object(live), Value::Object(applied)) => {
            let kept =
                applied.iter().map(|(name, part)| (name.clone(), ours(live.get(name).unwrap_or(&Value::Null), part)));
            Value::Object(kept.collect::<Map<_, _>>())
        }
        // Items that somebody added to a list count as a change: a container beside ours is one.
        (Value::Array(live), Value::Array(applied)) => {
            let nothing = Value::Null;
            let item = |(n, live): (usize, &Value)| match applied.get(n) {
                Some(part) => ours(live, part),
                None => live.clone(),
            };
            let missing = applied.iter().skip(live.len()).map(|_| nothing.clone());
            Value::Array(live.iter().enumerate().map(item).chain(missing).collect())
        }
        (live, _) => live.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_add_is_no_change_and_what_they_change_is() {
        let applied = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"replicas": 1, "containers": [{"name": "s", "cpu": "1000m"}]}});
        let first = json!({"metadata": {"labels": {"a": "1"}, "uid": "u"}, "spec": {"replicas": 1, "containers": [{"name": "s", "cpu": "1", "x": "default"}]}, "status": {"n": 1}});
        let mark = ours(&first, &applied);
        let changed = |at: &str, to: Value| {
            let mut live = first.clone();
            *live.pointer_mut(at).unwrap() = to;
            ours(&live, &applied) != mark
        };
        assert!(!changed("/status/n", json!(2)) && !changed("/metadata/uid", json!("v")));
        assert!(!changed("/spec/containers/0/x", json!("other")));
        assert!(changed("/metadata/labels/a", json!("2")) && changed("/spec/replicas", json!(0)));
        assert!(changed("/spec/containers/0/cpu", json!("2")));
        assert!(changed("/spec/containers", json!([])));
        assert!(changed("/spec/containers", json!([first["spec"]["containers"][0], {"name": "evil"}])));
    }
}
