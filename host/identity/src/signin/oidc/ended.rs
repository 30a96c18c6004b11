//! A provider that refuses what it gave at somebody's sign-in takes back its word: what follows from that sign-in ends here, at once.
//!
//! Grants of clients end when they are used next ([`Oidc::took_back`]), since they are looked for by what a client shows; tokens and sessions
//! are ended by name.

use std::sync::Arc;

use portcullis_model::Name;
use portcullis_store::StoreError;
use portcullis_telemetry::AuditEvent;

use super::Oidc;
use crate::signin::{
    Who,
    kept::{Person, Whose},
};

impl Oidc {
    /// Whether a provider took back what it had said of somebody at a moment (milliseconds since 1970).
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn took_back(
        &self,
        tenant: &Name,
        provider: &Name,
        who: &Who,
        at_ms: u64,
    ) -> Result<bool, StoreError> {
        let Who::Identity { issuer, subject } = who else { return Ok(false) };
        let whose = Whose {
            tenant: tenant.clone(),
            provider: provider.clone(),
            issuer: issuer.clone(),
            subject: subject.clone(),
        };
        Ok(self.parts.kept.refused_ms(&whose).await?.is_some_and(|refused| at_ms <= refused))
    }

    /// The provider refused the refresh token of a kept sign-in. Answers whether that says something of the person: not where they have
    /// signed in anew meanwhile, or signed out.
    pub(super) async fn taken_back(&self, person: &Arc<Person>) -> bool {
        let whose = person.held().whose.clone();
        let Whose { tenant, provider, issuer, subject } = &whose;
        match self.parts.kept.refuse(person).await {
            Ok(true) => {}
            Ok(false) => return false,
            // Whoever asks now is refused all the same; others find out when they ask.
            Err(error) => tracing::error!(%error, "that a sign-in was taken back could not be kept"),
        }
        tracing::info!(%tenant, %provider, "an identity provider took back a sign-in: what follows from it ends");
        let who = Who::Identity { issuer: issuer.clone(), subject: subject.clone() };
        if let Err(error) = self.parts.tokens.revoke_vouched(tenant, provider, (issuer, subject)).await {
            tracing::error!(%error, "tokens of a sign-in that was taken back could not all be revoked for good");
        }
        if let Err(error) = self.signin.end_sessions_by(tenant, &who, provider).await {
            tracing::error!(%error, "sessions of a sign-in that was taken back could not be ended");
        }
        let event = AuditEvent {
            tenant: Some(tenant.shared()),
            caller: Some(who.to_string().into()),
            method: Some("signin".into()),
            tool: Some(format!("IdentityProvider/{provider}").into()),
            reason: Some("refused-by-provider".into()),
            outcome: Some("revoked".into()),
            ..AuditEvent::new("revocation")
        };
        if let Err(error) = self.parts.audit.record_durable(event).await {
            tracing::error!(%error, "that a sign-in was taken back could not be recorded");
        }
        true
    }
}
