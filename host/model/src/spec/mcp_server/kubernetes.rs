//! A server that Portcullis runs as pods of a Kubernetes cluster.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Sharing;
use crate::{Problem, Span, spec::SecretSource};

/// The most replicas of one server.
pub const MAX_REPLICAS: u32 = 100;
/// The most pull secrets of one server.
const MAX_PULL_SECRETS: usize = 8;

/// An image that serves MCP over streamable HTTP, or on its standard input and output. Each connection whose values reach it gets a deployment of its own; else all
/// share one. Pods are hardened: not root, a read-only root, no privileges, no service account token, limits, and no network but
/// what is declared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kubernetes {
    /// The image. By digest it is always the same; by tag it is what the tag means when a pod starts.
    pub image: String,
    /// In place of the image's entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Arguments, in place of the image's own. `${field.NAME}` stands for a value given at install time that is not sensitive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Variables beside those that the image sets. `HOME` is `/tmp` where it is not said.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// How the image speaks MCP.
    #[serde(default, skip_serializing_if = "Transport::is_http")]
    pub transport: Transport,
    /// The port on which it serves MCP; with `transport: stdio` the port of the bridge before it.
    #[serde(default = "default_port")]
    pub port: u16,
    /// The path of its MCP endpoint. Not with `transport: stdio`.
    #[serde(default = "default_path")]
    pub path: String,
    /// Who shares one deployment.
    #[serde(default)]
    pub sharing: Sharing,
    /// How many pods each deployment has.
    #[serde(default = "default_replicas")]
    pub replicas: u32,
    /// What a pod may use, and what is kept free for it.
    #[serde(default)]
    pub resources: Resources,
    /// How it is found out whether a pod can be called.
    #[serde(default)]
    pub probes: Probes,
    /// How long a pod may take until it answers the first time.
    #[serde(default = "default_start")]
    pub start_timeout: Span,
    /// How long a pod may take to end what it has begun when it is to go.
    #[serde(default = "default_grace")]
    pub stop_grace: Span,
    /// The user that it runs as, by number.
    #[serde(default = "default_user")]
    pub run_as_user: u32,
    /// How the image is fetched from a registry that asks who wants it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<PullSecret>,
    /// Labels of the nodes that it may run on. Those of the gateway's own pod where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints that it tolerates. Those that the gateway's own pod tolerates where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,
    /// Where it may connect to; nowhere where left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<Egress>,
    /// What of the hardening is given up. Only an operator may.
    #[serde(default, skip_serializing_if = "Relaxed::is_none")]
    pub relax: Relaxed,
    /// A strategic merge patch over the Deployment, for what cannot be said otherwise; `portcullis render` shows the outcome. Only an
    /// operator may, and what keeps servers apart can't be overridden.
    #[serde(default, rename = "override", skip_serializing_if = "Map::is_empty")]
    pub overrides: Map<String, Value>,
}

/// How an image speaks MCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Over streamable HTTP, on all addresses of its pod.
    #[default]
    StreamableHttp,
    /// On standard input and output: a bridge is put before it.
    Stdio,
}

impl Transport {
    /// Whether it speaks HTTP itself.
    pub fn is_http(&self) -> bool {
        *self == Self::StreamableHttp
    }
}

/// Amounts as Kubernetes writes them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Resources {
    /// What is kept free for a pod: 10m of processor, 64Mi of memory and 16Mi of disk where left out.
    pub requests: Amounts,
    /// What a pod may use: one processor, 512Mi of memory and 256Mi of disk where left out.
    pub limits: Amounts,
}

/// Amounts as Kubernetes writes them, such as `500m` and `256Mi`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Amounts {
    /// Processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Disk: what it writes below `/tmp`, and its logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral_storage: Option<String>,
}

/// How it is found out whether a pod can be called, and whether it still lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Probes {
    /// A path that answers 200 to `GET` once it can be called; where left out, that the port takes connections is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// A path that answers 200 to `GET` for as long as it lives: where it does not, the pod is started anew. None where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alive: Option<String>,
}

/// How an image is fetched: one that is there, or a login.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum PullSecret {
    /// A Secret of the namespace that the servers run in. Only an operator may name one.
    Existing(String),
    /// Who asks, and how they prove it.
    Login(PullLogin),
}

