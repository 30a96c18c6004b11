//! Renewing a token that was kept since a sign-in: when somebody is about to use it, once for all who do.

use std::{sync::Arc, time::Instant};

use portcullis_model::{CallerToken, spec::LoginToken};
use serde_json::Value;

use super::{
    Oidc, chosen,
    wire::{NoTokens, TokenEndpoint},
};
use crate::{
    clock::now_ms,
    signin::kept::{Given, Held, Person, RETRY},
};

/// Why there is no token just now, though there may be one in a moment. The sentence is for operators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unrenewed(pub String);

impl Oidc {
    /// The token that this one is now, renewed if it is near its end; none where the sign-in that it is of is over, and the
    /// person has to sign in again. One that has not ended is given back where the provider does not answer.
    ///
    /// # Errors
    /// Why there is no fresh one.
    pub async fn fresh(&self, token: &Arc<CallerToken>) -> Result<Option<Arc<CallerToken>>, Unrenewed> {
        let kept = &self.parts.kept;
        let Some(person) = kept.person(&token.digest) else { return Ok(None) };
        let held = person.held();
        if !kept.stands(&held) {
            return Ok(None);
        }
        if !held.is_due(now_ms()) {
            return Ok(Some(Arc::clone(&held.token)));
        }
        // Whoever waited here finds what the first one got.
        let mut failed = person.flight.lock().await;
        let held = person.held();
        if !held.is_due(now_ms()) {
            return Ok(Some(Arc::clone(&held.token)));
        }
        let unrenewed = |why: &str| {
            if held.is_over(now_ms()) { Err(Unrenewed(why.to_owned())) } else { Ok(Some(Arc::clone(&held.token))) }
        };
        if held.refresh.is_none() {
            // Nothing renews it: it holds until its end.
            return Ok((!held.is_over(now_ms())).then(|| Arc::clone(&held.token)));
        }
        if failed.as_ref().is_some_and(|(at, _)| at.elapsed() < RETRY) {
            return unrenewed(failed.as_ref().map_or("", |(_, why)| why.as_str()));
        }
        match self.renewed(&person, &held).await {
            Ok(token) => {
                *failed = None;
                kept.metrics().oauth_renewal("renewed");
                Ok(token)
            }
            Err(NoTokens::Over) => {
                kept.metrics().oauth_renewal("refused");
                tracing::info!(provider = %held.whose.provider, "a kept sign-in is over at its provider and is dropped");
                let dropped = kept.drop_one(&held.whose).await;
                dropped.map_err(|e| Unrenewed(e.to_string()))?;
                Ok(None)
            }
            Err(NoTokens::Failed(why)) => {
                kept.metrics().oauth_renewal("failed");
                tracing::warn!(provider = %held.whose.provider, why, "a kept sign-in could not be renewed; tried again");
                let answer = unrenewed(&why);
                *failed = Some((Instant::now(), why));
                answer
            }
        }
    }

    async fn renewed(&self, person: &Arc<Person>, held: &Arc<Held>) -> Result<Option<Arc<CallerToken>>, NoTokens> {
        let whose = &held.whose;
        let Some(refresh) = &held.refresh else { return Err(NoTokens::Over) };
        let provider = self.provider(&whose.tenant, &whose.provider).map_err(|e| NoTokens::Failed(e.to_string()))?;
        let metadata = self.metadata.of(&self.parts, &provider).await?;
        let endpoint =
            TokenEndpoint { parts: &self.parts, tenant: &whose.tenant, provider: &provider, metadata: &metadata };
        let mut tokens = endpoint.renew(refresh).await?;
        let (token, audiences, expires_ms) = match (held.kind, tokens.id_token.take()) {
            (LoginToken::IdToken, None) => {
                // It may give none (OpenID Connect Core 1.0 section 12.2), and then nothing stands for the person any more.
                tracing::warn!(provider = %whose.provider, "the identity provider renews no ID tokens: keep its access token");
                return Err(NoTokens::Over);
            }
            (kind, Some(id_token)) => {
                let jwt = self.verified(&provider, &id_token).await?;
                // Section 12.2: of the same person, and of no other sign-in.
                let nonce = jwt.claims.get("nonce").and_then(Value::as_str);
                if jwt.subject != whose.subject || jwt.issuer != whose.issuer || nonce.is_some_and(|n| n != held.nonce)
                {
                    return Err(NoTokens::Failed("its new ID token is of another person or sign-in".to_owned()));
                }
                tokens.id_token = Some(id_token);
                chosen(kind, &jwt, &tokens).ok_or_else(|| NoTokens::Failed("it gave no token to keep".to_owned()))?
            }
            (LoginToken::AccessToken, None) => {
                let token = tokens.access_token.take();
                let token = token.ok_or_else(|| NoTokens::Failed("it gave no access token".to_owned()))?;
                (token, Vec::new(), tokens.life_ms.map(|life| now_ms().saturating_add(life)))
            }
        };
        // RFC 6749 section 6: without a new one the old one holds.
        let refresh = tokens.refresh_token.or_else(|| held.refresh.clone());
        let (groups, nonce) = (held.groups.clone(), held.nonce.clone());
        let given = Given { token, audiences, expires_ms, refresh, groups, nonce };
        self.parts.kept.renew(person, held, given).await.map_err(|e| NoTokens::Failed(e.to_string()))
    }
}
