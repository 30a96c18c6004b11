//! Requests to a token endpoint (RFC 6749 sections 3.2 and 5), with the client authentication that it takes.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{
    HeaderName, HeaderValue, Method, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use portcullis_model::Secret;
use portcullis_outbound::Response;
use serde::{Deserialize, Serialize};
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use super::{
    challenge::scopes,
    key::ClientKey,
    web::{Bounds, Web, place, retry_after},
};

/// The longest token that is taken.
const MAX_TOKEN: usize = 16 << 10;

/// How a client says who it is at the token endpoint (RFC 7591 section 2, `token_endpoint_auth_method`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Authentication {
    #[serde(rename = "client_secret_basic")]
    Basic,
    #[serde(rename = "client_secret_post")]
    Post,
    #[serde(rename = "private_key_jwt")]
    Key,
    #[serde(rename = "none")]
    None,
}

impl Authentication {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "client_secret_basic",
            Self::Post => "client_secret_post",
            Self::Key => "private_key_jwt",
            Self::None => "none",
        }
    }

    pub(crate) fn of(text: &str) -> Option<Self> {
        [Self::Basic, Self::Post, Self::Key, Self::None].into_iter().find(|method| method.as_str() == text)
    }
}

/// What the gateway is at an authorization server.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) id: String,
    pub(crate) secret: Option<Secret>,
    pub(crate) method: Authentication,
}

/// A request to a token endpoint.
pub(crate) struct TokenRequest<'a> {
    pub(crate) web: &'a Web,
    pub(crate) bounds: &'a Bounds,
    pub(crate) endpoint: &'a Url,
    pub(crate) issuer: &'a str,
    pub(crate) client: &'a Client,
    pub(crate) key: &'a ClientKey,
}

/// What a token endpoint gave.
#[derive(Debug)]
pub(crate) struct Tokens {
    pub(crate) access: Secret,
    pub(crate) refresh: Option<Secret>,
    pub(crate) id_token: Option<Secret>,
    /// How long the access token lives, in milliseconds.
    pub(crate) life_ms: Option<u64>,
    /// The scopes that were granted, where they are not those that were asked for.
    pub(crate) scopes: Option<Vec<String>>,
}

/// Why there are no tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoTokens {
    /// The authorization server refused, with this code.
    Refused(String),
    /// It did not answer, or not as it has to: another time it may.
    Failed { why: String, retry_after: Option<Duration> },
}

#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    refresh_token: Option<String>,
    id_token: Option<String>,
    token_type: Option<String>,
    expires_in: Option<serde_json::Value>,
    scope: Option<String>,
    error: Option<String>,
}

impl TokenRequest<'_> {
    /// Sends a grant.
    pub(crate) async fn send(&self, grant: &[(&str, &[u8])], now_ms: u64) -> Result<Tokens, NoTokens> {
        let answer = self.post(grant, now_ms).await?;
        let at = place(self.endpoint);
        read(answer.status, &answer.body).map_err(|no| match no {
            NoTokens::Failed { why, .. } => {
                NoTokens::Failed { why: format!("{at} {why}"), retry_after: retry_after(&answer.headers) }
            }
            refused @ NoTokens::Refused(_) => refused,
        })
    }

    /// Sends a form as this client, to the token endpoint or another that takes the same authentication (RFC 7009 section 2.1).
    /// The answer is whatever it is.
    ///
    /// # Errors
    /// [`NoTokens::Failed`], where there is none.
    pub(crate) async fn post(&self, grant: &[(&str, &[u8])], now_ms: u64) -> Result<Response, NoTokens> {
        let failed = |why: &str| NoTokens::Failed { why: why.to_owned(), retry_after: None };
        let mut headers: Vec<(HeaderName, HeaderValue)> =
            vec![(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))];
        let id = self.client.id.as_bytes();
        let assertion;
        let mut form: Vec<(&str, &[u8])> = grant.to_vec();
        match (self.client.method, &self.client.secret) {
            (Authentication::Basic, Some(secret)) => headers.push((
                AUTHORIZATION,
                basic(id, secret.expose()).ok_or_else(|| failed("the client's secret can't stand in a header"))?,
            )),
            (Authentication::Post, Some(secret)) => {
                form.extend([("client_id", id), ("client_secret", secret.expose())])
            }
            (Authentication::Key, _) => {
                assertion = self
                    .key
                    .assertion(&self.client.id, self.issuer, now_ms)
                    .map_err(|error| failed(&error.to_string()))?;
                form.extend([
                    ("client_id", id),
                    ("client_assertion_type", b"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                    ("client_assertion", assertion.expose()),
                ]);
            }
            (Authentication::None, _) => form.push(("client_id", id)),
            (Authentication::Basic | Authentication::Post, None) => {
                return Err(failed("the client's secret is missing"));
            }
        }
        let body = encoded(&form);
        let answer = self.web.send(Method::POST, self.endpoint, self.bounds, headers, body).await;
        answer.map_err(|error| failed(&error.why))
    }
}

