//! Settings of the credential modes `idp-exchange` and `passthrough`: what an operator writes under `credential.settings`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use crate::{
    Problem,
    address::is_loopback,
    spec::{CredentialMode, McpServer},
};

/// The mode that has an identity provider swap the caller's token.
pub const IDP_EXCHANGE: &str = "idp-exchange";
/// The mode that passes the caller's own token on.
pub const PASSTHROUGH: &str = "passthrough";

/// The most bytes of a reason.
const MAX_REASON: usize = 500;
/// The most further parameters of a token request.
const MAX_PARAMETERS: usize = 16;
/// Parameters of token requests that settings have fields for, or that prove something.
const OURS: [&str; 17] = [
    "grant_type",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "subject_token",
    "subject_token_type",
    "actor_token",
    "actor_token_type",
    "requested_token_type",
    "assertion",
    "audience",
    "resource",
    "scope",
    "refresh_token",
    "code",
    "requested_token_use",
];

/// `credential.settings` of the mode `idp-exchange`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExchangeSettings {
    /// How the caller's token is swapped.
    #[serde(default)]
    pub flow: Flow,
    /// The identity provider's token endpoint: `https`, or `http` at a loopback address. Its origin is granted to the plugin.
    pub token_endpoint: Url,
    /// As whom Portcullis asks there.
    pub client: TokenClient,
    /// What the caller's token is: a token type identifier (RFC 8693 section 3) or its last word, such as `access_token`. What is
    /// known of the token where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_token_type: Option<String>,
    /// What is asked for, likewise; up to the provider where left out. `id-jag` asks for an ID-JAG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_token_type: Option<String>,
    /// Whom the new token is for, by the provider's names; of `id-jag` the issuer of the server's authorization server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audience: Vec<String>,
    /// Where it will be used, as URIs (RFC 8707).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resource: Vec<String>,
    /// Scopes, separated by spaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Further parameters of the request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    /// The second request of `id-jag`: at the server's authorization server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<SecondStep>,
    /// Where the new token goes.
    #[serde(default)]
    pub place: TokenPlace,
}

/// How a caller's token is swapped for another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flow {
    /// RFC 8693: the caller's token is the subject token.
    #[default]
    TokenExchange,
    /// An identity assertion grant: token exchange at the identity provider for an ID-JAG, then a JWT bearer grant (RFC 7523) with
    /// it at the server's authorization server.
    IdJag,
    /// A JWT bearer grant with the caller's token as the assertion and `requested_token_use=on_behalf_of`.
    OnBehalfOf,
}

/// A client of a token endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenClient {
    /// `client_id`.
    pub id: String,
    /// How it proves who it is.
    #[serde(default)]
    pub auth: ClientAuth,
    /// Of `basic` and `post`: the secret, by its name among the plugin's granted secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Of `private-key-jwt`: the key, by its name among the plugin's granted secrets. PEM, PKCS #8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The `kid` of the assertion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// The `aud` of the assertion; the endpoint's URL where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The signature algorithm of the assertion (RFC 7518); the key's usual one where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<String>,
}

/// How a client proves to a token endpoint who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientAuth {
    /// `client_secret_basic`.
    #[default]
    Basic,
    /// `client_secret_post`.
    Post,
    /// `private_key_jwt` (RFC 7523 section 2.2).
    PrivateKeyJwt,
    /// Not at all.
    None,
}

/// The request with an ID-JAG at the authorization server of the server that is called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecondStep {
    /// Its token endpoint; its origin is granted to the plugin.
    pub token_endpoint: Url,
    /// As whom Portcullis asks there.
    pub client: TokenClient,
    /// Scopes, separated by spaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Where the token will be used (RFC 8707).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resource: Vec<String>,
    /// Further parameters of the request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
}

/// Where the new token goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TokenPlace {
    /// The request header; `Authorization` where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Put before the token: `Bearer ` in `Authorization`, nothing elsewhere, where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// What is taken out of the answer, as a JSON Pointer; `/access_token` where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

