//! The endpoints that clients call by themselves: tokens, revocation (RFC 7009), registration (RFC 7591).

use std::net::{IpAddr, SocketAddr};

use axum::{
    Json,
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use portcullis_identity::oauth::{
    OAuthError, client::Presented, exchange::Asked, grant::Issued, register::Registration,
};
use portcullis_model::Secret;
use serde_json::json;
use tokio::time::timeout;
use zeroize::Zeroize as _;

use super::{
    super::{MAX_FORM, PATIENCE, Web, form::Fields},
    refused,
};

/// What a client's assertion is said to be (RFC 7523 section 2.2).
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

fn wrong(description: &'static str) -> OAuthError {
    OAuthError { code: "invalid_request", description: description.into() }
}

/// `POST /oauth/token`.
pub(super) async fn token(
    State(web): State<Web>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let address = web.entrance.client_address(peer, request.headers());
    if by_a_page(request.headers()) {
        return refused(&wrong("a page's form is no OAuth client"));
    }
    if web.oauth_failures.wait(address).is_some() {
        web.metrics.oauth("token", "limited");
        return refused(&OAuthError { code: "slow_down", description: "too many failures from this address".into() });
    }
    let answered = async {
        let (fields, presented) = form(request, address).await?;
        let asked = Asked {
            grant_type: one(&fields, "grant_type")?,
            code: one(&fields, "code")?.map(Secret::new),
            redirect_uri: one(&fields, "redirect_uri")?,
            code_verifier: one(&fields, "code_verifier")?.map(Secret::new),
            refresh_token: one(&fields, "refresh_token")?.map(Secret::new),
            assertion: one(&fields, "assertion")?.map(Secret::new),
            scope: one(&fields, "scope")?,
            resource: one(&fields, "resource")?,
        };
        let web = web.clone();
        to_the_end(async move { web.authorization.exchange(&presented, &asked).await }).await
    };
    match answered.await {
        Ok(issued) => {
            web.metrics.oauth("token", "ok");
            given(&issued)
        }
        Err(error) => {
            web.metrics.oauth("token", "refused");
            if error.is_failure() {
                web.oauth_failures.note(address);
            }
            refused(&error)
        }
    }
}

/// An exit: the tokens go to the client that they were made for, in the body of its answer.
fn given(issued: &Issued) -> Response {
    let text = |secret: &Secret| String::from_utf8_lossy(secret.expose()).into_owned();
    let mut body = json!({
        "access_token": text(&issued.access_token),
        "token_type": "Bearer",
        "expires_in": issued.expires_in_s,
    });
    if let Some(refresh) = &issued.refresh_token {
        body["refresh_token"] = json!(text(refresh));
    }
    if !issued.scopes.is_empty() {
        body["scope"] = json!(issued.scopes.join(" "));
    }
    Json(body).into_response()
}

/// `POST /oauth/revoke`.
pub(super) async fn revoke(
    State(web): State<Web>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let address = web.entrance.client_address(peer, request.headers());
    if web.oauth_failures.wait(address).is_some() {
        return refused(&OAuthError { code: "slow_down", description: "too many failures from this address".into() });
    }
    let answered = async {
        let (fields, presented) = form(request, address).await?;
        let shown = one(&fields, "token")?.map(Secret::new).ok_or_else(|| wrong("token is missing"))?;
        let web = web.clone();
        to_the_end(async move { web.authorization.revoke_shown(&presented, &shown).await }).await
    };
    match answered.await {
        Ok(()) => {
            web.metrics.oauth("revoke", "ok");
            StatusCode::OK.into_response()
        }
        Err(error) => {
            web.metrics.oauth("revoke", "refused");
            if error.is_failure() {
                web.oauth_failures.note(address);
            }
            refused(&error)
        }
    }
}

/// `POST /oauth/register`.
pub(super) async fn register(
    State(web): State<Web>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let address = web.entrance.client_address(peer, request.headers());
    if web.registrations.wait(address).is_some() {
        web.metrics.oauth("register", "limited");
        return refused(&OAuthError {
            code: "slow_down",
            description: "too many registrations from this address".into(),
        });
    }
    let answered = async {
        let bytes = body(request).await?;
        let wanted: Registration = serde_json::from_slice(&bytes).map_err(|_| OAuthError {
            code: "invalid_client_metadata",
            description: "the body is no client metadata".into(),
        })?;
        web.registrations.note(address);
        web.authorization.register(wanted).await
    };
    match answered.await {
        Ok(new) => {
            web.metrics.oauth("register", "ok");
            let mut answer = new.answer;
            if let Some(secret) = &new.secret {
                // An exit: told once, to the client whose it is.
                answer["client_secret"] = json!(String::from_utf8_lossy(secret.expose()));
            }
            (StatusCode::CREATED, Json(answer)).into_response()
        }
        Err(error) => {
            web.metrics.oauth("register", "refused");
            refused(&error)
        }
    }
}

/// Does something on its own, so that a client that hangs up in the middle leaves nothing half done or off the record.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, OAuthError>> + Send + 'static,
) -> Result<T, OAuthError> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request of an OAuth client ended early");
        Err(OAuthError { code: "temporarily_unavailable", description: "try again in a moment".into() })
    })
}

