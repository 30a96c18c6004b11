//! The frame of every page, its stylesheet, and what its browser may do.

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};
use portcullis_model::Fault;

use super::{Visitor, form};

/// A page. Answered with status 200 unless it stands behind another one in a tuple.
#[derive(Debug)]
pub struct Page {
    markup: Markup,
    targets: Vec<String>,
}

impl Page {
    /// Also lets the page's forms end at another site, such as `https://accounts.example.com`: browsers hold a form's
    /// redirects to the policy too.
    #[must_use]
    pub fn sends_to(mut self, source: &str) -> Self {
        // A source that could end the directive would be another policy.
        if !source.is_empty() && source.bytes().all(|b| b.is_ascii_graphic() && b != b';' && b != b',') {
            self.targets.push(source.to_owned());
        }
        self
    }
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let mut headers = vec![(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))];
        if !self.targets.is_empty()
            && let Ok(policy) = HeaderValue::try_from(policy(&self.targets))
        {
            headers.push((header::CONTENT_SECURITY_POLICY, policy));
        }
        let headers: axum::http::HeaderMap = headers.into_iter().collect();
        (headers, self.markup.into_string()).into_response()
    }
}

/// `Content-Security-Policy`: nothing runs, nothing is loaded from elsewhere, nobody frames it, forms come back here or go to
/// `targets`.
pub fn policy(targets: &[String]) -> String {
    let mut policy =
        "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; \
                      form-action 'self'"
            .to_owned();
    for target in targets {
        policy.push(' ');
        policy.push_str(target);
    }
    policy
}

/// A page with this title and body; `visitor` is who has signed in, if anybody.
pub fn page(title: &str, visitor: Option<&Visitor>, body: Markup) -> Page {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Portcullis" }
                link rel="stylesheet" href="/assets/portcullis.css";
                link rel="icon" href="data:,";
            }
            body {
                a class="skip" href="#main" { "Skip to the content" }
                header {
                    a class="brand" href="/" { "Portcullis" }
                    @if let Some(visitor) = visitor {
                        nav aria-label="Pages" {
                            a href="/servers" { "Servers" }
                            a href="/connections" { "Connections" }
                            a href="/tokens" { "Tokens" }
                            a href="/setup" { "Set up a client" }
                        }
                        form class="who" method="post" action="/signout" {
                            (form::token(&visitor.csrf))
                            span { (name(visitor)) }
                            button class="quiet" { "Sign out" }
                        }
                    }
                }
                main id="main" tabindex="-1" {
                    h1 { (title) }
                    (body)
                }
            }
        }
    };
    Page { markup, targets: Vec::new() }
}

/// How a visitor is called.
pub fn name(visitor: &Visitor) -> &str {
    visitor.principal.display_name.as_deref().unwrap_or(&visitor.principal.subject_text)
}

/// A page that says what went wrong and what to do.
pub fn fault(visitor: Option<&Visitor>, fault: &Fault) -> Page {
    page(
        "That did not work",
        visitor,
        html! {
            div class="notice error" role="alert" {
                p { (fault.message) "." }
                @if let Some(next) = &fault.next { p { (next) "." } }
            }
            p class="hint" { "Code: " code { (fault.code) } }
        },
    )
}

/// A page that goes on to another place by itself: in place of a redirect, where that would be the end of a form's way and so
/// be held to the policy of the page that the form stood on.
pub fn onward(url: &str) -> Response {
    let refresh = format!("0; url={url}");
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="refresh" content=(refresh);
                title { "One moment · Portcullis" }
                link rel="stylesheet" href="/assets/portcullis.css";
            }
            body { main { p { a href=(url) { "Go on" } } } }
        }
    };
    Page { markup, targets: Vec::new() }.into_response()
}

/// The stylesheet.
pub(super) async fn stylesheet() -> Response {
    const CSS: &str = include_str!("portcullis.css");
    const KIND: [(HeaderName, HeaderValue); 2] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300")),
    ];
    (KIND, CSS).into_response()
}
