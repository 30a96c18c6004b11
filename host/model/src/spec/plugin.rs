//! `Plugin`: a component, its configuration, what it may do, and what its failure means.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Bytes, Name, Problem, Span, oci::Reference, spec::SecretSource};

/// A WebAssembly component. Which hooks it serves is read from its exports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Plugin {
    /// Where the component comes from.
    pub source: Source,
    /// What it reads as its configuration, where a gateway does not say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
    /// What it may do beyond deciding.
    #[serde(default)]
    pub grants: Grants,
    /// How much one call of it may use.
    #[serde(default)]
    pub limits: Limits,
    /// How long an instance lives.
    #[serde(default)]
    pub isolation: Isolation,
    /// What its failure (a trap, a timeout, an answer that makes no sense) means for a policy. Others always deny.
    #[serde(default)]
    pub on_error: Failure,
    /// A version that is tried beside this one. It becomes the plugin when its source is moved to `source`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Candidate>,
}

/// A version that is tried: of a policy beside the active one, of a policy or a credential resolver for some callers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Candidate {
    /// Where its component comes from.
    pub source: Source,
    /// What it reads as its configuration, where a gateway does not say otherwise; the plugin's own where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
    /// Of a hundred callers, how many get its answers; always the same ones. With 0 nobody does: it is asked beside the active
    /// version, and what it would have said otherwise is counted.
    #[serde(default)]
    pub share: u8,
}

/// Where a component comes from: exactly one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// A file, watched; relative to the file that holds this resource.
    File {
        /// The path of the `.wasm` file.
        path: String,
        /// The SHA-256 that it must have, in hex.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sha256: Option<String>,
    },
    /// A registry, by digest.
    Oci(Oci),
    /// A plugin that Portcullis brings, by name.
    BuiltIn(String),
}

/// A component in a registry (the layout of `application/vnd.wasm.config.v0+json`). Fetched once, kept, and compiled only if its
/// signature is of a key that the server setting `plugins` trusts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Oci {
    /// `registry.example.com/team/plugin@sha256:...`. A tag before the `@` is for people; only the digest counts.
    pub reference: String,
    /// Whom the registry knows us as; nobody where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
}

/// Who asks a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Login {
    /// The user name; without one, `password` is a token that the registry itself takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Where the password or token is read from.
    pub password: SecretSource,
}

impl Source {
    fn check(&self, path: &str, problems: &mut Vec<Problem>) {
        if let Self::File { sha256: Some(digest), .. } = self
            && (digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            problems.push(Problem::new(format!("{path}.file.sha256"), "must be 64 hex digits"));
        }
        if let Self::Oci(oci) = self {
            oci.check(&format!("{path}.oci"), problems);
        }
    }
}

/// What a plugin may do. Empty is deny.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Grants {
    /// Where it may send requests: origins such as `https://idp.example.com`, or `https://*.example.com`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<String>,
    /// Lets those origins resolve to loopback, private or link-local addresses.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub http_private: bool,
    /// Secrets it may use, by the name it asks for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretGrant>,
    /// Lets it read the bytes of secrets. Each use is audited.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reveal: bool,
    /// Lets it look up tokens that Portcullis issued.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tokens: bool,
    /// Issuers whose tokens it may have verified, and whose people it may name as callers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<String>,
    /// Roles it may give to callers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Name>,
    /// Lets it list the connections that a caller may run under.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub connections: bool,
    /// Lets a credential resolver use the token that the caller came with, as a handle: it may go to the origins of `http`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub caller_token: bool,
    /// Lets a credential resolver pass the caller's token on to the server that it answers for, where the token's audience holds
    /// that server. Each use is audited.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub passthrough: bool,
    /// Lets it remember so many bytes from call to call, in the memory of this replica. 64MiB is the most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Bytes>,
    /// Lets it sign with the secrets that it was granted: JSON Web Tokens with claims of its own, and HMACs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sign: bool,
}

/// A secret that a plugin may use, and where it may go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretGrant {
    /// Where the value is read from.
    pub from: SecretSource,
    /// Origins that requests carrying it may go to; the servers that a resolver answers for where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
}

