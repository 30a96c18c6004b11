//! `credential.oauth`: how a connection of a server gets its tokens from an authorization server.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{Problem, spec::SecretSource};

/// OAuth 2.1 towards a server: whoever connects it signs in at its authorization server, and the connection holds tokens.
/// Everything is discovered (RFC 9728, RFC 8414); what stands here goes before what is found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OAuth {
    /// The authorization server, where the server itself does not name the right one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization_server: Option<AuthorizationServer>,
    /// The client that was registered for this gateway at the authorization server, or the URL of a client-id metadata
    /// document that stands elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Its secret, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<SecretSource>,
    /// How the gateway becomes a client of the authorization server.
    pub registration: Registration,
    /// Scopes that are asked for, beside those that a challenge of the server names; where left out, those that the
    /// server's metadata lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// The resource that tokens are asked for (RFC 8707), where it is not what the server's metadata says. Empty: none is
    /// named, for an authorization server that does not know the parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Further parameters of the authorization request, such as `audience` or `prompt`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra_parameters: BTreeMap<String, String>,
    /// Where the access token goes.
    pub header: TokenHeader,
}

/// An authorization server that the operator names. Without endpoints they are read from its metadata.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuthorizationServer {
    /// Its issuer identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Where people sign in. Needs `tokenEndpoint` too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization_endpoint: Option<Url>,
    /// Where tokens are asked for. Needs `authorizationEndpoint` too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_endpoint: Option<Url>,
}

/// How the gateway becomes a client of an authorization server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Registration {
    /// The client that is given; else a client-id metadata document; else dynamic registration.
    #[default]
    Auto,
    /// A client-id metadata document: the gateway's own, or that of `clientId`.
    MetadataDocument,
    /// Dynamic registration (RFC 7591).
    Dynamic,
    /// The client of `clientId` only.
    Given,
}

/// The request header that the access token goes into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TokenHeader {
    /// Its name.
    pub name: String,
    /// Put before the token, with the space.
    pub prefix: String,
}

impl Default for TokenHeader {
    fn default() -> Self {
        Self { name: "Authorization".to_owned(), prefix: "Bearer ".to_owned() }
    }
}

/// Parameters of an authorization request that are ours to set.
const OURS: [&str; 10] = [
    "response_type",
    "client_id",
    "client_secret",
    "redirect_uri",
    "scope",
    "state",
    "code_challenge",
    "code_challenge_method",
    "resource",
    "request_uri",
];

impl OAuth {
    /// Whether a text is the URL of a client-id metadata document: https, with a path.
    pub fn is_document(client_id: &str) -> bool {
        Url::parse(client_id).is_ok_and(|url| url.scheme() == "https" && url.path().len() > 1)
    }

    pub(super) fn check(&self, remote: bool, problems: &mut Vec<Problem>) {
        const PATH: &str = "spec.credential.oauth";
        let mut problem = |path: &str, message: &str| problems.push(Problem::new(format!("{PATH}{path}"), message));
        if !remote {
            problem("", "only a remote server has OAuth: a process takes its tokens from fields");
        }
        match self.registration {
            Registration::Given if self.client_id.is_none() => {
                problem(".clientId", "is what registration: given needs")
            }
            Registration::Dynamic if self.client_id.is_some() => {
                problem(
                    ".clientId",
                    "has no meaning with registration: dynamic, where the authorization server says it",
                );
            }
            Registration::MetadataDocument if self.client_id.as_deref().is_some_and(|id| !Self::is_document(id)) => {
                problem(".clientId", "must be the https URL of a client-id metadata document");
            }
            _ => {}
        }
        if self.client_id.as_deref().is_some_and(|id| id.is_empty() || id.chars().any(char::is_control)) {
            problem(".clientId", "must be visible text");
        }
        if let Some(source) = &self.client_secret {
            source.check(&format!("{PATH}.clientSecret"), problems);
        }
        let mut problem = |path: &str, message: &str| problems.push(Problem::new(format!("{PATH}{path}"), message));
        if self.client_secret.is_some() && self.client_id.is_none() {
            problem(".clientSecret", "needs a clientId");
        }
        for scope in &self.scopes {
            // RFC 6749 section 3.3.
            if scope.is_empty() || !scope.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e)) {
                problem(".scopes", "each is one word of visible ASCII without quotes and backslashes");
            }
        }
        if let Some(resource) = self.resource.as_deref().filter(|r| !r.is_empty())
            && !Url::parse(resource).is_ok_and(|url| url.fragment().is_none())
        {
            problem(".resource", "must be an absolute URI without a fragment (RFC 8707)");
        }
        for name in self.extra_parameters.keys() {
            if OURS.contains(&name.as_str()) {
                problem(&format!(".extraParameters.{name}"), "is set by Portcullis");
            }
        }
        if let Some(server) = &self.authorization_server {
            if server.authorization_endpoint.is_some() != server.token_endpoint.is_some() {
                problem(".authorizationServer", "say both authorizationEndpoint and tokenEndpoint, or neither");
            }
            if server.issuer.is_none() && server.token_endpoint.is_none() {
                problem(".authorizationServer", "say the issuer, or both endpoints");
            }
            if server.issuer.as_deref().is_some_and(|issuer| {
                !Url::parse(issuer).is_ok_and(|url| {
                    matches!(url.scheme(), "https" | "http") && url.query().is_none() && url.fragment().is_none()
                })
            }) {
                problem(".authorizationServer.issuer", "must be an https URL without query and fragment");
            }
            for (path, url) in [
                (".authorizationServer.authorizationEndpoint", &server.authorization_endpoint),
                (".authorizationServer.tokenEndpoint", &server.token_endpoint),
            ] {
                let wrong = |url: &Url| {
                    !matches!(url.scheme(), "https" | "http")
                        || !url.username().is_empty()
                        || url.password().is_some()
                        || url.fragment().is_some()
                };
                if url.as_ref().is_some_and(wrong) {
                    problem(path, "must be an https URL without a credential and a fragment");
                }
            }
        }
        let name = &self.header.name;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
            problem(".header.name", "is not a header name");
        }
        if self.header.prefix.bytes().any(|b| !(0x20..0x7f).contains(&b)) {
            problem(".header.prefix", "must be visible ASCII");
        }
    }
}
