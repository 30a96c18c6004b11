//! The token endpoint: a code, a refresh token, a client's own credential or an identity assertion in, an access token out.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_model::{DEFAULT_TENANT, Name, Secret, Subject};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{
    CODE_LIFE, OAuth, OAuthError, Target,
    authorize::CODE_LABEL,
    client::Presented,
    grant::{For, Issued},
    record::About,
};
use crate::{
    clock::{millis, now_ms},
    signin::{digest, random_text},
    token::OnBehalf,
};

/// What is asked of the token endpoint, as it stands in the form; each at most once.
#[derive(Debug, Default)]
pub struct Asked {
    /// `grant_type`.
    pub grant_type: Option<String>,
    /// `code`.
    pub code: Option<Secret>,
    /// `redirect_uri`.
    pub redirect_uri: Option<String>,
    /// `code_verifier`.
    pub code_verifier: Option<Secret>,
    /// `refresh_token`.
    pub refresh_token: Option<Secret>,
    /// `assertion`.
    pub assertion: Option<Secret>,
    /// `scope`.
    pub scope: Option<String>,
    /// `resource`.
    pub resource: Option<String>,
}

impl OAuth {
    /// Answers the token endpoint.
    ///
    /// # Errors
    /// [`OAuthError`], for the client to read.
    pub async fn exchange(&self, presented: &Presented, asked: &Asked) -> Result<Issued, OAuthError> {
        let mut about = About::default();
        let answered = self.answer(presented, asked, &mut about).await;
        self.record_token(presented, about, &answered).await;
        answered
    }

    async fn answer(&self, presented: &Presented, asked: &Asked, about: &mut About) -> Result<Issued, OAuthError> {
        match asked.grant_type.as_deref() {
            Some("authorization_code") => self.redeem(presented, asked, about).await,
            Some("refresh_token") => {
                let shown =
                    asked.refresh_token.as_ref().ok_or_else(|| OAuthError::request("refresh_token is missing"))?;
                let tenant = self.tenant_of_grant(shown).await?;
                let client = self.authenticate(&tenant, presented).await?;
                about.client = Some(client.id.clone());
                self.renew(&client.id, shown, asked, about).await
            }
            Some("client_credentials") => self.by_itself(presented, asked, about).await,
            Some("urn:ietf:params:oauth:grant-type:jwt-bearer") => self.by_assertion(presented, asked, about).await,
            Some(_) => Err(OAuthError::new("unsupported_grant_type", "this grant_type is not served")),
            None => Err(OAuthError::request("grant_type is missing")),
        }
    }

    /// Whose client it is: that of the resource, or of the default tenant. A client of another tenant names its resource,
    /// as it has to.
    fn tenant_of(&self, asked: &Asked) -> Result<Name, OAuthError> {
        match asked.resource.as_deref() {
            Some(resource) => self.target(resource).map(|t| t.tenant),
            None => DEFAULT_TENANT.parse().map_err(|_| OAuthError::target()),
        }
    }

    async fn redeem(&self, presented: &Presented, asked: &Asked, about: &mut About) -> Result<Issued, OAuthError> {
        let shown = asked.code.as_ref().ok_or_else(|| OAuthError::request("code is missing"))?;
        let key = digest(CODE_LABEL, shown.expose());
        let found = self.codes.get(&key).await?;
        let tenant = match &found {
            Some(found) => found.value.target.tenant.clone(),
            None => self.tenant_of(asked)?,
        };
        let client = self.authenticate(&tenant, presented).await?;
        about.client = Some(client.id.clone());
        let found = found.ok_or_else(OAuthError::grant)?;
        let code = &found.value;
        (about.target, about.owner) = (Some(code.target.clone()), Some(code.who.to_string()));
        if let Some(grant) = &code.redeemed {
            // Somebody has this code who should not: what it gave is worth nothing from now on (RFC 6749 section 4.1.2).
            tracing::warn!(client = client.id, "an authorization code was used twice: what it gave is revoked");
            // At first, so that a first use that is still under way finds it gone and ends what it makes.
            self.codes.remove(&key).await?;
            self.end_grant(grant).await?;
            about.ended = Some("code-used-twice");
            return Err(OAuthError::grant());
        }
        let verified = asked.code_verifier.as_ref().is_some_and(|verifier| {
            let fine = (43..=128).contains(&verifier.len());
            let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.expose()));
            fine && bool::from(challenge.as_bytes().ct_eq(code.challenge.as_bytes()))
        });
        let fine = code.client == client.id
            && asked.redirect_uri.as_deref().is_none_or(|uri| uri == code.redirect_uri)
            && now_ms() < code.issued_ms.saturating_add(millis(CODE_LIFE))
            && verified;
        if !fine {
            // A code that somebody guesses at is used up.
            self.codes.remove(&key).await?;
            return Err(OAuthError::grant());
        }
        if let Some(resource) = asked.resource.as_deref()
            && self.target(resource)? != code.target
        {
            return Err(OAuthError::target());
        }
        if let Some(provider) = &code.provider
            && self.parts.oidc.took_back(&code.target.tenant, provider, &code.who, code.signed_in_ms).await?
        {
            self.codes.remove(&key).await?;
            return Err(OAuthError::grant());
        }
        let id = String::from_utf8_lossy(random_text::<12>()?.expose()).into_owned();
        let mut used = code.clone();
        used.redeemed = Some(id.clone());
        if !self.codes.replace(&key, &found, found.until_ms, &used).await? {
            return Err(OAuthError::grant());
        }
        let wanted = For {
            client: &client.id,
            target: &code.target,
            scopes: &code.scopes,
            who: &code.who,
            groups: &code.groups,
            signed_in_ms: code.signed_in_ms,
            provider: code.provider.as_ref(),
            grant: Some(&id),
        };
        let issued = self.grant(&id, wanted).await?;
        // Whoever used the code again while this one was being granted could not end what was not there yet.
        if self.codes.get(&key).await?.is_none_or(|f| f.value.redeemed.as_deref() != Some(&id)) {
            self.end_grant(&id).await?;
            about.ended = Some("code-used-twice");
            return Err(OAuthError::grant());
        }
        Ok(issued)
    }

    /// An agent's own credential (RFC 6749 section 4.4).
    async fn by_itself(&self, presented: &Presented, asked: &Asked, about: &mut About) -> Result<Issued, OAuthError> {
        let target = self.asked_target(asked)?;
        about.target = Some(target.clone());
        let client = self.authenticate(&target.tenant, presented).await?;
        about.client = Some(client.id.clone());
        let (true, Some(agent)) = (client.is_confidential(), client.agent.clone()) else {
            return Err(OAuthError::new(
                "unauthorized_client",
                "this client is no agent: it has nobody to be by itself",
            ));
        };
        let scopes = self.scopes(&target, asked.scope.as_deref());
        let on_behalf = OnBehalf { client: client.id, scopes, ..OnBehalf::default() };
        self.make(&target, Subject::Agent(agent), on_behalf).await
    }

    pub(super) fn asked_target(&self, asked: &Asked) -> Result<Target, OAuthError> {
        self.target(asked.resource.as_deref().ok_or_else(OAuthError::target)?)
    }
}
