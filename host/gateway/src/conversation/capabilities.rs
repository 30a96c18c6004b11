//! What a client said that it can be asked.

use serde_json::{Map, Value};

/// Whether a client with these capabilities (a JSON object) can be asked anything at all. Cheap, for each call.
pub fn can_be_asked(raw: &str) -> bool {
    // Most clients of the hot path say `{}`.
    raw.len() > 2 && Capabilities::read(raw).any()
}

/// Capabilities, read.
#[derive(Debug, Default)]
pub struct Capabilities(Map<String, Value>);

impl Capabilities {
    /// Reads them; what is no object is none.
    pub fn read(raw: &str) -> Self {
        Self(serde_json::from_str(raw).unwrap_or_default())
    }

    fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(Value::is_object)
    }

    fn any(&self) -> bool {
        ["elicitation", "sampling", "roots"].iter().any(|name| self.has(name))
    }

    /// Whether the client can be asked this. A client that names no mode of elicitation can fill in forms (2025-11-25,
    /// elicitation, "Capabilities").
    pub fn allows(&self, method: &str, params: &str) -> bool {
        match method {
            "sampling/createMessage" => self.has("sampling"),
            "roots/list" => self.has("roots"),
            "elicitation/create" => {
                let Some(Value::Object(modes)) = self.0.get("elicitation") else { return false };
                let asked: Value = serde_json::from_str(params).unwrap_or_default();
                match asked.get("mode").and_then(Value::as_str) {
                    Some("url") => modes.contains_key("url"),
                    _ => modes.contains_key("form") || !modes.contains_key("url"),
                }
            }
            _ => false,
        }
    }

    /// All but this one.
    pub fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    /// Those that a server may be told of when somebody else's client is behind it: only what can be asked, so that two
    /// clients who differ in nothing else share a session.
    pub fn for_servers(&self) -> String {
        let kept = ["elicitation", "sampling", "roots"];
        let all: Map<String, Value> = self
            .0
            .iter()
            .filter(|(name, _)| kept.contains(&name.as_str()))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect();
        Value::Object(all).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_asked_what_it_said() {
        for (raw, method, params, allowed) in [
            (r#"{"elicitation":{}}"#, "elicitation/create", "{}", true),
            (r#"{"elicitation":{"form":{}}}"#, "elicitation/create", r#"{"mode":"form"}"#, true),
            (r#"{"elicitation":{}}"#, "elicitation/create", r#"{"mode":"url"}"#, false),
            (r#"{"elicitation":{"url":{}}}"#, "elicitation/create", r#"{"mode":"url"}"#, true),
            (r#"{"elicitation":{"url":{}}}"#, "elicitation/create", "{}", false),
            (r#"{"sampling":{}}"#, "elicitation/create", "{}", false),
            (r#"{"sampling":{}}"#, "sampling/createMessage", "{}", true),
            (r#"{"roots":{}}"#, "roots/list", "", true),
            (r#"{"roots":true}"#, "roots/list", "", false),
            (r#"{"roots":{}}"#, "tools/list", "", false),
            ("nonsense", "roots/list", "", false),
        ] {
            assert_eq!(Capabilities::read(raw).allows(method, params), allowed, "{raw} {method} {params}");
        }
        assert!(!can_be_asked("{}") && !can_be_asked(r#"{"extensions":{"x":{}}}"#) && can_be_asked(r#"{"roots":{}}"#));
        let less = Capabilities::read(r#"{"roots":{},"elicitation":{}}"#).without("elicitation");
        assert!(less.allows("roots/list", "") && !less.allows("elicitation/create", "{}"));
        let told = Capabilities::read(r#"{"roots":{"listChanged":true},"experimental":{"x":{}}}"#).for_servers();
        assert_eq!(told, r#"{"roots":{"listChanged":true}}"#);
    }
}
