//! The settings of an assignment, as the host checked them when they were written (`host/model`, `spec::exchange`).

use std::collections::BTreeMap;

use portcullis_sdk::{Error, Target};
use serde::Deserialize;

/// How the caller's token is swapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Flow {
    #[default]
    TokenExchange,
    IdJag,
    OnBehalfOf,
}

/// All of them.
pub(crate) struct Settings {
    pub(crate) flow: Flow,
    pub(crate) step: Step,
    pub(crate) subject_token_type: Option<String>,
    pub(crate) requested_token_type: Option<String>,
    pub(crate) audience: Vec<String>,
    pub(crate) then: Option<Step>,
    pub(crate) place: Place,
}

/// A request to a token endpoint.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Step {
    pub(crate) token_endpoint: String,
    pub(crate) client: TokenClient,
    pub(crate) scope: Option<String>,
    #[serde(default)]
    pub(crate) resource: Vec<String>,
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, String>,
}

/// As whom it is asked.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokenClient {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) auth: ClientAuth,
    pub(crate) secret: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) key_id: Option<String>,
    pub(crate) audience: Option<String>,
    pub(crate) algorithm: Option<String>,
}

/// How the client proves who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ClientAuth {
    #[default]
    Basic,
    Post,
    PrivateKeyJwt,
    None,
}

/// Where the new token goes.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Place {
    pub(crate) header: Option<String>,
    pub(crate) prefix: Option<String>,
    pub(crate) field: Option<String>,
}

impl Settings {
    pub(crate) fn read(target: Target<'_>) -> Result<Self, Error> {
        let missing = |name: &str| Error::InvalidConfig(format!("setting {name}: is missing"));
        let step = Step {
            token_endpoint: target.setting("tokenEndpoint")?.ok_or_else(|| missing("tokenEndpoint"))?,
            client: target.setting("client")?.ok_or_else(|| missing("client"))?,
            scope: target.setting("scope")?,
            resource: target.setting("resource")?.unwrap_or_default(),
            parameters: target.setting("parameters")?.unwrap_or_default(),
        };
        Ok(Self {
            flow: target.setting("flow")?.unwrap_or_default(),
            step,
            subject_token_type: target.setting("subjectTokenType")?.map(token_type),
            requested_token_type: target.setting("requestedTokenType")?.map(token_type),
            audience: target.setting("audience")?.unwrap_or_default(),
            then: target.setting("then")?,
            place: target.setting("place")?.unwrap_or_default(),
        })
    }
}

/// A token type identifier, which may be written by its last word.
#[allow(clippy::needless_pass_by_value, reason = "what a setting holds is owned")]
fn token_type(word: String) -> String {
    if word.contains(':') { word } else { format!("urn:ietf:params:oauth:token-type:{word}") }
}
