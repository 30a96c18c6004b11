//! Becoming a client of an authorization server: the one that is given, else a client-id metadata document, else dynamic
//! registration (MCP 2026-07-28, "Client Registration"). What an authorization server gave is used at that one only
//! (SEP-2352).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderValue, Method, StatusCode, header::CONTENT_TYPE};
use portcullis_model::{
    Name, Secret,
    address::is_loopback,
    spec::{OAuth, Registration},
};
use portcullis_store::{Expect, Write, keys};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::Url;

use super::{
    discover::ServerMetadata,
    error::OAuthError,
    grants::Grants,
    token::{Authentication, Client, word},
    web::Bounds,
};
use crate::{SecretsError, resolver::now_ms};

/// Where authorization servers send people back to, below the gateway's public URL: here those that an operator registered it with,
/// and all others at a place of their own below, `/{mark}`.
pub const CALLBACK_PATH: &str = "/oauth-client/callback";
/// Where the gateway's own client-id metadata document stands for an authorization server, below its public URL.
pub const METADATA_PATH: &str = "/oauth-client/{mark}/metadata.json";
/// What people are told that they let in.
const NAME: &str = "Portcullis";

/// A client that an authorization server registered, as it is sealed.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registered {
    client_id: String,
    #[serde(default)]
    client_secret: Option<String>,
    authentication: Authentication,
    /// When the secret ends, milliseconds since 1970; none where it does not.
    #[serde(default)]
    secret_expires_ms: Option<u64>,
}

/// The answer of a registration endpoint (RFC 7591 section 3.2).
#[derive(Deserialize)]
struct Answer {
    client_id: Option<String>,
    client_secret: Option<String>,
    client_secret_expires_at: Option<u64>,
    token_endpoint_auth_method: Option<String>,
    error: Option<String>,
}

/// For whom a client is wanted.
pub(super) struct Wish<'a> {
    pub(super) tenant: &'a Name,
    pub(super) server_name: &'a Name,
    pub(super) oauth: &'a OAuth,
    pub(super) server: &'a ServerMetadata,
    pub(super) bounds: &'a Bounds,
    /// Where those send people back to whom an operator registered us with.
    pub(super) callback: &'a Url,
    /// Where this authorization server does.
    pub(super) own_callback: &'a Url,
}

/// What the gateway is at an authorization server.
pub(super) struct Became {
    pub(super) client: Client,
    /// Whether the operator said so.
    pub(super) given: bool,
    /// Where people come back to.
    pub(super) redirect_uri: Url,
}

/// What tells the callback of one authorization server from that of another: 16 characters of base64url.
pub(super) fn mark(issuer: &str) -> String {
    let digest = Sha256::new().chain_update("portcullis callback 1\0").chain_update(issuer).finalize();
    URL_SAFE_NO_PAD.encode(&digest[..12])
}

/// The callback of one authorization server. Each has its own, and is told no other's: a server that leads people to somebody else's
/// sign-in is not registered there with a callback of its own, and what comes back to another's is not taken for its answer
/// (RFC 9700 section 4.4.2.2; few send the `iss` of RFC 9207).
pub(super) fn own_callback(callback: &Url, issuer: &str) -> Url {
    let mut own = callback.clone();
    own.set_path(&format!("{}/{}", callback.path(), mark(issuer)));
    own
}

/// The public URL's path, and the mark, of a callback.
pub(super) fn parts_of(callback: &Url) -> (&str, Option<&str>) {
    let (base, rest) = callback.path().rsplit_once(CALLBACK_PATH).unwrap_or_default();
    (base, rest.strip_prefix('/'))
}

