//! What the rest of the house does for plugins: traits that other crates implement, and the words they share.

use std::{future::Future, pin::Pin, sync::Arc};

use portcullis_model::{Name, Principal, PrincipalKind, Secret, Subject, spec::SecretSource};
pub use portcullis_outbound::{Error as OutboundError, Request as OutboundRequest, Response as OutboundResponse};
use serde_json::Value;

/// A boxed future, so that the traits can be used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What plugins may use, where their grants allow it too. What is none refuses, at load, a component that imports it.
#[derive(Clone, Default)]
pub struct Services {
    /// Tokens that Portcullis issued.
    pub tokens: Option<Arc<dyn Tokens>>,
    /// Signed tokens of others.
    pub jwt: Option<Arc<dyn Jwt>>,
    /// Connections that a caller may run under.
    pub connections: Option<Arc<dyn Connections>>,
    /// Outgoing requests.
    pub http: Option<Arc<dyn Outbound>>,
    /// Secrets that operators grant to plugins, and that lie outside the store.
    pub secrets: Option<Arc<dyn SecretReader>>,
    /// Where uses of the `reveal` grant are recorded.
    pub audit: Option<Arc<dyn RevealAudit>>,
    /// What signs assertions of clients of token endpoints, and tokens of plugins with the grant `sign`.
    pub assertions: Option<Arc<dyn Assertions>>,
    /// A wall clock that stands still and randomness that repeats itself, where plugins are tried out. Never where they serve.
    pub still: Option<Still>,
}

/// What a plugin that is tried out takes for the time and for chance, so that it answers the same each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Still {
    /// The time, in milliseconds since 1970.
    pub now_ms: u64,
    /// Where its random numbers begin.
    pub seed: u64,
}

/// Signs assertions by which a client proves to a token endpoint who it is (RFC 7523 section 2.2).
pub trait Assertions: Send + Sync {
    /// A signed assertion of a minute, used once. `key` is PEM, PKCS #8, perhaps with a certificate beside it.
    ///
    /// # Errors
    /// In words that quote nothing of the key.
    fn sign(&self, key: &Secret, assertion: &Assertion<'_>) -> Result<Secret, String>;

    /// A signed token (RFC 7519) with claims of a plugin's own, as they are. `key` is PEM, PKCS #8.
    ///
    /// # Errors
    /// In words that quote nothing of the key.
    fn sign_claims(&self, key: &Secret, token: &Signed<'_>) -> Result<Secret, String>;
}

/// A token to be signed.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// Its claims: a JSON object, checked.
    pub claims: &'a str,
    /// The header's `kid`.
    pub key_id: Option<&'a str>,
    /// The header's `typ`; `JWT` where none.
    pub token_type: Option<&'a str>,
    /// The signature algorithm (RFC 7518); the key's usual one where none.
    pub algorithm: Option<&'a str>,
}

/// What an assertion says.
#[derive(Clone, Copy, Debug)]
pub struct Assertion<'a> {
    /// The client: `iss` and `sub`.
    pub client_id: &'a str,
    /// For whom it is: `aud`.
    pub audience: &'a str,
    /// The header's `kid`.
    pub key_id: Option<&'a str>,
    /// The signature algorithm (RFC 7518); the key's usual one where none.
    pub algorithm: Option<&'a str>,
}

/// Looks up tokens of ours, in memory.
pub trait Tokens: Send + Sync {
    /// The token's facts, if it is valid now for this tenant and gateway.
    ///
    /// # Errors
    /// Why it is not.
    fn lookup(&self, tenant: &Name, gateway: &Name, token: &Secret) -> Result<TokenFacts, TokenLookupError>;
}

/// A token of ours that is valid now.
#[derive(Clone, Debug)]
pub struct TokenFacts {
    /// The token's public id.
    pub id: String,
    /// Its owner.
    pub subject: Subject,
    /// When it expires, milliseconds since 1970; none where it does not.
    pub expires_ms: Option<u64>,
}

/// Why a token is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenLookupError {
    /// Not of the form of our tokens.
    #[error("not one of our tokens")]
    NotOurs,
    /// Of our form, but unknown.
    #[error("unknown token")]
    Unknown,
    /// Past its time.
    #[error("expired token")]
    Expired,
    /// Taken back.
    #[error("revoked token")]
    Revoked,
    /// Valid, but not at this gateway.
    #[error("the token is not for this gateway")]
    WrongGateway,
    /// It can't be known now.
    #[error("tokens can't be looked up: {0}")]
    Unavailable(String),
}

