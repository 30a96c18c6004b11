//! Renewing a token that was kept since a sign-in: when somebody is about to use it, once for all who do.

use std::{sync::Arc, time::Instant};

use portcullis_model::{CallerToken, spec::LoginToken};
use portcullis_store::StoreError;
use serde_json::Value;

use super::{
    Oidc, chosen, groups,
    wire::{NoTokens, TokenEndpoint},
};
use crate::{
    clock::now_ms,
    signin::kept::{Given, Held, Person, RETRY, Whose},
};

/// What a provider said so short a time ago is not asked again, in milliseconds: several clients of one person renew their access
/// at about the same time.
const JUST_SAID_MS: u64 = 60_000;

/// Why there is no token just now, though there may be one in a moment. The sentence is for operators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unrenewed(pub String);

/// What a provider says of somebody now.
#[derive(Debug)]
pub(crate) enum Reread {
    /// These are their groups, as it said at a moment (milliseconds since 1970).
    Said(Vec<String>, u64),
    /// Nothing is kept that it could be asked with.
    Nothing,
    /// It refuses what it gave at their sign-in.
    Refused,
}

/// What became of a kept sign-in.
enum Renewal {
    Renewed(Arc<CallerToken>),
    /// It was dropped or replaced meanwhile, or the provider gives nothing to keep.
    Gone,
    /// The provider took it back.
    Refused,
}

impl Oidc {
    /// The token that this one is now, renewed if it is near its end; none where the sign-in that it is of is over, and the
    /// person has to sign in again. One that has not ended is given back where the provider does not answer.
    ///
    /// # Errors
    /// Why there is no fresh one.
    pub async fn fresh(self: &Arc<Self>, token: &Arc<CallerToken>) -> Result<Option<Arc<CallerToken>>, Unrenewed> {
        let kept = &self.parts.kept;
        let Some(person) = kept.person(&token.digest) else { return Ok(None) };
        let held = person.held();
        if !kept.stands(&held) {
            return Ok(None);
        }
        if !held.is_due(now_ms()) {
            return Ok(Some(Arc::clone(&held.token)));
        }
        // On its own: a caller who hangs up must not lose the refresh token that the provider has just given in exchange.
        let oidc = Arc::clone(self);
        let renewing = tokio::spawn(async move { oidc.freshened(&person).await });
        renewing.await.unwrap_or_else(|error| Err(Unrenewed(error.to_string())))
    }

    async fn freshened(&self, person: &Arc<Person>) -> Result<Option<Arc<CallerToken>>, Unrenewed> {
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
        match self.renew(person, &held, &mut failed).await {
            Ok(Renewal::Renewed(token)) => Ok(Some(token)),
            Ok(Renewal::Gone | Renewal::Refused) => Ok(None),
            Err(Unrenewed(why)) => unrenewed(&why),
        }
    }

    /// What somebody's provider says of them, asked with what is kept of their sign-in.
    ///
    /// # Errors
    /// Why it has no answer just now.
    pub(crate) async fn reread(&self, whose: &Whose) -> Result<Reread, Unrenewed> {
        let Some(person) = self.parts.kept.person_of(whose) else { return Ok(Reread::Nothing) };
        let mut failed = person.flight.lock().await;
        let held = person.held();
        if held.refresh.is_none() {
            return Ok(Reread::Nothing);
        }
        if !self.just_said(&held) {
            match self.renew(&person, &held, &mut failed).await? {
                Renewal::Renewed(_) => {}
                Renewal::Gone => return Ok(Reread::Nothing),
                Renewal::Refused => return Ok(Reread::Refused),
            }
            if person.held().groups_ms == held.groups_ms {
                return Err(Unrenewed("it does not tell their groups".to_owned()));
            }
        }
        let held = person.held();
        Ok(Reread::Said(held.groups.clone(), held.groups_ms))
    }

    /// Whether the groups that are kept were told so short a time ago that nobody needs to ask again.
    fn just_said(&self, held: &Held) -> bool {
        let (whose, now) = (&held.whose, now_ms());
        let directory = self.signin.directories.load();
        now.saturating_sub(held.groups_ms) < JUST_SAID_MS
            && directory.counts(&whose.tenant, &whose.provider, &whose.issuer, held.groups_ms, now)
    }

    /// Renews what is kept of a person, on whose turn (`failed`, when that failed last) the caller is.
    async fn renew(
        &self,
        person: &Arc<Person>,
        held: &Arc<Held>,
        failed: &mut Option<(Instant, String)>,
    ) -> Result<Renewal, Unrenewed> {
        let kept = &self.parts.kept;
        if let Some((_, why)) = failed.as_ref().filter(|(at, _)| at.elapsed() < RETRY) {
            return Err(Unrenewed(why.clone()));
        }
        let unavailable = |error: StoreError| Unrenewed(error.to_string());
        let Some(turn) = kept.turn(person).await.map_err(unavailable)? else {
            return Err(Unrenewed("another gateway is renewing it".to_owned()));
        };
        let renewal = self.renew_alone(person, held, failed).await;
        turn.end().await;
        renewal
    }