impl Grants {
    /// What the gateway is at an authorization server, and whether the operator said so.
    pub(super) async fn client(&self, wish: &Wish<'_>) -> Result<Became, OAuthError> {
        let Wish { oauth, server, callback, own_callback, .. } = wish;
        let document = match (&oauth.client_id, oauth.registration) {
            (Some(id), Registration::MetadataDocument) => Some((id.clone(), *callback)),
            (Some(id), Registration::Auto) if OAuth::is_document(id) && oauth.client_secret.is_none() => {
                Some((id.clone(), *callback))
            }
            (Some(id), _) => {
                unmixed(oauth, server)?;
                let client = self.given(id, wish).await?;
                return Ok(Became { client, given: true, redirect_uri: Url::clone(callback) });
            }
            (None, Registration::MetadataDocument | Registration::Auto) => {
                own_document(own_callback).map(|id| (id, *own_callback))
            }
            (None, _) => None,
        };
        if let Some((id, back)) = document
            && (server.reads_documents || oauth.registration == Registration::MetadataDocument)
        {
            if oauth.client_id.is_some() {
                unmixed(oauth, server)?;
            }
            // The document says `none`: whoever knows its URL can say that they are this client, but the code comes here.
            let client = Client { id, secret: None, method: Authentication::None };
            return Ok(Became { client, given: false, redirect_uri: back.clone() });
        }
        if matches!(oauth.registration, Registration::Auto | Registration::Dynamic)
            && let Some(endpoint) = &server.registration_endpoint
        {
            let client = self.registered(endpoint, wish).await?;
            return Ok(Became { client, given: false, redirect_uri: Url::clone(own_callback) });
        }
        Err(OAuthError::NoClient { issuer: server.issuer.clone(), redirect_uri: callback.to_string() })
    }

    /// The client that the operator gave, with its secret, at the authorization server that it belongs to.
    async fn given(&self, id: &str, wish: &Wish<'_>) -> Result<Client, OAuthError> {
        let Wish { tenant, server_name, oauth, server, .. } = wish;
        let named = oauth.authorization_server.is_some();
        let Some(source) = oauth.client_secret.clone() else {
            let takes = |method: &str| server.auth_methods.iter().any(|m| m == method);
            let signs = takes("private_key_jwt") && !takes("none");
            let method = if signs { Authentication::Key } else { Authentication::None };
            return Ok(Client { id: id.to_owned(), secret: None, method });
        };
        if !named {
            self.pin(tenant, server_name, id, &server.issuer).await?;
        }
        let secret = self.read(tenant, source).await;
        let secret = secret.map_err(|why| OAuthError::Discovery(format!("the client's secret: {why}")))?;
        let post = !server.auth_methods.is_empty()
            && !server.auth_methods.iter().any(|m| m == "client_secret_basic")
            && server.auth_methods.iter().any(|m| m == "client_secret_post");
        let method = if post { Authentication::Post } else { Authentication::Basic };
        Ok(Client { id: id.to_owned(), secret: Some(secret), method })
    }

    /// A client's secret goes to the authorization server that it was first used at and to no other, whatever the server says
    /// later: otherwise a server could have it sent to whom it likes.
    async fn pin(&self, tenant: &Name, server: &Name, client: &str, issuer: &str) -> Result<(), OAuthError> {
        let key = keys::upstream_pin(tenant, server, &digest(&[client]));
        let store = self.secrets.store();
        if let Some(record) = store.get(&key).await.map_err(SecretsError::from)? {
            let plain = self.secrets.unseal(&key, &record.value)?;
            if plain.expose() == issuer.as_bytes() {
                return Ok(());
            }
            let before = String::from_utf8_lossy(plain.expose()).into_owned();
            return Err(OAuthError::OtherIssuer { now: issuer.to_owned(), before });
        }
        let value = self.secrets.seal(&key, &Secret::new(issuer))?;
        store.write(vec![Write::Put { key, value, expect: Expect::Absent }]).await.map_err(SecretsError::from)?;
        Ok(())
    }

