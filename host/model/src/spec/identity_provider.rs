//! `IdentityProvider`: who else says who somebody is. People sign in by it, and assertions of it are believed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{Problem, Span, spec::SecretSource};

/// An OpenID Connect provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IdentityProvider {
    /// What people read on the button.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The issuer's URL, exactly as in its tokens.
    pub issuer: String,
    /// Who we are there.
    pub client_id: String,
    /// What we prove that by; without it we are a public client, with PKCE alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<SecretSource>,
    /// Whether people may sign in to the pages by it.
    #[serde(default = "yes")]
    pub sign_in: bool,
    /// Whether it also lets in people whom no `User` names and no `Team` has by their groups. Without it they are nobody.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anybody: bool,
    /// What is asked for at sign-in beside `openid`.
    #[serde(default = "usual_scopes")]
    pub scopes: Vec<String>,
    /// The claim that holds somebody's groups, for `Team.spec.groups`. A string or a list of strings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups_claim: Option<String>,
    /// How long a sign-in by it counts, with who it said somebody is and their groups. After that the pages ask for another one,
    /// and what an MCP client got by it is renewed only where the provider stands by it (`loginTokens`).
    #[serde(default = "a_day")]
    pub max_sign_in_age: Span,
    /// Whether its identity assertions (ID-JAG) buy access tokens here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub assertions: bool,
    /// Where its keys are, where its metadata does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<Url>,
    /// Which of its tokens are kept when somebody signs in, sealed, so that calls of theirs can be made in their name where a
    /// server wants that (`idp-exchange`). None are kept where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_tokens: Option<LoginTokens>,
}

/// What is kept of a sign-in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoginTokens {
    /// The token that stands for the person.
    #[serde(default)]
    pub token: LoginToken,
    /// Whether the refresh token is kept as well, where one is given: then calls go on when that token ends, for 30 days at
    /// most.
    #[serde(default = "yes")]
    pub refresh: bool,
    /// What the provider wants to be told at sign-in before it gives a refresh token, such as `prompt: consent` or
    /// `access_type: offline`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
}

/// A token of a sign-in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LoginToken {
    /// The ID token: says who somebody is, and to whom it was said.
    #[default]
    IdToken,
    /// The access token.
    AccessToken,
}

impl LoginToken {
    /// Its token type identifier (RFC 8693 section 3).
    pub fn token_type(self) -> &'static str {
        match self {
            Self::IdToken => "urn:ietf:params:oauth:token-type:id_token",
            Self::AccessToken => "urn:ietf:params:oauth:token-type:access_token",
        }
    }
}

/// The shortest and the longest time that a sign-in may count.
const SIGN_IN_AGES: (Span, Span) = (Span::seconds(1), Span::seconds(30 * 86_400));
/// Parameters of the authorization request that are ours.
const OURS: [&str; 13] = [
    "response_type",
    "response_mode",
    "client_id",
    "redirect_uri",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
    "request",
    "request_uri",
    "id_token_hint",
    "client_secret",
];
/// The most further parameters, and the most bytes of one.
const MAX_PARAMETERS: usize = 16;
const MAX_PARAMETER: usize = 512;

fn yes() -> bool {
    true
}

fn a_day() -> Span {
    Span::seconds(86_400)
}

fn usual_scopes() -> Vec<String> {
    vec!["profile".to_owned(), "email".to_owned()]
}

impl IdentityProvider {
    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        let url = Url::parse(&self.issuer).ok();
        let fine = url.is_some_and(|u| {
            let scheme = u.scheme() == "https" || (u.scheme() == "http" && crate::address::is_loopback(&u));
            scheme && u.has_host() && u.query().is_none() && u.fragment().is_none()
        });
        if !fine {
            problems.push(Problem::new(
                "spec.issuer",
                "must be an https URL, or http at this machine, without query and fragment",
            ));
        }
        if self.client_id.is_empty() {
            problems.push(Problem::new("spec.clientId", "must not be empty"));
        }
        if let Some(source) = &self.client_secret {
            source.check("spec.clientSecret", problems);
        }
        for (i, scope) in self.scopes.iter().enumerate() {
            if !super::oauth_client::is_scope(scope) {
                problems.push(Problem::new(format!("spec.scopes[{i}]"), "is no scope"));
            }
        }
        if self.max_sign_in_age < SIGN_IN_AGES.0 || self.max_sign_in_age > SIGN_IN_AGES.1 {
            problems.push(Problem::new("spec.maxSignInAge", "has to be between 1s and 30d"));
        }
        if let Some(kept) = &self.login_tokens {
            if !self.sign_in {
                problems.push(Problem::new("spec.loginTokens", "nobody signs in by this provider (signIn: false)"));
            }
            if kept.parameters.len() > MAX_PARAMETERS {
                let why = format!("{MAX_PARAMETERS} parameters are the most");
                problems.push(Problem::new("spec.loginTokens.parameters", why));
            }
            for (name, value) in &kept.parameters {
                let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
                if !plain || name.len() > MAX_PARAMETER || value.len() > MAX_PARAMETER {
                    problems.push(Problem::new("spec.loginTokens.parameters", "holds what is no parameter"));
                } else if OURS.contains(&name.as_str()) {
                    let path = format!("spec.loginTokens.parameters.{name}");
                    problems.push(Problem::new(path, "is set by Portcullis"));
                }
            }
        }
    }
}
