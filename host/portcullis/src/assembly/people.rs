//! What people and OAuth clients need: sign-in by identity providers, and the authorization server.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use portcullis_identity::{
    Directories, JwtOptions, JwtService, OAuth, SignIn, TokenService,
    oauth::{OAuthOptions, OAuthParts},
    signin::oidc::{Oidc, OidcParts},
};
use portcullis_outbound::Client;
use portcullis_plugin::SecretReader;
use portcullis_store::Registry;
use portcullis_telemetry::Metrics;

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
    pub metrics: Arc<Metrics>,
}

/// Opens both.
///
/// # Errors
/// Where what is kept of clients and grants can't be read.
pub async fn open(settings: &Settings, issuer: String, parts: PeopleParts) -> Result<(Arc<Oidc>, Arc<OAuth>)> {
    let oidc = OidcParts {
        registry: Arc::clone(&parts.registry),
        jwt: Arc::clone(&parts.jwt),
        outbound: Arc::clone(&parts.outbound),
        secrets: Arc::clone(&parts.secrets),
        allow_private: settings.allow_private_issuers,
    };
    let options = OAuthOptions {
        issuer,
        registration: settings.client_registration,
        allow_private: settings.allow_private_clients,
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
        metrics: parts.metrics,
    };
    let oauth = OAuth::open(store, options, oauth).await.context("the grants of OAuth clients can't be read")?;
    Ok((Oidc::new(oidc, parts.signin), oauth))
}
