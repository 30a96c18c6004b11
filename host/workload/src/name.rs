//! Whose objects: names and labels that stay the same for as long as server and connection do, and that no two installations share.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use portcullis_model::{Name, Secret};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// What all objects of ours carry.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "portcullis");
/// The label that holds the installation.
pub const INSTALLATION: &str = "portcullis.dev/installation";
/// The label that holds the name of the workload, by which its pods are selected.
pub const WORKLOAD: &str = "portcullis.dev/workload";
/// The most bytes of a server's and a connection's name that are seen in the name of an object.
const SEEN: (usize, usize) = (26, 20);

/// All gateways that share one store: what they made is told from what others made in the same namespace.
#[derive(Clone, Debug)]
pub struct Installation {
    key: Secret,
    id: String,
}

impl Installation {
    /// The installation of this key, which its store keeps.
    pub fn new(key: Secret) -> Self {
        let id = hex(&Sha256::new().chain_update("installation").chain_update(key.expose()).finalize()[..4]);
        Self { key, id }
    }

    /// What tells it from others, for labels. No secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The labels that select all objects of this installation.
    pub fn selector(&self) -> String {
        format!("{}={},{INSTALLATION}={}", MANAGED_BY.0, MANAGED_BY.1, self.id)
    }

    /// Changes with the values of a Secret, as [`Installation`]'s mark of a connection's values does.
    pub fn fingerprint(&self, data: &std::collections::BTreeMap<String, Secret>) -> String {
        self.mark(data.iter().map(|(name, value)| (&**name, value.expose())))
    }

    /// A key that follows from ours and from these words, as 64 hex digits.
    pub(crate) fn derived(&self, words: &[&str]) -> Secret {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.key.expose()) else { return Secret::new("") };
        // Not what a mark is made of, whose length of the first name is never so large.
        mac.update(&u64::MAX.to_be_bytes());
        for word in words {
            mac.update(&word.len().to_be_bytes());
            mac.update(word.as_bytes());
        }
        Secret::new(hex(&mac.finalize().into_bytes()))
    }

    /// Changes with the values, and tells nobody without the key what they are, nor whether a guess is right.
    pub(crate) fn mark<'v>(&self, values: impl Iterator<Item = (&'v str, &'v [u8])>) -> String {
        // A key of any length is taken.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.key.expose()) else { return String::new() };
        for (name, value) in values {
            for part in [name.as_bytes(), value] {
                mac.update(&part.len().to_be_bytes());
                mac.update(part);
            }
        }
        hex(&mac.finalize().into_bytes()[..8])
    }
}

/// A server, and the connection whose deployment it is where it is one connection's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The tenant.
    pub tenant: Name,
    /// The `McpServer`.
    pub server: Name,
    /// The `Connection`; none where all share the deployment.
    pub connection: Option<Name>,
}

impl Identity {
    /// The name of its objects: a DNS label, and of nobody else's objects.
    pub fn name(&self, installation: &Installation) -> String {
        let mut hash = Sha256::new();
        let connection = self.connection.as_ref().map_or("", Name::as_str);
        for part in [installation.id(), self.tenant.as_str(), self.server.as_str(), connection] {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        let mut name = format!("mcp-{}", cut(self.server.as_str(), SEEN.0));
        if let Some(connection) = &self.connection {
            let _ = write!(name, "-{}", cut(connection.as_str(), SEEN.1));
        }
        format!("{name}-{}", hex(&hash.finalize()[..5]))
    }

    /// The labels of its objects.
    pub fn labels(&self, installation: &Installation) -> Map<String, Value> {
        let mut labels = Map::new();
        let mut put = |key: &str, value: &str| labels.insert(key.to_owned(), json!(value));
        put("app.kubernetes.io/name", self.server.as_str());
        put(MANAGED_BY.0, MANAGED_BY.1);
        put(INSTALLATION, installation.id());
        put("portcullis.dev/tenant", self.tenant.as_str());
        put("portcullis.dev/server", self.server.as_str());
        if let Some(connection) = &self.connection {
            put("portcullis.dev/connection", connection.as_str());
        }
        put(WORKLOAD, &self.name(installation));
        labels
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.tenant, self.server)?;
        match &self.connection {
            Some(connection) => write!(f, " under {connection}"),
            None => Ok(()),
        }
    }
}

fn cut(name: &str, most: usize) -> &str {
    // Names are ASCII.
    name[..name.len().min(most)].trim_end_matches('-')
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(tenant: &str, server: &str, connection: Option<&str>) -> Identity {
        let name = |text: &str| text.parse().unwrap();
        Identity { tenant: name(tenant), server: name(server), connection: connection.map(name) }
    }

    #[test]
    fn names_are_labels_and_nobody_elses() {
        let here = Installation::new(Secret::new("a"));
        let long = "a".repeat(63);
        let all = [
            identity("default", "jira", None),
            identity("default", "jira", Some("alice")),
            identity("default", "jira-alice", None),
            identity("acme", "jira", None),
            identity("default", &long, Some(&long)),
            identity("default", &long[1..], Some(&long)),
            identity("default", &format!("{}-b", "a".repeat(25)), None),
        ];
        let mut names: Vec<String> = all.iter().map(|i| i.name(&here)).collect();
        for name in &names {
            assert!(name.parse::<Name>().is_ok() && name.starts_with("mcp-") && !name.contains("--"), "{name}");
        }
        names.push(all[0].name(&Installation::new(Secret::new("b"))));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all.len() + 1, "{names:?}");
    }

    #[test]
    fn a_mark_changes_with_each_value_and_with_the_key() {
        let of = |key: &str, values: &[(&str, &str)]| {
            let values = values.iter().map(|(name, value)| (*name, value.as_bytes()));
            Installation::new(Secret::new(key)).mark(values)
        };
        let first = of("k", &[("a", "1"), ("b", "2")]);
        assert_eq!(first, of("k", &[("a", "1"), ("b", "2")]));
        for other in
            [of("k", &[("a", "1"), ("b", "3")]), of("k", &[("a", "1b"), ("", "2")]), of("l", &[("a", "1"), ("b", "2")])]
        {
            assert_ne!(first, other);
        }
    }
}
