//! Why Vault gives nothing. Never what it gave, or what it was sent.

use portcullis_model::Name;

use crate::sources::SourceError;

/// Why a secret can't be read from Vault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultReadError {
    /// The tenant may not name it.
    #[error("the server setting vault.tenants does not let the tenant {0} read it")]
    Tenant(Name),
    /// Our account there may not read it.
    #[error("Vault does not let us read it")]
    Forbidden,
    /// An answer that says nothing of the secret.
    #[error("Vault answered {0}")]
    Status(u16),
    /// An answer of another form.
    #[error("Vault's answer is no key-value secret")]
    NoSecret,
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It is a list, an object or a truth value.
    #[error("it is no text")]
    NoText,
    /// The address has no paths.
    #[error("vault.address can't have a path put behind it")]
    Address,
    /// No header can hold our token there.
    #[error("the token for Vault can't stand in a header")]
    Token,
    /// There is no answer.
    #[error("Vault can't be reached ({0})")]
    Unreachable(#[from] portcullis_outbound::Error),
    /// We are not let in.
    #[error("Vault refuses the login (it answered {0})")]
    Login(u16),
    /// We are let in without a token.
    #[error("Vault's answer to the login holds no token")]
    NoToken,
    /// The token that we were given is none there.
    #[error("Vault refuses the token (it answered {0})")]
    TokenRefused(u16),
    /// What it says of the token can't be read.
    #[error("Vault's answer about the token is none")]
    NoFacts,
    /// What we log in with can't be read.
    #[error(transparent)]
    Credential(Box<SourceError>),
    /// What we log in with is no text.
    #[error("the credential for Vault is no text")]
    CredentialNoText,
    /// The login has no JSON form.
    #[error("the login can't be written")]
    Unwritten,
}

impl From<SourceError> for VaultReadError {
    fn from(error: SourceError) -> Self {
        Self::Credential(Box::new(error))
    }
}
