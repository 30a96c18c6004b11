//! Client-id metadata documents (SEP-991, draft-ietf-oauth-client-id-metadata-document): the client id is an https URL, and
//! what lies there says who the client is. Fetched from public addresses only, bounded, without redirects.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, StatusCode, header::ACCEPT};
use portcullis_model::{Name, Secret, text::deceives};
use portcullis_outbound::{Reach, Request};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::{
    OAuth, OAuthError,
    client::{Client, Origin, Proof},
    redirect::redirect_problem,
};

/// The most documents that are remembered, those that could not be had among them.
pub(super) const MOST: usize = 1024;
/// The most bytes of a document.
const MAX_BODY: usize = 16 << 10;
/// How long a document may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a document is believed.
const FRESH: Duration = Duration::from_secs(300);
/// How long one that is no good is not fetched again.
const SORRY: Duration = Duration::from_secs(30);
/// The most redirect URIs of one client.
const MAX_URIS: usize = 32;

/// What was fetched, and when.
pub(crate) struct Held {
    at: Instant,
    client: Option<Client>,
}

#[derive(Deserialize)]
struct Document {
    client_id: String,
    #[serde(default)]
    client_name: Option<String>,
    #[serde(default)]
    redirect_uris: Vec<String>,
    #[serde(default)]
    token_endpoint_auth_method: Option<String>,
    #[serde(default)]
    jwks: Option<Value>,
    #[serde(default)]
    jwks_uri: Option<String>,
    #[serde(default)]
    client_secret: Option<serde::de::IgnoredAny>,
}

impl OAuth {
    /// The client whose id is this URL, named to this tenant by somebody at this address.
    pub(super) async fn document(&self, tenant: &Name, id: &str, from: Option<IpAddr>) -> Result<Client, OAuthError> {
        if let Some(held) = self.documents.get(id) {
            let fresh = if held.client.is_some() { FRESH } else { SORRY };
            if held.at.elapsed() < fresh {
                return held.client.clone().ok_or_else(OAuthError::client);
            }
        }
        // Strangers name these URLs, so how much we fetch for them is bounded. Whoever waited may find it fetched meanwhile.
        let turn = tokio::time::timeout(PATIENCE, self.fetching.wait(tenant, from)).await;
        let Ok(Some(_turn)) = turn else {
            return Err(OAuthError::new("temporarily_unavailable", "try again in a moment"));
        };
        if let Some(held) = self.documents.get(id)
            && held.at.elapsed() < SORRY
        {
            return held.client.clone().ok_or_else(OAuthError::client);
        }
        let fetched = self.fetch(id).await;
        if let Err(why) = &fetched {
            tracing::info!(client = %portcullis_model::text::shown(id, 200), why, "a client's metadata document is no good");
        }
        let client = fetched.ok();
        self.documents.insert(id.to_owned(), Arc::new(Held { at: Instant::now(), client: client.clone() }));
        client.ok_or_else(OAuthError::client)
    }

    /// The client whose id is this URL, where its document was fetched lately.
    pub(super) fn remembered(&self, id: &str) -> Option<Client> {
        self.documents.get(id)?.client.clone()
    }

    async fn fetch(&self, id: &str) -> Result<Client, String> {
        let url = place(id, self.options.allow_private)?;
        let reach = if self.options.allow_private { Reach::Any } else { Reach::Public };
        let request = Request {
            method: Method::GET,
            url: url.clone(),
            headers: vec![(ACCEPT, HeaderValue::from_static("application/json"))],
            body: Secret::new(""),
            timeout: PATIENCE,
            max_body: MAX_BODY,
            reach,
        };
        let response = self.parts.outbound.send(request).await.map_err(|e| e.to_string())?;
        if response.status != StatusCode::OK {
            return Err(format!("status {}", response.status.as_u16()));
        }
        let document: Document = serde_json::from_slice(&response.body).map_err(|_| "it is no metadata".to_owned())?;
        read(id, &url, document)
    }
}

