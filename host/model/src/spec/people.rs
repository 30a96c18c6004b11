//! `User`, `Team`, `Role` and `Agent`: who there is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Name;

/// A person.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct User {
    /// What people read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// For people to read; never an identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Who this is at identity providers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<Identity>,
}

/// Somebody, or something, of an identity provider or of an authority that signs client certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Identity {
    /// The issuer's URL, exactly as in its tokens.
    pub issuer: String,
    /// The `sub` claim.
    pub subject: String,
}

/// People who share connections and rules.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Team {
    /// What people read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// `User` resources that belong to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Name>,
    /// Groups of identity providers whose people belong to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<ExternalGroup>,
}

/// A group at an identity provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalGroup {
    /// The issuer's URL, exactly as in its tokens.
    pub issuer: String,
    /// The group as the issuer calls it.
    pub group: String,
}

/// A named set of principals that rules can speak of. The built-in roles `admin`, `operator`, `team-admin` and `member`
/// are given to principals in the same way, by a `Role` resource of that name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Role {
    /// What people read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// `User` resources that hold it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<Name>,
    /// `Team` resources whose members, and whose own tokens, hold it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub teams: Vec<Name>,
    /// `Agent` resources that hold it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<Name>,
}

/// A caller that is no person.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Agent {
    /// What people read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The team that answers for it and whose connections it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team: Option<Name>,
    /// What it is at identity providers and by its client certificates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<Identity>,
}
