//! Who administrates with a token: the admin API's own door.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderMap, header::AUTHORIZATION};
use portcullis_model::Principal;

use super::{TokenDigest, TokenService, Validity};
use crate::{
    authenticator::{Failures, LimitOptions, bearer},
    clock::now_ms,
    directory::Directories,
};

/// Why nobody is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminRefusal {
    /// No token, or none that works here. Which of the reasons it is, nobody is told.
    #[error("the admin API takes a token that was made for it")]
    Unknown,
    /// Too many failures from this address.
    #[error("too many failed attempts from this address")]
    Limited(Duration),
}

/// Lets in whoever brings a token that was made for the admin API.
pub struct AdminDoor {
    tokens: Arc<TokenService>,
    directories: Arc<Directories>,
    failures: Failures,
}

impl std::fmt::Debug for AdminDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminDoor").field("failures", &self.failures).finish_non_exhaustive()
    }
}

impl AdminDoor {
    /// A door that nobody has come to yet.
    pub fn new(tokens: Arc<TokenService>, directories: Arc<Directories>, limit: &LimitOptions) -> Self {
        Self { tokens, directories, failures: Failures::new(limit) }
    }

    /// Who asks: the token's owner, in the token's tenant, with the teams and roles of now.
    ///
    /// # Errors
    /// [`AdminRefusal`].
    pub fn enter(&self, headers: &HeaderMap, address: IpAddr) -> Result<Arc<Principal>, AdminRefusal> {
        let entered = self.principal(headers);
        // Who sends no credential guesses none.
        if entered.is_none() && headers.contains_key(AUTHORIZATION) {
            // Who brings a token that works is let in whatever others behind the same address did.
            if let Some(wait) = self.failures.wait(address) {
                return Err(AdminRefusal::Limited(wait));
            }
            self.failures.note(address);
        }
        entered.map(Arc::new).ok_or(AdminRefusal::Unknown)
    }

    fn principal(&self, headers: &HeaderMap) -> Option<Principal> {
        let digest = TokenDigest::of(&bearer(headers)?).ok()?;
        let live = self.tokens.live.by_digest(&digest)?;
        let (now, directory) = (now_ms(), self.directories.load());
        if !live.record.admin || live.validity(None, now, &directory) != Validity::Valid {
            return None;
        }
        let mut principal = directory.principal(&live.record.tenant, &live.record.owner)?;
        principal.token = Some(live.record.id.clone());
        live.touch(now);
        Some(principal)
    }
}
