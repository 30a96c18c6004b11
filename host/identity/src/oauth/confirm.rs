//! Whether an identity provider still stands by what it said when somebody signed in: asked whenever a client renews what it got by
//! that sign-in, so that whoever leaves a group, or the company, does not keep what they had until the grant ends.
//!
//! Where something is kept of the sign-in that the provider can be asked with, its word is read again; where it refuses what it gave at the
//! sign-in, the grant ends. Where nothing is kept, or it has no answer, what it said then counts for
//! `IdentityProvider.spec.maxSignInAge`; after that the person signs in again.

use std::{sync::Arc, time::Duration};

use portcullis_model::Name;

use super::{OAuth, OAuthError};
use crate::{
    clock::now_ms,
    signin::{Who, kept::Whose, oidc::Reread},
};

/// How long a client that renews waits for the provider. One that gives up and asks again with the same refresh token looks like a
/// thief (RFC 9700 section 4.14), so this has to be shorter than any client's patience.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a provider said of somebody, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) groups: Vec<String>,
    /// In milliseconds since 1970.
    pub(super) at_ms: u64,
}

/// What counts of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    /// This.
    Said(Said),
    /// Nothing: the provider took it back.
    TookBack,
}

impl OAuth {
    /// What counts of what a provider said. People who signed in without one, and clients that brought an assertion, are not asked
    /// about: their `who` is looked up anew anyway.
    ///
    /// # Errors
    /// `invalid_grant` where the person has to sign in again; `temporarily_unavailable` where only the provider's silence is in
    /// the way.
    pub(super) async fn confirmed(
        &self,
        tenant: &Name,
        who: &Who,
        provider: Option<&Name>,
        said: Said,
    ) -> Result<Confirmed, OAuthError> {
        let (Who::Identity { issuer, subject }, Some(provider)) = (who, provider) else {
            return Ok(Confirmed::Said(said));
        };
        if self.parts.oidc.took_back(tenant, provider, who, said.at_ms).await? {
            return Ok(Confirmed::TookBack);
        }
        let whose = Whose {
            tenant: tenant.clone(),
            provider: provider.clone(),
            issuer: issuer.clone(),
            subject: subject.clone(),
        };
        // On its own: a client that hangs up must not lose the refresh token that the provider has just given in exchange.
        let oidc = Arc::clone(&self.parts.oidc);
        let asked = tokio::spawn(async move { oidc.reread(&whose).await });
        let silent = match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(Ok(Reread::Said(groups, at_ms)))) => return Ok(Confirmed::Said(Said { groups, at_ms })),
            Ok(Ok(Ok(Reread::Refused))) => return Ok(Confirmed::TookBack),
            Ok(Ok(Ok(Reread::Nothing))) => false,
            // Why is in the log already; what comes later is kept for the next time.
            Ok(Ok(Err(_)) | Err(_)) | Err(_) => true,
        };
        if self.parts.directories.load().counts(tenant, provider, issuer, said.at_ms, now_ms()) {
            return Ok(Confirmed::Said(said));
        }
        tracing::info!(%tenant, %provider, silent, "a client's access is not renewed: the sign-in that it is of is too old");
        Err(if silent {
            OAuthError::new("temporarily_unavailable", "try again in a moment")
        } else {
            OAuthError::grant()
        })
    }
}