/// A login at a registry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PullLogin {
    /// The registry's host, with its port where it is not the usual one.
    pub registry: String,
    /// Who asks.
    pub username: String,
    /// Their password or token.
    pub password: SecretSource,
}

/// A taint that is tolerated, as Kubernetes has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Toleration {
    /// The taint's key; any where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `Equal` or `Exists`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// The taint's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The taint's effect; any where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// For how long it is tolerated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

/// Addresses that a server may connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Egress {
    /// A network such as `203.0.113.0/24`; `0.0.0.0/0` and `::/0` are the public internet, without private and link-local addresses.
    pub cidr: String,
    /// TCP ports; 443 where left out.
    #[serde(default = "default_ports")]
    pub ports: Vec<u16>,
}

/// What of the hardening is given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Relaxed {
    /// It may be root in its container (`runAsUser: 0`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub root_user: bool,
    /// It may write anywhere in its container.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub writable_root: bool,
}

impl Relaxed {
    /// Whether nothing is given up.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What is given up, by the names of the fields.
    pub fn names(&self) -> Vec<&'static str> {
        let all = [(self.root_user, "rootUser"), (self.writable_root, "writableRoot")];
        all.into_iter().filter_map(|(given_up, name)| given_up.then_some(name)).collect()
    }
}

fn default_port() -> u16 {
    8080
}
fn default_path() -> String {
    "/mcp".to_owned()
}
fn default_replicas() -> u32 {
    1
}
fn default_start() -> Span {
    Span::seconds(60)
}
fn default_grace() -> Span {
    Span::seconds(30)
}
fn default_user() -> u32 {
    65_532
}
fn default_ports() -> Vec<u16> {
    vec![443]
}

impl Kubernetes {
    /// What only an operator may say of it, by the name of the field; none where it says no such thing.
    pub fn of_operators(&self) -> Option<&'static str> {
        if !self.overrides.is_empty() {
            return Some("override");
        }
        if !self.relax.is_none() {
            return Some("relax");
        }
        let existing = |secret: &PullSecret| matches!(secret, PullSecret::Existing(_));
        self.image_pull_secrets.iter().any(existing).then_some("imagePullSecrets")
    }

    /// The image without tag and digest: what a connection is bound to.
    pub fn repository(&self) -> &str {
        let image = self.image.split_once('@').map_or(&*self.image, |(name, _)| name);
        match image.rsplit_once(':') {
            // A colon before the last slash is the registry's port.
            Some((name, tag)) if !tag.contains('/') => name,
            _ => image,
        }
    }

    /// Passwords for registries.
    pub fn passwords(&self) -> impl Iterator<Item = &SecretSource> {
        self.image_pull_secrets.iter().filter_map(|secret| match secret {
            PullSecret::Login(login) => Some(&login.password),
            PullSecret::Existing(_) => None,
        })
    }

    /// [`Kubernetes::passwords`], to make their paths absolute.
    pub fn passwords_mut(&mut self) -> impl Iterator<Item = &mut SecretSource> {
        self.image_pull_secrets.iter_mut().filter_map(|secret| match secret {
            PullSecret::Login(login) => Some(&mut login.password),
            PullSecret::Existing(_) => None,
        })
    }

    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        const PATH: &str = "spec.kubernetes";
        let mut problem = |path: &str, message: &str| problems.push(Problem::new(format!("{PATH}.{path}"), message));
        let visible = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if !visible(&self.image) || self.image.len() > 512 || self.repository().is_empty() {
            problem("image", "must name an image, such as registry.example/team/server:1");
        }
        if self.port == 0 {
            problem("port", "must be at least 1");
        }
        if !self.path.starts_with('/') || !visible(&self.path) || self.path.contains(['?', '#']) {
            problem("path", "must begin with / and be visible ASCII without ? and #");
        }
        if !self.transport.is_http() {
            if self.path != default_path() {
                problem("path", "is the bridge's with transport: stdio: leave it out");
            }
            if self.probes != Probes::default() {
                problem("probes", "are the bridge's with transport: stdio: leave them out");
            }
        }
        for (name, path) in [("ready", &self.probes.ready), ("alive", &self.probes.alive)] {
            if path.as_deref().is_some_and(|path| !path.starts_with('/') || !visible(path)) {
                problem(&format!("probes.{name}"), "must begin with / and be visible ASCII");
            }
        }
        if self.replicas > MAX_REPLICAS {
            problem("replicas", &format!("{MAX_REPLICAS} are the most"));
        }
        for (name, span) in [("startTimeout", self.start_timeout), ("stopGrace", self.stop_grace)] {
            if span.get().as_secs() == 0 || span.get().as_secs() > 3600 {
                problem(name, "must be from 1s to 1h");
            }
        }
        if self.run_as_user == 0 && !self.relax.root_user {
            problem("runAsUser", "0 is root: use another number, or say relax.rootUser");
        }
        for name in self.env.keys() {
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
                problem(&format!("env.{name}"), "use letters, digits, '_', '-' and '.'");
            }
            if name.starts_with(RESERVED) {
                problem(&format!("env.{name}"), "names that begin so are set by Portcullis");
            }
        }
        if self.image_pull_secrets.len() > MAX_PULL_SECRETS {
            problem("imagePullSecrets", &format!("{MAX_PULL_SECRETS} are the most"));
        }
        for (name, amounts) in [("requests", &self.resources.requests), ("limits", &self.resources.limits)] {
            let all = [&amounts.cpu, &amounts.memory, &amounts.ephemeral_storage];
            if all.into_iter().flatten().any(|amount| !is_amount(amount)) {
                problem(&format!("resources.{name}"), "use amounts such as 500m, 0.5 and 256Mi");
            }
        }
        for (i, egress) in self.egress.iter().enumerate() {
            if !is_network(&egress.cidr) {
                problem(&format!("egress[{i}].cidr"), "must be a network such as 203.0.113.0/24");
            }
            if egress.ports.is_empty() || egress.ports.contains(&0) {
                problem(&format!("egress[{i}].ports"), "must name ports from 1 to 65535");
            }
        }
        for (i, secret) in self.image_pull_secrets.iter().enumerate() {
            let path = format!("imagePullSecrets[{i}]");
            match secret {
                PullSecret::Existing(name) if name.is_empty() => problem(&path, "must name a Secret"),
                PullSecret::Login(login) if !visible(&login.registry) || login.username.is_empty() => {
                    problem(&path, "must say registry and username");
                }
                _ => {}
            }
        }
        for (i, secret) in self.image_pull_secrets.iter().enumerate() {
            if let PullSecret::Login(login) = secret {
                login.password.check(&format!("{PATH}.imagePullSecrets[{i}].login.password"), problems);
            }
        }
    }
}

