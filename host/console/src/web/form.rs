//! Forms that browsers send: bounded, from our own pages only, with the token of the session or browser that was shown them.

use axum::{
    extract::{FromRef, FromRequest, FromRequestParts as _, Request},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use http_body_util::{BodyExt as _, Limited};
use maud::{Markup, html};
use portcullis_identity::signin;
use portcullis_model::{Fault, Secret, Side};
use tokio::time::timeout;
use url::form_urlencoded;
use zeroize::Zeroize as _;

use super::{MAX_FORM, PATIENCE, Visitor, Web, cookie::Cookie, layout};

/// The name of the field that holds the token.
const FIELD: &str = "csrf";

/// What to do about a form that is larger than [`MAX_FORM`].
const LARGE: &str = "Go back and give it less: all fields of a form together have room for 64 KiB";

/// The hidden field that every form holds.
pub fn token(csrf: &str) -> Markup {
    html! { input type="hidden" name=(FIELD) value=(csrf); }
}

/// What a form brought. Wiped when dropped, because forms bring secrets.
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads `application/x-www-form-urlencoded` text.
    pub fn parse(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    /// The value of a field; none where it is missing or there are several.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }

    /// A value that is a secret.
    pub fn secret(&self, name: &str) -> Option<Secret> {
        self.get(name).map(Secret::new)
    }

    /// All values of a field, in their order.
    pub fn all<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Every field and its value, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|(_, value)| value.zeroize());
    }
}

impl std::fmt::Debug for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(key, _)| key)).finish()
    }
}

/// A form that somebody who has signed in sent from one of our pages.
#[derive(Debug)]
pub struct SignedForm {
    /// Who.
    pub visitor: Visitor,
    /// What.
    pub fields: Fields,
}

impl<S: Send + Sync> FromRequest<S> for SignedForm
where
    Web: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let visitor = Visitor::from_request_parts(&mut parts, state).await?;
        let web = Web::from_ref(state);
        let fields = read(&web, Request::from_parts(parts, body)).await.map_err(|f| refused(Some(&visitor), &f))?;
        if !proves(&fields, &visitor.csrf) {
            return Err(refused(Some(&visitor), &forged()));
        }
        Ok(Self { visitor, fields })
    }
}

/// A form of somebody who has not signed in yet, from the browser that was shown it.
pub(super) struct OpenForm(pub(super) Fields);

impl<S: Send + Sync> FromRequest<S> for OpenForm
where
    Web: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let web = Web::from_ref(state);
        let csrf = Cookie::Form.read(&web, request.headers()).map(signin::csrf);
        let fields = read(&web, request).await.map_err(|f| refused(None, &f))?;
        match csrf {
            Some(csrf) if proves(&fields, &csrf) => Ok(Self(fields)),
            _ => Err(refused(None, &forged())),
        }
    }
}

/// The token is no secret of ours but the browser's: an early answer tells whoever guesses nothing that they could use,
/// since each guess is another request of a browser that holds the cookie already.
fn proves(fields: &Fields, csrf: &str) -> bool {
    fields.get(FIELD).is_some_and(|sent| sent == csrf)
}

async fn read(web: &Web, request: Request) -> Result<Fields, Fault> {
    check_site(web, request.headers())?;
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Fault::new(Side::Caller, "unsupported-media-type", "this page takes a form"));
    }
    let body = timeout(PATIENCE, Limited::new(request.into_body(), MAX_FORM).collect()).await;
    let body = body.unwrap_or_else(|_| Err("too slow".into()));
    let body = body.map_err(|_| {
        Fault::new(Side::Caller, "message-too-large", "the form is too large or ended early").next(LARGE)
    })?;
    let mut bytes = body.to_bytes().to_vec();
    let fields = Fields::parse(&bytes);
    bytes.zeroize();
    Ok(fields)
}

/// A form comes from a page of ours. `Origin` is `null` where a page says `no-referrer`, as ours do; browsers that say the
/// site say it in `Sec-Fetch-Site`.
fn check_site(web: &Web, headers: &HeaderMap) -> Result<(), Fault> {
    let text = |name: &str| headers.get(name).map(|v| v.to_str().unwrap_or_default());
    let fine = match (text("sec-fetch-site"), text("origin")) {
        (Some(site), _) => site == "same-origin" || site == "none",
        (None, None | Some("null")) => true,
        (None, Some(origin)) => {
            let ours = url::Url::parse(&web.base_url).map(|u| u.origin().ascii_serialization()).unwrap_or_default();
            let host = headers.get(header::HOST).and_then(|v| v.to_str().ok()).unwrap_or_default();
            origin == ours || (!host.is_empty() && origin == format!("http://{host}"))
        }
    };
    if fine { Ok(()) } else { Err(forged()) }
}

fn forged() -> Fault {
    Fault::new(Side::Caller, "foreign-form", "this form was not sent from the page that it belongs to")
        .next("Go back, reload the page and send it again; cookies have to be allowed")
}

fn refused(visitor: Option<&Visitor>, fault: &Fault) -> Response {
    let status = match fault.code {
        "message-too-large" => StatusCode::PAYLOAD_TOO_LARGE,
        "unsupported-media-type" => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        _ => StatusCode::FORBIDDEN,
    };
    (status, layout::fault(visitor, fault)).into_response()
}