/// `credential.settings` of the mode `passthrough`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PassthroughSettings {
    /// The server's names in `aud`: a token has to hold one of them. The server's URL where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audience: Vec<String>,
    /// Lets tokens through that were not made for the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_audience: Option<Exception>,
}

/// An operator's exception from a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exception {
    /// Why, for whoever reads the audit stream.
    pub reason: String,
}

/// The problems of settings for a built-in mode; none for other modes, whose plugins read their settings themselves.
pub fn check_settings(built_in: &str, path: &str, mode: &CredentialMode, problems: &mut Vec<Problem>) {
    let path = format!("{path}.settings");
    let value = Value::Object(mode.settings.clone().into_iter().collect());
    let unread = |error: serde_json::Error| Problem::new(path.clone(), error.to_string());
    match built_in {
        IDP_EXCHANGE => match serde_json::from_value::<ExchangeSettings>(value) {
            Ok(settings) => settings.check(&path, problems),
            Err(error) => problems.push(unread(error)),
        },
        PASSTHROUGH => match serde_json::from_value::<PassthroughSettings>(value) {
            Ok(settings) => settings.check(&path, problems),
            Err(error) => problems.push(unread(error)),
        },
        _ => return,
    }
    if mode.connection.is_some() {
        let path = path.replace(".settings", ".connection");
        problems.push(Problem::new(path, format!("mode {built_in} uses the caller's own token, and no connection")));
    }
}

/// Why a built-in mode can't serve a server; none where it can.
pub fn unfit(built_in: &str, server: &McpServer) -> Option<String> {
    if built_in != IDP_EXCHANGE && built_in != PASSTHROUGH {
        return None;
    }
    let Some(remote) = &server.remote else {
        return Some(format!(
            "mode {built_in} puts a token into each request, so it needs a server over HTTP (spec.remote), and this one is none"
        ));
    };
    (built_in == PASSTHROUGH && remote.url.scheme() != "https")
        .then(|| "mode passthrough sends callers' own tokens, so the server's URL must be https".to_owned())
}

impl ExchangeSettings {
    fn check(&self, path: &str, problems: &mut Vec<Problem>) {
        endpoint(&format!("{path}.tokenEndpoint"), &self.token_endpoint, problems);
        self.client.check(&format!("{path}.client"), problems);
        for (name, kind) in
            [("subjectTokenType", &self.subject_token_type), ("requestedTokenType", &self.requested_token_type)]
        {
            if kind.as_deref().is_some_and(|k| !is_token_type(k)) {
                problems.push(Problem::new(
                    format!("{path}.{name}"),
                    "use access_token, id_token, jwt, refresh_token, saml2, or a whole identifier such as urn:ietf:params:oauth:token-type:jwt",
                ));
            }
        }
        parameters(&format!("{path}.parameters"), &self.parameters, problems);
        match (self.flow, &self.then) {
            (Flow::IdJag, None) => problems.push(Problem::new(
                format!("{path}.then"),
                "flow id-jag needs the token endpoint and client of the server's authorization server",
            )),
            (Flow::IdJag, Some(then)) => then.check(&format!("{path}.then"), problems),
            (_, Some(_)) => problems.push(Problem::new(format!("{path}.then"), "only flow id-jag has a second step")),
            (_, None) => {}
        }
        if self.flow == Flow::IdJag && self.audience.len() != 1 {
            problems.push(Problem::new(
                format!("{path}.audience"),
                "flow id-jag needs one: the issuer of the server's authorization server",
            ));
        }
        if self.flow == Flow::IdJag && self.requested_token_type.is_some() {
            problems.push(Problem::new(format!("{path}.requestedTokenType"), "flow id-jag says it itself"));
        }
        if self.flow == Flow::OnBehalfOf && (self.subject_token_type.is_some() || !self.audience.is_empty()) {
            problems.push(Problem::new(path, "flow on-behalf-of has neither subjectTokenType nor audience: say scope"));
        }
        self.place.check(&format!("{path}.place"), problems);
    }
}

