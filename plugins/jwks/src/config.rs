//! What an operator writes: issuers, and what their tokens must hold.

use std::collections::BTreeMap;

use portcullis_sdk::Schema;
use serde::Deserialize;

/// The plugin's configuration.
#[derive(Debug, Deserialize, Schema)]
#[serde(try_from = "Written")]
pub(crate) struct Config {
    pub(crate) issuers: Vec<Issuer>,
}

#[derive(Debug, Deserialize, Schema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    issuers: Vec<Issuer>,
}

/// One issuer.
#[derive(Debug, Deserialize, Schema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Issuer {
    /// Exactly as in the tokens' `iss`.
    pub(crate) issuer: String,
    /// One of these must be in `aud`.
    pub(crate) audience: Vec<String>,
    /// Where the keys lie; where the issuer's metadata says, if absent.
    pub(crate) jwks_url: Option<String>,
    /// RS256, ES256 and EdDSA where empty.
    #[serde(default)]
    pub(crate) algorithms: Vec<String>,
    #[schema(maximum = 300)]
    pub(crate) leeway_seconds: Option<u32>,
    /// The `typ` header that tokens must have, such as `at+jwt`.
    pub(crate) token_type: Option<String>,
    #[serde(default)]
    pub(crate) claims: Claims,
    /// Claims that must have these values, or hold them where they are lists.
    #[serde(default)]
    pub(crate) require_claims: BTreeMap<String, serde_json::Value>,
}

/// Which claims say what. A claim is a JSON Pointer, or a name where it has no leading slash.
#[derive(Debug, Deserialize, Schema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Claims {
    /// Who it is; `sub` where absent.
    pub(crate) subject: Option<String>,
    /// Kept for policies as `email`, unless the token says that nobody verified it.
    pub(crate) email: Option<String>,
    /// Which values give which roles.
    pub(crate) roles: Option<Roles>,
    pub(crate) groups: Option<String>,
    pub(crate) display_name: Option<String>,
    /// Kept for policies, under the text written here.
    pub(crate) keep: Vec<String>,
}

/// A claim whose values give roles. Each role has to be among the plugin's granted ones.
#[derive(Debug, Deserialize, Schema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Roles {
    /// The claim: a text or a list of texts.
    pub(crate) claim: String,
    /// The role that a value gives; other values give none.
    pub(crate) map: BTreeMap<String, String>,
}

impl Default for Claims {
    fn default() -> Self {
        Self {
            subject: None,
            email: None,
            roles: None,
            groups: Some("groups".into()),
            display_name: Some("name".into()),
            keep: Vec::new(),
        }
    }
}

impl TryFrom<Written> for Config {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        if written.issuers.is_empty() {
            return Err("issuers: name at least one".to_owned());
        }
        for (i, issuer) in written.issuers.iter().enumerate() {
            if issuer.issuer.is_empty() {
                return Err(format!("issuers[{i}].issuer: is empty"));
            }
            if written.issuers[..i].iter().any(|earlier| earlier.issuer == issuer.issuer) {
                return Err(format!(
                    "issuers[{i}].issuer: {} is there already; put all audiences into one entry",
                    issuer.issuer
                ));
            }
            if issuer.audience.is_empty() || issuer.audience.iter().any(String::is_empty) {
                return Err(format!("issuers[{i}].audience: name who the tokens are for, such as this gateway's URL"));
            }
            let weak = |name: &&String| name.starts_with("HS") || name.eq_ignore_ascii_case("none");
            if let Some(name) = issuer.algorithms.iter().find(weak) {
                return Err(format!("issuers[{i}].algorithms: {name} is no signature with a public key"));
            }
            if issuer.leeway_seconds.is_some_and(|seconds| seconds > 300) {
                return Err(format!("issuers[{i}].leewaySeconds: is at most 300"));
            }
        }
        Ok(Self { issuers: written.issuers })
    }
}
