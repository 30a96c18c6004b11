//! Headers of requests to a server that are no credential: those that the operator fixed, and those of the client that may pass.
//!
//! The order of precedence stands in [`Enrich::headers`] and [`layered`]: what the client sent, under what the assignment fixes,
//! under what the tool fixes, under the credential.

use std::collections::HashMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis_model::spec::{ServerAssignment, headers::refusal};

/// The most bytes that one client's header may bring to a server.
const MAX_PASSED: usize = 8 << 10;

/// What an assignment says of headers; made only where it says something.
#[derive(Debug, Default)]
pub struct Enrich {
    all: Layer,
    tools: HashMap<String, Layer>,
}

#[derive(Debug, Default)]
struct Layer {
    pass: Vec<HeaderName>,
    fixed: Vec<(HeaderName, HeaderValue)>,
}

impl Enrich {
    /// Compiles an assignment; none where it says nothing of headers. `own` are headers that auth providers of the gateway read
    /// a caller's credential from: those never pass.
    ///
    /// # Errors
    /// In words, for what is no header.
    pub fn of(assignment: &ServerAssignment, own: &[HeaderName]) -> Result<Option<Self>, String> {
        let layer = |pass: &[String], fixed: &std::collections::BTreeMap<String, String>| -> Result<Layer, String> {
            let name = |text: &str| -> Result<HeaderName, String> {
                if let Some(why) = refusal(text) {
                    return Err(format!("the header {text} {why}"));
                }
                let name: HeaderName = text.parse().map_err(|_| format!("\"{text}\" is no header name"))?;
                if own.contains(&name) {
                    return Err(format!("the header {text} holds callers' credentials for this gateway"));
                }
                Ok(name)
            };
            let value = |text: &str| HeaderValue::from_str(text).map_err(|_| "a header's value is none".to_owned());
            Ok(Layer {
                pass: pass.iter().map(|n| name(n)).collect::<Result<_, _>>()?,
                fixed: fixed.iter().map(|(n, v)| Ok((name(n)?, value(v)?))).collect::<Result<_, String>>()?,
            })
        };
        let all = layer(&assignment.pass_headers, &assignment.headers)?;
        let mut tools = HashMap::new();
        for (tool, how) in &assignment.tools {
            if !how.pass_headers.is_empty() || !how.headers.is_empty() {
                tools.insert(tool.clone(), layer(&how.pass_headers, &how.headers)?);
            }
        }
        let nothing = all.pass.is_empty() && all.fixed.is_empty() && tools.is_empty();
        Ok((!nothing).then_some(Self { all, tools }))
    }

    /// The headers of a request: the later of one name wins. `tool` is the tool's own name.
    pub fn headers(&self, tool: Option<&str>, sent: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        let own = tool.and_then(|tool| self.tools.get(tool));
        let layers = || std::iter::once(&self.all).chain(own);
        let mut out = Vec::new();
        for name in layers().flat_map(|layer| &layer.pass) {
            if let Some(value) = passed(name, sent) {
                out.push((name.clone(), value));
            }
        }
        out.extend(layers().flat_map(|layer| &layer.fixed).cloned());
        out
    }
}

/// What the client sent under this name: several values as one list (RFC 9110 section 5.3). Nothing where that is too much.
fn passed(name: &HeaderName, sent: &HeaderMap) -> Option<HeaderValue> {
    let mut all = sent.get_all(name).iter();
    let first = all.next()?;
    let rest: Vec<&HeaderValue> = all.collect();
    if rest.is_empty() {
        return (first.len() <= MAX_PASSED).then(|| first.clone());
    }
    let mut joined = first.as_bytes().to_vec();
    for value in rest {
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(value.as_bytes());
        if joined.len() > MAX_PASSED {
            return None;
        }
    }
    HeaderValue::from_bytes(&joined).ok()
}

/// Headers with others over them: of one name, the one in `over` stays.
pub fn layered(
    mut under: Vec<(HeaderName, HeaderValue)>,
    over: &[(HeaderName, HeaderValue)],
) -> Vec<(HeaderName, HeaderValue)> {
    under.retain(|(name, _)| over.iter().all(|(other, _)| other != name));
    let mut out: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(under.len() + over.len());
    for (name, value) in under {
        out.retain(|(other, _)| *other != name);
        out.push((name, value));
    }
    out.extend_from_slice(over);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enrich(json: serde_json::Value) -> Result<Option<Enrich>, String> {
        let mut assignment = json;
        assignment["server"] = "s".into();
        Enrich::of(&serde_json::from_value(assignment).unwrap(), &[HeaderName::from_static("x-key")])
    }

    fn shown(headers: &[(HeaderName, HeaderValue)]) -> Vec<String> {
        headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect()
    }

    #[test]
    fn the_credential_wins_then_the_tool_then_the_assignment_then_the_client() {
        let one = enrich(serde_json::json!({
            "passHeaders": ["X-Trace", "X-Team", "X-Account"],
            "headers": {"X-Team": "blue", "X-Stage": "all"},
            "tools": {"get": {"headers": {"x-stage": "one"}, "passHeaders": ["x-only"]}},
        }));
        let one = one.unwrap().unwrap();
        let mut sent = HeaderMap::new();
        for (name, value) in [
            ("x-trace", "a"),
            ("x-trace", "b"),
            ("x-team", "red"),
            ("x-account", "mine"),
            ("x-only", "o"),
            ("authorization", "Bearer x"),
            ("x-other", "z"),
        ] {
            sent.append(name, value.parse().unwrap());
        }
        let credential = [(HeaderName::from_static("x-account"), HeaderValue::from_static("sealed"))];
        let of = |tool| shown(&layered(one.headers(tool, &sent), &credential));
        assert_eq!(
            of(Some("get")),
            ["x-trace: a, b", "x-only: o", "x-team: blue", "x-stage: one", "x-account: sealed"]
        );
        assert_eq!(of(Some("put")), ["x-trace: a, b", "x-stage: all", "x-team: blue", "x-account: sealed"]);
        assert_eq!(of(None), of(Some("put")));
    }

    #[test]
    fn what_is_a_credential_or_belongs_to_a_connection_never_passes() {
        for name in [
            "Authorization",
            "cookie",
            "Connection",
            "Mcp-Session-Id",
            "mcp-param-x",
            "Host",
            "Proxy-Authorization",
            "X-Forwarded-For",
            "TE",
            "X-API-Key",
            "x-key",
            "bad name",
            "",
        ] {
            assert!(enrich(serde_json::json!({"passHeaders": [name]})).is_err(), "{name}");
            assert!(enrich(serde_json::json!({"headers": {name: "x"}})).is_err(), "{name}");
            let tool = serde_json::json!({"tools": {"t": {"passHeaders": [name]}}});
            assert!(enrich(tool).is_err(), "{name}");
        }
        assert!(enrich(serde_json::json!({})).unwrap().is_none(), "nothing is made where nothing is said");
    }

    #[test]
    fn a_header_that_is_too_long_does_not_pass() {
        let one = enrich(serde_json::json!({"passHeaders": ["x-long"]})).unwrap().unwrap();
        let mut sent = HeaderMap::new();
        sent.append("x-long", "x".repeat(MAX_PASSED).parse().unwrap());
        assert_eq!(one.headers(None, &sent).len(), 1);
        sent.append("x-long", "y".parse().unwrap());
        assert!(one.headers(None, &sent).is_empty());
    }
}
