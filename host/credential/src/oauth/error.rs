//! Why an account was not connected.

use portcullis_model::{Fault, Side};
use portcullis_store::registry::RegistryError;

use crate::SecretsError;

/// Why an account was not connected. Never quotes a code, a state or a token; what an authorization server said stands in it
/// as one checked word only.
#[derive(Debug, thiserror::Error)]
pub enum OAuthError {
    /// There is no such server, or it has no OAuth.
    #[error("{0}")]
    NoServer(String),
    /// What was given is not what the server asks for: by field, why.
    #[error("what was given is not what the server asks for: {}", .0.iter().map(|(field, why)| format!("{field} {why}")).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<(String, String)>),
    /// Another connection has the name.
    #[error("{0}")]
    Conflict(String),
    /// The server or its authorization server can't be asked, or its metadata can't be used.
    #[error("{0}")]
    Discovery(String),
    /// The authorization server's metadata is of another issuer than the server named (RFC 8414 section 3.3).
    #[error("the authorization server's metadata is of another issuer than the one that the server names")]
    ForeignMetadata,
    /// The server says that it is another resource.
    #[error("the server's metadata is of another resource than the server itself")]
    ForeignResource,
    /// PKCE with S256 is not there.
    #[error("the authorization server does not say that it takes PKCE with S256")]
    NoPkce,
    /// Nobody is a client of the authorization server.
    #[error("the gateway is no client of {issuer}, and can't become one by itself")]
    NoClient {
        /// The authorization server.
        issuer: String,
        /// The address that has to be registered there.
        redirect_uri: String,
    },
    /// The server names another authorization server than the one that the given client was used at.
    #[error("the server names the authorization server {now}, and its client was used at {before}")]
    OtherIssuer {
        /// The one that it names.
        now: String,
        /// The one from before.
        before: String,
    },
    /// The registration was refused.
    #[error("the authorization server did not register the gateway: {0}")]
    Registration(String),
    /// The state is unknown, was used, is too old, or belongs to another browser, person or connection.
    #[error("this sign-in is not under way any more: it was used, is too old, or was begun by somebody else")]
    UnknownState,
    /// The answer came from another authorization server (RFC 9207).
    #[error("the answer came from another authorization server than the one that was asked")]
    WrongIssuer,
    /// The person or the authorization server said no.
    #[error("the authorization server answered {0}")]
    Denied(String),
    /// The code could not be exchanged.
    #[error("the authorization server gave no token: {0}")]
    Exchange(String),
    /// Too many are under way.
    #[error("too many sign-ins are under way")]
    Busy,
    /// The vault's or the store's part.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The registry's part.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Something in the gateway.
    #[error("{0}")]
    Internal(&'static str),
}

impl OAuthError {
    /// What whoever connects is told.
    pub fn to_fault(&self) -> Fault {
        let (side, code, next): (Side, &'static str, String) = match self {
            Self::NoServer(_) => (Side::Caller, "not-found", String::new()),
            Self::Invalid(_) => (Side::Caller, "invalid-request", String::new()),
            Self::Conflict(_) => (Side::Caller, "conflict", "Choose another name".to_owned()),
            Self::Discovery(_) => (
                Side::Server,
                "oauth-discovery",
                "If the server has no metadata, name its authorization server in credential.oauth.authorizationServer"
                    .to_owned(),
            ),
            Self::ForeignMetadata | Self::ForeignResource | Self::NoPkce => (
                Side::Server,
                "oauth-refused",
                "Tell the operator: this server can't be trusted with an account as it is".to_owned(),
            ),
            Self::NoClient { redirect_uri, .. } => (
                Side::Gateway,
                "oauth-no-client",
                format!(
                    "Register a client with the redirect URI {redirect_uri} there, and write it into the server's \
                     credential.oauth.clientId and clientSecret"
                ),
            ),
            Self::OtherIssuer { .. } => (
                Side::Policy,
                "oauth-refused",
                "If the new one is right, write it into the server's credential.oauth.authorizationServer.issuer"
                    .to_owned(),
            ),
            Self::Registration(_) => (Side::Server, "oauth-registration", "Tell the operator".to_owned()),
            Self::UnknownState => (Side::Caller, "oauth-state", "Begin again".to_owned()),
            Self::WrongIssuer => {
                (Side::Server, "oauth-refused", "Begin again; tell the operator if it happens twice".to_owned())
            }
            Self::Denied(_) | Self::Exchange(_) => (Side::Server, "oauth-denied", "Begin again".to_owned()),
            Self::Busy => (Side::Gateway, "oauth-busy", "Try again in a few minutes".to_owned()),
            Self::Secrets(_) | Self::Registry(_) | Self::Internal(_) => {
                (Side::Gateway, "oauth-not-saved", "Tell the operator".to_owned())
            }
        };
        let fault = Fault::new(side, code, self.to_string());
        if next.is_empty() { fault } else { fault.next(next) }
    }
}