    /// The same, where no other gateway does.
    async fn renew_alone(
        &self,
        person: &Arc<Person>,
        before: &Arc<Held>,
        failed: &mut Option<(Instant, String)>,
    ) -> Result<Renewal, Unrenewed> {
        let kept = &self.parts.kept;
        let held = &person.held();
        if !kept.is_current(person) {
            return Ok(Renewal::Gone);
        }
        if !Arc::ptr_eq(held, before) && held.groups_ms != before.groups_ms && !held.is_due(now_ms()) {
            // Another gateway has just done it.
            return Ok(Renewal::Renewed(Arc::clone(&held.token)));
        }
        match self.renewed(person, held).await {
            Ok(token) => {
                *failed = None;
                kept.metrics().oauth_renewal("renewed");
                Ok(token.map_or(Renewal::Gone, Renewal::Renewed))
            }
            Err(NoTokens::Over) => {
                kept.metrics().oauth_renewal("refused");
                Ok(if self.taken_back(person).await { Renewal::Refused } else { Renewal::Gone })
            }
            Err(NoTokens::Nothing) => {
                kept.metrics().oauth_renewal("refused");
                if let Err(error) = kept.drop_one(&held.whose).await {
                    // Memory has it no more, and after a start the provider says the same again.
                    tracing::error!(%error, "what was kept of a sign-in could not be removed from the store");
                }
                Ok(Renewal::Gone)
            }
            Err(NoTokens::Failed(why)) => {
                kept.metrics().oauth_renewal("failed");
                tracing::warn!(provider = %held.whose.provider, why, "a kept sign-in could not be renewed; tried again");
                *failed = Some((Instant::now(), why.clone()));
                Err(Unrenewed(why))
            }
        }
    }

    async fn renewed(&self, person: &Arc<Person>, held: &Arc<Held>) -> Result<Option<Arc<CallerToken>>, NoTokens> {
        let whose = &held.whose;
        let Some(refresh) = &held.refresh else { return Err(NoTokens::Nothing) };
        let provider = self.provider(&whose.tenant, &whose.provider).map_err(|e| NoTokens::Failed(e.to_string()))?;
        let metadata = self.metadata.of(&self.parts, &provider).await?;
        let endpoint =
            TokenEndpoint { parts: &self.parts, tenant: &whose.tenant, provider: &provider, metadata: &metadata };
        let mut tokens = endpoint.renew(refresh).await?;
        let asked = groups::Asked { parts: &self.parts, provider: &provider, metadata: &metadata };
        let (token, audiences, expires_ms, groups) = match (held.kind, tokens.id_token.take()) {
            (LoginToken::IdToken, None) => {
                // It may give none (OpenID Connect Core 1.0 section 12.2), and then nothing stands for the person any more.
                tracing::warn!(provider = %whose.provider, "the identity provider renews no ID tokens: keep its access token");
                return Err(NoTokens::Nothing);
            }
            (kind, Some(id_token)) => {
                let jwt = self.verified(&provider, &id_token).await?;
                // Section 12.2: of the same person, and of no other sign-in.
                let nonce = jwt.claims.get("nonce").and_then(Value::as_str);
                if jwt.subject != whose.subject || jwt.issuer != whose.issuer || nonce.is_some_and(|n| n != held.nonce)
                {
                    return Err(NoTokens::Failed("its new ID token is of another person or sign-in".to_owned()));
                }
                let groups = asked.of(&jwt, tokens.access_token.as_ref()).await;
                tokens.id_token = Some(id_token);
                let chosen = chosen(kind, &jwt, &tokens);
                let (token, audiences, until) =
                    chosen.ok_or_else(|| NoTokens::Failed("it gave no token to keep".to_owned()))?;
                (token, audiences, until, groups)
            }
            (LoginToken::AccessToken, None) => {
                let token = tokens.access_token.take();
                let token = token.ok_or_else(|| NoTokens::Failed("it gave no access token".to_owned()))?;
                let groups = asked.by_token(&whose.subject, &token).await;
                (token, Vec::new(), tokens.life_ms.map(|life| now_ms().saturating_add(life)), groups)
            }
        };
        // RFC 6749 section 6: without a new one the old one holds.
        let refresh = tokens.refresh_token.or_else(|| held.refresh.clone());
        // The old refresh token is used up, so what came is kept also where the groups can't be told.
        let (groups, groups_ms) = match groups {
            Ok(groups) => (groups, now_ms()),
            Err(why) => {
                tracing::warn!(provider = %whose.provider, why, "the identity provider does not tell somebody's groups");
                (held.groups.clone(), held.groups_ms)
            }
        };
        let nonce = held.nonce.clone();
        let given = Given { token, audiences, expires_ms, refresh, groups, groups_ms, nonce };
        self.parts.kept.renew(person, held, given).await.map_err(|e| NoTokens::Failed(e.to_string()))
    }
}
