//! `OAuthClient`: a program that was registered by an operator, not by itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use crate::{Name, Problem, address::is_loopback, spec::SecretSource};

/// A client of our authorization server. Its client id is the resource's name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OAuthClient {
    /// What people read when they are asked for consent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Where people are sent back to, exactly; of a loopback address the port may differ (RFC 8252 section 7.3).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub redirect_uris: Vec<String>,
    /// What it proves itself by: a secret,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretSource>,
    /// or a key of this JSON Web Key Set,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Value>,
    /// or a key of the set at this URL. Without any it is a public client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_url: Option<Url>,
    /// The `Agent` that it is by itself, with the grant `client_credentials`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Name>,
}

impl OAuthClient {
    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        if let Some(source) = &self.secret {
            source.check("spec.secret", problems);
        }
        let ways = [self.secret.is_some(), self.keys.is_some(), self.keys_url.is_some()];
        if ways.into_iter().filter(|w| *w).count() > 1 {
            problems.push(Problem::new("spec", "say one of secret, keys and keysUrl"));
        }
        if self.agent.is_some() && !ways.contains(&true) {
            problems.push(Problem::new("spec.agent", "a client that is an agent needs secret, keys or keysUrl"));
        }
        for (i, uri) in self.redirect_uris.iter().enumerate() {
            if let Err(why) = redirect_problem(uri) {
                problems.push(Problem::new(format!("spec.redirectUris[{i}]"), why));
            }
        }
    }
}

/// Whether a text is an OAuth scope (RFC 6749 section 3.3).
pub fn is_scope(text: &str) -> bool {
    let fine = |b: u8| b == 0x21 || (0x23..=0x5b).contains(&b) || (0x5d..=0x7e).contains(&b);
    !text.is_empty() && text.len() <= 128 && text.bytes().all(fine)
}

/// Whether a client may be sent back to this URI: https anywhere, http on loopback (RFC 8252 section 7.3), or a scheme of its
/// own (section 7.1); never with a fragment (RFC 6749 section 3.1.2), or a scheme that a browser would run.
///
/// # Errors
/// What is wrong, in words.
pub fn redirect_problem(uri: &str) -> Result<(), &'static str> {
    if uri.len() > 2048 || !uri.bytes().all(|b| b.is_ascii_graphic() && !b"\\\"<>^`{|}".contains(&b)) {
        return Err("is no plain URI of at most 2048 characters");
    }
    let url = Url::parse(uri).map_err(|_| "is no absolute URI")?;
    if url.fragment().is_some() {
        return Err("must have no fragment");
    }
    match url.scheme() {
        "https" if url.has_host() && url.username().is_empty() && url.password().is_none() => Ok(()),
        "http" if is_loopback(&url) && url.username().is_empty() && url.password().is_none() => Ok(()),
        "https" | "http" => Err("must be https, or http on 127.0.0.1, [::1] or localhost, without a user in it"),
        "javascript" | "data" | "vbscript" | "file" | "blob" | "about" | "ftp" | "ws" | "wss" | "mailto" | "tel"
        | "view-source" => Err("has a scheme that nobody is sent back by"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_https_loopback_or_an_app() {
        for good in [
            "https://app.example/cb?x=1",
            "http://127.0.0.1:33418/",
            "http://localhost/cb",
            "http://[::1]:1/cb",
            "cursor://anysphere.cursor-mcp/oauth/callback",
            "com.example.app:/cb",
        ] {
            assert_eq!(redirect_problem(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "/cb",
            "http://app.example/cb",
            "https://app.example/cb#x",
            "https://user@app.example/",
            "javascript:alert(1)",
            "data:text/html,x",
            "http://localhost.evil.example/",
            "https://a.example/\\@evil.example",
            "https://a.example/ x",
        ] {
            assert!(redirect_problem(bad).is_err(), "{bad}");
        }
    }
}
