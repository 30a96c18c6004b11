//! What holds for every page: it is for this host, it is framed by nobody, runs nothing, is kept nowhere.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::{Web, layout};

/// Refuses foreign names, and puts the headers of a page on each answer that has none of its own.
pub(super) async fn guard(State(web): State<Web>, request: Request, next: Next) -> Response {
    let authority = request.uri().authority().map(|a| a.as_str().to_owned());
    let mut response = match web.entrance.check_host(authority.as_deref(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(fault) => {
            web.metrics.refused(&fault);
            (StatusCode::FORBIDDEN, layout::fault(None, &fault)).into_response()
        }
    };
    let headers = response.headers_mut();
    put(headers, header::CONTENT_SECURITY_POLICY, &layout::policy(&[]));
    put(headers, header::CACHE_CONTROL, "no-store");
    put(headers, header::REFERRER_POLICY, "no-referrer");
    put(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    // For browsers that know no `frame-ancestors`.
    put(headers, header::X_FRAME_OPTIONS, "DENY");
    response
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if !headers.contains_key(&name)
        && let Ok(value) = HeaderValue::from_str(value)
    {
        headers.insert(name, value);
    }
}
