//! Who asks the admin API, and about which tenant.

use std::sync::Arc;

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::request::Parts,
};
use portcullis_identity::{Action, may};
use portcullis_model::{Name, Principal, Side};

use super::{Peer, reply};
use crate::api::ApiError;

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) enum Who {
    /// A process of this machine at the admin socket: the operator of the whole gateway.
    Local(Arc<str>),
    /// Somebody of a tenant, by a token or signed in to the pages.
    Caller(Arc<Principal>),
}

impl Who {
    /// As the audit stream names them.
    pub(crate) fn text(&self) -> Arc<str> {
        match self {
            Self::Local(text) => Arc::clone(text),
            Self::Caller(principal) => Arc::clone(&principal.subject_text),
        }
    }

    /// The id of the token that they came with.
    pub(crate) fn token(&self) -> Option<Arc<str>> {
        match self {
            Self::Local(_) => None,
            Self::Caller(principal) => principal.token.as_deref().map(Arc::from),
        }
    }

    /// Whether they may do something in their tenant.
    pub(crate) fn may(&self, action: &Action<'_>) -> bool {
        match self {
            Self::Local(_) => true,
            Self::Caller(principal) => may(principal, action),
        }
    }

    /// Refuses what they may not do. `what` completes "may not ...".
    ///
    /// # Errors
    /// `forbidden`.
    pub(crate) fn must(&self, action: &Action<'_>, what: &str) -> Result<(), ApiError> {
        if self.may(action) { Ok(()) } else { Err(self.forbidden(what)) }
    }

    pub(crate) fn forbidden(&self, what: &str) -> ApiError {
        ApiError::new(Side::Policy, "forbidden", format!("{} may not {what}", self.text()))
            .next("Ask an admin of your tenant; docs/guides/admin-api.md lists which role may do what.")
    }

    /// Whether they look after the machine: what concerns all tenants is theirs to see.
    pub(crate) fn is_of_the_machine(&self) -> bool {
        match self {
            Self::Local(_) => true,
            Self::Caller(principal) => principal.tenant == Name::default_tenant(),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = axum::response::Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        if let Some(principal) = parts.extensions.get::<Arc<Principal>>() {
            return Ok(Self::Caller(Arc::clone(principal)));
        }
        match ConnectInfo::<Peer>::from_request_parts(parts, state).await {
            Ok(ConnectInfo(peer)) => Ok(Self::Local(format!("local:uid={}", peer.uid).into())),
            // Came by no door that says who it is: nobody's.
            Err(_) => Err(reply::error(ApiError::new(Side::Gateway, "internal", "nobody knows who asks"))),
        }
    }
}

/// The tenant that a request is about: the one that it names, or the caller's own. Another one's is not there for a caller.
pub(crate) struct Tenant(pub(crate) Name);

impl<S: Send + Sync> FromRequestParts<S> for Tenant {
    type Rejection = axum::response::Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let query = parts.uri.query().unwrap_or("");
        let named = url::form_urlencoded::parse(query.as_bytes()).find(|(k, _)| k == "tenant").map(|(_, v)| v);
        let own = parts.extensions.get::<Arc<Principal>>().map(|principal| principal.tenant.clone());
        let Some(text) = named else { return Ok(Self(own.unwrap_or_else(Name::default_tenant))) };
        let named: Name = text
            .parse()
            .map_err(|e| reply::error(ApiError::new(Side::Caller, "invalid-tenant", format!("tenant: {e}"))))?;
        if own.is_some_and(|own| own != named) {
            let message = format!("there is no tenant {named} for this token");
            return Err(reply::error(ApiError::new(Side::Caller, "not-found", message)));
        }
        Ok(Self(named))
    }
}
