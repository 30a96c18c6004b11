//! The authorization server for MCP clients (OAuth 2.1), without HTTP: who the clients are, codes, tokens, and what is refused.
//!
//! Access tokens are tokens of [`crate::TokenService`]: opaque, for one gateway, looked up live, revoked at once, so that the
//! plugin `bearer-token` takes them like any other.

pub mod assertion;
pub mod authorize;
mod challenge;
pub mod client;
mod confirm;
pub mod document;
mod error;
pub mod exchange;
pub mod grant;
mod record;
pub mod redirect;
pub mod register;
pub mod resource;
mod turns;

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use portcullis_model::Name;
use portcullis_outbound::Client as Outbound;
use portcullis_plugin::{Description, SecretReader};
use portcullis_store::{Registry, Store, StoreError};
use portcullis_telemetry::{Audit, Metrics};
use quick_cache::sync::Cache;

pub use challenge::{base, protected_resource, split};
pub use client::Client;
pub use error::OAuthError;

use crate::{
    Directories, JwtService, TokenService,
    shelf::{Shelf, ShelfPlan},
    signin::oidc::Oidc,
};

/// How long a sign-in can be renewed before the person has to come again.
pub const GRANT_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// How long a code can be redeemed.
pub const CODE_LIFE: Duration = Duration::from_secs(60);
/// How long a redeemed code is remembered, so that its second use is noticed.
const CODE_MEMORY: Duration = Duration::from_secs(600);
/// How long a consent is remembered.
const CONSENT_LIFE: Duration = Duration::from_secs(90 * 86_400);
/// How long a client that registered itself may wait for its first sign-in.
const UNUSED_LIFE: Duration = Duration::from_secs(86_400);
/// How long such a client is kept after its last sign-in.
const CLIENT_LIFE: Duration = Duration::from_secs(90 * 86_400);
/// How often what has ended is forgotten.
const SWEEP: Duration = Duration::from_secs(300);
/// Clock skew that assertions of others may have, in seconds.
const LEEWAY: u32 = 30;

/// What the operator says about the authorization server.
#[derive(Clone, Debug)]
pub struct OAuthOptions {
    /// The issuer, which is the URL that people and clients reach us by, without a slash at its end.
    pub issuer: String,
    /// Whether clients may register themselves (RFC 7591).
    pub registration: bool,
    /// Whether metadata documents of clients may lie at private addresses.
    pub allow_private: bool,
    /// How long an access token lives.
    pub access_life: Duration,
}

/// What the authorization server works with.
pub struct OAuthParts {
    /// Gateways, clients and identity providers.
    pub registry: Arc<Registry>,
    /// Who there is.
    pub directories: Arc<Directories>,
    /// Access tokens.
    pub tokens: Arc<TokenService>,
    /// Signatures of others.
    pub jwt: Arc<JwtService>,
    /// Fetches metadata documents of clients.
    pub outbound: Arc<Outbound>,
    /// Reads secrets of clients.
    pub secrets: Arc<dyn SecretReader>,
    /// Identity providers, which are asked again about whoever signed in by them.
    pub oidc: Arc<Oidc>,
    /// Where it is written down who got access, and who did not.
    pub audit: Arc<Audit>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// The authorization server.
pub struct OAuth {
    pub(crate) options: OAuthOptions,
    pub(crate) parts: OAuthParts,
    pub(crate) codes: Shelf<authorize::Code>,
    pub(crate) grants: Shelf<grant::Grant>,
    pub(crate) consents: Shelf<()>,
    pub(crate) clients: Shelf<register::Registered>,
    pub(crate) making_room: tokio::sync::Mutex<()>,
    pub(crate) used: Shelf<()>,
    pub(crate) used_by_documents: Shelf<()>,
    /// Who may fetch a document now.
    pub(crate) fetching: turns::Turns,
    pub(crate) documents: Cache<String, Arc<document::Held>>,
    described: OnceLock<Describes>,
}

/// What the auth providers of a gateway say of themselves.
pub type Describes = Arc<dyn Fn(&Target) -> Option<Description> + Send + Sync>;

impl std::fmt::Debug for OAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OAuth").field("options", &self.options).finish_non_exhaustive()
    }
}

impl OAuth {
    /// Opens what the store has, and forgets what has ended from now on, on the current tokio runtime.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn open(
        store: Arc<dyn Store>,
        options: OAuthOptions,
        parts: OAuthParts,
    ) -> Result<Arc<Self>, StoreError> {
        let metrics = &parts.metrics;
        let plan = |what, prefix, most| ShelfPlan { what, prefix, most };
        let open = |p| (Arc::clone(&store), Arc::clone(metrics), p);
        let (s, m, p) = open(plan("authorization codes", "o/code/", 20_000));
        let codes = Shelf::open(s, m, p).await?;
        let (s, m, p) = open(plan("oauth grants", "o/grant/", 200_000));
        let grants = Shelf::open(s, m, p).await?;
        let (s, m, p) = open(plan("consents", "o/consent/", 200_000));
        let consents = Shelf::open(s, m, p).await?;
        let (s, m, p) = open(plan("registered clients", "o/client/", 10_000));
        let clients = Shelf::open(s, m, p).await?;
        let (s, m, p) = open(plan("used assertions", "o/used/", 100_000));
        let used = Shelf::open(s, m, p).await?;
        let (s, m, p) = open(plan("used assertions of documents", "o/used-document/", 50_000));
        let used_by_documents = Shelf::open(s, m, p).await?;
        let oauth = Arc::new(Self {
            options,
            parts,
            codes,
            grants,
            consents,
            clients,
            used,
            making_room: tokio::sync::Mutex::default(),
            used_by_documents,
            fetching: turns::Turns::new(),
            documents: Cache::new(document::MOST),
            described: OnceLock::new(),
        });
        tokio::spawn(keep_house(Arc::downgrade(&oauth)));
        Ok(oauth)
    }

    /// The issuer, exactly as in metadata and in answers (RFC 9207).
    pub fn issuer(&self) -> &str {
        &self.options.issuer
    }

    async fn sweep(&self) -> Result<(), StoreError> {
        self.codes.sweep().await?;
        self.grants.sweep().await?;
        self.consents.sweep().await?;
        self.clients.sweep().await?;
        self.used_by_documents.sweep().await?;
        self.used.sweep().await
    }
}

async fn keep_house(oauth: Weak<OAuth>) {
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(oauth) = oauth.upgrade() else { return };
        if let Err(error) = oauth.sweep().await {
            tracing::warn!(%error, "ended grants could not be forgotten; tried again later");
        }
    }
}

/// A tenant's gateway, which is what an access token is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Target {
    /// The tenant.
    pub tenant: Name,
    /// The gateway.
    pub gateway: Name,
}
