//! Refusals as OAuth clients read them (RFC 6749 sections 4.1.2.1 and 5.2, RFC 7591 section 3.2.2, RFC 8707 section 2).

use std::borrow::Cow;

use portcullis_store::StoreError;

use crate::{shelf::ShelfError, token::TokenError};

/// A refusal. Its words quote nothing that was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {description}")]
pub struct OAuthError {
    /// The `error`, such as `invalid_grant`.
    pub code: &'static str,
    /// The `error_description`, in ASCII.
    pub description: Cow<'static, str>,
}

impl OAuthError {
    pub(crate) fn new(code: &'static str, description: impl Into<Cow<'static, str>>) -> Self {
        Self { code, description: description.into() }
    }

    pub(crate) fn request(description: impl Into<Cow<'static, str>>) -> Self {
        Self::new("invalid_request", description)
    }

    pub(crate) fn client() -> Self {
        Self::new("invalid_client", "the client is unknown, or did not prove who it is")
    }

    /// One answer for every grant that is no good: which of its reasons holds would tell a thief how far it got.
    pub(crate) fn grant() -> Self {
        Self::new("invalid_grant", "the grant is unknown, used, expired, or another client's")
    }

    pub(crate) fn target() -> Self {
        Self::new("invalid_target", "resource has to be the URL of one gateway here, and the one that was asked for")
    }

    /// Whether it counts as a failed try of whoever asked, as a wrong password would: somebody who guesses is held up.
    pub fn is_failure(&self) -> bool {
        matches!(self.code, "invalid_client" | "invalid_grant" | "unauthorized_client" | "access_denied")
    }

    fn server(error: &dyn std::error::Error) -> Self {
        tracing::error!(%error, "the authorization server has no answer");
        Self::new("temporarily_unavailable", "try again in a moment")
    }
}

impl From<StoreError> for OAuthError {
    fn from(error: StoreError) -> Self {
        Self::server(&error)
    }
}

impl From<ShelfError> for OAuthError {
    fn from(error: ShelfError) -> Self {
        Self::server(&error)
    }
}

impl From<getrandom::Error> for OAuthError {
    fn from(error: getrandom::Error) -> Self {
        Self::server(&error)
    }
}

impl From<TokenError> for OAuthError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::NoOwner(_) => Self::grant(),
            TokenError::TooMany { .. } => Self::new("access_denied", "this person has too many tokens that work"),
            error => Self::server(&error),
        }
    }
}
