//! What people and OAuth clients need: sign-in by identity providers, and the authorization server.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::body::Bytes;
use portcullis_credential::{SignIns, Vault};
use portcullis_identity::{
    Directories, JwtOptions, JwtService, KeptTokens, OAuth, SignIn, TokenService,
    oauth::{OAuthOptions, OAuthParts},
    signin::{
        kept::Sealing,
        oidc::{Oidc, OidcParts},
    },
};
use portcullis_model::{CallerToken, Secret};
use portcullis_outbound::Client;
use portcullis_plugin::SecretReader;
use portcullis_store::{BoxFuture, Registry};
use portcullis_telemetry::{Audit, Metrics};

use crate::settings::Settings;

/// What both are made of.
pub struct PeopleParts {
    pub registry: Arc<Registry>,
    pub directories: Arc<Directories>,
    pub tokens: Arc<TokenService>,
    pub signin: Arc<SignIn>,
    pub jwt: Arc<JwtService>,
    pub outbound: Arc<Client>,
    pub secrets: Arc<dyn SecretReader>,
    pub audit: Arc<Audit>,
    pub metrics: Arc<Metrics>,
    pub vault: Arc<Vault>,
}

/// What people are known by.
pub struct People {
    pub oidc: Arc<Oidc>,
    pub authorization: Arc<OAuth>,
    pub kept: Arc<KeptTokens>,
}

/// The vault, for what is kept of sign-ins.
struct Sealed(Arc<Vault>);

impl Sealing for Sealed {
    fn seal(&self, key: &str, plain: &Secret) -> Result<Bytes, String> {
        self.0.seal(key.as_bytes(), plain).map_err(|e| e.to_string())
    }

    fn unseal(&self, key: &str, sealed: &[u8]) -> Result<Secret, String> {
        self.0.unseal(key.as_bytes(), sealed).map_err(|e| e.to_string())
    }
}

/// Renews what is kept of sign-ins, for calls.
pub struct Renewing(pub Arc<Oidc>);

impl SignIns for Renewing {
    fn fresh<'a>(&'a self, token: &'a Arc<CallerToken>) -> BoxFuture<'a, Result<Option<Arc<CallerToken>>, ()>> {
        // Why is in the log already.
        Box::pin(async move { self.0.fresh(token).await.map_err(drop) })
    }
}

/// Opens all of it.
///
/// # Errors
/// Where what is kept of clients, grants and sign-ins can't be read.
pub async fn open(settings: &Settings, issuer: String, parts: PeopleParts) -> Result<People> {
    let kept = KeptTokens::open(
        Arc::clone(&parts.registry),
        Arc::clone(&parts.directories),
        Arc::new(Sealed(parts.vault)),
        Arc::clone(&parts.metrics),
    );
    let kept = kept.await.context("what is kept of sign-ins can't be read")?;
    let oidc = OidcParts {
        registry: Arc::clone(&parts.registry),
        jwt: Arc::clone(&parts.jwt),
        outbound: Arc::clone(&parts.outbound),
        secrets: Arc::clone(&parts.secrets),
        allow_private: settings.allow_private_issuers,
        kept: Arc::clone(&kept),
        tokens: Arc::clone(&parts.tokens),
        audit: Arc::clone(&parts.audit),
    };
    let oidc = Oidc::new(oidc, parts.signin);
    let options = OAuthOptions {
        issuer,
        registration: settings.client_registration,
        allow_private: settings.allow_private_clients,
        access_life: settings.access_token_life.get(),
    };
    let store = Arc::clone(parts.registry.store());
    let oauth = OAuthParts {
        registry: parts.registry,
        directories: parts.directories,
        tokens: parts.tokens,
        // Keys of its own: those that clients bring are anybody's, and prove nothing to the providers of a gateway.
        jwt: JwtService::new(JwtOptions {
            allow_private: settings.allow_private_issuers,
            ..JwtOptions::new(Arc::clone(&parts.outbound))
        }),
        outbound: parts.outbound,
        secrets: parts.secrets,
        oidc: Arc::clone(&oidc),
        audit: parts.audit,
        metrics: parts.metrics,
    };
    let authorization =
        OAuth::open(store, options, oauth).await.context("the grants of OAuth clients can't be read")?;
    Ok(People { oidc, authorization, kept })
}