/// Verifies JSON Web Tokens (RFC 7519).
pub trait Jwt: Send + Sync {
    /// The `iss` claim before anything was checked.
    fn unverified_issuer(&self, token: &Secret) -> Option<String>;
    /// Verifies signature and rules; may fetch keys.
    fn verify<'a>(&'a self, token: &'a Secret, rules: &'a JwtRules) -> BoxFuture<'a, Result<VerifiedJwt, JwtError>>;
}

/// What must hold of a JWT. The issuer is already checked to be granted to the plugin.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JwtRules {
    /// The required `iss`, and where keys come from without `jwks_url`.
    pub issuer: String,
    /// Where the keys are.
    pub jwks_url: Option<String>,
    /// One of these must be in `aud`; verification fails where empty.
    pub audiences: Vec<String>,
    /// Allowed algorithms (RFC 7518); RS256, ES256 and EdDSA where empty.
    pub algorithms: Vec<String>,
    /// Allowed clock skew in seconds, 300 at most.
    pub leeway_seconds: u32,
    /// The required `typ` header.
    pub token_type: Option<String>,
}

/// A JWT whose signature and rules hold.
#[derive(Clone, Debug)]
pub struct VerifiedJwt {
    /// The `iss` claim.
    pub issuer: String,
    /// The `sub` claim.
    pub subject: String,
    /// The `exp` claim in milliseconds since 1970.
    pub expires_ms: u64,
    /// All claims, an object.
    pub claims: Value,
}

/// Why a JWT is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// No JWT, or broken.
    #[error("malformed token")]
    Malformed,
    /// An algorithm that is not allowed.
    #[error("algorithm {0} is not allowed")]
    Algorithm(String),
    /// Signed by a key that the issuer does not publish.
    #[error("unknown key")]
    UnknownKey,
    /// The signature is wrong.
    #[error("wrong signature")]
    Signature,
    /// Another issuer.
    #[error("wrong issuer")]
    Issuer,
    /// For somebody else.
    #[error("wrong audience")]
    Audience,
    /// Past its time.
    #[error("expired")]
    Expired,
    /// Before its time.
    #[error("not yet valid")]
    NotYetValid,
    /// Another `typ`.
    #[error("wrong token type")]
    TokenType,
    /// The keys could not be had.
    #[error("keys unavailable: {0}")]
    Unavailable(String),
    /// Something else.
    #[error("{0}")]
    Other(String),
}

/// Reads secrets that lie outside the store.
pub trait SecretReader: Send + Sync {
    /// The secret now. May block while reading a file, for nothing else.
    ///
    /// # Errors
    /// A sentence that names the source and never what is in it.
    fn read(&self, tenant: &Name, source: &SecretSource) -> Result<Secret, String>;
}

/// Lists connections, in memory.
pub trait Connections: Send + Sync {
    /// Those of `server` that `principal` may run under, and `named` if the assignment names one.
    fn candidates(&self, principal: &Principal, server: &Name, named: Option<&Name>) -> Vec<ConnectionFacts>;
}

/// One connection, never its secrets.
#[derive(Clone, Debug)]
pub struct ConnectionFacts {
    /// The `Connection` resource's name.
    pub id: Name,
    /// `User`, `Team`, `Organization` or `Agent`.
    pub owner_kind: PrincipalKind,
    /// The owner's name; empty for the organization.
    pub owner: String,
    /// Whether it may serve its owner only.
    pub owner_only: bool,
    /// Whether its last use was not refused by the server.
    pub healthy: bool,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
}

/// Records that a plugin read a secret's bytes; durable before it returns (security: reveals are audited first).
pub trait RevealAudit: Send + Sync {
    /// `what` names the secret, never quotes it. False refuses the reveal.
    fn revealed(&self, tenant: &Name, plugin: &str, what: &str) -> bool;
}

/// Sends requests for plugins. Origins, header names and sizes are checked before; the address check is the implementation's.
pub trait Outbound: Send + Sync {
    /// Sends and reads the whole answer. Redirects are not followed.
    fn send(&self, request: OutboundRequest) -> BoxFuture<'_, Result<OutboundResponse, OutboundError>>;
}

impl Outbound for portcullis_outbound::Client {
    fn send(&self, request: OutboundRequest) -> BoxFuture<'_, Result<OutboundResponse, OutboundError>> {
        Box::pin(Self::send(self, request))
    }
}
