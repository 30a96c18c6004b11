//! Clients: registered by an operator, by themselves, or by a metadata document; and how they prove who they are.

use std::{net::IpAddr, sync::Arc};

use portcullis_model::{Name, Secret, spec::OAuthClient};
use subtle::ConstantTimeEq as _;

use super::{OAuth, OAuthError};
use crate::signin::digest;

/// What the digest of a registered client's secret begins with.
pub(super) const SECRET_LABEL: &str = "portcullis oauth client secret 1";

/// How a client came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An `OAuthClient` resource.
    Operator,
    /// It registered itself: nobody vouches for its name.
    Itself,
    /// A document at its client id: whoever holds that https address vouches for its name.
    Document,
}

/// What a client proves itself by.
#[derive(Clone)]
pub(crate) enum Proof {
    /// Nothing: a public client, with PKCE.
    None,
    /// A secret that an operator keeps.
    Kept(Arc<OAuthClient>),
    /// A secret of which the digest is known.
    Digest(String),
    /// A key of a set.
    Keys(String),
    /// A key of the set at a URL.
    KeysUrl(String),
}

/// A client that is known.
#[derive(Clone)]
pub struct Client {
    /// Its client id.
    pub id: String,
    /// What it calls itself.
    pub name: String,
    /// How it came to be known.
    pub origin: Origin,
    /// Where people may be sent back to.
    pub redirect_uris: Vec<String>,
    /// The agent that it is by itself.
    pub agent: Option<Name>,
    pub(crate) proof: Proof,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("id", &self.id).field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Client {
    /// Whether it can prove who it is, beyond knowing its own name.
    pub fn is_confidential(&self) -> bool {
        !matches!(self.proof, Proof::None)
    }
}

/// What a client sent about itself.
#[derive(Debug, Default)]
pub struct Presented {
    /// `client_id`, from the form or the header.
    pub id: Option<String>,
    /// `client_secret`.
    pub secret: Option<Secret>,
    /// `client_assertion`, where its type says that it is a JWT.
    pub assertion: Option<Secret>,
    /// The address that it asks from.
    pub from: Option<IpAddr>,
}

impl OAuth {
    /// The client of this id, as the tenant knows it; `from` is the address that asks, where that is known.
    ///
    /// # Errors
    /// `invalid_client`.
    pub async fn client(&self, tenant: &Name, id: &str, from: Option<IpAddr>) -> Result<Client, OAuthError> {
        if id.is_empty() || id.len() > 2048 {
            return Err(OAuthError::client());
        }
        if id.starts_with("https://") || (id.starts_with("http://") && self.options.allow_private) {
            return self.document(tenant, id, from).await;
        }
        if let Some(rest) = id.strip_prefix(super::register::PREFIX) {
            return self.registered(id, rest).await;
        }
        let name: Name = id.parse().map_err(|_| OAuthError::client())?;
        let fleet = self.parts.registry.snapshot();
        let found = fleet.oauth_client(tenant, &name).ok_or_else(OAuthError::client)?;
        let spec = found.spec;
        let proof = match (&spec.secret, &spec.keys, &spec.keys_url) {
            (Some(_), _, _) => Proof::Kept(Arc::new(spec.clone())),
            (None, Some(keys), _) => Proof::Keys(keys.to_string()),
            (None, None, Some(url)) => Proof::KeysUrl(url.to_string()),
            (None, None, None) => Proof::None,
        };
        Ok(Client {
            id: id.to_owned(),
            name: spec.title.clone().unwrap_or_else(|| name.to_string()),
            origin: Origin::Operator,
            redirect_uris: spec.redirect_uris.clone(),
            agent: spec.agent.clone(),
            proof,
        })
    }

    /// What a client calls itself, as far as that is known without asking anybody; else its id.
    pub async fn client_name(&self, tenant: &Name, id: &str) -> String {
        let document = id.starts_with("https://") || id.starts_with("http://");
        let known = if document { self.remembered(id) } else { self.client(tenant, id, None).await.ok() };
        known.map_or_else(|| portcullis_model::text::shown(id, 100), |client| client.name)
    }

    /// The client that sent this, proven as it has to be.
    ///
    /// # Errors
    /// `invalid_client`.
    pub async fn authenticate(&self, tenant: &Name, presented: &Presented) -> Result<Client, OAuthError> {
        let asserted = presented.assertion.as_ref().and_then(super::assertion::subject);
        let id = match (&presented.id, &asserted) {
            (Some(id), Some(asserted)) if id != asserted => return Err(OAuthError::client()),
            (Some(id), _) | (None, Some(id)) => id,
            (None, None) => return Err(OAuthError::client()),
        };
        let client = self.client(tenant, id, presented.from).await?;
        let fine = match (&client.proof, &presented.secret, &presented.assertion) {
            (Proof::None, None, None) => true,
            // A public client that sends an empty secret means none.
            (Proof::None, Some(secret), None) => secret.is_empty(),
            (Proof::Digest(known), Some(sent), None) => {
                let sent = digest(SECRET_LABEL, sent.expose());
                bool::from(sent.as_bytes().ct_eq(known.as_bytes()))
            }
            (Proof::Kept(spec), Some(sent), None) => {
                let source = spec.secret.as_ref().ok_or_else(OAuthError::client)?;
                let kept = self.parts.secrets.read(tenant, source).map_err(|why| {
                    tracing::error!(client = client.id, why, "the secret of a client can't be read; it is refused");
                    OAuthError::client()
                })?;
                // Digested first, so that neither length nor place of a difference shows.
                let (kept, sent) = (digest(SECRET_LABEL, kept.expose()), digest(SECRET_LABEL, sent.expose()));
                bool::from(sent.as_bytes().ct_eq(kept.as_bytes()))
            }
            (Proof::Keys(_) | Proof::KeysUrl(_), None, Some(assertion)) => {
                return self.prove(&client, assertion).await.map(|()| client);
            }
            _ => false,
        };
        if fine { Ok(client) } else { Err(OAuthError::client()) }
    }
}
