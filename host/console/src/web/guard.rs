//! What holds for every page: it is for this host, it is framed by nobody, runs nothing, is kept nowhere.

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use http_body_util::{BodyExt as _, Limited};

use super::{Web, layout, session};

/// The most bytes of a page.
const MAX_PAGE: usize = 16 << 20;

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
    if !web.prefix().is_empty() {
        response = placed(response, web.prefix()).await;
    }
    let headers = response.headers_mut();
    put(headers, header::CONTENT_SECURITY_POLICY, &layout::policy(&[]));
    put(headers, header::CACHE_CONTROL, "no-store");
    put(headers, header::REFERRER_POLICY, "no-referrer");
    put(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    // For browsers that know no `frame-ancestors`.
    put(headers, header::X_FRAME_OPTIONS, "DENY");
    response
}

/// The same answer as browsers need it where we stand at a path of a proxy: what leads to a place of ours leads to it there.
async fn placed(response: Response, prefix: &str) -> Response {
    let (mut parts, body) = response.into_parts();
    let local = |place: &HeaderValue| place.to_str().ok().and_then(session::local).map(|p| format!("{prefix}{p}"));
    if let Some(place) = parts.headers.get(header::LOCATION).and_then(local)
        && let Ok(place) = HeaderValue::try_from(place)
    {
        parts.headers.insert(header::LOCATION, place);
    }
    let page = parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if !page {
        return Response::from_parts(parts, body);
    }
    // A page is in memory already.
    let Ok(text) = Limited::new(body, MAX_PAGE).collect().await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(leading(&String::from_utf8_lossy(&text.to_bytes()), prefix)))
}

/// A page whose links, forms and refreshes lead to places behind a prefix. Quotation marks in texts and values are escaped, so
/// what is found here is markup of ours.
fn leading(page: &str, prefix: &str) -> String {
    [" href=\"", " action=\"", " content=\"0; url="]
        .iter()
        .fold(page.to_owned(), |page, before| page.replace(&format!("{before}/"), &format!("{before}{prefix}/")))
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if !headers.contains_key(&name)
        && let Ok(value) = HeaderValue::from_str(value)
    {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use maud::html;

    use super::*;

    #[test]
    fn what_leads_to_us_leads_there_behind_a_proxy_and_nothing_else_changes() {
        let name = "x\" href=\"/evil";
        let page = html! {
            a href="/servers" title=(name) { (name) }
            a href="https://other.example/" { "there" }
            a href="#main" {}
            form action={ "/tokens/" (name) } {}
            meta content="0; url=/next";
        };
        let page = leading(&page.into_string(), "/p");
        assert_eq!(
            page,
            "<a href=\"/p/servers\" title=\"x&quot; href=&quot;/evil\">x&quot; href=&quot;/evil</a>\
             <a href=\"https://other.example/\">there</a><a href=\"#main\"></a>\
             <form action=\"/p/tokens/x&quot; href=&quot;/evil\"></form><meta content=\"0; url=/p/next\">"
        );
    }
}
