//! Signing in and out.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    extract::{ConnectInfo, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use maud::html;
use portcullis_identity::signin::{self, CodeError, NewSession, SESSION_LIFE, SessionError, SignedIn};
use portcullis_model::{Fault, Name, Side, address::is_loopback};
use portcullis_telemetry::AuditEvent;
use serde::Deserialize;

use super::{
    Web,
    cookie::Cookie,
    form::{self, OpenForm, SignedForm},
    layout::{self, Page},
    session::{self, local, unavailable},
};

/// How long a browser may look at the sign-in form before it sends it.
const FORM_LIFE: u64 = 3600;

#[derive(Deserialize)]
pub(super) struct Asked {
    next: Option<String>,
    tenant: Option<Name>,
}

/// `GET /signin`.
pub(super) async fn show(State(web): State<Web>, Query(asked): Query<Asked>, headers: HeaderMap) -> Response {
    let next = asked.next.as_deref().and_then(local);
    match session::find(&web, &headers).await {
        Ok(Some(_)) => return Redirect::to(next.unwrap_or("/")).into_response(),
        Ok(None) => {}
        Err(response) => return response,
    }
    if let Some(response) = only_safely(&web, &headers) {
        return response;
    }
    let tenant = asked.tenant.unwrap_or_else(Name::default_tenant);
    asking(&web, &headers, &tenant, next, None, StatusCode::OK)
}

/// The sign-in page, with what went wrong before.
fn asking(
    web: &Web,
    headers: &HeaderMap,
    tenant: &Name,
    next: Option<&str>,
    wrong: Option<&Fault>,
    status: StatusCode,
) -> Response {
    // A browser that has such a cookie keeps it, so that two tabs do not spoil each other's form.
    let (cookie, set) = match Cookie::Form.read(web, headers) {
        Some(cookie) => (cookie.to_owned(), None),
        None => match signin::browser_cookie() {
            Ok(cookie) => {
                let set = Cookie::Form.set(web, &cookie, FORM_LIFE);
                (cookie, set)
            }
            Err(error) => return unavailable(&error),
        },
    };
    let page = code_page(&signin::csrf(&cookie), &web.oidc.providers(tenant), tenant, next, wrong);
    let mut response = (status, page).into_response();
    if let Some(set) = set {
        response.headers_mut().append(header::SET_COOKIE, set);
    }
    response
}

fn code_page(
    csrf: &str,
    providers: &[(Name, String)],
    tenant: &Name,
    next: Option<&str>,
    wrong: Option<&Fault>,
) -> Page {
    layout::page(
        "Sign in",
        None,
        html! {
            @if let Some(fault) = wrong {
                div class="notice error" role="alert" id="wrong" {
                    p { (fault.message) "." }
                    @if let Some(next) = &fault.next { p { (next) "." } }
                }
            }
            @if !providers.is_empty() {
                section class="card" aria-labelledby="by-provider" {
                    h2 id="by-provider" { "With your organization's account" }
                    div class="row" {
                        @for (name, title) in providers {
                            a class="button" href=(provider_url(name, tenant, next)) { "Sign in with " (title) }
                        }
                    }
                }
            }
            section class="card" aria-labelledby="by-code" {
                h2 id="by-code" { "With a one-time code" }
                form class="stack" method="post" action="/signin" {
                    (form::token(csrf))
                    @if let Some(next) = next { input type="hidden" name="next" value=(next); }
                    label {
                        "Code"
                        span class="hint" { "An operator makes one with " code { "portcullis signin --user NAME" } "; it works once, for ten minutes." }
                        input name="code" required autocomplete="one-time-code" autocapitalize="characters" spellcheck="false"
                            maxlength="64" autofocus aria-describedby=[wrong.map(|_| "wrong")];
                    }
                    div { button { "Sign in" } }
                }
            }
        },
    )
}

/// `POST /signin`.
pub(super) async fn with_code(
    State(web): State<Web>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    OpenForm(fields): OpenForm,
) -> Response {
    if let Some(response) = only_safely(&web, &headers) {
        return response;
    }
    let next = fields.get("next").and_then(local);
    let address = web.entrance.client_address(peer, &headers);
    if let Some(wait) = web.failures.wait(address) {
        web.metrics.signed_in("code", "limited");
        return limited(wait);
    }
    let (tenant, who) = match web.signin.use_code(fields.get("code").unwrap_or_default()).await {
        Ok(used) => used,
        Err(CodeError::Invalid) => {
            web.failures.note(address);
            web.metrics.signed_in("code", "refused");
            let fault =
                Fault::new(Side::Caller, "invalid-code", "this code is not valid: it is used, too old or mistyped")
                    .next("Ask your operator for another one");
            return asking(&web, &headers, &Name::default_tenant(), next, Some(&fault), StatusCode::FORBIDDEN);
        }
        Err(error) => {
            web.metrics.signed_in("code", "failed");
            return unavailable(&error);
        }
    };
    let signed_in = SignedIn { tenant, who, groups: Vec::new(), display_name: None, provider: None, anybody: false };
    open(&web, signed_in, "code", next).await
}