/// The URL of a client id, if it may be one: https, with a path, without what could make two ids of one place.
fn place(id: &str, allow_private: bool) -> Result<Url, String> {
    let url = Url::parse(id).map_err(|_| "it is no URL".to_owned())?;
    let scheme = url.scheme() == "https" || (allow_private && url.scheme() == "http");
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    // As it is written, so that dots and percent signs make no second name of one place.
    if !scheme || !plain || url.as_str() != id || url.path() == "/" {
        return Err("a client id that is a URL has to be https, with a path, in its normal form".to_owned());
    }
    Ok(url)
}

fn read(id: &str, url: &Url, document: Document) -> Result<Client, String> {
    if document.client_id != id {
        return Err("the document names another client_id".to_owned());
    }
    if document.client_secret.is_some() {
        return Err("a public document can hold no client_secret".to_owned());
    }
    if document.redirect_uris.is_empty() || document.redirect_uris.len() > MAX_URIS {
        return Err("it names no redirect URI, or too many".to_owned());
    }
    for uri in &document.redirect_uris {
        redirect_problem(uri).map_err(|why| format!("a redirect URI {why}"))?;
    }
    let proof = match document.token_endpoint_auth_method.as_deref() {
        None | Some("none") => Proof::None,
        Some("private_key_jwt") => match (document.jwks, document.jwks_uri) {
            (Some(keys), _) => Proof::Keys(keys.to_string()),
            // Its keys lie where it does: elsewhere somebody else would vouch for it.
            (None, Some(at)) if Url::parse(&at).is_ok_and(|at| at.origin() == url.origin()) => Proof::KeysUrl(at),
            _ => return Err("private_key_jwt needs jwks, or jwks_uri at the same origin".to_owned()),
        },
        Some(_) => return Err("its token_endpoint_auth_method needs a shared secret".to_owned()),
    };
    let name: String = document.client_name.unwrap_or_default().chars().filter(|c| !deceives(*c)).take(100).collect();
    Ok(Client {
        id: id.to_owned(),
        name: if name.trim().is_empty() { url.host_str().unwrap_or(id).to_owned() } else { name.trim().to_owned() },
        origin: Origin::Document,
        redirect_uris: document.redirect_uris,
        agent: None,
        proof,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_id_is_one_place() {
        assert!(place("https://app.example/client.json", false).is_ok());
        for bad in [
            "https://app.example/",
            "https://app.example",
            "http://app.example/client.json",
            "https://user@app.example/c",
            "https://app.example/c#x",
            "https://app.example/a/../c",
            "https://APP.example/c",
            "https://app.example:443/c",
        ] {
            assert!(place(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_document_says_who_it_is_and_nothing_that_is_secret() {
        let id = "https://app.example/c";
        let read = |text: &str| read(id, &Url::parse(id).unwrap(), serde_json::from_str(text).unwrap());
        let client = read(r#"{"client_id":"https://app.example/c","redirect_uris":["http://127.0.0.1/cb"]}"#).unwrap();
        assert_eq!((client.name.as_str(), client.is_confidential()), ("app.example", false));
        for bad in [
            r#"{"client_id":"https://other.example/c","redirect_uris":["https://a.example/"]}"#,
            r#"{"client_id":"https://app.example/c","redirect_uris":[]}"#,
            r#"{"client_id":"https://app.example/c","redirect_uris":["javascript:x"]}"#,
            r#"{"client_id":"https://app.example/c","redirect_uris":["https://a.example/"],"client_secret":"x"}"#,
            r#"{"client_id":"https://app.example/c","redirect_uris":["https://a.example/"],"token_endpoint_auth_method":"client_secret_post"}"#,
            r#"{"client_id":"https://app.example/c","redirect_uris":["https://a.example/"],"token_endpoint_auth_method":"private_key_jwt","jwks_uri":"https://evil.example/k"}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
