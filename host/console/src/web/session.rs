//! Somebody who has signed in: what every page that is not for everybody takes.

use std::sync::Arc;

use axum::{
    extract::{FromRef, FromRequestParts},
    http::{Method, StatusCode, request::Parts},
    response::{IntoResponse as _, Redirect, Response},
};
use portcullis_credential::{CALLBACK_PATH, ConnectLink};
use portcullis_identity::signin::{SessionId, Who, kept::Whose};
use portcullis_model::{Fault, Name, Principal, Side};

use super::{Web, cookie::Cookie, layout, view};

/// A person who has signed in. As an extractor it sends everybody else to `/signin`, and back afterwards.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// Who it is now, with today's teams and roles.
    pub principal: Arc<Principal>,
    /// Who signed in.
    pub who: Who,
    /// The identity provider that was asked, if one was.
    pub provider: Option<Name>,
    /// When they signed in, in milliseconds since 1970.
    pub signed_in_ms: u64,
    /// The session's public name.
    pub session: SessionId,
    /// What each of the session's forms holds: [`super::form::token`].
    pub csrf: String,
    /// What a flow that leaves this site and comes back is bound to.
    pub binding: [u8; 32],
}

impl Visitor {
    /// Whose sign-in by an identity provider this is, where it is one.
    pub fn sign_in(&self) -> Option<Whose> {
        let (Who::Identity { issuer, subject }, Some(provider)) = (&self.who, &self.provider) else { return None };
        Some(Whose {
            tenant: self.principal.tenant.clone(),
            provider: provider.clone(),
            issuer: issuer.clone(),
            subject: subject.clone(),
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Visitor
where
    Web: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let web = Web::from_ref(state);
        match find(&web, &parts.headers).await? {
            Some(visitor) => Ok(visitor),
            None => Err(to_signin(&web, parts)),
        }
    }
}

/// Whoever this browser has signed in, if anybody.
///
/// # Errors
/// A page that says that sessions can't be read now.
pub async fn find(web: &Web, headers: &axum::http::HeaderMap) -> Result<Option<Visitor>, Response> {
    let Some(cookie) = Cookie::Session.read(web, headers) else { return Ok(None) };
    let session = web.signin.session(cookie).await.map_err(|error| unavailable(&error))?;
    Ok(session.map(|session| Visitor {
        principal: Arc::new(session.principal),
        who: session.who,
        provider: session.provider,
        signed_in_ms: session.created_ms,
        session: session.id,
        csrf: session.csrf,
        binding: session.binding,
    }))
}

/// A page that says that the store has no answer.
pub(crate) fn unavailable(error: &dyn std::error::Error) -> Response {
    tracing::error!(%error, "a page could not be made");
    let fault =
        Fault::new(Side::Gateway, "store-unavailable", "this can't be looked up now").next("Try again in a moment");
    (StatusCode::SERVICE_UNAVAILABLE, layout::fault(None, &fault)).into_response()
}

/// To the sign-in page, which leads back. What was posted is not posted again.
fn to_signin(web: &Web, parts: &Parts) -> Response {
    let wanted = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    // What comes back from an authorization server holds a code, which may stand in no other URL (security.md 7).
    let carries_code = parts.uri.path().starts_with(CALLBACK_PATH);
    let next = if parts.method == Method::GET && !carries_code { local(wanted) } else { None };
    // Whose identity providers are offered follows from where somebody wants to go. What a link says is sealed by us.
    let link = parts.uri.path().strip_prefix("/connect/");
    let link = link.and_then(|text| ConnectLink::open(&web.sealer, text, view::now_ms()).ok());
    let tenant = link.map_or_else(Name::default_tenant, |link| link.tenant);
    Redirect::to(&signin_url(&tenant, next)).into_response()
}

/// The sign-in page's address for people of a tenant, with where to go afterwards.
pub(crate) fn signin_url(tenant: &Name, next: Option<&str>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if *tenant != Name::default_tenant() {
        query.append_pair("tenant", tenant.as_str());
    }
    if let Some(next) = next {
        query.append_pair("next", next);
    }
    let query = query.finish();
    if query.is_empty() { "/signin".to_owned() } else { format!("/signin?{query}") }
}

/// A place on this site, and nothing that a browser could take for another one.
pub fn local(next: &str) -> Option<&str> {
    let plain = next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    let here = next.starts_with('/') && !next.starts_with("//");
    (plain && here && next.len() <= MAX_NEXT).then_some(next)
}

/// The longest place to go to afterwards.
const MAX_NEXT: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_places_of_this_site_are_gone_to() {
        for good in ["/", "/connect/abc?x=1&y=%2F", "/t/a/servers"] {
            assert_eq!(local(good), Some(good));
        }
        for bad in
            ["", "x", "//evil.example", "/\\evil.example", "https://evil.example", "/\t/evil.example", "/a\r\nb", "/é"]
        {
            assert_eq!(local(bad), None, "{bad:?}");
        }
        assert_eq!(local(&format!("/{}", "a".repeat(MAX_NEXT))), None);
    }
}
