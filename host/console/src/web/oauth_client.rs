//! What authorization servers of servers read about the gateway as their client: its client-id metadata document, and the key
//! that it signs with.

use axum::{
    extract::{Path, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use portcullis_credential::CALLBACK_PATH;
use url::Url;

use super::Web;

/// How long others may keep it: authorization servers ask for it at each sign-in otherwise.
const AGE: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// The document for one authorization server, whose own URL is the client's id (SEP-991). The address in it is the configured one, whatever name the
/// request came by.
pub(super) async fn metadata(State(web): State<Web>, Path(mark): Path<String>) -> Response {
    let callback: Result<Url, _> = format!("{}{CALLBACK_PATH}", web.base_url.trim_end_matches('/')).parse();
    match callback.ok().and_then(|callback| web.oauth.metadata_document(&callback, &mark)) {
        Some(document) => json(&document),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// The key, as a set (RFC 7517 section 5).
pub(super) async fn keys(State(web): State<Web>) -> Response {
    json(&web.oauth.key_set())
}

fn json(value: &serde_json::Value) -> Response {
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json")), (header::CACHE_CONTROL, AGE)];
    (headers, value.to_string()).into_response()
}
