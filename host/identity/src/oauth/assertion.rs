//! Signed assertions: by which a client proves itself (`private_key_jwt`, RFC 7523 section 2.2), and by which an identity
//! provider says whose access token a client may have (ID-JAG, draft-ietf-oauth-identity-assertion-authz-grant).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_model::Secret;
use portcullis_plugin::{Jwt as _, JwtRules, VerifiedJwt};
use serde_json::Value;

use super::{
    LEEWAY, OAuth, OAuthError, Target,
    client::{Client, Origin, Presented, Proof},
    exchange::Asked,
    grant::{For, Issued},
    record::About,
};
use crate::{
    clock::now_ms,
    shelf::Shelf,
    signin::{Who, digest},
};

/// The longest that an identity assertion may be good for, in milliseconds.
const MAX_LIFE_MS: u64 = 3_600_000;
/// The longest that a client's own may be: it is made for one request.
const MAX_OWN_LIFE_MS: u64 = 600_000;
/// What the type of an ID-JAG is.
const ID_JAG: &str = "oauth-id-jag+jwt";

/// Whom an assertion claims to be of, without believing it.
pub(super) fn subject(assertion: &Secret) -> Option<String> {
    claim(assertion, "sub")
}

impl OAuth {
    /// Checks a client's own assertion: issuer and subject are the client, the audience is ours, it is fresh, and it was
    /// never shown before.
    pub(super) async fn prove(&self, client: &Client, assertion: &Secret) -> Result<(), OAuthError> {
        let rules = JwtRules {
            issuer: client.id.clone(),
            jwks_url: if let Proof::KeysUrl(url) = &client.proof { Some(url.clone()) } else { None },
            audiences: vec![
                self.issuer().to_owned(),
                format!("{}/oauth/token", self.issuer()),
                format!("{}/", self.issuer()),
            ],
            algorithms: ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
                .map(str::to_owned)
                .to_vec(),
            leeway_seconds: LEEWAY,
            token_type: None,
        };
        let verified = match &client.proof {
            Proof::Keys(keys) => self.parts.jwt.verify_by(keys.as_bytes(), assertion, &rules),
            _ => self.parts.jwt.verify(assertion, &rules).await,
        };
        let jwt = verified.map_err(|error| {
            tracing::info!(client = client.id, %error, "a client's assertion is refused");
            OAuthError::client()
        })?;
        // Documents are anybody's: what they show must not crowd out what those show whom an operator knows.
        let used = if client.origin == Origin::Document { &self.used_by_documents } else { &self.used };
        if jwt.subject != client.id || !first_use(used, MAX_OWN_LIFE_MS, &jwt, &client.id).await? {
            return Err(OAuthError::client());
        }
        Ok(())
    }

