//! What OAuth clients ask: metadata, consent, tokens, registration, revocation. The logic is `portcullis_identity::oauth`'s.

mod authorize;
mod metadata;
mod token;

use axum::{
    Json, Router,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use portcullis_identity::oauth::OAuthError;
use serde_json::json;

use super::Web;

/// The routes. Those that take no cookie may be asked by pages of any origin, since programs in browsers are clients too.
pub(super) fn router() -> Router<Web> {
    let open = Router::new()
        .route("/.well-known/oauth-protected-resource/{*path}", get(metadata::resource))
        .route("/.well-known/oauth-authorization-server", get(metadata::server))
        .route("/.well-known/oauth-authorization-server/{*path}", get(metadata::server))
        .route("/.well-known/openid-configuration", get(metadata::server))
        .route("/.well-known/openid-configuration/{*path}", get(metadata::server))
        .route("/oauth/token", post(token::token))
        .route("/oauth/revoke", post(token::revoke))
        .route("/oauth/register", post(token::register))
        .layer(middleware::from_fn(anywhere));
    Router::new().route("/oauth/authorize", get(authorize::show).post(authorize::decide)).merge(open)
}

/// Lets pages of any origin ask, without cookies.
async fn anywhere(request: axum::extract::Request, next: middleware::Next) -> Response {
    let asked_first = request.method() == Method::OPTIONS;
    let mut response = if asked_first { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    if asked_first {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        let allowed = HeaderValue::from_static("authorization, content-type, mcp-protocol-version");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
    response
}

/// A refusal as a client reads it.
fn refused(error: &OAuthError) -> Response {
    let status = match error.code {
        "invalid_client" => StatusCode::UNAUTHORIZED,
        "access_denied" => StatusCode::FORBIDDEN,
        "temporarily_unavailable" => StatusCode::SERVICE_UNAVAILABLE,
        "slow_down" => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::BAD_REQUEST,
    };
    let mut response =
        (status, Json(json!({ "error": error.code, "error_description": error.description }))).into_response();
    if status == StatusCode::UNAUTHORIZED {
        // RFC 6749 section 5.2.
        let challenge = HeaderValue::from_static("Basic realm=\"portcullis\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// How this client reaches us: as the operator says, or by the name of this machine that it used.
pub(super) fn base(web: &Web, headers: &HeaderMap) -> String {
    portcullis_identity::oauth::base(&web.base_url, headers.get(header::HOST).and_then(|h| h.to_str().ok()))
}
