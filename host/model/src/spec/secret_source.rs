//! Where a secret's value is read from when it is not sealed in the store.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Name, Problem};

/// Where a secret's value is read from when it is not sealed in the store: exactly one field.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SecretSource {
    /// An environment variable of the gateway process.
    Env(String),
    /// A file that the gateway process can read; a trailing newline is left out.
    File(String),
    /// A secret of HashiCorp Vault's key-value engine, version 2 (or OpenBao's). Needs the server setting `vault`.
    Vault(VaultSecret),
    /// A key of a Kubernetes Secret, read as the gateway's own account. Needs the server setting `kubernetes`.
    Kubernetes(KubernetesSecret),
}

/// A value in a Kubernetes Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesSecret {
    /// Its namespace, one that the server setting `kubernetes.secrets` gives the tenant; the first of those where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Name>,
    /// The Secret's name.
    pub name: String,
    /// The key in it.
    pub key: String,
}

/// A value in HashiCorp Vault.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VaultSecret {
    /// Where the engine is mounted.
    #[serde(default = "default_mount")]
    pub mount: String,
    /// The secret's path, without `data/`.
    pub path: String,
    /// The key in the secret.
    pub key: String,
    /// The version; the newest where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
}

fn default_mount() -> String {
    "secret".to_owned()
}

impl SecretSource {
    pub(crate) fn check(&self, path: &str, problems: &mut Vec<Problem>) {
        match self {
            Self::Env(text) | Self::File(text) => {
                if text.is_empty() {
                    problems.push(Problem::new(path, "must not be empty"));
                }
            }
            Self::Vault(secret) => {
                for (name, text) in [("mount", &secret.mount), ("path", &secret.path)] {
                    if !is_path(text) {
                        let why =
                            "use words of letters, digits, '_', '-', '.', '@' and ' ', separated by single slashes";
                        problems.push(Problem::new(format!("{path}.vault.{name}"), why));
                    }
                }
                if secret.key.is_empty() {
                    problems.push(Problem::new(format!("{path}.vault.key"), "must not be empty"));
                }
                if secret.version == Some(0) {
                    problems.push(Problem::new(format!("{path}.vault.version"), "versions begin with 1"));
                }
            }
            Self::Kubernetes(secret) => {
                if !is_object_name(&secret.name) {
                    let why = "use 1 to 253 of a-z, 0-9, '-' and '.', with a letter or digit at both ends of each part";
                    problems.push(Problem::new(format!("{path}.kubernetes.name"), why));
                }
                if !is_key(&secret.key) {
                    let why = "use 1 to 253 of letters, digits, '-', '_' and '.'";
                    problems.push(Problem::new(format!("{path}.kubernetes.key"), why));
                }
            }
        }
    }
}

/// Whether a text can stand in the path of a request without meaning another one: no empty word, no `.`, no `..`.
fn is_path(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"_-.@ ".contains(&b);
    text.len() <= 512
        && text.split('/').all(|word| !word.is_empty() && !matches!(word, "." | "..") && word.bytes().all(fits))
}

/// A name of an object in Kubernetes (an RFC 1123 subdomain), which can't mean another place in the path of a request.
fn is_object_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let fits =
        |part: &str| !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-');
    text.len() <= 253 && text.split('.').all(fits)
}

/// A key of a Secret, as Kubernetes takes it.
fn is_key(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    !text.is_empty() && text.len() <= 253 && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(source: &str) -> Vec<String> {
        let source: SecretSource = serde_json::from_str(source).unwrap();
        let mut problems = Vec::new();
        source.check("s", &mut problems);
        problems.into_iter().map(|p| p.path).collect()
    }

    #[test]
    fn a_source_names_one_place_and_no_other() {
        for right in [
            r#"{"env": "TOKEN"}"#,
            r#"{"vault": {"path": "teams/blue/github", "key": "token"}}"#,
            r#"{"vault": {"mount": "kv-2", "path": "a", "key": "b c", "version": 3}}"#,
            r#"{"kubernetes": {"name": "jira.example", "key": "tls.key"}}"#,
            r#"{"kubernetes": {"namespace": "team-a", "name": "jira", "key": "API_TOKEN"}}"#,
        ] {
            assert_eq!(problems(right), Vec::<String>::new(), "{right}");
        }
        for (wrong, at) in [
            (r#"{"file": ""}"#, "s"),
            (r#"{"vault": {"path": "../other", "key": "t"}}"#, "s.vault.path"),
            (r#"{"vault": {"path": "a//b", "key": "t"}}"#, "s.vault.path"),
            (r#"{"vault": {"path": "/a", "key": "t"}}"#, "s.vault.path"),
            (r#"{"vault": {"path": "a?version=1", "key": "t"}}"#, "s.vault.path"),
            (r#"{"vault": {"path": "a%2f..%2fb", "key": "t"}}"#, "s.vault.path"),
            (r#"{"vault": {"mount": "sys/../auth", "path": "a", "key": "t"}}"#, "s.vault.mount"),
            (r#"{"vault": {"path": "a", "key": "t", "version": 0}}"#, "s.vault.version"),
            (r#"{"kubernetes": {"name": "../configmaps/x", "key": "t"}}"#, "s.kubernetes.name"),
            (r#"{"kubernetes": {"name": "a..b", "key": "t"}}"#, "s.kubernetes.name"),
            (r#"{"kubernetes": {"name": "", "key": "t"}}"#, "s.kubernetes.name"),
            (r#"{"kubernetes": {"name": "a", "key": "b/c"}}"#, "s.kubernetes.key"),
        ] {
            assert_eq!(problems(wrong), [at], "{wrong}");
        }
    }
}
