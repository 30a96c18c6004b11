//! `Connection`: an installed server. An owner, values, and secrets that only the vault can read.

use std::{collections::BTreeMap, fmt};

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, Visitor},
};

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
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

/// As it is derived, but with words that say what to write: commands write owners as `user:alice`, documents do not.
impl<'de> Deserialize<'de> for Owner {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const WAYS: [&str; 4] = ["user", "team", "agent", "organization"];
        struct Written;

        impl<'de> Visitor<'de> for Written {
            type Value = Owner;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an owner: {user: NAME}, {team: NAME}, {agent: NAME} or {organization: true}")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Owner, M::Error> {
                let way: Option<String> = map.next_key()?;
                let owner = match way.as_deref() {
                    Some("user") => Owner::User(map.next_value()?),
                    Some("team") => Owner::Team(map.next_value()?),
                    Some("agent") => Owner::Agent(map.next_value()?),
                    Some("organization") => Owner::Organization(map.next_value()?),
                    Some(other) => return Err(M::Error::unknown_variant(other, &WAYS)),
                    None => return Err(M::Error::invalid_length(0, &self)),
                };
                if map.next_key::<String>()?.is_some() {
                    return Err(M::Error::invalid_length(2, &self));
                }
                Ok(owner)
            }
        }
        deserializer.deserialize_map(Written)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_one_and_who_writes_it_otherwise_is_told_how() {
        let read = |text: &str| serde_json::from_str::<Owner>(text).map_err(|e| e.to_string());
        for owner in [r#"{"user":"alice"}"#, r#"{"team":"blue"}"#, r#"{"agent":"ci"}"#, r#"{"organization":true}"#] {
            assert_eq!(serde_json::to_string(&read(owner).unwrap()).unwrap(), owner);
        }
        for wrong in [r#""organization""#, r#""user:alice""#, "{}", r#"{"user":"a","team":"b"}"#, "null"] {
            let why = read(wrong).unwrap_err();
            assert!(why.contains("{organization: true}"), "{wrong}: {why}");
        }
        assert!(read(r#"{"users":"a"}"#).unwrap_err().contains("`organization`"));
    }
}