/// Variables of ours begin so.
pub const RESERVED: &str = "PORTCULLIS_";

/// Whether Kubernetes would take it for a quantity that is more than nothing.
fn is_amount(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let units = ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"];
    units.contains(&unit) && digits.len() <= 18 && digits.parse::<f64>().is_ok_and(|n| n > 0.0 && n.is_finite())
}

/// Whether a text is a network such as `203.0.113.0/24`.
pub fn is_network(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = match address.parse() {
        Ok(std::net::IpAddr::V4(_)) => 32,
        Ok(std::net::IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= most) && !bits.starts_with('+')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(image: &str) -> Kubernetes {
        serde_json::from_value(serde_json::json!({"image": image})).unwrap()
    }

    #[test]
    fn a_repository_is_the_image_without_tag_and_digest() {
        for (image, repository) in [
            ("a", "a"),
            ("a:1", "a"),
            ("r.example:5000/t/a", "r.example:5000/t/a"),
            ("r.example:5000/t/a:1", "r.example:5000/t/a"),
            ("r.example/a:1@sha256:00", "r.example/a"),
        ] {
            assert_eq!(of(image).repository(), repository, "{image}");
        }
    }

    #[test]
    fn amounts_and_networks() {
        for good in ["1", "500m", "0.5", "256Mi", "1G"] {
            assert!(is_amount(good), "{good}");
        }
        for bad in ["", "0", "-1", "1 Mi", "Mi", "1e400", "NaN", "inf", "1Mib"] {
            assert!(!is_amount(bad), "{bad}");
        }
        assert!(is_network("10.0.0.0/8") && is_network("::/0"));
        assert!(!is_network("10.0.0.0") && !is_network("10.0.0.0/33") && !is_network("x/8") && !is_network("::/+1"));
    }
}