/// What an answer holds. Whatever its status, an error is an error: some answer 200 with one.
fn read(status: StatusCode, body: &[u8]) -> Result<Tokens, NoTokens> {
    let failed = |why: String| NoTokens::Failed { why, retry_after: None };
    let answer: Option<Answer> = serde_json::from_slice(body).ok();
    if let Some(code) = answer.as_ref().and_then(|a| a.error.as_deref()) {
        let busy = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        let passing = matches!(code, "temporarily_unavailable" | "server_error" | "slow_down");
        return Err(if busy || passing {
            failed(format!("answered {}", status.as_u16()))
        } else {
            NoTokens::Refused(word(code))
        });
    }
    if status != StatusCode::OK {
        return Err(failed(format!("answered {}", status.as_u16())));
    }
    let Some(answer) = answer else { return Err(failed("answered with something that is no token".to_owned())) };
    let token = |text: Option<String>| text.filter(|t| !t.is_empty()).map(|t| Secret::new(t.into_bytes()));
    let (refresh, id_token) = (token(answer.refresh_token), token(answer.id_token));
    let Some(access) = token(answer.access_token) else { return Err(failed("answered without a token".to_owned())) };
    if access.len() > MAX_TOKEN || refresh.as_ref().is_some_and(|t| t.len() > MAX_TOKEN) {
        return Err(failed("answered with a token that is too long".to_owned()));
    }
    if !access.expose().iter().all(|b| matches!(b, 0x21..=0x7e)) {
        return Err(failed("answered with a token that can't stand in a header".to_owned()));
    }
    // RFC 6749 section 7.1: a type that is not understood must not be used.
    if !answer.token_type.as_deref().is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
        return Err(failed("answered with a token of another type than Bearer".to_owned()));
    }
    // Some write the number as text.
    let seconds = answer.expires_in.and_then(|v| v.as_f64().or_else(|| v.as_str()?.trim().parse().ok()));
    let life_ms = seconds.filter(|s| s.is_finite() && *s >= 0.0).map(|s| (s.min(3.2e9) * 1000.0) as u64);
    Ok(Tokens { access, refresh, id_token, life_ms, scopes: answer.scope.map(|s| scopes(&s)) })
}

/// An error code as it may be shown: one word, or nothing that anybody wrote.
pub(crate) fn word(code: &str) -> String {
    let fine =
        !code.is_empty() && code.len() <= 60 && code.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    if fine { code.to_owned() } else { "an error".to_owned() }
}

/// `application/x-www-form-urlencoded`, in a buffer that does not grow.
fn encoded(form: &[(&str, &[u8])]) -> Secret {
    let size = form.iter().map(|(name, value)| name.len() + value.len() * 3 + 2).sum();
    let mut text = String::with_capacity(size);
    for (name, value) in form {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        text.extend(form_urlencoded::byte_serialize(value));
    }
    Secret::new(text.into_bytes())
}

/// RFC 6749 section 2.3.1: both parts are form-encoded first.
fn basic(id: &[u8], secret: &[u8]) -> Option<HeaderValue> {
    let mut plain = Zeroizing::new(String::with_capacity((id.len() + secret.len()) * 3 + 1));
    plain.extend(form_urlencoded::byte_serialize(id));
    plain.push(':');
    plain.extend(form_urlencoded::byte_serialize(secret));
    let mut text = Zeroizing::new(String::with_capacity(plain.len() * 2 + 12));
    text.push_str("Basic ");
    STANDARD.encode_string(plain.as_bytes(), &mut text);
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_for_what_they_are() {
        let ok = |body: &str| read(StatusCode::OK, body.as_bytes()).unwrap();
        let tokens =
            ok(r#"{"access_token":"a","token_type":"bearer","expires_in":"3600","refresh_token":"r","scope":"x y"}"#);
        assert_eq!(tokens.life_ms, Some(3_600_000));
        assert_eq!(tokens.scopes.unwrap(), ["x", "y"]);
        assert!(tokens.refresh.is_some());
        assert_eq!(ok(r#"{"access_token":"a","token_type":"Bearer","expires_in":-5}"#).life_ms, None);
        let refused = |status: u16, body: &str| match read(StatusCode::from_u16(status).unwrap(), body.as_bytes()) {
            Err(NoTokens::Refused(code)) => Some(code),
            Err(NoTokens::Failed { .. }) => None,
            Ok(_) => panic!("{body}"),
        };
        assert_eq!(refused(400, r#"{"error":"invalid_grant"}"#).unwrap(), "invalid_grant");
        assert_eq!(refused(200, r#"{"error":"bad_refresh_token"}"#).unwrap(), "bad_refresh_token");
        assert_eq!(refused(400, r#"{"error":"<script> log in"}"#).unwrap(), "an error");
        for passing in [
            (500, r#"{"error":"invalid_grant"}"#),
            (429, r#"{"error":"invalid_grant"}"#),
            (400, r#"{"error":"temporarily_unavailable"}"#),
            (400, "please log in"),
            (302, ""),
            (200, "<html>login</html>"),
            (200, "{}"),
            (200, r#"{"access_token":"","token_type":"Bearer"}"#),
            (200, r#"{"access_token":"a"}"#),
            (200, r#"{"access_token":"a","token_type":"DPoP"}"#),
            (200, r#"{"access_token":"a b","token_type":"Bearer"}"#),
        ] {
            assert_eq!(refused(passing.0, passing.1), None, "{passing:?}");
        }
    }

    #[test]
    fn what_is_sent_is_encoded() {
        assert_eq!(encoded(&[("a", b"x y&z"), ("b", b"1")]).expose(), b"a=x+y%26z&b=1");
        // RFC 6749 section 2.3.1, with characters that need it.
        let header = basic(b"a:b", b"c d%").unwrap();
        assert!(header.is_sensitive());
        assert_eq!(header.to_str().unwrap(), format!("Basic {}", STANDARD.encode("a%3Ab:c+d%25")));
    }
}
