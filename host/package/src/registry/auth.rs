//! The login at a registry: nothing is sent before it asks, and then as it asks (RFC 7617, RFC 6750, and the token endpoint of the
//! distribution project).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{
    HeaderValue, Method, StatusCode,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};
use portcullis_model::Secret;
use portcullis_outbound::Response;
use serde::Deserialize;
use url::Url;
use zeroize::Zeroizing;

use super::{Registry, SMALL};
use crate::{PackageError, layout::clean};

/// What a registry knows somebody by.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// A user name; without one, the password is a token that the registry itself takes.
    pub username: Option<String>,
    /// The password, or the token.
    pub password: Secret,
}

/// The login as far as it went.
#[derive(Debug)]
pub(super) struct Login {
    credentials: Option<Credentials>,
    header: Option<HeaderValue>,
    writes: bool,
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

impl Login {
    pub(super) fn new(credentials: Option<Credentials>) -> Self {
        Self { credentials, header: None, writes: false }
    }

    /// From now on for writing as well.
    pub(super) fn writes(&mut self) {
        if !self.writes {
            self.writes = true;
            self.header = None;
        }
    }

    pub(super) fn header(&self) -> Option<HeaderValue> {
        self.header.clone()
    }

    pub(super) fn is_known(&self) -> bool {
        self.credentials.is_some()
    }

    /// `Authorization: Basic`, where there is a name.
    fn basic(&self) -> Option<HeaderValue> {
        let credentials = self.credentials.as_ref()?;
        let name = credentials.username.as_ref()?;
        // Exit: the registry, or the token endpoint that it names.
        let pair = Zeroizing::new([name.as_bytes(), b":", credentials.password.expose()].concat());
        sensitive(&Zeroizing::new(format!("Basic {}", STANDARD.encode(&pair))))
    }

    /// `Authorization: Bearer` with the token that was given.
    fn own_token(&self) -> Option<HeaderValue> {
        let credentials = self.credentials.as_ref().filter(|c| c.username.is_none())?;
        // Exit: the registry.
        let token = std::str::from_utf8(credentials.password.expose()).ok()?;
        sensitive(&Zeroizing::new(format!("Bearer {token}")))
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Registry {
    /// Does what an answer of 401 asks for.
    pub(super) async fn log_in(&mut self, answer: &Response) -> Result<(), PackageError> {
        let asked = answer.headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok());
        let challenge = asked.filter_map(challenge).next();
        let header = match challenge {
            Some(Challenge::Bearer { .. }) if self.login.own_token().is_some() => self.login.own_token(),
            Some(Challenge::Bearer { realm, service }) => Some(self.token(&realm, service.as_deref()).await?),
            Some(Challenge::Basic) => self.login.basic(),
            None => self.login.own_token(),
        };
        match header {
            Some(header) => {
                self.login.header = Some(header);
                Ok(())
            }
            None => Err(self.refused(StatusCode::UNAUTHORIZED)),
        }
    }

    /// A token of the endpoint that the registry names. That it may name another host is how registries are built; the address
    /// still has to be one that the registry itself could have.
    async fn token(&mut self, realm: &str, service: Option<&str>) -> Result<HeaderValue, PackageError> {
        let elsewhere = || self.answers(format!("it sends for a token to {}, where nobody follows", clean(realm)));
        let mut url: Url = realm.parse().map_err(|_| elsewhere())?;
        let own = url.origin() == self.base.origin();
        if !(url.scheme() == "https" || (own && url.scheme() == "http")) || !url.username().is_empty() {
            return Err(elsewhere());
        }
        self.reach.check(&url).map_err(|_| elsewhere())?;
        let what = if self.login.writes { "pull,push" } else { "pull" };
        let scope = format!("repository:{}:{what}", self.repository);
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut().append_pair("scope", &scope);
        let headers = self.login.basic().map(|header| (AUTHORIZATION, header)).into_iter().collect();
        let response = self.once(Method::GET, url, headers, &[], SMALL).await?;
        if response.status != StatusCode::OK {
            return Err(self.refused(response.status));
        }
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let token = serde_json::from_slice::<Answer>(&response.body)
            .ok()
            .and_then(|a| a.token.or(a.access_token))
            .map(Zeroizing::new)
            .and_then(|token| sensitive(&Zeroizing::new(format!("Bearer {}", token.as_str()))));
        token.ok_or_else(|| self.answers("its token endpoint gives no token".to_owned()))
    }
}

/// Reads one `WWW-Authenticate` (RFC 9110 section 11.6.1), as registries write it: one challenge in a line.
fn challenge(text: &str) -> Option<Challenge> {
    let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service) = (None, None);
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim().trim_start_matches(',').trim();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        match name.to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" => service = Some(value.to_owned()),
            _ => {}
        }
        rest = next;
    }
    Some(Challenge::Bearer { realm: realm?, service })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        assert_eq!(challenge("Basic realm=\"x\""), Some(Challenge::Basic));
        let text = r#"Bearer realm="https://auth.example/token",service="registry, one",scope="repository:a:pull""#;
        let wanted =
            Challenge::Bearer { realm: "https://auth.example/token".into(), service: Some("registry, one".into()) };
        assert_eq!(challenge(text), Some(wanted));
        assert_eq!(challenge("Bearer service=\"x\""), None);
        assert_eq!(challenge("Bearer realm=\"x"), None);
        assert_eq!(challenge("Negotiate"), None);
    }
}
