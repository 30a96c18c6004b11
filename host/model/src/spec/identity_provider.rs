//! `IdentityProvider`: who else says who somebody is. People sign in by it, and assertions of it are believed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{Problem, spec::SecretSource};

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
    /// Whether its identity assertions (ID-JAG) buy access tokens here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub assertions: bool,
    /// Where its keys are, where its metadata does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<Url>,
}

fn yes() -> bool {
    true
}

fn usual_scopes() -> Vec<String> {
    vec!["profile".to_owned(), "email".to_owned()]
}

impl IdentityProvider {
    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        let url = Url::parse(&self.issuer).ok();
        let fine = url.is_some_and(|u| {
            matches!(u.scheme(), "https" | "http") && u.has_host() && u.query().is_none() && u.fragment().is_none()
        });
        if !fine {
            problems.push(Problem::new("spec.issuer", "must be an https URL without query and fragment"));
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
    }
}
