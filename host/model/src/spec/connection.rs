//! `Connection`: an installed server. An owner, values, and secrets that only the vault can read.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Name, Problem, Subject, spec::SecretSource};

/// An installed server: whose it is and what was given at install time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Connection {
    /// The `McpServer` that is connected.
    pub server: Name,
    /// Whose connection it is.
    pub owner: Owner,
    /// Values of fields that are not sensitive.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, String>,
    /// Where the sensitive fields' values come from. Left out for those that `portcullis connect` sealed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretSource>,
    /// Whether it serves its owner only: then no token of a team or of the organization runs under it. `portcullis connect`
    /// asks; a file has to say.
    pub owner_only: bool,
    /// Set by Portcullis: the origin that the connection was made for. Another origin suspends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

/// Whose a connection is: exactly one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Owner {
    /// A person's own.
    User(Name),
    /// A team's.
    Team(Name),
    /// An agent's.
    Agent(Name),
    /// The whole tenant's; the value is `true`.
    Organization(bool),
}

impl Owner {
    /// The principal whose connection it is.
    pub fn subject(&self) -> Subject {
        match self {
            Self::User(name) => Subject::User(name.clone()),
            Self::Team(name) => Subject::Team(name.clone()),
            Self::Agent(name) => Subject::Agent(name.clone()),
            Self::Organization(_) => Subject::Organization,
        }
    }
}

impl Connection {
    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        if self.owner == Owner::Organization(false) {
            problems.push(Problem::new("spec.owner.organization", "must be true"));
        }
        for (field, source) in &self.secrets {
            source.check(&format!("spec.secrets.{field}"), problems);
        }
    }
}