/// Opens a session and goes on.
pub(super) async fn open(web: &Web, signed_in: SignedIn, method: &'static str, next: Option<&str>) -> Response {
    let (tenant, caller) = (signed_in.tenant.clone(), signed_in.who.to_string());
    let opened = web.signin.open_session(signed_in).await;
    let outcome = if opened.is_ok() { "ok" } else { "refused" };
    let event = AuditEvent {
        tenant: Some(tenant.as_str().into()),
        caller: Some(Arc::from(caller)),
        method: Some(format!("signin.{method}").into()),
        outcome: Some(outcome.into()),
        ..AuditEvent::new("session")
    };
    if let Err(error) = web.audit.record_durable(event).await {
        web.metrics.signed_in(method, "failed");
        return unavailable(&error);
    }
    match opened {
        Ok(session) => {
            web.metrics.signed_in(method, "ok");
            signed_in_at(web, &session, next.unwrap_or("/"))
        }
        Err(SessionError::Nobody(_)) => {
            web.metrics.signed_in(method, "refused");
            (StatusCode::FORBIDDEN, layout::fault(None, &unknown_person())).into_response()
        }
        Err(error) => {
            web.metrics.signed_in(method, "failed");
            unavailable(&error)
        }
    }
}

/// On, with the new session's cookie. By a page of its own, since what comes next may lead to another site.
fn signed_in_at(web: &Web, session: &NewSession, next: &str) -> Response {
    let mut response = layout::onward(next);
    // An exit: the session's secret goes to the browser whose it is.
    let cookie = std::str::from_utf8(session.cookie.expose()).unwrap_or_default();
    let cookies = [Cookie::Session.set(web, cookie, SESSION_LIFE.as_secs()), Cookie::Form.clear(web)];
    for cookie in cookies.into_iter().flatten() {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// `POST /signout`.
pub(super) async fn sign_out(State(web): State<Web>, headers: HeaderMap, form: SignedForm) -> Response {
    // First, so that somebody for whom this fails is signed in and can try again.
    if let Some(whose) = form.visitor.sign_in()
        && let Err(error) = web.kept.drop_one(&whose).await
    {
        return unavailable(&error);
    }
    if let Some(cookie) = Cookie::Session.read(&web, &headers)
        && let Err(error) = web.signin.end_session(cookie).await
    {
        return unavailable(&error);
    }
    let event = AuditEvent {
        tenant: Some(form.visitor.principal.tenant.shared()),
        caller: Some(Arc::clone(&form.visitor.principal.subject_text)),
        method: Some("signout".into()),
        outcome: Some("ok".into()),
        ..AuditEvent::new("session")
    };
    web.audit.record(event);
    let mut response = Redirect::to("/signin").into_response();
    if let Some(gone) = Cookie::Session.clear(&web) {
        response.headers_mut().append(header::SET_COOKIE, gone);
    }
    response
}

/// Who signed in is nobody here.
pub(super) fn unknown_person() -> Fault {
    Fault::new(Side::Policy, "unknown-person", "nobody here goes by this identity").next("Ask your operator to add you")
}

/// Where a provider's button leads.
pub(super) fn provider_url(name: &Name, tenant: &Name, next: Option<&str>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if tenant.as_str() != portcullis_model::DEFAULT_TENANT {
        query.append_pair("tenant", tenant.as_str());
    }
    query.extend_pairs(next.map(|n| ("next", n)));
    let query = query.finish();
    format!("/signin/with/{name}{}{query}", if query.is_empty() { "" } else { "?" })
}

/// Over plain HTTP a session would be anybody's on the way, so only loopback is served without TLS.
pub(super) fn only_safely(web: &Web, headers: &HeaderMap) -> Option<Response> {
    let host = headers.get(header::HOST).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let host = url::Url::parse(&format!("http://{host}")).ok()?;
    if web.is_secure() || is_loopback(&host) {
        return None;
    }
    let fault = Fault::new(Side::Gateway, "needs-tls", "people can sign in over https only, or on this machine itself")
        .next("Ask your operator to set tls, or publicUrl to the https address of the proxy in front");
    Some((StatusCode::FORBIDDEN, layout::fault(None, &fault)).into_response())
}

pub(super) fn limited(wait: Duration) -> Response {
    let fault = Fault::new(Side::Caller, "too-many-failures", "too many failed sign-ins from this address")
        .next("Wait a moment, then try again");
    let mut response = (StatusCode::TOO_MANY_REQUESTS, layout::fault(None, &fault)).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    response
}
