//! Somebody's groups, as their identity provider tells them: in the ID token, or where it is asked who an access token is of
//! (OpenID Connect Core 1.0 section 5.3), since some tell them there alone.

use portcullis_model::{Secret, spec::IdentityProvider};
use portcullis_plugin::VerifiedJwt;
use serde_json::Value;

use super::{OidcParts, wire};

/// The most groups of one person that are looked at.
const MAX_GROUPS: usize = 500;

/// Whom to ask.
pub(super) struct Asked<'a> {
    pub(super) parts: &'a OidcParts,
    pub(super) provider: &'a IdentityProvider,
    pub(super) metadata: &'a wire::Metadata,
}

impl Asked<'_> {
    /// The groups of whom an ID token is about; none where the operator wants none, or the provider names none.
    ///
    /// # Errors
    /// Why they can't be told, for operators.
    pub(super) async fn of(&self, jwt: &VerifiedJwt, access_token: Option<&Secret>) -> Result<Vec<String>, String> {
        let Some(claim) = self.provider.groups_claim.as_deref() else { return Ok(Vec::new()) };
        match (jwt.claims.get(claim), access_token) {
            (None, Some(token)) => self.by_token(&jwt.subject, token).await,
            _ => Ok(named(&jwt.claims, claim)),
        }
    }

    /// The groups of somebody, asked with an access token of theirs; none where the provider serves no such place.
    ///
    /// # Errors
    /// As above, also where the answer is about somebody else.
    pub(super) async fn by_token(&self, subject: &str, token: &Secret) -> Result<Vec<String>, String> {
        let Some(claim) = self.provider.groups_claim.as_deref() else { return Ok(Vec::new()) };
        let Some(endpoint) = &self.metadata.userinfo_endpoint else { return Ok(Vec::new()) };
        let claims = wire::userinfo(self.parts, endpoint, token).await?;
        // Section 5.3.2: it may be anybody's answer otherwise.
        if claims.get("sub").and_then(Value::as_str) != Some(subject) {
            return Err("it tells of somebody else".to_owned());
        }
        Ok(named(&claims, claim))
    }
}

/// The groups that a claim names: a string, or a list of strings.
fn named(claims: &Value, claim: &str) -> Vec<String> {
    match claims.get(claim) {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).take(MAX_GROUPS).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}
