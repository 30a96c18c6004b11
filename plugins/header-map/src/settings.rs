//! What an operator writes into the assignment's credential.

use std::collections::BTreeMap;

use portcullis_sdk::{Error, Target};
use serde::Deserialize;

/// The most headers.
const MAX_HEADERS: usize = 16;

/// The settings of an assignment.
pub(crate) struct Settings {
    pub(crate) headers: BTreeMap<String, Mapping>,
    pub(crate) under: Under,
}

/// Which connection the call runs under beside the headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Under {
    /// None: the headers are all that it carries.
    #[default]
    Nothing,
    CallTime,
    Static,
}

/// One header.
#[derive(Deserialize)]
#[serde(try_from = "Written")]
pub(crate) struct Mapping {
    pub(crate) from: Source,
    pub(crate) prefix: String,
    pub(crate) join: String,
    pub(crate) absent: Absent,
}

/// Where a value comes from.
#[derive(Debug)]
pub(crate) enum Source {
    Claim(String),
    Caller(Known),
    Text(String),
}

/// What the gateway itself knows of a caller.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Known {
    Subject,
    Name,
    Kind,
    Tenant,
    Teams,
    Roles,
    Groups,
}

/// What happens where the caller has nothing of the sort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Absent {
    #[default]
    Refuse,
    LeaveOut,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    claim: Option<String>,
    caller: Option<Known>,
    text: Option<String>,
    #[serde(default)]
    prefix: String,
    #[serde(default = "comma")]
    join: String,
    #[serde(default)]
    absent: Absent,
}

fn comma() -> String {
    ",".to_owned()
}

impl TryFrom<Written> for Mapping {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { claim, caller, text, prefix, join, absent } = written;
        let from = match (claim, caller, text) {
            (Some(claim), None, None) => Source::Claim(claim),
            (None, Some(known), None) => Source::Caller(known),
            (None, None, Some(text)) => Source::Text(text),
            _ => return Err("say exactly one of claim, caller and text".to_owned()),
        };
        Ok(Self { from, prefix, join, absent })
    }
}

impl Source {
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Claim(name) => format!("claim {name}"),
            Self::Caller(known) => format!("{known:?}").to_lowercase(),
            Self::Text(_) => "text".to_owned(),
        }
    }
}

impl Settings {
    pub(crate) fn read(target: Target<'_>) -> Result<Self, Error> {
        let headers: BTreeMap<String, Mapping> = target.setting("headers")?.unwrap_or_default();
        if headers.is_empty() || headers.len() > MAX_HEADERS {
            return Err(Error::InvalidConfig(format!("headers: 1 to {MAX_HEADERS} are needed, not {}", headers.len())));
        }
        Ok(Self { headers, under: target.setting("under")?.unwrap_or_default() })
    }
}
