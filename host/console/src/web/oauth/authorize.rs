//! The authorization endpoint: somebody signs in, reads who asks for what, and says yes or no.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use portcullis_identity::oauth::{
    OAuthError,
    authorize::{Asked, Consenting, Refusal, Wish},
    client::Origin,
};
use portcullis_model::{Fault, Side};
use portcullis_telemetry::AuditEvent;

use super::super::{
    Visitor, Web,
    form::{self, Fields, SignedForm},
    layout,
    session::{self, signin_url},
};

/// The longest query that is read.
const MAX_QUERY: usize = 8 << 10;

/// `GET /oauth/authorize`.
pub(super) async fn show(
    State(web): State<Web>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.unwrap_or_default();
    let wish = match read(&web, &query, web.entrance.client_address(peer, &headers)).await {
        Ok(wish) => wish,
        Err(response) => return *response,
    };
    let visitor = match session::find(&web, &headers).await {
        Ok(Some(visitor)) => visitor,
        Ok(None) if wish.silent => return untold(&web, &wish, None, "login_required"),
        Ok(None) => {
            return Redirect::to(&signin_url(&wish.target.tenant, Some(&format!("/oauth/authorize?{query}"))))
                .into_response();
        }
        Err(response) => return response,
    };
    let person = consenting(&visitor);
    if person.tenant != wish.target.tenant {
        return here(
            Some(&visitor),
            &OAuthError { code: "invalid_target", description: "this gateway is not yours".into() },
        );
    }
    match web.authorization.has_consented(&wish, &person).await {
        Ok(true) => agreed(&web, &wish, &visitor, &person).await,
        Ok(false) if wish.silent => untold(&web, &wish, Some(&visitor), "consent_required"),
        Ok(false) => {
            let page = layout::page("Let a program in?", Some(&visitor), question(&web, &wish, &visitor, &query));
            page.sends_to(&source(&wish.redirect_uri)).into_response()
        }
        Err(error) => here(Some(&visitor), &error),
    }
}

/// `POST /oauth/authorize`: the answer.
pub(super) async fn decide(
    State(web): State<Web>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    form: SignedForm,
) -> Response {
    let visitor = &form.visitor;
    let from = web.entrance.client_address(peer, &headers);
    let wish = match read(&web, form.fields.get("request").unwrap_or_default(), from).await {
        Ok(wish) => wish,
        Err(response) => return *response,
    };
    if form.fields.get("decision") != Some("allow") {
        web.metrics.oauth("authorize", "denied");
        let event = consent("denial", &wish, visitor);
        web.audit.record(AuditEvent { decision: Some("deny".into()), outcome: Some("refused".into()), ..event });
        return back(web.authorization.denied(&wish, "access_denied"));
    }
    agreed(&web, &wish, visitor, &consenting(visitor)).await
}

async fn agreed(web: &Web, wish: &Wish, visitor: &Visitor, person: &Consenting) -> Response {
    let event = AuditEvent { outcome: Some("ok".into()), ..consent("grant", wish, visitor) };
    if let Err(error) = web.audit.record_durable(event).await {
        return session::unavailable(&error);
    }
    match web.authorization.consented(wish, person).await {
        Ok(url) => {
            web.metrics.oauth("authorize", "ok");
            back(Some(url))
        }
        Err(error) => here(Some(visitor), &error),
    }
}

fn consent(kind: &'static str, wish: &Wish, visitor: &Visitor) -> AuditEvent {
    AuditEvent {
        tenant: Some(wish.target.tenant.shared()),
        gateway: Some(wish.target.gateway.shared()),
        caller: Some(Arc::clone(&visitor.principal.subject_text)),
        method: Some("oauth.authorize".into()),
        tool: Some(Arc::from(portcullis_model::text::shown(&wish.client.id, 200))),
        ..AuditEvent::new(kind)
    }
}

/// A client that wanted nobody to be asked, where somebody has to be: told so, or the person is.
fn untold(web: &Web, wish: &Wish, visitor: Option<&Visitor>, code: &'static str) -> Response {
    if web.authorization.may_tell(wish) {
        return back(web.authorization.denied(wish, code));
    }
    let description = "this program wanted to come in without asking you; start again from the program".into();
    here(visitor, &OAuthError { code, description })
}

async fn read(web: &Web, query: &str, from: IpAddr) -> Result<Wish, Box<Response>> {
    let refused = |error: OAuthError| {
        web.metrics.oauth("authorize", "refused");
        Box::new(here(None, &error))
    };
    let asked = asked(query).map_err(refused)?;
    match web.authorization.wish(&asked, from).await {
        Ok(wish) => Ok(wish),
        Err(Refusal::Here(error)) => Err(refused(error)),
        Err(Refusal::Back(url)) => {
            web.metrics.oauth("authorize", "refused");
            Err(Box::new(back(Some(url))))
        }
    }
}

