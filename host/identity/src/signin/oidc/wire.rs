//! What is said to identity providers: metadata is fetched, codes are redeemed, tokens renewed. Guarded, bounded, without
//! redirects.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use portcullis_model::{Name, Secret, spec::IdentityProvider};
use portcullis_outbound::{Reach, Request};
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::Value;
use url::{Url, form_urlencoded};

use super::OidcParts;

/// The most bytes of an answer.
const MAX_BODY: usize = 256 << 10;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long metadata is believed.
const FRESH: Duration = Duration::from_secs(300);
/// The most providers whose metadata is kept.
const MOST: usize = 256;

/// Where a provider is asked.
pub(super) struct Metadata {
    pub(super) authorization_endpoint: Url,
    token_endpoint: Url,
    /// Where it tells who an access token is of.
    pub(super) userinfo_endpoint: Option<Url>,
    basic: bool,
    /// Whether it says who it is when it sends people back (RFC 9207).
    pub(super) says_iss: bool,
}

/// Metadata by issuer.
pub(super) struct Cached(Cache<String, Arc<(Instant, Arc<Metadata>)>>);

impl Default for Cached {
    fn default() -> Self {
        Self(Cache::new(MOST))
    }
}

#[derive(Deserialize)]
struct Raw {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    #[serde(default)]
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// What a code or a refresh token gave.
#[derive(Debug)]
pub(super) struct Tokens {
    pub(super) id_token: Option<Secret>,
    pub(super) access_token: Option<Secret>,
    pub(super) refresh_token: Option<Secret>,
    /// How long the access token lives, in milliseconds.
    pub(super) life_ms: Option<u64>,
}

/// Why there are no tokens.
#[derive(Debug)]
pub(super) enum NoTokens {
    /// The provider refuses the code or refresh token (RFC 6749 section 5.2, `invalid_grant`).
    Over,
    /// It gives nothing that could be kept.
    Nothing,
    /// It gave no answer that could be used. The reason is for operators.
    Failed(String),
}

impl From<String> for NoTokens {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

impl std::fmt::Display for NoTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Over => f.write_str("it takes this code or token for used or ended"),
            Self::Nothing => f.write_str("it gave no token to keep"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

impl Cached {
    /// A provider's metadata (OpenID Connect Discovery 1.0 section 4).
    pub(super) async fn of(&self, parts: &OidcParts, provider: &IdentityProvider) -> Result<Arc<Metadata>, String> {
        if let Some(held) = self.0.get(&provider.issuer)
            && held.0.elapsed() < FRESH
        {
            return Ok(Arc::clone(&held.1));
        }
        let metadata = Arc::new(fetch(parts, &provider.issuer).await?);
        self.0.insert(provider.issuer.clone(), Arc::new((Instant::now(), Arc::clone(&metadata))));
        Ok(metadata)
    }
}

async fn fetch(parts: &OidcParts, issuer: &str) -> Result<Metadata, String> {
    let place = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let url = Url::parse(&place).map_err(|_| "the issuer is no URL".to_owned())?;
    let accept = vec![(header::ACCEPT, HeaderValue::from_static("application/json"))];
    let (status, body) = send(parts, Method::GET, url, accept, Secret::new("")).await?;
    if status != StatusCode::OK {
        return Err(format!("it answered with status {}", status.as_u16()));
    }
    let raw: Raw = serde_json::from_slice(&body).map_err(|_| "its metadata can't be read".to_owned())?;
    // Identical, or somebody could speak for somebody else (OpenID Connect Discovery 1.0 section 4.3).
    if raw.issuer != issuer {
        return Err("its metadata is of another issuer".to_owned());
    }
    let local = Url::parse(issuer).is_ok_and(|u| u.scheme() == "http");
    let endpoint = |text: &str| {
        let url = Url::parse(text).ok().filter(|u| u.scheme() == "https" || (local && u.scheme() == "http"));
        url.ok_or_else(|| "its metadata names an endpoint that is not https".to_owned())
    };
    let methods = raw.token_endpoint_auth_methods_supported;
    Ok(Metadata {
        authorization_endpoint: endpoint(&raw.authorization_endpoint)?,
        token_endpoint: endpoint(&raw.token_endpoint)?,
        // Asked for groups only: one that can't be used ends no sign-in.
        userinfo_endpoint: raw.userinfo_endpoint.as_deref().and_then(|url| endpoint(url).ok()),
        // Basic is what is supported where nothing is said.
        basic: methods.is_none_or(|m| m.iter().any(|m| m == "client_secret_basic")),
        says_iss: raw.authorization_response_iss_parameter_supported,
    })
}

/// Where tokens are asked for, and as whom.
pub(super) struct TokenEndpoint<'a> {
    pub(super) parts: &'a OidcParts,
    pub(super) tenant: &'a Name,
    pub(super) provider: &'a IdentityProvider,
    pub(super) metadata: &'a Metadata,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    id_token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    refresh_token: Option<String>,
    /// A number; some say it as a text.
    #[serde(default)]
    expires_in: Option<Value>,
    #[serde(default)]
    error: Option<String>,
}

impl TokenEndpoint<'_> {
    /// Redeems a code (OpenID Connect Core 1.0 section 3.1.3).
    pub(super) async fn redeem(&self, code: &Secret, verifier: &str, redirect_uri: &str) -> Result<Tokens, NoTokens> {
        let form: [(&str, &[u8]); 4] = [
            ("grant_type", b"authorization_code"),
            ("code", code.expose()),
            ("redirect_uri", redirect_uri.as_bytes()),
            ("code_verifier", verifier.as_bytes()),
        ];
        self.ask(&form).await
    }

