//! What is said to identity providers: metadata is fetched, codes are redeemed. Guarded, bounded, without redirects.

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
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// What a code gave.
pub(super) struct Tokens {
    pub(super) id_token: Secret,
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
    let body = ask(parts, Method::GET, url, accept, Secret::new("")).await?;
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
        // Basic is what is supported where nothing is said.
        basic: methods.is_none_or(|m| m.iter().any(|m| m == "client_secret_basic")),
        says_iss: raw.authorization_response_iss_parameter_supported,
    })
}

/// Redeems a code (OpenID Connect Core 1.0 section 3.1.3).
pub(super) async fn redeem(
    parts: &OidcParts,
    tenant: &Name,
    provider: &IdentityProvider,
    metadata: &Metadata,
    code: &Secret,
    verifier: &str,
    redirect_uri: &str,
) -> Result<Tokens, String> {
    #[derive(Deserialize)]
    struct Answer {
        id_token: String,
    }
    let secret = match &provider.client_secret {
        Some(source) => Some(parts.secrets.read(tenant, source)?),
        None => None,
    };
    let mut headers = vec![
        (header::ACCEPT, HeaderValue::from_static("application/json")),
        (header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded")),
    ];
    let text = |secret: &Secret| String::from_utf8_lossy(secret.expose()).into_owned();
    let body = {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code");
        form.append_pair("code", &text(code));
        form.append_pair("redirect_uri", redirect_uri);
        form.append_pair("code_verifier", verifier);
        match &secret {
            Some(secret) if metadata.basic => {
                let encoded = |t: &str| form_urlencoded::byte_serialize(t.as_bytes()).collect::<String>();
                let pair = format!("{}:{}", encoded(&provider.client_id), encoded(&text(secret)));
                headers.push(basic(&pair)?);
            }
            Some(secret) => {
                form.append_pair("client_id", &provider.client_id);
                form.append_pair("client_secret", &text(secret));
            }
            None => {
                form.append_pair("client_id", &provider.client_id);
            }
        }
        Secret::new(form.finish())
    };
    let answer = ask(parts, Method::POST, metadata.token_endpoint.clone(), headers, body).await?;
    let answer: Answer = serde_json::from_slice(&answer).map_err(|_| "it gave no ID token".to_owned())?;
    Ok(Tokens { id_token: Secret::new(answer.id_token) })
}

fn basic(pair: &str) -> Result<(HeaderName, HeaderValue), String> {
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair)))
        .map_err(|_| "our secret there fits no header".to_owned())?;
    value.set_sensitive(true);
    Ok((header::AUTHORIZATION, value))
}

async fn ask(
    parts: &OidcParts,
    method: Method,
    url: Url,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Secret,
) -> Result<bytes::Bytes, String> {
    let reach = Reach::of(&url, parts.allow_private).map_err(|e| e.to_string())?;
    let request = Request { method, url, headers, body, timeout: PATIENCE, max_body: MAX_BODY, reach };
    let response = parts.outbound.send(request).await.map_err(|e| e.to_string())?;
    if response.status != StatusCode::OK {
        return Err(format!("it answered with status {}", response.status.as_u16()));
    }
    Ok(response.body)
}
