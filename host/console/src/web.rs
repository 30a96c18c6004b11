//! The web door: pages for people, and what OAuth clients ask, on the address that clients call.
//!
//! Server-rendered, usable without JavaScript, from one stylesheet. What each page may do is asked of
//! `portcullis_identity`; nothing here decides who may do what.

mod connect;
mod connections;
pub mod cookie;
pub mod form;
mod guard;
mod home;
pub mod layout;
mod oauth;
mod oauth_client;
mod owners;
mod provider;
mod servers;
pub mod session;
mod setup;
mod signin;
mod state;
mod tokens;
mod view;

use std::{net::IpAddr, ops::Deref, sync::Arc};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::HeaderMap,
    middleware,
    routing::{get, post},
};
use portcullis_credential::{CALLBACK_PATH, ConnectionBook, METADATA_PATH, Secrets, UpstreamOAuth};
use portcullis_identity::{Directories, Failures, KeptTokens, OAuth, SignIn, TokenService, signin::oidc::Oidc};
use portcullis_model::Fault;
use portcullis_protocol::seal::Sealer;
use portcullis_store::Registry;
use portcullis_telemetry::{Audit, Metrics};

pub use form::SignedForm;
pub use session::Visitor;

use crate::server::Admin;

/// The most bytes of a form.
pub const MAX_FORM: usize = 64 << 10;
/// How long a body may take to come.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// What the operator says about the address that we are reached at.
pub trait Entrance: Send + Sync {
    /// Refuses what was sent to another name than ours (DNS rebinding).
    ///
    /// # Errors
    /// A fault of the caller, for HTTP status 403.
    fn check_host(&self, authority: Option<&str>, headers: &HeaderMap) -> Result<(), Fault>;
    /// The client's address, behind trusted proxies.
    fn client_address(&self, peer: std::net::SocketAddr, headers: &HeaderMap) -> IpAddr;
}

/// What the pages work on.
pub struct WebParts {
    /// The services that the admin API works on: a page changes nothing in another way.
    pub admin: Admin,
    /// Opens connect links.
    pub sealer: Arc<Sealer>,
    /// Resources.
    pub registry: Arc<Registry>,
    /// People.
    pub directories: Arc<Directories>,
    /// Tokens.
    pub tokens: Arc<TokenService>,
    /// Sealed secrets of connections.
    pub secrets: Secrets,
    /// Connections, as calls see them.
    pub book: Arc<ConnectionBook>,
    /// Who connects servers with OAuth.
    pub oauth: Arc<UpstreamOAuth>,
    /// Sign-in codes and sessions.
    pub signin: Arc<SignIn>,
    /// Identity providers that people sign in by.
    pub oidc: Arc<Oidc>,
    /// What is kept of people's sign-ins by them.
    pub kept: Arc<KeptTokens>,
    /// The authorization server.
    pub authorization: Arc<OAuth>,
    /// Sign-ins that failed, by address.
    pub failures: Failures,
    /// Requests of clients that proved nothing, by address.
    pub oauth_failures: Failures,
    /// Clients that registered themselves, by address.
    pub registrations: Failures,
    /// Where changes are recorded.
    pub audit: Arc<Audit>,
    /// Where sign-ins are counted.
    pub metrics: Arc<Metrics>,
    /// Where people and clients reach us, without a slash at its end.
    pub base_url: String,
    /// The address that we are reached at.
    pub entrance: Arc<dyn Entrance>,
}

/// The state of every page.
#[derive(Clone)]
pub struct Web(Arc<WebParts>);

impl Deref for Web {
    type Target = WebParts;

    fn deref(&self) -> &WebParts {
        &self.0
    }
}

impl std::fmt::Debug for Web {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Web").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

impl Web {
    /// The pages over these parts.
    pub fn new(parts: WebParts) -> Self {
        Self(Arc::new(parts))
    }

    /// What stands before every path of ours where a proxy in front has us at a path of its own; else nothing. Pages, redirects
    /// and forms say where they lead without it, and [`guard`] puts it there.
    pub(crate) fn prefix(&self) -> &str {
        portcullis_identity::oauth::split(&self.base_url).1
    }

    /// Whether browsers reach us by TLS, so that cookies can say so.
    pub(crate) fn is_secure(&self) -> bool {
        self.base_url.starts_with("https://")
    }
}

/// The pages' routes.
pub fn router(web: Web) -> Router {
    let pages = Router::new()
        .route("/assets/portcullis.css", get(layout::stylesheet))
        .route("/", get(home::show))
        .route("/servers", get(servers::list))
        .route("/servers/{name}", get(servers::show))
        .route("/servers/{name}/connect", get(connect::at_server).post(connect::take_at_server))
        .route("/connect/{link}", get(connect::at_link).post(connect::take_at_link))
        .route(CALLBACK_PATH, get(connect::oauth::back))
        .route(&format!("{CALLBACK_PATH}/{{mark}}"), get(connect::oauth::back_to))
        .route("/oauth-client/save", post(connect::oauth::save))
        .route("/connections", get(connections::list))
        .route("/connections/{name}", get(connections::show))
        .route("/connections/{name}/disconnect", get(connections::confirm).post(connections::disconnect))
        .route("/tokens", get(tokens::list).post(tokens::create))
        .route("/tokens/{id}/revoke", post(tokens::revoke))
        .route("/setup", get(setup::show))
        .route(METADATA_PATH, get(oauth_client::metadata))
        .route("/oauth-client/jwks.json", get(oauth_client::keys))
        .route("/signin", get(signin::show).post(signin::with_code))
        .route("/signin/with/{provider}", get(provider::begin))
        .route("/signin/callback/{provider}", get(provider::finish))
        .route("/t/{tenant}/signin/callback/{provider}", get(provider::finish_at_tenant))
        .route("/signout", post(signin::sign_out))
        .merge(oauth::router());
    pages
        .layer(DefaultBodyLimit::max(MAX_FORM))
        .layer(middleware::from_fn_with_state(web.clone(), guard::guard))
        .with_state(web)
}
