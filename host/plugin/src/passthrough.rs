//! Whether a caller's own token may go on to the server that is called (security decision 22).
//!
//! An identity provider's token that came with the request, made for that server too, bound to no key, over https only. The
//! exception is an operator's, in the assignment's settings, with its reason. What holds for the built-in `passthrough` holds for
//! every plugin: it is checked where the token is placed.

use portcullis_model::{CallerToken, TokenOrigin, spec::exchange::PassthroughSettings};
use serde_json::Value;
use url::Url;

use crate::facts::TargetFacts;

/// A caller's token that goes on to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// The operator's reason, where the token was not made for that server.
    pub exception: Option<String>,
}

/// Checks the token against the target. The error is a sentence for the log.
pub(crate) fn check(token: &CallerToken, target: &TargetFacts) -> Result<Passed, String> {
    if token.origin != TokenOrigin::Presented {
        return Err("only a token that came with the request is passed on".into());
    }
    if token.bound {
        return Err("a token that is bound to the caller's key is not passed on".into());
    }
    let url = Url::parse(&target.url).map_err(|_| "there is no URL to pass a token on to".to_owned())?;
    if url.scheme() != "https" {
        return Err("a caller's token is passed on over https only".into());
    }
    // Read leniently: the settings are a stranger plugin's own too, and what does not fit gives nobody anything.
    let read = |name: &str| target.settings.get(name).cloned().unwrap_or(Value::Null);
    let audience: Vec<String> = serde_json::from_value(read("audience")).unwrap_or_default();
    let settings = PassthroughSettings {
        audience,
        allow_audience: serde_json::from_value(read("allowAudience")).unwrap_or_default(),
    };
    if is_for(token, &settings.audience, &target.url) {
        return Ok(Passed { exception: None });
    }
    match settings.allow_audience {
        Some(exception) if !exception.reason.trim().is_empty() => Ok(Passed { exception: Some(exception.reason) }),
        _ => Err("the token was not made for this server".into()),
    }
}

/// Whether the token's audience holds the server: one of these names, or its URL where there are none.
fn is_for(token: &CallerToken, names: &[String], url: &str) -> bool {
    if !names.is_empty() {
        return names.iter().any(|name| token.audiences.contains(name));
    }
    // A URL without a path is written with and without its slash (RFC 3986 section 6.2.3).
    let bare = Url::parse(url).ok().filter(|u| u.path() == "/" && u.query().is_none()).and(url.strip_suffix('/'));
    token.audiences.iter().any(|audience| audience == url || Some(audience.as_str()) == bare)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portcullis_model::{Name, Secret};
    use serde_json::json;

    use super::*;

    fn token(audiences: &[&str]) -> CallerToken {
        CallerToken {
            secret: Secret::new("t"),
            origin: TokenOrigin::Presented,
            issuer: "https://idp.example".into(),
            audiences: audiences.iter().map(|a| (*a).to_owned()).collect(),
            expires_ms: None,
            bound: false,
            token_type: None,
            digest: [0; 32],
        }
    }

    fn target(url: &str, settings: Value) -> TargetFacts {
        TargetFacts {
            server: Name::default_tenant(),
            url: url.into(),
            connection: None,
            settings: Arc::new(settings.as_object().cloned().unwrap_or_default()),
        }
    }

    #[test]
    fn only_what_was_made_for_the_server_goes_there() {
        let mcp = "https://mcp.example/mcp";
        let rows = [
            (vec!["gateway", mcp], mcp, json!({}), true),
            (vec!["gateway"], mcp, json!({}), false),
            (vec![], mcp, json!({}), false),
            (vec!["https://mcp.example/mcp/"], mcp, json!({}), false),
            (vec!["https://mcp.example"], "https://mcp.example/", json!({}), true),
            (vec!["https://mcp.example/"], "https://mcp.example/", json!({}), true),
            (vec![mcp], "http://mcp.example/mcp", json!({"audience": [mcp]}), false),
            (vec!["api://mcp"], mcp, json!({"audience": ["api://mcp", "other"]}), true),
            // Where names are written down, the URL is none of them.
            (vec![mcp], mcp, json!({"audience": ["api://mcp"]}), false),
            (vec!["gateway"], mcp, json!({"audience": "gateway"}), false),
            (vec!["gateway"], mcp, json!({"allowAudience": true}), false),
            (vec!["gateway"], mcp, json!({"allowAudience": {"reason": " "}}), false),
        ];
        for (audiences, url, settings, yes) in rows {
            let found = check(&token(&audiences), &target(url, settings.clone()));
            assert_eq!(found.is_ok(), yes, "{audiences:?} {url} {settings}: {found:?}");
            assert!(found.is_err() || found == Ok(Passed { exception: None }));
        }
    }

    #[test]
    fn an_exception_is_about_the_audience_and_nothing_else() {
        let written = json!({"allowAudience": {"reason": "OPS-12"}});
        let go = |token: &CallerToken, url: &str| check(token, &target(url, written.clone()));
        let passed = go(&token(&["gateway"]), "https://mcp.example/mcp").unwrap();
        assert_eq!(passed.exception.as_deref(), Some("OPS-12"));
        assert!(go(&token(&["gateway"]), "http://mcp.example/mcp").is_err(), "https only");
        let bound = CallerToken { bound: true, ..token(&["https://mcp.example/mcp"]) };
        assert!(go(&bound, "https://mcp.example/mcp").is_err(), "bound to a key");
        let kept = CallerToken { origin: TokenOrigin::SignIn, ..token(&["https://mcp.example/mcp"]) };
        assert!(go(&kept, "https://mcp.example/mcp").is_err(), "did not come with the request");
    }
}