/// How much one call of a plugin may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// CPU time of one call; 25 times as much of one that waits for others (it imports `http`, `jwt` or `token-request`), since
    /// the host's work for it counts too.
    pub cpu: Span,
    /// Wall time of one call that waits for nothing; a safety net behind `cpu`. Such a call is only ever held up by the
    /// machine, so this is what a busy one may take, not what the plugin needs.
    pub wall: Span,
    /// Wall time of one call that waits for others (it imports `http` or `jwt`).
    pub wait: Span,
    /// Linear memory.
    pub memory: Bytes,
    /// The most bytes of one answer.
    pub output: Bytes,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu: Span::millis(2),
            wall: Span::seconds(1),
            wait: Span::seconds(10),
            memory: Bytes::mebi(16),
            output: Bytes::mebi(1),
        }
    }
}

/// How long an instance lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// A fresh instance for each call: nothing is carried from one caller to another.
    #[default]
    Call,
    /// Instances are used again within a tenant and a place of use.
    Tenant,
    /// Instances are used again by every tenant and place whose plugin has the same component, configuration and grants, and
    /// says so as well. Not for credential resolvers.
    Shared,
}

/// What a plugin's failure means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// The call is refused.
    #[default]
    Deny,
    /// The call goes on as if the plugin had allowed it.
    Allow,
}

impl Oci {
    fn check(&self, path: &str, problems: &mut Vec<Problem>) {
        match Reference::parse(&self.reference) {
            Ok(reference) if reference.digest().is_some() => {}
            Ok(_) => problems.push(Problem::new(
                format!("{path}.reference"),
                "names no digest; a tag may change its mind, so write ...@sha256:... (`portcullis plugin install` finds it out)",
            )),
            Err(error) => problems.push(Problem::new(format!("{path}.reference"), error.to_string())),
        }
        if let Some(login) = &self.login {
            login.password.check(&format!("{path}.login.password"), problems);
            if login.username.as_ref().is_some_and(|name| name.is_empty() || name.contains([':', '\n', '\r'])) {
                problems.push(Problem::new(format!("{path}.login.username"), "must be a name without a colon"));
            }
        }
    }
}

impl Plugin {
    /// Where its component comes from, and its candidate's.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        std::iter::once(&self.source).chain(self.candidate.iter().map(|candidate| &candidate.source))
    }

    /// [`Plugin::sources`], to be changed.
    pub fn sources_mut(&mut self) -> impl Iterator<Item = &mut Source> {
        std::iter::once(&mut self.source).chain(self.candidate.iter_mut().map(|candidate| &mut candidate.source))
    }

    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        self.source.check("spec.source", problems);
        if let Some(candidate) = &self.candidate {
            candidate.source.check("spec.candidate.source", problems);
            if candidate.share > 99 {
                problems.push(Problem::new(
                    "spec.candidate.share",
                    "99 is the most; to give it to everybody, move its source to spec.source",
                ));
            }
        }
        for (i, origin) in self.grants.http.iter().enumerate() {
            let plain = origin.replacen("*.", "", 1);
            let ok = url::Url::parse(&plain).is_ok_and(|u| {
                matches!(u.scheme(), "http" | "https") && u.host().is_some() && u.path() == "/" && u.query().is_none()
            });
            if !ok {
                problems.push(Problem::new(
                    format!("spec.grants.http[{i}]"),
                    "must be an origin such as https://idp.example.com or https://*.example.com",
                ));
            }
        }
        for (name, grant) in &self.grants.secrets {
            grant.from.check(&format!("spec.grants.secrets.{name}.from"), problems);
        }
        if self.limits.cpu.get().is_zero() || self.limits.wall.get().is_zero() || self.limits.wait.get().is_zero() {
            problems.push(Problem::new("spec.limits", "times must be above zero"));
        }
        if self.grants.state.is_some_and(|bytes| bytes > Bytes::mebi(64)) {
            problems.push(Problem::new("spec.grants.state", "64MiB is the most"));
        }
        if self.limits.memory > Bytes::mebi(64) {
            problems.push(Problem::new("spec.limits.memory", "64MiB is the most"));
        }
    }
}
