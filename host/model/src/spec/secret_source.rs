//! Where a secret's value is read from when it is not sealed in the store.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Problem;

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
    /// A key of a Kubernetes Secret. Needs the server setting `kubernetes`.
    Kubernetes(KubernetesSecret),
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

/// A value in a Kubernetes Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesSecret {
    /// The Secret's namespace. Left out, and in every tenant but the default one, the tenant's own: a tenant's resources
    /// reach no other tenant's Secrets. The default tenant's own is the gateway's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The Secret's name.
    pub name: String,
    /// The key in its `data`.
    pub key: String,
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
                let named = [("namespace", secret.namespace.as_deref()), ("name", Some(secret.name.as_str()))];
                for (name, text) in named {
                    if text.is_some_and(|t| !is_dns_name(t)) {
                        let why = "is no name of Kubernetes: lower-case letters, digits, '-' and '.'";
                        problems.push(Problem::new(format!("{path}.kubernetes.{name}"), why));
                    }
                }
                let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
                if secret.key.is_empty() || secret.key.len() > 253 || !secret.key.bytes().all(fits) {
                    let why = "is no key of a Secret: letters, digits, '-', '_' and '.'";
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

/// Whether a text is a DNS subdomain (RFC 1123), as Kubernetes names its objects.
fn is_dns_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(fits)
        })
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
            r#"{"kubernetes": {"name": "github", "key": "token"}}"#,
            r#"{"kubernetes": {"namespace": "blue", "name": "a.b-c", "key": "TOKEN_1"}}"#,
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
            (r#"{"kubernetes": {"name": "../x", "key": "t"}}"#, "s.kubernetes.name"),
            (r#"{"kubernetes": {"namespace": "Kube", "name": "x", "key": "t"}}"#, "s.kubernetes.namespace"),
            (r#"{"kubernetes": {"name": "x", "key": "a/b"}}"#, "s.kubernetes.key"),
        ] {
            assert_eq!(problems(wrong), [at], "{wrong}");
        }
    }
}