    /// An identity assertion buys an access token.
    pub(super) async fn by_assertion(
        &self,
        presented: &Presented,
        asked: &Asked,
        about: &mut About,
    ) -> Result<Issued, OAuthError> {
        let assertion = asked.assertion.as_ref().ok_or_else(|| OAuthError::request("assertion is missing"))?;
        let claimed = claim(assertion, "resource");
        let resource = asked.resource.as_deref().or(claimed.as_deref()).ok_or_else(OAuthError::target)?;
        let target = self.target(resource)?;
        about.target = Some(target.clone());
        let client = self.authenticate(&target.tenant, presented).await?;
        about.client = Some(client.id.clone());
        if !client.is_confidential() {
            return Err(OAuthError::new(
                "unauthorized_client",
                "an assertion is taken of clients that prove who they are",
            ));
        }
        let jwt = self.asserted(&target, assertion).await?;
        let text = |name: &str| jwt.claims.get(name).and_then(Value::as_str);
        if text("client_id") != Some(client.id.as_str()) {
            return Err(OAuthError::grant());
        }
        // Where it says which resource it is for, it is for no other.
        match jwt.claims.get("resource") {
            None => {}
            Some(Value::String(r)) if self.target(r).is_ok_and(|t| t == target) => {}
            Some(Value::Array(all))
                if all.iter().filter_map(Value::as_str).any(|r| self.target(r).is_ok_and(|t| t == target)) => {}
            Some(_) => return Err(OAuthError::grant()),
        }
        if !first_use(&self.used, MAX_LIFE_MS, &jwt, &jwt.issuer).await? {
            return Err(OAuthError::grant());
        }
        let granted = text("scope").map(|s| self.scopes(&target, Some(s)));
        let mut scopes = match asked.scope.as_deref() {
            Some(asked) => self.scopes(&target, Some(asked)),
            None => granted.clone().unwrap_or_default(),
        };
        // The provider's word is the most.
        if let Some(granted) = granted {
            scopes.retain(|s| granted.contains(s));
        }
        let who = Who::Identity { issuer: jwt.issuer.clone(), subject: jwt.subject.clone() };
        about.owner = Some(who.to_string());
        let wanted = For {
            client: &client.id,
            target: &target,
            scopes: &scopes,
            who: &who,
            groups: &[],
            signed_in_ms: now_ms(),
            provider: None,
            grant: None,
        };
        // No refresh token: the next access token costs the next assertion, so that the provider can end it.
        self.access(&wanted).await
    }

    /// An assertion of a provider of the tenant that is believed.
    async fn asserted(&self, target: &Target, assertion: &Secret) -> Result<VerifiedJwt, OAuthError> {
        let issuer = self.parts.jwt.unverified_issuer(assertion).ok_or_else(OAuthError::grant)?;
        let rules = {
            let fleet = self.parts.registry.snapshot();
            let provider = fleet
                .identity_providers(&target.tenant)
                .find(|p| p.spec.assertions && p.spec.issuer == issuer)
                .ok_or_else(OAuthError::grant)?;
            JwtRules {
                issuer,
                jwks_url: provider.spec.jwks_url.as_ref().map(ToString::to_string),
                audiences: vec![self.issuer().to_owned(), format!("{}/", self.issuer())],
                algorithms: ["RS256", "PS256", "ES256", "ES384", "EdDSA"].map(str::to_owned).to_vec(),
                leeway_seconds: LEEWAY,
                token_type: Some(ID_JAG.to_owned()),
            }
        };
        self.parts.jwt.verify(assertion, &rules).await.map_err(|error| {
            tracing::info!(issuer = rules.issuer, %error, "an identity assertion is refused");
            OAuthError::grant()
        })
    }
}

/// Whether an assertion is shown for the first time. It has to name itself (`jti`) and when it was made, and may not be good for
/// longer than `life_ms`: what it is remembered by is bounded.
async fn first_use(used: &Shelf<()>, life_ms: u64, jwt: &VerifiedJwt, by: &str) -> Result<bool, OAuthError> {
    let now = now_ms();
    let leeway = u64::from(LEEWAY) * 1000;
    let issued = jwt.claims.get("iat").and_then(Value::as_f64).unwrap_or(-1.0);
    #[allow(clippy::cast_precision_loss, reason = "seconds since 1970 are far from where it matters")]
    let latest = (now + leeway) as f64 / 1000.0;
    let id = jwt.claims.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty() && id.len() <= 256);
    let (Some(id), true) = (id, (0.0..=latest).contains(&issued)) else { return Ok(false) };
    if jwt.expires_ms > now + life_ms + leeway {
        return Ok(false);
    }
    let key = digest("portcullis used assertion 1", format!("{by}\0{id}").as_bytes());
    Ok(used.claim(&key, jwt.expires_ms + 2 * leeway, &()).await?)
}

/// A claim of an assertion that nobody has verified.
fn claim(assertion: &Secret, name: &str) -> Option<String> {
    if assertion.len() > crate::jwt::MAX_TOKEN {
        return None;
    }
    let payload = assertion.expose().split(|b| *b == b'.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims.get(name)?.as_str().map(str::to_owned)
}
