//! What the store keeps of a token.

use portcullis_model::{Name, Subject};
use serde::{Deserialize, Serialize};

use super::TokenDigest;

/// A token without its text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRecord {
    /// Its public id, unique in the installation.
    pub id: String,
    /// Its tenant.
    pub tenant: Name,
    /// What its owner calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who calls with it, such as `user:alice`.
    #[serde(with = "subject_text")]
    pub owner: Subject,
    /// The gateways that it is valid at; at all of the tenant where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<Name>,
    /// Whether it is for the admin API, and then for nothing else: a token that an MCP client holds administrates nothing, and
    /// one that administrates calls no tool.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub admin: bool,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// From when on it is not valid any more, in milliseconds since 1970; never where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// When it was revoked, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_ms: Option<u64>,
    /// When it was last used, in milliseconds since 1970 and to about a minute. Kept in a record of its own, so that
    /// noting a use never meets a revocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_ms: Option<u64>,
    /// The OAuth client that it was issued to, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf: Option<OnBehalf>,
    /// What it is recognised by.
    pub(crate) digest: TokenDigest,
}

/// What an access token was issued for, beside its owner and its gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OnBehalf {
    /// The client.
    pub client: String,
    /// Its scopes: what needs another one it can't do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Issuer and subject of the person who signed in by an identity provider; which `User` that is is asked anew each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<(String, String)>,
    /// The person's groups as that provider asserted them at sign-in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// The `IdentityProvider` of that sign-in, where the person signed in here: tokens that are kept of it may act for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Name>,
    /// The grant that it is of, where it can be renewed: who takes the token back takes that back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
}

/// Whether a token works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenStatus {
    /// It does.
    Active,
    /// Its time is over.
    Expired,
    /// It was taken back.
    Revoked,
    /// Its owner does not exist, or is another than the one it was made for.
    Orphaned,
}

/// `user:alice` instead of a nested object.
mod subject_text {
    use portcullis_model::Subject;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(subject: &Subject, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(subject)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Subject, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