    /// Renews what a sign-in gave (OpenID Connect Core 1.0 section 12).
    pub(super) async fn renew(&self, refresh: &Secret) -> Result<Tokens, NoTokens> {
        self.ask(&[("grant_type", b"refresh_token"), ("refresh_token", refresh.expose())]).await
    }

    async fn ask(&self, form: &[(&str, &[u8])]) -> Result<Tokens, NoTokens> {
        let Self { parts, tenant, provider, metadata } = self;
        let secret = match &provider.client_secret {
            Some(source) => Some(parts.secrets.read(tenant, source)?),
            None => None,
        };
        let mut headers = vec![
            (header::ACCEPT, HeaderValue::from_static("application/json")),
            (header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded")),
        ];
        let body = {
            let mut body = form_urlencoded::Serializer::new(String::new());
            for (name, value) in form {
                body.append_pair(name, &String::from_utf8_lossy(value));
            }
            let text = |secret: &Secret| String::from_utf8_lossy(secret.expose()).into_owned();
            match &secret {
                Some(secret) if metadata.basic => {
                    let encoded = |t: &str| form_urlencoded::byte_serialize(t.as_bytes()).collect::<String>();
                    let pair = format!("{}:{}", encoded(&provider.client_id), encoded(&text(secret)));
                    headers.push(basic(&pair)?);
                }
                Some(secret) => {
                    body.append_pair("client_id", &provider.client_id);
                    body.append_pair("client_secret", &text(secret));
                }
                None => {
                    body.append_pair("client_id", &provider.client_id);
                }
            }
            Secret::new(body.finish())
        };
        let (status, body) = send(parts, Method::POST, metadata.token_endpoint.clone(), headers, body).await?;
        let read: Result<Answer, _> = serde_json::from_slice(&body);
        if status != StatusCode::OK {
            // RFC 6749 section 5.2: what is not this is the provider's trouble, or ours there, and may pass.
            let over = read.is_ok_and(|a| a.error.as_deref() == Some("invalid_grant"));
            if over && status == StatusCode::BAD_REQUEST {
                return Err(NoTokens::Over);
            }
            return Err(NoTokens::Failed(format!("it answered with status {}", status.as_u16())));
        }
        let answer = read.map_err(|_| "its answer can't be read".to_owned())?;
        if answer.error.is_some() {
            return Err(NoTokens::Failed("it answered with an error".to_owned()));
        }
        let seconds = answer.expires_in.and_then(|v| v.as_u64().or_else(|| v.as_str()?.parse().ok()));
        Ok(Tokens {
            id_token: answer.id_token.map(Secret::new),
            access_token: answer.access_token.map(Secret::new),
            refresh_token: answer.refresh_token.map(Secret::new),
            life_ms: seconds.map(|s| s.saturating_mul(1000)),
        })
    }
}

/// What a provider says about whoever an access token is of (OpenID Connect Core 1.0 section 5.3).
///
/// # Errors
/// Why it says nothing that can be used, for operators.
pub(super) async fn userinfo(parts: &OidcParts, endpoint: &Url, token: &Secret) -> Result<Value, String> {
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", String::from_utf8_lossy(token.expose())))
        .map_err(|_| "its access token fits no header".to_owned())?;
    bearer.set_sensitive(true);
    let headers = vec![(header::ACCEPT, HeaderValue::from_static("application/json")), (header::AUTHORIZATION, bearer)];
    let (status, body) = send(parts, Method::GET, endpoint.clone(), headers, Secret::new("")).await?;
    if status != StatusCode::OK {
        return Err(format!("it answered with status {}", status.as_u16()));
    }
    serde_json::from_slice(&body).map_err(|_| "its answer can't be read".to_owned())
}

fn basic(pair: &str) -> Result<(HeaderName, HeaderValue), String> {
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair)))
        .map_err(|_| "our secret there fits no header".to_owned())?;
    value.set_sensitive(true);
    Ok((header::AUTHORIZATION, value))
}

async fn send(
    parts: &OidcParts,
    method: Method,
    url: Url,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Secret,
) -> Result<(StatusCode, bytes::Bytes), String> {
    let reach = Reach::of(&url, parts.allow_private).map_err(|e| e.to_string())?;
    let request = Request { method, url, headers, body, timeout: PATIENCE, max_body: MAX_BODY, reach };
    let response = parts.outbound.send(request).await.map_err(|e| e.to_string())?;
    Ok((response.status, response.body))
}