    /// The client that this authorization server registered for this redirect URI, now or before.
    async fn registered(&self, endpoint: &Url, wish: &Wish<'_>) -> Result<Client, OAuthError> {
        let Wish { tenant, server, own_callback: redirect_uri, bounds, .. } = wish;
        let key = keys::upstream_client(tenant, &digest(&[&server.issuer, redirect_uri.as_str()]));
        let store = self.secrets.store();
        if let Some(record) = store.get(&key).await.map_err(SecretsError::from)? {
            let plain = self.secrets.unseal(&key, &record.value)?;
            if let Ok(known) = serde_json::from_slice::<Registered>(plain.expose())
                && known.secret_expires_ms.is_none_or(|at| now_ms() + 60_000 < at)
            {
                return Ok(known.client());
            }
        }
        let method = preferred(&server.auth_methods);
        let mut request = document(redirect_uri, method);
        // SEP-837: loopback redirect URIs are those of native applications (OpenID Connect Registration 1.0 section 2).
        request["application_type"] = json!(if is_loopback(redirect_uri) { "native" } else { "web" });
        if method == Authentication::Key {
            request["jwks"] = self.key.set();
        }
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let body = Secret::new(request.to_string());
        let answer = self.web.send(Method::POST, endpoint, bounds, headers, body).await;
        let answer = answer.map_err(|error| OAuthError::Registration(error.why))?;
        let read: Option<Answer> = serde_json::from_slice(&answer.body).ok();
        if let Some(code) = read.as_ref().and_then(|a| a.error.as_deref()) {
            return Err(OAuthError::Registration(word(code)));
        }
        let status = answer.status;
        // 201 is what the standard says; some say 200.
        let read = read.filter(|_| matches!(status, StatusCode::CREATED | StatusCode::OK));
        let unfit = || OAuthError::Registration(format!("it answered {}", status.as_u16()));
        let read = read.ok_or_else(unfit)?;
        let client_id = read.client_id.filter(|id| !id.is_empty() && id.len() <= 2048).ok_or_else(unfit)?;
        let told = read.token_endpoint_auth_method.as_deref();
        let authentication = match told {
            Some(told) => Authentication::of(told).ok_or_else(|| {
                OAuthError::Registration(format!("it wants the client authentication {}", word(told)))
            })?,
            None => method,
        };
        let registered = Registered {
            client_id,
            client_secret: read
                .client_secret
                .filter(|_| matches!(authentication, Authentication::Basic | Authentication::Post)),
            authentication,
            secret_expires_ms: read.client_secret_expires_at.filter(|at| *at > 0).map(|at| at.saturating_mul(1000)),
        };
        let plain =
            serde_json::to_vec(&registered).map_err(|_| OAuthError::Internal("the client can't be written down"))?;
        let value = self.secrets.seal(&key, &Secret::new(plain))?;
        store.write(vec![Write::Put { key, value, expect: Expect::Any }]).await.map_err(SecretsError::from)?;
        Ok(registered.client())
    }

    /// Forgets a client that its authorization server does not know any more, so that the next sign-in registers another.
    pub(super) async fn forget_client(&self, tenant: &Name, issuer: &str, redirect_uri: &Url) {
        let key = keys::upstream_client(tenant, &digest(&[issuer, redirect_uri.as_str()]));
        let forgotten = self.secrets.store().write(vec![Write::Delete { key, expect: Expect::Any }]).await;
        if let Err(error) = forgotten {
            tracing::warn!(%error, "a client that is not known any more could not be forgotten");
        }
    }
}

impl Registered {
    fn client(self) -> Client {
        let secret = self.client_secret.map(|s| Secret::new(s.into_bytes()));
        Client { id: self.client_id, secret, method: self.authentication }
    }
}

/// Where the operator registered us and did not say with whom, all come back to one place, so whose answer it is has to show: by its
/// `iss`, or because code and token are of one origin, so that nobody can have one of somebody else's.
fn unmixed(oauth: &OAuth, server: &ServerMetadata) -> Result<(), OAuthError> {
    let one = server.authorization_endpoint.origin() == server.token_endpoint.origin();
    if oauth.authorization_server.is_some() || server.says_iss || one {
        return Ok(());
    }
    Err(OAuthError::Discovery(
        "its authorization server has endpoints of two origins: name it in credential.oauth.authorizationServer"
            .to_owned(),
    ))
}

