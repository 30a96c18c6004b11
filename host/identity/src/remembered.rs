//! What is remembered here of what an identity provider said of somebody: for people who ask why a call of theirs would be refused, when
//! nobody is calling.

use portcullis_model::Name;
use portcullis_store::StoreError;

use crate::{SignIn, TokenService, signin::Who};

/// The groups that a provider named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The groups.
    pub groups: Vec<String>,
    /// When it was kept, in milliseconds since 1970.
    pub at_ms: u64,
    /// What it is remembered of: `a session`, or `a client's token`.
    pub of: &'static str,
}

/// The newest of what counts still: of sessions, and of access tokens that clients got by a sign-in. None where there is neither.
///
/// # Errors
/// Those of the store.
pub async fn remembered(
    signin: &SignIn,
    tokens: &TokenService,
    tenant: &Name,
    (issuer, subject): (&str, &str),
) -> Result<Option<Remembered>, StoreError> {
    let who = Who::Identity { issuer: issuer.to_owned(), subject: subject.to_owned() };
    let of = |of| move |(groups, at_ms)| Remembered { groups, at_ms, of };
    let session = signin.said(tenant, &who).await?.map(of("a session"));
    let token = tokens.said(tenant, (issuer, subject)).map(of("a client's token"));
    Ok(session.into_iter().chain(token).max_by_key(|found| found.at_ms))
}