/// Whether a browser sends this for a form or an image of some page (Fetch Metadata), not for a program in it. It counts as nobody's failure:
/// any page could make its visitors fail.
fn by_a_page(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate" || mode == "no-cors")
}

async fn body(request: Request) -> Result<Bytes, OAuthError> {
    let body = timeout(PATIENCE, Limited::new(request.into_body(), MAX_FORM).collect()).await;
    let body = body.map_err(|_| wrong("the body takes too long"))?;
    Ok(body.map_err(|_| wrong("the body is too large or ended early"))?.to_bytes())
}

/// The form, and what the client says about itself in it or in its header; in one place only.
async fn form(request: Request, from: IpAddr) -> Result<(Fields, Presented), OAuthError> {
    let from = Some(from);
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(wrong("send application/x-www-form-urlencoded"));
    }
    let basic = basic(request.headers())?;
    let mut bytes = body(request).await?.to_vec();
    let fields = Fields::parse(&bytes);
    bytes.zeroize();
    let (id, secret) = (one(&fields, "client_id")?, one(&fields, "client_secret")?.map(Secret::new));
    let assertion = one(&fields, "client_assertion")?.map(Secret::new);
    if assertion.is_some() && one(&fields, "client_assertion_type")?.as_deref() != Some(JWT_BEARER) {
        return Err(wrong("client_assertion_type is not served"));
    }
    let presented = match basic {
        None => Presented { id, secret, assertion, from },
        Some(_) if secret.is_some() || assertion.is_some() => return Err(wrong("the client proves itself twice")),
        Some((named, _)) if id.as_ref().is_some_and(|id| *id != named) => return Err(wrong("two client ids")),
        Some((named, secret)) => Presented { id: Some(named), secret: Some(secret), assertion: None, from },
    };
    Ok((fields, presented))
}

/// The client of `Authorization: Basic`; both parts are form-encoded in it (RFC 6749 section 2.3.1).
fn basic(headers: &HeaderMap) -> Result<Option<(String, Secret)>, OAuthError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let odd = || wrong("the Authorization header is no Basic one");
    let text = value.to_str().map_err(|_| odd())?;
    let (scheme, coded) = text.split_once(' ').ok_or_else(odd)?;
    if values.next().is_some() || !scheme.eq_ignore_ascii_case("basic") {
        return Err(odd());
    }
    let plain = zeroize::Zeroizing::new(STANDARD.decode(coded.trim()).map_err(|_| odd())?);
    let at = plain.iter().position(|b| *b == b':').ok_or_else(odd)?;
    let decoded = |part: &[u8]| {
        let pair = [b"x=".as_slice(), part].concat();
        url::form_urlencoded::parse(&pair).next().map(|(_, v)| v.into_owned()).unwrap_or_default()
    };
    Ok(Some((decoded(&plain[..at]), Secret::new(decoded(&plain[at + 1..])))))
}

/// A field that stands at most once (RFC 6749 section 3.2).
fn one(fields: &Fields, name: &str) -> Result<Option<String>, OAuthError> {
    let mut found = fields.all(name);
    let first = found.next().map(str::to_owned);
    if found.next().is_some() { Err(wrong("a parameter stands twice")) } else { Ok(first.filter(|v| !v.is_empty())) }
}