/// The gateway's own document, where its public URL is one that others can reach by https.
fn own_document(redirect_uri: &Url) -> Option<String> {
    (redirect_uri.scheme() == "https" && !is_loopback(redirect_uri)).then(|| beside(redirect_uri).to_string())
}

/// The document's URL, beside the redirect URI.
fn beside(redirect_uri: &Url) -> Url {
    let mut url = redirect_uri.clone();
    let (base, mark) = parts_of(redirect_uri);
    url.set_path(&format!("{base}{}", METADATA_PATH.replace("{mark}", mark.unwrap_or_default())));
    url.set_query(None);
    url
}

/// What is said of the gateway as a client (RFC 7591 section 2).
fn document(redirect_uri: &Url, method: Authentication) -> Value {
    json!({
        "client_name": NAME,
        "redirect_uris": [redirect_uri.as_str()],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": method.as_str(),
    })
}

/// The client-id metadata document of a gateway with this redirect URI.
pub(super) fn metadata_document(redirect_uri: &Url) -> Value {
    let mut document = document(redirect_uri, Authentication::None);
    let mut home = beside(redirect_uri);
    document["client_id"] = json!(home.as_str());
    home.set_path(&format!("{}/", parts_of(redirect_uri).0));
    document["client_uri"] = json!(home.as_str());
    document["application_type"] = json!("web");
    document
}

/// The strongest authentication that is common; a signature only where there is nothing else, since few take one at
/// registration.
fn preferred(supported: &[String]) -> Authentication {
    let order = [Authentication::Basic, Authentication::Post, Authentication::Key, Authentication::None];
    let takes = |method: &Authentication| supported.iter().any(|m| m == method.as_str());
    order.into_iter().find(takes).unwrap_or(if supported.is_empty() {
        Authentication::None
    } else {
        Authentication::Basic
    })
}

/// Tells keys of the store apart.
fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).fold(String::new(), |mut text, byte| {
        use std::fmt::Write as _;
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_stands_beside_the_redirect_uri() {
        let own = |url: &str| own_document(&url.parse().unwrap());
        let callback = own_callback(
            &"https://mcp.corp.example/gw/oauth-client/callback".parse().unwrap(),
            "https://login.example",
        );
        let mark = mark("https://login.example");
        assert_eq!(callback.as_str(), format!("https://mcp.corp.example/gw/oauth-client/callback/{mark}"));
        assert_eq!(parts_of(&callback), ("/gw", Some(&*mark)));
        assert_ne!(mark, super::mark("https://login.example/"), "as text, not as URLs");
        let wanted = format!("https://mcp.corp.example/gw/oauth-client/{mark}/metadata.json");
        assert_eq!(own(callback.as_str()).as_deref(), Some(&*wanted));
        assert_eq!(own("http://127.0.0.1:7777/oauth-client/callback/x"), None);
        assert_eq!(own("https://localhost/oauth-client/callback/x"), None);
        let document = metadata_document(&callback);
        assert_eq!(document["client_id"], wanted);
        assert_eq!(document["client_uri"], "https://mcp.corp.example/gw/");
        assert_eq!(document["redirect_uris"], json!([callback.as_str()]));
    }

    #[test]
    fn the_authentication_is_one_that_is_taken() {
        let of = |all: &[&str]| preferred(&all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["none"]), Authentication::None);
        assert_eq!(of(&["private_key_jwt", "none"]), Authentication::Key);
        assert_eq!(of(&["none", "client_secret_post"]), Authentication::Post);
        assert_eq!(of(&["client_secret_jwt"]), Authentication::Basic);
        assert_eq!(of(&[]), Authentication::None);
    }
}
