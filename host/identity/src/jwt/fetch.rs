//! Fetching metadata and keys: guarded, bounded, without redirects.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, StatusCode,
    header::{ACCEPT, CACHE_CONTROL},
};
use portcullis_model::Secret;
use portcullis_outbound::{Client, Error, Reach, Request};
use serde::Deserialize;
use url::Url;

use super::{JwtOptions, guard, jwks::KeySet};

/// The most bytes of metadata or of a key set.
const MAX_BODY: usize = 256 << 10;
/// A set of keys takes at most this many requests: three places for metadata, and the keys.
const MAX_REQUESTS: u32 = 4;

/// A client for metadata and keys.
pub(super) struct Fetcher {
    client: Arc<Client>,
    timeout: Duration,
    allow_private: bool,
}

/// An issuer's keys, and how long it says that they may be used.
pub(super) struct Fetched {
    pub(super) keys: KeySet,
    pub(super) max_age: Option<Duration>,
}

/// What is read of an issuer's metadata (RFC 8414 section 2, OpenID Connect Discovery 1.0 section 3).
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

impl Fetcher {
    pub(super) fn new(options: &JwtOptions) -> Self {
        let client = Arc::clone(&options.client);
        Self { client, timeout: options.timeout, allow_private: options.allow_private }
    }

    /// The keys of an issuer, from `jwks_url` or from where its metadata says. Errors are for operators.
    pub(super) async fn keys(&self, issuer: &str, jwks_url: Option<&str>) -> Result<Fetched, String> {
        let all = async {
            let issuer_url = Url::parse(issuer).ok();
            let loopback = issuer_url.as_ref().is_some_and(guard::is_loopback_http);
            let url = match jwks_url {
                Some(url) => Url::parse(url).map_err(|_| "the URL of the keys is no URL".to_owned())?,
                None => self.discover(issuer, issuer_url, loopback).await?,
            };
            let (body, max_age) = self.get(&url, loopback).await?;
            Ok(Fetched { keys: KeySet::read(&body).map_err(|e| format!("{url}: {e}"))?, max_age })
        };
        tokio::time::timeout(self.timeout * MAX_REQUESTS, all).await.unwrap_or_else(|_| Err("too slow".to_owned()))
    }

    async fn discover(&self, issuer: &str, url: Option<Url>, loopback: bool) -> Result<Url, String> {
        let url = url.filter(|u| u.has_host()).ok_or("the issuer is no URL, so its keys need `jwks-url`")?;
        let mut last = String::new();
        for place in places(&url) {
            let body = match self.get(&place, loopback).await {
                Ok((body, _)) => body,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            let Ok(metadata) = serde_json::from_slice::<Metadata>(&body) else {
                last = format!("{place}: the metadata has no issuer or no jwks_uri");
                continue;
            };
            // RFC 8414 section 3.3: identical, or somebody could speak for somebody else.
            if metadata.issuer != issuer {
                return Err(format!("{place}: the metadata is of another issuer"));
            }
            return Url::parse(&metadata.jwks_uri).map_err(|_| format!("{place}: jwks_uri is no URL"));
        }
        Err(last)
    }

    async fn get(&self, url: &Url, loopback: bool) -> Result<(Bytes, Option<Duration>), String> {
        let reach = guard::check(url, loopback, self.allow_private).map_err(|e| format!("{url}: {e}"))?;
        self.get_from(url, reach).await.map_err(|e| format!("{url}: {e}"))
    }

    async fn get_from(&self, url: &Url, reach: Reach) -> Result<(Bytes, Option<Duration>), String> {
        let request = Request {
            method: Method::GET,
            url: url.clone(),
            headers: vec![(ACCEPT, HeaderValue::from_static("application/json, application/jwk-set+json"))],
            body: Secret::new(""),
            timeout: self.timeout,
            max_body: MAX_BODY,
            reach,
        };
        let response = self.client.send(request).await.map_err(|error| match error {
            Error::Timeout => "too slow".to_owned(),
            Error::TooLarge => "the answer is too large".to_owned(),
            other => other.to_string(),
        })?;
        if response.status != StatusCode::OK {
            // Redirects as well: whoever configured this URL did not name the other one.
            return Err(format!("answered {}", response.status.as_u16()));
        }
        let age = response.headers.get(CACHE_CONTROL).and_then(|v| max_age(v.to_str().ok()?));
        Ok((response.body, age))
    }
}

/// Where an issuer's metadata may be: as OpenID Connect Discovery says, then as RFC 8414 section 3.1 says.
fn places(issuer: &Url) -> Vec<Url> {
    let path = issuer.path().trim_end_matches('/');
    let at = |path: &str| {
        let mut url = issuer.clone();
        url.set_query(None);
        url.set_fragment(None);
        url.set_path(path);
        url
    };
    let mut places = vec![
        at(&format!("{path}/.well-known/openid-configuration")),
        at(&format!("/.well-known/oauth-authorization-server{path}")),
    ];
    if !path.is_empty() {
        places.push(at(&format!("/.well-known/openid-configuration{path}")));
    }
    places
}

fn max_age(cache_control: &str) -> Option<Duration> {
    let lower = cache_control.to_ascii_lowercase();
    let mut directives = lower.split(',').map(str::trim);
    if directives.clone().any(|d| d == "no-store" || d == "no-cache") {
        return Some(Duration::ZERO);
    }
    let seconds = directives.find_map(|d| d.strip_prefix("max-age="))?;
    Some(Duration::from_secs(seconds.trim_matches('"').parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_looked_for_where_the_standards_say() {
        let check = |issuer: &str, expected: &[&str]| {
            let found: Vec<String> = places(&issuer.parse().unwrap()).iter().map(Url::to_string).collect();
            assert_eq!(found, expected);
        };
        check(
            "https://i.example",
            &[
                "https://i.example/.well-known/openid-configuration",
                "https://i.example/.well-known/oauth-authorization-server",
            ],
        );
        check(
            "https://i.example/a/b/",
            &[
                "https://i.example/a/b/.well-known/openid-configuration",
                "https://i.example/.well-known/oauth-authorization-server/a/b",
                "https://i.example/.well-known/openid-configuration/a/b",
            ],
        );
    }

    #[test]
    fn ages_are_read() {
        assert_eq!(max_age("public, max-age=600"), Some(Duration::from_secs(600)));
        assert_eq!(max_age("Max-Age=\"60\""), Some(Duration::from_secs(60)));
        assert_eq!(max_age("no-store, max-age=600"), Some(Duration::ZERO));
        for none in ["", "public", "max-age=x", "s-maxage=9"] {
            assert_eq!(max_age(none), None, "{none}");
        }
    }
}
