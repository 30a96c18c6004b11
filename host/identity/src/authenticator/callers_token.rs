//! The token that a caller came with, kept for strategies that act as the caller elsewhere.

use std::sync::Arc;

use portcullis_model::{CallerToken, Secret, TokenOrigin};
use portcullis_plugin::VerifiedToken;
use sha2::{Digest as _, Sha256};

/// The token with what was verified of it; none where nothing was, so that nobody can swap or pass on what is merely claimed.
pub(super) fn of(verified: Option<&VerifiedToken>, presented: Option<Secret>) -> Option<Arc<CallerToken>> {
    let (verified, secret) = (verified?, presented?);
    Some(Arc::new(CallerToken {
        digest: Sha256::digest(secret.expose()).into(),
        secret,
        origin: TokenOrigin::Presented,
        issuer: verified.issuer.clone(),
        audiences: verified.audiences.clone(),
        expires_ms: Some(verified.expires_ms),
        bound: verified.bound,
        token_type: None,
    }))
}
