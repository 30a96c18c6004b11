//! What a plugin said, as JSON that people write down and compare. Secrets show: they are made up for the case.

use portcullis_plugin::{
    Asserted, Decision, Guarded, Outcome, PluginError, PluginFailure, Rejection, Resolution, Verdict,
};
use serde_json::{Map, Value, json};

use crate::trial::{Answer, Question, Told, What};

fn object(value: Value) -> Told {
    match value {
        Value::Object(fields) => fields,
        other => Map::from_iter([("told".to_owned(), other)]),
    }
}

/// Whatever was said.
pub(crate) fn told(question: &Question, answer: Answer) -> Told {
    match answer {
        Answer::Decision(said) => decision(said),
        Answer::Kept(positions) => match &question.what {
            What::Filter(_, entries) => kept(entries, &positions),
            _ => Told::new(),
        },
        Answer::Resolution(found) => resolution(&found),
        Answer::Rejection(next) => rejection(&next),
        Answer::Verdict(said) => verdict(&said),
    }
}

fn text(secret: &Guarded) -> String {
    // Exit: a made-up secret is shown to whoever made it up.
    String::from_utf8_lossy(secret.value().expose()).into_owned()
}

fn decision(decision: Decision) -> Told {
    object(match decision {
        Decision::Allow => json!({"allow": true}),
        Decision::Deny { code, message } => json!({"deny": {"code": code, "message": message}}),
        Decision::Modify(json) => {
            json!({"modify": serde_json::from_slice::<Value>(&json).unwrap_or_else(|_| String::from_utf8_lossy(&json).into())})
        }
        Decision::RequireApproval(what) => json!({"requireApproval": what}),
    })
}

fn kept(entries: &[(String, String)], kept: &[u32]) -> Told {
    let mut by_server: Map<String, Value> = Map::new();
    for (server, name) in kept.iter().filter_map(|at| entries.get(*at as usize)) {
        let names = by_server.entry(server.as_str()).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(names) = names {
            names.push(name.as_str().into());
        }
    }
    object(json!({"keep": by_server}))
}

fn resolution(found: &Resolution) -> Told {
    let mut told = match &found.outcome {
        Outcome::Use { connection } => object(json!({"use": connection.as_str()})),
        Outcome::Headers => Map::new(),
        Outcome::None => object(json!({"none": true})),
        Outcome::Missing(need) => object(json!({"missing": need})),
    };
    if !found.headers.is_empty() {
        let headers = found.headers.iter().map(|(name, value)| (name.to_string(), text(value).into()));
        told.insert("headers".to_owned(), Value::Object(headers.collect()));
    }
    if let Some(at) = found.expires_ms {
        told.insert("expiresMs".to_owned(), at.into());
    }
    if !found.vary.is_empty() {
        told.insert("vary".to_owned(), found.vary.clone().into());
    }
    if !found.kept.is_empty() {
        let kept = found.kept.iter().map(|(name, value)| (name.clone(), text(value).into()));
        told.insert("kept".to_owned(), Value::Object(kept.collect()));
    }
    told
}

fn rejection(next: &Rejection) -> Told {
    match next {
        Rejection::Retry(with) => object(json!({"retry": resolution(with)})),
        Rejection::Reconnect(what) => object(json!({"reconnect": what})),
        Rejection::GiveUp => object(json!({"giveUp": true})),
    }
}

fn verdict(verdict: &Verdict) -> Told {
    object(match verdict {
        Verdict::Accepted { principal, expires_ms, vary, .. } => {
            let who = match &principal.who {
                Asserted::Token(token) => token.subject.to_string(),
                Asserted::External { issuer, subject } => format!("external:{issuer}#{subject}"),
            };
            let mut told = object(json!({"subject": who}));
            let mut put = |name: &str, value: Value| {
                let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty) || value == json!({});
                if !empty {
                    told.insert(name.to_owned(), value);
                }
            };
            put("displayName", principal.display_name.clone().into());
            put("groups", principal.groups.clone().into());
            put("roles", principal.roles.iter().map(|role| role.as_str().to_owned()).collect::<Vec<_>>().into());
            put("claims", Value::Object(principal.claims.iter().cloned().collect()));
            put("expiresMs", (*expires_ms).into());
            put("vary", vary.clone().into());
            json!({"accepted": told})
        }
        Verdict::Anonymous { .. } => json!({"anonymous": true}),
        Verdict::NotMine { .. } => json!({"notMine": true}),
        Verdict::Challenge { parameters, message } => {
            json!({"challenge": {"parameters": parameters, "message": message}})
        }
        Verdict::Refused(why) => json!({"refused": why}),
    })
}

pub(crate) fn failure(failure: &PluginFailure) -> Told {
    object(match failure {
        PluginFailure::Error(PluginError::Denied { code, message }) => {
            json!({"error": {"denied": {"code": code, "message": message}}})
        }
        PluginFailure::Error(error) => json!({"error": error.to_string()}),
        other => json!({"failed": other.word(), "why": other.to_string()}),
    })
}
