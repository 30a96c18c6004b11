//! Signing with keys that nobody reads. Needs the grant `sign`.

use std::fmt;

use serde::Serialize;

use crate::{Error, Secret, raw};

/// A signed token that is being made (RFC 7519). The host adds no claim.
///
/// ```
/// use portcullis_sdk::{Error, Jwt, fake, secret};
///
/// let _host = fake::Host::new().secret("app-key", "-----BEGIN PRIVATE KEY-----").install();
/// let token = Jwt::new(&serde_json::json!({"iss": "12345", "exp": 1_800_000_000}))?.key_id("k1").sign(&secret("app-key")?)?;
/// # drop(token);
/// # Ok::<(), Error>(())
/// ```
pub struct Jwt(raw::SigningToken);

impl Jwt {
    /// A token with these claims: a type that becomes a JSON object.
    ///
    /// # Errors
    /// Where they have no JSON.
    pub fn new(claims: &impl Serialize) -> Result<Self, Error> {
        Ok(Self(raw::SigningToken::new(&serde_json::to_string(claims)?)))
    }

    /// The header's `kid`.
    #[must_use]
    pub fn key_id(self, id: &str) -> Self {
        self.0.key_id(id);
        self
    }

    /// The header's `typ`; `JWT` where not said.
    #[must_use]
    pub fn token_type(self, name: &str) -> Self {
        self.0.token_type(name);
        self
    }

    /// The algorithm (RFC 7518); the key's usual one where not said.
    #[must_use]
    pub fn algorithm(self, name: &str) -> Self {
        self.0.algorithm(name);
        self
    }

    /// Signs it with a granted key: PEM, PKCS #8. The token may go where the key may go.
    ///
    /// # Errors
    /// Why it is not signed.
    pub fn sign(self, key: &Secret) -> Result<Secret, SigningError> {
        raw::sign(&self.0, &key.0).map(Secret)
    }
}

/// HMAC (RFC 2104) with SHA-256 of a message: [`Secret::hex`] or [`Secret::base64`] of it is what a header holds.
///
/// # Errors
/// Why it is not made.
pub fn hmac_sha256(key: &Secret, message: &[u8]) -> Result<Secret, SigningError> {
    raw::hmac_sha256(&key.0, message).map(Secret)
}

/// Why nothing was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SigningError {
    /// The operator did not grant this.
    Denied(String),
    /// The key is none, or does not sign with that algorithm.
    Key(String),
    /// The claims are no JSON object, or too large.
    Claims(String),
    /// Anything else.
    Other(String),
}

impl fmt::Display for SigningError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(why) => write!(f, "not granted: {why}"),
            Self::Key(why) | Self::Claims(why) | Self::Other(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for SigningError {}

impl From<SigningError> for Error {
    fn from(error: SigningError) -> Self {
        match error {
            SigningError::Denied(_) | SigningError::Key(_) => Self::InvalidConfig(error.to_string()),
            SigningError::Claims(_) | SigningError::Other(_) => Self::Other(error.to_string()),
        }
    }
}
