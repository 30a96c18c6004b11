//! Finding the authorization server of a server: RFC 9728, then RFC 8414 or OpenID Connect Discovery, in the order of MCP
//! 2026-07-28 ("Authorization Server Discovery"); without them as 2025-03-26 had it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{
    HeaderName, HeaderValue, Method, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use portcullis_model::{
    Secret,
    spec::{AuthorizationServer, OAuth, Remote},
};
use portcullis_protocol::Version;
use quick_cache::sync::Cache;
use serde::Deserialize;
use url::Url;

use super::{
    challenge::{Challenge, scopes},
    error::OAuthError,
    web::{Bounds, Web, found, place},
};

/// How many authorization servers' metadata are remembered.
const REMEMBERED: usize = 1000;
/// For how long.
const AGE: Duration = Duration::from_secs(300);
/// The most authorization servers of one server that are looked at.
const MAX_SERVERS: usize = 4;
/// All of it together.
const PATIENCE: Duration = Duration::from_secs(40);

/// An authorization server, as its metadata or the operator describes it (RFC 8414 section 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerMetadata {
    pub(crate) issuer: String,
    pub(crate) authorization_endpoint: Url,
    pub(crate) token_endpoint: Url,
    pub(crate) registration_endpoint: Option<Url>,
    pub(crate) userinfo_endpoint: Option<Url>,
    /// Where tokens are taken back (RFC 7009).
    pub(crate) revocation_endpoint: Option<Url>,
    pub(crate) auth_methods: Vec<String>,
    pub(crate) scopes: Vec<String>,
    /// Whether it answers with `iss` (RFC 9207).
    pub(crate) says_iss: bool,
    /// Whether it reads client-id metadata documents.
    pub(crate) reads_documents: bool,
}

/// What was found about a server.
#[derive(Clone, Debug)]
pub(crate) struct Discovered {
    pub(crate) server: Arc<ServerMetadata>,
    /// What tokens are asked for, exactly as the server's metadata writes it (RFC 8707).
    pub(crate) resource: String,
    /// The scopes that the server's challenge names, else those that its metadata lists.
    pub(crate) scopes: Vec<String>,
    /// Whether a challenge named them.
    pub(crate) challenged: bool,
}

#[derive(Deserialize)]
struct ResourceMetadata {
    resource: String,
    #[serde(default)]
    authorization_servers: Vec<String>,
    #[serde(default)]
    scopes_supported: Vec<String>,
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: Option<Url>,
    token_endpoint: Option<Url>,
    registration_endpoint: Option<Url>,
    userinfo_endpoint: Option<Url>,
    revocation_endpoint: Option<Url>,
    code_challenge_methods_supported: Option<Vec<String>>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    scopes_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
    #[serde(default)]
    client_id_metadata_document_supported: bool,
}

/// Finds, and remembers authorization servers for a while.
pub(crate) struct Discovery {
    web: Web,
    known: Cache<String, (Instant, Arc<ServerMetadata>)>,
}

impl Discovery {
    pub(crate) fn new(web: Web) -> Self {
        Self { web, known: Cache::new(REMEMBERED) }
    }

    /// Finds the authorization server of a server.
    pub(crate) async fn find(&self, remote: &Remote, oauth: &OAuth) -> Result<Discovered, OAuthError> {
        let all = self.look(remote, oauth);
        tokio::time::timeout(PATIENCE, all).await.unwrap_or_else(|_| {
            Err(OAuthError::Discovery("finding the authorization server takes too long".to_owned()))
        })
    }

    async fn look(&self, remote: &Remote, oauth: &OAuth) -> Result<Discovered, OAuthError> {
        let bounds = Bounds::of(remote);
        let challenge = self.challenge(remote, &bounds).await?;
        let resource = self.resource(remote, challenge.as_ref(), &bounds).await?;
        let named = oauth.authorization_server.as_ref();
        let server = match (named, &resource) {
            (Some(named), _) => self.named(named, &bounds).await?,
            (None, Some(resource)) => self.first(&resource.authorization_servers, &bounds).await?,
            (None, None) => self.of_origin(&remote.url, &bounds).await?,
        };
        let challenged = challenge.map(|c| c.scopes).filter(|s| !s.is_empty());
        let listed = resource.as_ref().map(|r| scopes(&r.scopes_supported.join(" "))).unwrap_or_default();
        Ok(Discovered {
            server,
            resource: oauth.resource.clone().or(resource.map(|r| r.resource)).unwrap_or_else(|| canonical(&remote.url)),
            challenged: challenged.is_some(),
            scopes: challenged.unwrap_or(listed),
        })
    }

