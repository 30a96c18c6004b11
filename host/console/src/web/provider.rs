//! Signing in by an identity provider: there and back.

use std::net::SocketAddr;

use axum::{
    extract::{ConnectInfo, Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use portcullis_identity::signin::oidc::{FLOW_LIFE, OidcError, Returned};
use portcullis_model::{Fault, Name, Secret, Side};
use serde::Deserialize;

use super::{
    Web,
    cookie::Cookie,
    layout,
    session::{local, unavailable},
    signin,
};

#[derive(Deserialize)]
pub(super) struct Asked {
    next: Option<String>,
    tenant: Option<Name>,
}

/// `GET /signin/with/{provider}`.
pub(super) async fn begin(
    State(web): State<Web>,
    Path(name): Path<Name>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Response {
    if let Some(response) = signin::only_safely(&web, &headers) {
        return response;
    }
    let tenant = asked.tenant.unwrap_or_else(Name::default_tenant);
    let next = asked.next.as_deref().and_then(local);
    match web.oidc.begin(&tenant, &name, &callback(&web, &headers, &tenant, &name), next).await {
        Ok(begun) => {
            let mut response = Redirect::to(&begun.url).into_response();
            // An exit: what the browser has to bring back goes to that browser.
            let cookie = std::str::from_utf8(begun.cookie.expose()).unwrap_or_default();
            if let Some(set) = Cookie::Flow.set(&web, cookie, FLOW_LIFE.as_secs()) {
                response.headers_mut().append(header::SET_COOKIE, set);
            }
            response
        }
        Err(error) => refused(&web, (&tenant, &name), &error),
    }
}

/// What a provider sends people back with.
#[derive(Deserialize)]
pub(super) struct Back {
    code: Option<String>,
    state: Option<String>,
    iss: Option<String>,
    error: Option<String>,
}

/// `GET /signin/callback/{provider}`.
pub(super) async fn finish(
    State(web): State<Web>,
    Path(name): Path<Name>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Query(back): Query<Back>,
    headers: HeaderMap,
) -> Response {
    returned(&web, (&Name::default_tenant(), &name), peer, back, &headers).await
}

/// `GET /t/{tenant}/signin/callback/{provider}`.
pub(super) async fn finish_at_tenant(
    State(web): State<Web>,
    Path((tenant, name)): Path<(Name, Name)>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Query(back): Query<Back>,
    headers: HeaderMap,
) -> Response {
    returned(&web, (&tenant, &name), peer, back, &headers).await
}

async fn returned(
    web: &Web,
    (tenant, name): (&Name, &Name),
    peer: SocketAddr,
    back: Back,
    headers: &HeaderMap,
) -> Response {
    let address = web.entrance.client_address(peer, headers);
    if let Some(wait) = web.failures.wait(address) {
        web.metrics.signed_in("provider", "limited");
        return signin::limited(wait);
    }
    let returned = Returned { code: back.code.map(Secret::new), state: back.state, iss: back.iss, error: back.error };
    let cookie = Cookie::Flow.read(web, headers);
    let mut response =
        match web.oidc.finish((tenant, name), &callback(web, headers, tenant, name), cookie, &returned).await {
            Ok(finished) => {
                let next = finished.next.as_deref().and_then(local);
                signin::open(web, finished.signed_in, "provider", next).await
            }
            Err(error) => {
                // Without a cookie it costs nothing and proves nothing: any page could make a visitor's browser come here.
                if cookie.is_some() && matches!(error, OidcError::NotBegun | OidcError::Provider(_)) {
                    web.failures.note(address);
                }
                refused(web, (tenant, name), &error)
            }
        };
    // Used, whatever came of it.
    if let Some(gone) = Cookie::Flow.clear(web) {
        response.headers_mut().append(header::SET_COOKIE, gone);
    }
    response
}

/// Where this provider sends people back to: by the name that the browser knows us by, since its cookies are kept by that. Each provider of
/// each tenant has a place of its own, so that none can pass another's answer off as its own.
fn callback(web: &Web, headers: &HeaderMap, tenant: &Name, name: &Name) -> String {
    let base = super::oauth::base(web, headers);
    if *tenant == Name::default_tenant() {
        format!("{base}/signin/callback/{name}")
    } else {
        format!("{base}/t/{tenant}/signin/callback/{name}")
    }
}

fn refused(web: &Web, (tenant, name): (&Name, &Name), error: &OidcError) -> Response {
    let (outcome, status, fault) = match error {
        OidcError::NoProvider => (
            "refused",
            StatusCode::NOT_FOUND,
            Fault::new(Side::Caller, "not-found", "there is no such identity provider")
                .next("Go back and choose another"),
        ),
        OidcError::NotBegun => (
            "refused",
            StatusCode::FORBIDDEN,
            Fault::new(Side::Caller, "foreign-signin", "this sign-in was not begun in this browser, or is over")
                .next("Sign in again; cookies have to be allowed"),
        ),
        OidcError::Denied => (
            "refused",
            StatusCode::FORBIDDEN,
            Fault::new(Side::Policy, "signin-denied", "the identity provider did not sign you in")
                .next("Sign in again"),
        ),
        OidcError::Nobody => ("refused", StatusCode::FORBIDDEN, signin::unknown_person()),
        OidcError::Provider(why) => {
            tracing::warn!(why, provider = %name, %tenant, "an identity provider gave no answer that can be used");
            (
                "failed",
                StatusCode::BAD_GATEWAY,
                Fault::new(
                    Side::Gateway,
                    "provider-unavailable",
                    "the identity provider gave no answer that can be used",
                )
                .next("Try again; if it stays, ask your operator"),
            )
        }
        OidcError::NoRandomness | OidcError::Shelf(_) => {
            web.metrics.signed_in("provider", "failed");
            return unavailable(error);
        }
    };
    web.metrics.signed_in("provider", outcome);
    (status, layout::fault(None, &fault)).into_response()
}