fn asked(query: &str) -> Result<Asked, OAuthError> {
    let wrong = |description: &'static str| OAuthError { code: "invalid_request", description: description.into() };
    if query.len() > MAX_QUERY {
        return Err(wrong("the request is too long"));
    }
    let fields = Fields::parse(query.as_bytes());
    let mut asked = Asked::default();
    let places = [
        ("response_type", &mut asked.response_type),
        ("client_id", &mut asked.client_id),
        ("redirect_uri", &mut asked.redirect_uri),
        ("scope", &mut asked.scope),
        ("state", &mut asked.state),
        ("code_challenge", &mut asked.code_challenge),
        ("code_challenge_method", &mut asked.code_challenge_method),
        ("resource", &mut asked.resource),
        ("prompt", &mut asked.prompt),
    ];
    for (name, place) in places {
        let mut found = fields.all(name);
        *place = found.next().map(str::to_owned);
        if found.next().is_some() {
            return Err(wrong("a parameter stands twice"));
        }
    }
    // What would replace or hide what is asked for (RFC 9101).
    if fields.all("request").next().is_some() || fields.all("request_uri").next().is_some() {
        return Err(wrong("request objects are not served"));
    }
    Ok(asked)
}

fn consenting(visitor: &Visitor) -> Consenting {
    Consenting {
        tenant: visitor.principal.tenant.clone(),
        who: visitor.who.clone(),
        groups: visitor.principal.groups.clone(),
        provider: visitor.provider.clone(),
        signed_in_ms: visitor.signed_in_ms,
    }
}

fn question(web: &Web, wish: &Wish, visitor: &Visitor, query: &str) -> Markup {
    let gateway = web
        .authorization
        .with_gateway(&wish.target, |g| portcullis_identity::oauth::resource::title(g, &wish.target.gateway))
        .unwrap_or_default();
    let place = url::Url::parse(&wish.redirect_uri).ok();
    let local = place.as_ref().is_some_and(portcullis_identity::oauth::redirect::is_loopback);
    let place = place.and_then(|u| u.host_str().map(str::to_owned)).unwrap_or_else(|| source(&wish.redirect_uri));
    html! {
        p { strong { (wish.client.name) } " wants to use the gateway " strong { (gateway) } " as you, " (layout::name(visitor)) "." }
        div class="card" {
            dl {
                dt { "Program" } dd { (wish.client.name) }
                @if wish.client.origin == Origin::Document { dt { "Known as" } dd { (wish.client.id) } }
                dt { "Sends you back to" } dd { @if local { "a program on this machine" } @else { (place) } }
                dt { "May" } dd {
                    @if wish.scopes.is_empty() { "call the gateway's tools that need no scope" }
                    @else { "call the gateway's tools, also those that need: " (wish.scopes.join(", ")) }
                }
            }
        }
        @match wish.client.origin {
            Origin::Operator => p class="hint" { "Your operator registered this program." },
            Origin::Itself => div class="notice warn" { p { "This program registered itself under the name above; nobody has checked it. Go on only if you have just started it yourself." } },
            Origin::Document => p class="hint" { "Whoever runs the address under \"Known as\" vouches for this name, and nobody else." },
        }
        form class="row" method="post" action="/oauth/authorize" {
            (form::token(&visitor.csrf))
            input type="hidden" name="request" value=(query);
            button name="decision" value="allow" { "Let it in" }
            button class="quiet" name="decision" value="deny" { "No" }
        }
        p class="hint" { (web.authorization.how_long(visitor.provider.is_some())) }
    }
}

/// Where a form may end whose answer goes to this URI, for the page's policy.
fn source(redirect_uri: &str) -> String {
    match url::Url::parse(redirect_uri) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => url.origin().ascii_serialization(),
        Ok(url) => format!("{}:", url.scheme()),
        Err(_) => String::new(),
    }
}

fn back(url: Option<String>) -> Response {
    match url {
        Some(url) => Redirect::to(&url).into_response(),
        None => here(None, &OAuthError { code: "invalid_request", description: "redirect_uri is no URI".into() }),
    }
}

/// The person is told, because there is no client that could be.
fn here(visitor: Option<&Visitor>, error: &OAuthError) -> Response {
    let (side, status) = match error.code {
        "temporarily_unavailable" => (Side::Gateway, StatusCode::SERVICE_UNAVAILABLE),
        _ => (Side::Caller, StatusCode::BAD_REQUEST),
    };
    let message =
        format!("The program that sent you here asked for something that can't be given: {}", error.description);
    let fault = Fault::new(side, error.code, message).next("Close this page and start again from the program");
    (status, layout::fault(visitor, &fault)).into_response()
}
