//! Metadata: of gateways (RFC 9728), and of the authorization server (RFC 8414, also where OpenID clients look).

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use portcullis_identity::oauth::Target;

use super::super::Web;

/// `GET /.well-known/oauth-protected-resource/mcp/{gateway}`.
pub(super) async fn resource(State(web): State<Web>, Path(path): Path<String>, headers: HeaderMap) -> Response {
    let (base, path) = (super::base(&web, &headers), format!("/{path}"));
    // As it is asked for from outside, or as a proxy in front leaves it.
    let path = path.strip_prefix(web.prefix()).filter(|rest| rest.starts_with('/')).unwrap_or(&path);
    let found = Target::of_path(path).and_then(|target| web.authorization.resource_metadata(&target, &base));
    match found {
        Some(metadata) => Json(metadata).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// `GET /.well-known/oauth-authorization-server` and the places that clients of earlier revisions try.
pub(super) async fn server(State(web): State<Web>) -> Response {
    Json(web.authorization.server_metadata()).into_response()
}