    /// What the server says to whoever comes without a token. A server that lets everybody in challenges nobody.
    async fn challenge(&self, remote: &Remote, bounds: &Bounds) -> Result<Option<Challenge>, OAuthError> {
        let mut headers: Vec<(HeaderName, HeaderValue)> = vec![
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (ACCEPT, HeaderValue::from_static("application/json, text/event-stream")),
            (HeaderName::from_static("mcp-protocol-version"), HeaderValue::from_static(Version::LATEST.as_str())),
            (HeaderName::from_static("mcp-method"), HeaderValue::from_static("tools/list")),
        ];
        for (name, value) in &remote.headers {
            if let (Ok(name), Ok(value)) = (name.parse(), value.parse()) {
                headers.push((name, value));
            }
        }
        // Some servers let anybody say hello, so something else is asked for.
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"tools/list","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"{}","io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#,
            Version::LATEST.as_str()
        );
        let response = self.web.send(Method::POST, &remote.url, bounds, headers, Secret::new(body)).await;
        let response = match response {
            Ok(response) => response,
            // Whoever is let in may be sent more than is read here.
            Err(_) => return Ok(None),
        };
        if response.status != StatusCode::UNAUTHORIZED {
            return Ok(None);
        }
        let all = response.headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok());
        Ok(all.filter_map(Challenge::read).next())
    }

    /// The server's metadata: where its challenge says, else at the well-known places. None where there is none.
    async fn resource(
        &self,
        remote: &Remote,
        challenge: Option<&Challenge>,
        bounds: &Bounds,
    ) -> Result<Option<ResourceMetadata>, OAuthError> {
        let told = challenge.and_then(|c| c.resource_metadata.as_deref());
        let places = match told {
            Some(told) => {
                let url = Url::parse(told);
                vec![url.map_err(|_| {
                    OAuthError::Discovery("resource_metadata in the server's challenge is no URL".into())
                })?]
            }
            None => resource_places(&remote.url),
        };
        for url in places {
            let response = match self.web.get(&url, bounds).await {
                Ok(response) => response,
                Err(error) => return Err(OAuthError::Discovery(error.why)),
            };
            if !found(&response) {
                if told.is_some() {
                    let status = response.status.as_u16();
                    return Err(OAuthError::Discovery(format!("{} answered {status}", place(&url))));
                }
                continue;
            }
            let Ok(metadata) = serde_json::from_slice::<ResourceMetadata>(&response.body) else {
                if told.is_none() {
                    // Servers that answer everything with a page.
                    continue;
                }
                return Err(OAuthError::Discovery(format!("{} is no metadata of a protected resource", place(&url))));
            };
            // RFC 9728 section 3.3: or a server could have tokens made for another one.
            if !covers(&metadata.resource, &remote.url) {
                return Err(OAuthError::ForeignResource);
            }
            return Ok(Some(metadata));
        }
        Ok(None)
    }

    /// The one that the operator names.
    async fn named(&self, named: &AuthorizationServer, bounds: &Bounds) -> Result<Arc<ServerMetadata>, OAuthError> {
        if let (Some(authorize), Some(token)) = (&named.authorization_endpoint, &named.token_endpoint) {
            for url in [authorize, token] {
                bounds.reach(url).map_err(|why| OAuthError::Discovery(format!("{} {why}", place(url))))?;
            }
            return Ok(Arc::new(ServerMetadata {
                issuer: named.issuer.clone().unwrap_or_else(|| origin(token)),
                authorization_endpoint: authorize.clone(),
                token_endpoint: token.clone(),
                registration_endpoint: None,
                userinfo_endpoint: None,
                revocation_endpoint: None,
                auth_methods: Vec::new(),
                scopes: Vec::new(),
                says_iss: false,
                reads_documents: false,
            }));
        }
        self.metadata(named.issuer.as_deref().unwrap_or_default(), bounds).await
    }

    /// The first of those that the server names which can be used.
    async fn first(&self, named: &[String], bounds: &Bounds) -> Result<Arc<ServerMetadata>, OAuthError> {
        let mut last = OAuthError::Discovery("the server's metadata names no authorization server".to_owned());
        for issuer in named.iter().take(MAX_SERVERS) {
            match self.metadata(issuer, bounds).await {
                Ok(server) => return Ok(server),
                Err(error @ OAuthError::Discovery(_)) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// The metadata of an issuer, which has to say exactly that issuer (RFC 8414 section 3.3).
    async fn metadata(&self, issuer: &str, bounds: &Bounds) -> Result<Arc<ServerMetadata>, OAuthError> {
        let url = Url::parse(issuer).map_err(|_| OAuthError::Discovery("an issuer that is no URL".to_owned()))?;
        // Also for what is remembered: another server may have been allowed to lead there, and this one not.
        bounds.reach(&url).map_err(|why| OAuthError::Discovery(format!("{} {why}", place(&url))))?;
        if let Some((at, known)) = self.known.get(issuer)
            && at.elapsed() < AGE
        {
            check(&known, bounds)?;
            return Ok(known);
        }
        let mut last = format!("{} has no metadata", place(&url));
        for at in issuer_places(&url) {
            match self.document(&at, bounds).await {
                Ok(Some(document)) if document.issuer == issuer => {
                    let server = Arc::new(read(document, bounds)?);
                    self.known.insert(issuer.to_owned(), (Instant::now(), Arc::clone(&server)));
                    return Ok(server);
                }
                Ok(Some(_)) => return Err(OAuthError::ForeignMetadata),
                Ok(None) => {}
                Err(why) => last = why,
            }
        }
        Err(OAuthError::Discovery(last))
    }

    /// 2025-03-26: the server's own origin is the authorization server, with metadata or with endpoints at fixed places.
    async fn of_origin(&self, server: &Url, bounds: &Bounds) -> Result<Arc<ServerMetadata>, OAuthError> {
        let origin = origin(server);
        let url: Url = origin.parse().map_err(|_| OAuthError::Discovery("the server has no origin".to_owned()))?;
        let mut at = url.clone();
        at.set_path("/.well-known/oauth-authorization-server");
        if let Some(document) = self.document(&at, bounds).await.map_err(OAuthError::Discovery)? {
            if document.issuer != origin && document.issuer != url.as_str() {
                return Err(OAuthError::ForeignMetadata);
            }
            return Ok(Arc::new(read(document, bounds)?));
        }
        let at = |path: &str| {
            let mut at = url.clone();
            at.set_path(path);
            at
        };
        Ok(Arc::new(ServerMetadata {
            issuer: origin,
            authorization_endpoint: at("/authorize"),
            token_endpoint: at("/token"),
            registration_endpoint: Some(at("/register")),
            userinfo_endpoint: None,
            revocation_endpoint: None,
            auth_methods: Vec::new(),
            scopes: Vec::new(),
            says_iss: false,
            reads_documents: false,
        }))
    }

    /// A metadata document; none where there is none at this place.
    async fn document(&self, url: &Url, bounds: &Bounds) -> Result<Option<Document>, String> {
        let response = self.web.get(url, bounds).await.map_err(|e| e.why)?;
        if !found(&response) {
            let status = response.status;
            let gone = status.is_client_error();
            return if gone { Ok(None) } else { Err(format!("{} answered {}", place(url), status.as_u16())) };
        }
        // Some answer everything with a page: then it is at another place.
        Ok(serde_json::from_slice(&response.body).ok())
    }
}

/// What of a document is taken. Everything that it leads to has to be within bounds.
fn read(document: Document, bounds: &Bounds) -> Result<ServerMetadata, OAuthError> {
    let lacks = |what: &str| OAuthError::Discovery(format!("the authorization server's metadata names no {what}"));
    if !document.code_challenge_methods_supported.iter().flatten().any(|method| method == "S256") {
        return Err(OAuthError::NoPkce);
    }
    let server = ServerMetadata {
        issuer: document.issuer,
        authorization_endpoint: document.authorization_endpoint.ok_or_else(|| lacks("authorization_endpoint"))?,
        token_endpoint: document.token_endpoint.ok_or_else(|| lacks("token_endpoint"))?,
        registration_endpoint: document.registration_endpoint,
        userinfo_endpoint: document.userinfo_endpoint,
        revocation_endpoint: document.revocation_endpoint,
        // RFC 8414 section 2: what holds where it is left out.
        auth_methods: document
            .token_endpoint_auth_methods_supported
            .unwrap_or_else(|| vec!["client_secret_basic".to_owned()]),
        scopes: scopes(&document.scopes_supported.unwrap_or_default().join(" ")),
        says_iss: document.authorization_response_iss_parameter_supported,
        reads_documents: document.client_id_metadata_document_supported,
    };
    check(&server, bounds)?;
    Ok(server)
}

fn check(server: &ServerMetadata, bounds: &Bounds) -> Result<(), OAuthError> {
    let optional = [&server.registration_endpoint, &server.userinfo_endpoint, &server.revocation_endpoint];
    let all =
        [&server.authorization_endpoint, &server.token_endpoint].into_iter().chain(optional.into_iter().flatten());
    for url in all {
        bounds.reach(url).map_err(|why| OAuthError::Discovery(format!("{} {why}", place(url))))?;
    }
    Ok(())
}

/// RFC 9728 section 3.1: the well-known part goes between host and path; then the same for the whole origin.
fn resource_places(server: &Url) -> Vec<Url> {
    const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
    let at = |path: &str| {
        let mut url = server.clone();
        url.set_fragment(None);
        url.set_query(None);
        url.set_path(path);
        url
    };
    match server.path().trim_end_matches('/') {
        "" => vec![at(WELL_KNOWN)],
        path => vec![at(&format!("{WELL_KNOWN}{path}")), at(WELL_KNOWN)],
    }
}

/// Where an issuer's metadata may be, in the order of MCP.
fn issuer_places(issuer: &Url) -> Vec<Url> {
    let at = |path: &str| {
        let mut url = issuer.clone();
        url.set_query(None);
        url.set_fragment(None);
        url.set_path(path);
        url
    };
    match issuer.path().trim_end_matches('/') {
        "" => vec![at("/.well-known/oauth-authorization-server"), at("/.well-known/openid-configuration")],
        path => vec![
            at(&format!("/.well-known/oauth-authorization-server{path}")),
            at(&format!("/.well-known/openid-configuration{path}")),
            at(&format!("{path}/.well-known/openid-configuration")),
        ],
    }
}

/// Whether a resource identifier is the server's, or that of something that it is a part of.
fn covers(resource: &str, server: &Url) -> bool {
    let Ok(resource) = Url::parse(resource) else { return false };
    if resource.origin() != server.origin() || !resource.origin().is_tuple() || resource.fragment().is_some() {
        return false;
    }
    let whole = resource.path().trim_end_matches('/');
    let rest = server.path().strip_prefix(whole);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The resource identifier of a server that does not say its own (RFC 8707 section 2).
fn canonical(server: &Url) -> String {
    let mut url = server.clone();
    url.set_fragment(None);
    let text = url.to_string();
    if url.path() == "/" && url.query().is_none() { text.trim_end_matches('/').to_owned() } else { text }
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(urls: &[Url]) -> Vec<&str> {
        urls.iter().map(Url::as_str).collect()
    }

    #[test]
    fn places_are_those_of_the_standards() {
        let server = |url: &str| resource_places(&url.parse().unwrap());
        assert_eq!(texts(&server("https://x/")), ["https://x/.well-known/oauth-protected-resource"]);
        assert_eq!(
            texts(&server("https://x/a/mcp?q#f")),
            ["https://x/.well-known/oauth-protected-resource/a/mcp", "https://x/.well-known/oauth-protected-resource"]
        );
        let issuer = |url: &str| issuer_places(&url.parse().unwrap());
        assert_eq!(
            texts(&issuer("https://i")),
            ["https://i/.well-known/oauth-authorization-server", "https://i/.well-known/openid-configuration"]
        );
        assert_eq!(
            texts(&issuer("https://i/t/1")),
            [
                "https://i/.well-known/oauth-authorization-server/t/1",
                "https://i/.well-known/openid-configuration/t/1",
                "https://i/t/1/.well-known/openid-configuration"
            ]
        );
    }

    #[test]
    fn a_resource_covers_what_is_below_it_only() {
        let covers = |resource: &str| covers(resource, &"https://x.example/a/mcp".parse().unwrap());
        for good in ["https://x.example", "https://x.example/", "https://X.example/a", "https://x.example/a/mcp/"] {
            assert!(covers(good), "{good}");
        }
        for bad in [
            "https://evil.example/a/mcp",
            "http://x.example/a/mcp",
            "https://x.example:8443/a/mcp",
            "https://x.example/a/mc",
            "https://x.example/a/mcp/more",
            "https://x.example/a/mcp#f",
            "x.example",
            "",
        ] {
            assert!(!covers(bad), "{bad}");
        }
    }

    #[test]
    fn resources_are_written_as_the_standard_says() {
        let of = |url: &str| canonical(&url.parse().unwrap());
        assert_eq!(of("https://x.example"), "https://x.example");
        assert_eq!(of("https://x.example/mcp/#f"), "https://x.example/mcp/");
    }
}
