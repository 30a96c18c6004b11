//! Callers, texts and services as they are on a bad day.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::case::{Case, Exchange, NoAnswer, Who};

/// Every sort of caller.
pub(super) fn callers() -> Vec<Who> {
    let who = |subject: &str| Who { subject: subject.to_owned(), ..Who::default() };
    vec![
        who("anonymous"),
        who("organization"),
        who("user:ann"),
        Who { teams: vec!["blue".to_owned(); 1], ..who("team:blue") },
        who("agent:ci"),
        who("external:https://idp.example/?a=b#a|b \"quoted\" é"),
        Who {
            groups: (0..200).map(|i| format!("group {i} / \u{1f6aa}")).collect(),
            claims: BTreeMap::from([
                ("email".to_owned(), json!("")),
                ("deep".to_owned(), deep(30)),
                ("number".to_owned(), json!(-0.0)),
            ]),
            headers: BTreeMap::from([("x-long".to_owned(), "x".repeat(4000))]),
            ..who("external:https://idp.example#248289761001")
        },
    ]
}

/// Arguments (and other objects) as they come when nobody thought of them.
pub(super) fn objects() -> Vec<Map<String, Value>> {
    let object = |value: Value| match value {
        Value::Object(fields) => fields,
        other => Map::from_iter([("value".to_owned(), other)]),
    };
    vec![
        Map::new(),
        object(json!({"": "", "a/b": 1, "m~n": 2, "\u{202e}": "\u{0}", "é": "\u{1f6aa}"})),
        object(
            json!({"null": null, "true": true, "big": u64::MAX, "small": i64::MIN, "fraction": 1e-300, "list": [[], {}, [null]]}),
        ),
        object(deep(60)),
        object(json!({"text": "x".repeat(256 << 10)})),
        object(json!({"many": (0..5000).collect::<Vec<u32>>()})),
        object(json!({"path": "../../etc/passwd", "url": "http://169.254.169.254/", "sql": "'; drop table users; --"})),
    ]
}

/// Names of tools, prompts and servers' methods.
pub(super) fn names() -> Vec<String> {
    ["x", "delete_everything", "Ünïcode \u{1f6aa}", "a b/c?d=e#f", "*"]
        .into_iter()
        .map(str::to_owned)
        .chain(["n".repeat(4000)])
        .collect()
}

fn deep(levels: u32) -> Value {
    (0..levels).fold(json!("bottom"), |inner, _| json!({ "in": inner }))
}

/// The case with other services out of order, each way once. Empty where it knows no services.
pub(super) fn without_services(case: &Case) -> Vec<(String, Case)> {
    if case.http.is_empty() {
        return Vec::new();
    }
    let each = |name: &str, change: &dyn Fn(&Exchange) -> Exchange| {
        let http = case.http.iter().map(change).collect();
        (name.to_owned(), Case { http, ..case.clone() })
    };
    let bare = |exchange: &Exchange| Exchange {
        method: exchange.method.clone(),
        url: exchange.url.clone(),
        ..Exchange::default()
    };
    let mut all: Vec<_> = NoAnswer::ALL
        .into_iter()
        .map(|failure| each(&format!("{failure:?}"), &|one| Exchange { failure: Some(failure), ..bare(one) }))
        .collect();
    for (name, status, body) in [
        ("a server error", 500, "oops"),
        ("too many requests", 429, "{}"),
        ("a page in place of an answer", 200, "<html>sign in</html>"),
        ("an empty answer", 200, ""),
        ("another answer than was asked for", 200, r#"{"unexpected": true}"#),
        ("a list in place of an object", 200, "[]"),
        ("a refusal", 403, r#"{"error": "forbidden"}"#),
    ] {
        all.push(each(name, &|one| Exchange { status: Some(status), body: Some(body.to_owned()), ..bare(one) }));
    }
    all
}
