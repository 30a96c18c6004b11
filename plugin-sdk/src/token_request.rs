//! Requests to token endpoints (RFC 6749 section 3.2), whose answers are handles: no plugin ever reads a token.
//!
//! The endpoint's origin has to be among the plugin's grant `http`, and so has each secret's own.

use std::fmt;

use crate::{Error, Part, Secret, raw};

/// A request that is put together and sent once.
///
/// ```
/// use portcullis_sdk::{Error, Part, TokenRequest, fake, secret};
///
/// fn token() -> Result<portcullis_sdk::Secret, Error> {
///     let answer = TokenRequest::new("https://idp.example/token")
///         .field("grant_type", &[Part::Text("client_credentials")])
///         .client_basic("me", &secret("idp")?)
///         .send()?;
///     answer.access_token().ok_or_else(|| "no token".into())
/// }
///
/// let host = fake::Host::new()
///     .secret("idp", "s3cret")
///     .token_answer("https://idp.example/token", Ok(r#"{"access_token": "at", "token_type": "Bearer"}"#))
///     .install();
/// assert!(token().is_ok());
/// assert_eq!(host.token_requests()[0].field("grant_type"), Some("client_credentials"));
/// ```
pub struct TokenRequest(raw::TokenRequest);

impl TokenRequest {
    /// A POST of a form to this URL.
    pub fn new(endpoint: &str) -> Self {
        Self(raw::TokenRequest::new(endpoint))
    }

    /// Adds a form field, made of texts and secrets; the host encodes it.
    #[must_use]
    pub fn field(self, name: &str, value: &[Part<'_>]) -> Self {
        self.0.field(name, &raw::lower_parts(value));
        self
    }

    /// The client says who it is and proves nothing.
    #[must_use]
    pub fn client_public(self, id: &str) -> Self {
        self.0.client_public(id);
        self
    }

    /// `client_secret_basic`.
    #[must_use]
    pub fn client_basic(self, id: &str, secret: &Secret) -> Self {
        self.0.client_basic(id, &secret.0);
        self
    }

    /// `client_secret_post`.
    #[must_use]
    pub fn client_post(self, id: &str, secret: &Secret) -> Self {
        self.0.client_post(id, &secret.0);
        self
    }

    /// `private_key_jwt`: the host signs with this key (PEM, PKCS #8).
    #[must_use]
    pub fn client_key(self, id: &str, key: &Secret) -> Self {
        self.0.client_key(id, &key.0);
        self
    }

    /// The `kid` of the assertion.
    #[must_use]
    pub fn key_id(self, id: &str) -> Self {
        self.0.key_id(id);
        self
    }

    /// The `aud` of the assertion; the endpoint's URL where not said.
    #[must_use]
    pub fn assertion_audience(self, audience: &str) -> Self {
        self.0.assertion_audience(audience);
        self
    }

    /// The signature algorithm of the assertion; the key's usual one where not said.
    #[must_use]
    pub fn algorithm(self, name: &str) -> Self {
        self.0.algorithm(name);
        self
    }

    /// With a limit on the time until the answer is there, in milliseconds.
    #[must_use]
    pub fn timeout_ms(self, millis: u32) -> Self {
        self.0.timeout_ms(millis);
        self
    }

    /// Sends it. The call is suspended while the host waits.
    ///
    /// # Errors
    /// Why there is no token.
    pub fn send(self) -> Result<TokenAnswer, TokenError> {
        raw::send_token_request(self.0).map(TokenAnswer)
    }
}

/// A successful answer.
pub struct TokenAnswer(raw::TokenAnswer);

impl TokenAnswer {
    /// `access_token`.
    pub fn access_token(&self) -> Option<Secret> {
        self.0.access_token().map(Secret)
    }

    /// `refresh_token`.
    pub fn refresh_token(&self) -> Option<Secret> {
        self.0.refresh_token().map(Secret)
    }

    /// `issued_token_type` (RFC 8693 section 2.2.1).
    pub fn issued_token_type(&self) -> Option<String> {
        self.0.issued_token_type()
    }

    /// `token_type`.
    pub fn token_type(&self) -> Option<String> {
        self.0.token_type()
    }

    /// `expires_in`, in seconds.
    pub fn expires_in(&self) -> Option<u64> {
        self.0.expires_in()
    }

    /// `scope`.
    pub fn scope(&self) -> Option<String> {
        self.0.scope()
    }

    /// Another string of the answer, by JSON Pointer, as a secret.
    pub fn field(&self, pointer: &str) -> Option<Secret> {
        self.0.field(pointer).map(Secret)
    }
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenError {
    /// The operator did not grant this; the text says what.
    Denied(String),
    /// The endpoint refused (RFC 6749 section 5.2).
    Refused {
        /// Its HTTP status.
        status: u16,
        /// The `error`, such as `invalid_grant`.
        error: String,
        /// The `error_description`, without anything that looks like a token.
        description: Option<String>,
    },
    /// It can't be reached, or says to try later.
    Unavailable(String),
    /// No answer in time.
    Timeout,
    /// What came back is no answer of a token endpoint.
    Malformed(String),
    /// Anything else.
    Other(String),
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(what) => write!(f, "not granted: {what}"),
            Self::Refused { status, error, description: Some(said) } => write!(f, "{error}: {said} ({status})"),
            Self::Refused { status, error, description: None } => write!(f, "{error} ({status})"),
            Self::Unavailable(why) => write!(f, "unavailable: {why}"),
            Self::Timeout => f.write_str("timed out"),
            Self::Malformed(why) => write!(f, "no answer of a token endpoint: {why}"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for TokenError {}

impl From<TokenError> for Error {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Timeout => Self::Timeout,
            TokenError::Unavailable(why) => Self::Unavailable(why),
            TokenError::Refused { status, .. } => Self::Upstream { status: Some(status), message: error.to_string() },
            TokenError::Malformed(why) => Self::Upstream { status: None, message: why },
            TokenError::Denied(what) => Self::InvalidConfig(what),
            other => Self::Other(other.to_string()),
        }
    }
}