impl SecondStep {
    fn check(&self, path: &str, problems: &mut Vec<Problem>) {
        endpoint(&format!("{path}.tokenEndpoint"), &self.token_endpoint, problems);
        self.client.check(&format!("{path}.client"), problems);
        parameters(&format!("{path}.parameters"), &self.parameters, problems);
    }
}

impl TokenClient {
    fn check(&self, path: &str, problems: &mut Vec<Problem>) {
        if self.id.is_empty() {
            problems.push(Problem::new(format!("{path}.id"), "must not be empty"));
        }
        let (secret, key) = match self.auth {
            ClientAuth::Basic | ClientAuth::Post => (true, false),
            ClientAuth::PrivateKeyJwt => (false, true),
            ClientAuth::None => (false, false),
        };
        for (name, given, wanted) in [("secret", &self.secret, secret), ("key", &self.key, key)] {
            match (given, wanted) {
                (None, true) => problems.push(Problem::new(
                    format!("{path}.{name}"),
                    "must name one of the plugin's granted secrets (spec.grants.secrets)",
                )),
                (Some(_), false) => {
                    problems.push(Problem::new(format!("{path}.{name}"), "is not used with this auth"));
                }
                _ => {}
            }
        }
        let of_key = self.key_id.is_some() || self.audience.is_some() || self.algorithm.is_some();
        if of_key && self.auth != ClientAuth::PrivateKeyJwt {
            problems.push(Problem::new(path, "keyId, audience and algorithm belong to auth private-key-jwt"));
        }
        if let Some(name) = &self.algorithm
            && !["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"].contains(&&**name)
        {
            problems.push(Problem::new(format!("{path}.algorithm"), "is no signature with a private key"));
        }
    }
}

impl TokenPlace {
    fn check(&self, path: &str, problems: &mut Vec<Problem>) {
        if let Some(name) = &self.header
            && (name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)))
        {
            problems.push(Problem::new(format!("{path}.header"), "is not a header name"));
        }
        if self.field.as_deref().is_some_and(|f| !f.starts_with('/')) {
            problems.push(Problem::new(format!("{path}.field"), "must be a JSON Pointer such as /access_token"));
        }
    }
}

impl PassthroughSettings {
    fn check(&self, path: &str, problems: &mut Vec<Problem>) {
        if self.audience.iter().any(String::is_empty) {
            problems.push(Problem::new(format!("{path}.audience"), "must not be empty"));
        }
        if let Some(Exception { reason }) = &self.allow_audience
            && (reason.trim().len() < 10 || reason.len() > MAX_REASON)
        {
            problems.push(Problem::new(
                format!("{path}.allowAudience.reason"),
                format!("must say why, in 10 to {MAX_REASON} bytes: it stands in the audit stream with each use"),
            ));
        }
    }
}

fn endpoint(path: &str, url: &Url, problems: &mut Vec<Problem>) {
    if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback(url)) {
        problems.push(Problem::new(path, "must be https, or http at a loopback address"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        problems.push(Problem::new(path, "must hold neither a credential nor a fragment"));
    }
}

fn parameters(path: &str, given: &BTreeMap<String, String>, problems: &mut Vec<Problem>) {
    if given.len() > MAX_PARAMETERS {
        problems.push(Problem::new(path, format!("{MAX_PARAMETERS} at most")));
    }
    for name in given.keys().filter(|name| OURS.contains(&name.as_str())) {
        problems.push(Problem::new(format!("{path}.{name}"), "is set by Portcullis, or has a field of its own"));
    }
}

fn is_token_type(text: &str) -> bool {
    text.contains(':') || ["access_token", "id_token", "jwt", "refresh_token", "saml1", "saml2"].contains(&text)
}
