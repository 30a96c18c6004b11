//! What an operator writes: which name of a certificate is the caller.

use std::collections::BTreeMap;

use portcullis_sdk::Schema;
use serde::Deserialize;

/// The plugin's configuration.
#[derive(Debug, Deserialize, Schema)]
#[serde(rename_all = "camelCase", try_from = "Written")]
pub(crate) struct Config {
    pub(crate) issuer: String,
    pub(crate) subject: Name,
    pub(crate) prefix: Option<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) require_issuer: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize, Schema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    /// Under which name `User`, `Agent` and `Team` resources speak of these certificates; one of the granted issuers.
    issuer: String,
    /// `uri`, `dns`, `email`, or an attribute of the subject's name, such as `CN`.
    #[serde(default = "uri")]
    subject: String,
    /// How the caller's name begins; others are left to other providers.
    prefix: Option<String>,
    /// Attributes of the subject's name whose values are groups, such as `OU`.
    #[serde(default)]
    groups: Vec<String>,
    /// Values that attributes of the issuer's name must have.
    #[serde(default)]
    require_issuer: BTreeMap<String, String>,
}

fn uri() -> String {
    "uri".into()
}

/// Where a caller's name stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// A URI among the alternative names, such as a SPIFFE ID.
    Uri,
    /// A DNS name among them.
    Dns,
    /// An e-mail address among them.
    Email,
    /// An attribute of the subject's name.
    Subject(String),
}

impl Name {
    pub(crate) fn describe(&self) -> &str {
        match self {
            Self::Uri => "URIs",
            Self::Dns => "DNS names",
            Self::Email => "e-mail addresses",
            Self::Subject(attribute) => attribute,
        }
    }
}

impl TryFrom<Written> for Config {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { issuer, subject, prefix, groups, require_issuer } = written;
        if issuer.is_empty() {
            return Err("issuer: name the authority, as resources that claim its certificates do".to_owned());
        }
        let subject = match subject.as_str() {
            "uri" => Name::Uri,
            "dns" => Name::Dns,
            "email" => Name::Email,
            "" => return Err("subject: is empty".to_owned()),
            attribute if attribute.starts_with(|c: char| c.is_ascii_uppercase() || c.is_ascii_digit()) => {
                Name::Subject(attribute.to_owned())
            }
            other => {
                return Err(format!("subject: {other} is neither uri, dns, email nor an attribute such as CN or UID"));
            }
        };
        Ok(Self { issuer, subject, prefix, groups, require_issuer })
    }
}
