//! `McpServer`: what a server is, what it asks for at install time, and where its credential goes.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use crate::{
    Bytes, Problem, Span,
    address::is_loopback,
    spec::{CredentialMode, Field, exchange},
};

mod component;
mod kubernetes;
mod oauth;

pub use component::{ComponentServer, ToolLimits};
pub use kubernetes::{
    Amounts, Egress, Kubernetes, MAX_REPLICAS, Probes, PullLogin, PullSecret, RESERVED, Relaxed, Resources, Toleration,
    Transport, is_network,
};
pub use oauth::{AuthorizationServer, OAuth, Registration, TokenHeader};

/// A registry entry. Exactly one of `remote`, `process`, `component` and `kubernetes` says what the server is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct McpServer {
    /// What people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A server that somebody else runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<Remote>,
    /// A local process that speaks MCP on its standard input and output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// A WebAssembly component whose exported functions are tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<ComponentServer>,
    /// An image that Portcullis runs as pods of a Kubernetes cluster. Needs the server setting `kubernetes.servers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
    /// What is asked for when somebody connects the server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
    /// The credential that its calls need; none where this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialNeed>,
    /// How its traffic is treated.
    #[serde(default)]
    pub traffic: Traffic,
}

/// A server that is reached over HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Remote {
    /// Its MCP endpoint. `https`, or `http` on loopback or where `allowInsecure` says so.
    pub url: Url,
    /// Headers sent with every request. Not for secrets: those belong to a connection.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Allows plain `http` to another machine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_insecure: bool,
    /// Allows the name to resolve to loopback, private or link-local addresses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_private: bool,
}

/// A child process that speaks MCP over standard input and output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Process {
    /// The program: a path, or a name looked up in the gateway's `PATH`.
    pub command: String,
    /// Its arguments. `${field.NAME}` stands for a value given at install time that is not sensitive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its whole environment but for `PATH` and `HOME`: nothing is inherited.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Names of variables that are passed on from the gateway's own environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inherit_env: Vec<String>,
    /// Its working directory; a fresh empty one where this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Who shares one child. A child whose environment, arguments or files hold a connection's values is never shared
    /// beyond that connection.
    #[serde(default)]
    pub sharing: Sharing,
    /// The most calls in flight on one child.
    #[serde(default = "default_in_flight")]
    pub max_in_flight: u32,
    /// Memory of the process tree's members, each (RLIMIT_AS). Unlimited where this is left out: runtimes such as Node
    /// reserve far more address space than they use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Which files it may reach beyond its own. Where this is left out, it reads everything but what the gateway and its
    /// user keep secret, and writes what the operator names in its arguments and variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Files>,
    /// Whether it may speak IP.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub network: bool,
    /// How long the first answer may take after a start. Package runners download first.
    #[serde(default = "default_start")]
    pub start_timeout: Span,
    /// How long a child runs that nobody calls; the next call starts it again. `0s`: until the gateway ends.
    #[serde(default = "default_idle")]
    pub idle_after: Span,
}

/// The files that a process may reach beyond its home, its private directory and its working directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Files {
    /// Paths that it may read and run, with all below them, beside programs and libraries. Everything that is not secret where
    /// this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<Vec<String>>,
    /// Paths that it may also write, with all below them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub write: Vec<String>,
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

fn default_in_flight() -> u32 {
    64
}
fn default_start() -> Span {
    Span::seconds(60)
}
fn default_idle() -> Span {
    Span::seconds(3600)
}

/// Who shares one child process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// Everybody, unless a connection's values reach the child: then everybody who runs under that connection.
    #[default]
    Shared,
    /// One child for each connection.
    Connection,
}

/// The credential that a server's calls need.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialNeed {
    /// How it is chosen where a gateway's assignment does not say.
    #[serde(default)]
    pub mode: CredentialMode,
    /// Where the connection's values go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub place: Vec<Placement>,
    /// Tokens of an authorization server, which whoever connects the server signs in at. `{}` discovers everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth: Option<OAuth>,
    /// Whether every connection of this server serves its owner only, whatever the owner said.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub owner_only: bool,
}

/// Where one of a connection's values goes. Exactly one of `header`, `env`, `argument` and `file`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Placement {
    /// The field whose value it is.
    pub field: String,
    /// A request header (remote servers, and those in a cluster).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Put before the value, such as `Bearer ` (with the space).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// An environment variable (processes, and servers in a cluster), or the name by which a component asks for the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// An argument appended to the command, such as `--token={}`, where `{}` stands for the value (processes). Arguments
    /// show in process lists, so a sensitive field needs `allowInProcessList` as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argument: Option<String>,
    /// Confirms that a secret may show in process lists.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_in_process_list: bool,
    /// A file that only the server may read; its path is given in this environment variable (processes, and servers in a cluster).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// Whether a server may ask its clients something (elicitation, sampling, roots) while it works for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Interaction {
    /// A remote server may; a process of the 2025 revisions may not, since everybody shares it. Servers of 2026-07-28 always
    /// may: they say whom they ask.
    #[default]
    Auto,
    /// It may: each client that can be asked gets a session, or a child process, of its own.
    Session,
    /// It may not: nothing is advertised to it.
    Shared,
}

/// How a server's traffic is treated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Traffic {
    /// How long one call may take.
    pub timeout: Span,
    /// How long connecting may take.
    pub connect_timeout: Span,
    /// The most bytes of one answer.
    pub max_response: Bytes,
    /// The most calls in flight to the server from this gateway process; more are refused with a retry hint.
    pub max_concurrent: u32,
    /// Whether it may ask its clients something.
    pub interaction: Interaction,
    /// How old the catalogue may get where the server does not say.
    pub catalogue_ttl: Span,
    /// Says that what the server lists is the same under every account, so that one account's list may be shown to another
    /// until its own has been fetched. Servers of 2026-07-28 say so themselves (`cacheScope`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub catalogue_public: bool,
    /// Arguments that are set for every call, over what the caller sent, by tool glob.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pinned_arguments: BTreeMap<String, BTreeMap<String, Value>>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            timeout: Span::seconds(60),
            connect_timeout: Span::seconds(10),
            max_response: Bytes::mebi(64),
            max_concurrent: 1024,
            interaction: Interaction::Auto,
            catalogue_ttl: Span::seconds(300),
            catalogue_public: false,
            pinned_arguments: BTreeMap::new(),
        }
    }
}

impl McpServer {
    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|f| f.name == name)
    }

    /// How a connection gets its tokens, where the server wants OAuth.
    pub fn oauth(&self) -> Option<&OAuth> {
        self.credential.as_ref().and_then(|need| need.oauth.as_ref())
    }

    /// Whether a request to it has headers: it is remote, or runs in a cluster and speaks HTTP there.
    pub fn takes_headers(&self) -> bool {
        self.remote.is_some() || self.kubernetes.as_ref().is_some_and(|k| k.transport.is_http())
    }

    /// Whether a child, or a deployment, holds a connection's values, so that it may not be shared beyond that connection.
    pub fn child_per_connection(&self) -> bool {
        let placed = self.credential.iter().flat_map(|c| &c.place).any(|p| p.header.is_none());
        let (sharing, args) = match (&self.process, &self.kubernetes) {
            (Some(process), _) => (process.sharing, &process.args),
            (None, Some(kubernetes)) => (kubernetes.sharing, &kubernetes.args),
            (None, None) => return self.component.is_some() && placed,
        };
        placed || sharing == Sharing::Connection || args.iter().any(|a| a.contains("${field."))
    }

    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        let kinds =
            [self.remote.is_some(), self.process.is_some(), self.component.is_some(), self.kubernetes.is_some()];
        if kinds.iter().filter(|said| **said).count() != 1 {
            problems.push(Problem::new("spec", "say exactly one of remote, process, component and kubernetes"));
        }
        if let Some(component) = &self.component {
            component.check(problems);
        }
        if let Some(kubernetes) = &self.kubernetes {
            kubernetes.check(problems);
            self.check_args("spec.kubernetes.args", &kubernetes.args, problems);
        }
        if let Some(remote) = &self.remote {
            remote.check(problems);
        }
        if let Some(process) = &self.process {
            if process.command.is_empty() {
                problems.push(Problem::new("spec.process.command", "must not be empty"));
            }
            if process.max_in_flight == 0 {
                problems.push(Problem::new("spec.process.maxInFlight", "must be at least 1"));
            }
            self.check_args("spec.process.args", &process.args, problems);
        }
        let mut seen = BTreeSet::new();
        for (i, field) in self.fields.iter().enumerate() {
            field.check(&format!("spec.fields[{i}]"), problems);
            if !seen.insert(&field.name) {
                problems
                    .push(Problem::new(format!("spec.fields[{i}].name"), format!("\"{}\" is there twice", field.name)));
            }
        }
        if let Some(need) = &self.credential {
            let path = "spec.credential.mode";
            exchange::check_settings(&need.mode.mode, path, &need.mode, problems);
            problems.extend(exchange::unfit(&need.mode.mode, self).map(|why| Problem::new(path, why)));
        }
        for (i, place) in self.credential.iter().flat_map(|c| &c.place).enumerate() {
            self.check_placement(&format!("spec.credential.place[{i}]"), place, problems);
        }
        if let Some(oauth) = self.oauth() {
            oauth.check(self.remote.is_some(), problems);
            let header = &oauth.header.name;
            let placed = self
                .credential
                .iter()
                .flat_map(|c| &c.place)
                .any(|p| p.header.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(header)));
            if placed {
                problems.push(Problem::new(
                    "spec.credential.place",
                    format!("the header {header} carries the OAuth token"),
                ));
            }
        }
        if self.traffic.max_concurrent == 0 {
            problems.push(Problem::new("spec.traffic.maxConcurrent", "must be at least 1"));
        }
    }

    fn check_args(&self, path: &str, args: &[String], problems: &mut Vec<Problem>) {
        for (i, arg) in args.iter().enumerate() {
            for name in field_references(arg) {
                match self.field(name) {
                    None => problems.push(Problem::new(
                        format!("{path}[{i}]"),
                        format!("names the field \"{name}\", which spec.fields does not have"),
                    )),
                    Some(f) if f.sensitive => problems.push(Problem::new(
                        format!("{path}[{i}]"),
                        format!("the field \"{name}\" is sensitive: place it by spec.credential.place"),
                    )),
                    Some(_) => {}
                }
            }
        }
    }

    fn check_placement(&self, path: &str, place: &Placement, problems: &mut Vec<Problem>) {
        let ways = [&place.header, &place.env, &place.argument, &place.file];
        if ways.iter().filter(|w| w.is_some()).count() != 1 {
            problems.push(Problem::new(path, "say exactly one of header, env, argument and file"));
        }
        if place.header.is_some() && !self.takes_headers() {
            problems.push(Problem::new(
                format!("{path}.header"),
                "only a remote server takes headers, or one in a cluster that speaks HTTP",
            ));
        }
        let takes_all = self.process.is_some() || self.kubernetes.is_some();
        if place.header.is_none() && !takes_all && (self.component.is_none() || place.env.is_none()) {
            let why = "only a process, or a server in a cluster, takes env, argument and file, and a component env";
            problems.push(Problem::new(path, why));
        }
        let variable = place.env.as_ref().or(place.file.as_ref());
        if self.kubernetes.is_some() && variable.is_some_and(|name| name.starts_with(RESERVED)) {
            problems.push(Problem::new(path, format!("variables that begin with {RESERVED} are set by Portcullis")));
        }
        if let Some(header) = &place.header
            && (header.is_empty() || !header.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)))
        {
            problems.push(Problem::new(format!("{path}.header"), "is not a header name"));
        }
        match self.field(&place.field) {
            None => problems.push(Problem::new(
                format!("{path}.field"),
                format!("names the field \"{}\", which spec.fields does not have", place.field),
            )),
            Some(field) if field.sensitive && place.argument.is_some() && !place.allow_in_process_list => {
                problems.push(Problem::new(
                    format!("{path}.argument"),
                    "arguments show in process lists: use env or file, or set allowInProcessList",
                ));
            }
            Some(_) => {}
        }
    }
}

impl Remote {
    fn check(&self, problems: &mut Vec<Problem>) {
        let path = "spec.remote.url";
        match self.url.scheme() {
            "https" => {}
            "http" if is_loopback(&self.url) || self.allow_insecure => {}
            "http" => problems.push(Problem::new(path, "must be https, or say allowInsecure: true")),
            _ => problems.push(Problem::new(path, "must be an https URL")),
        }
        if !self.url.username().is_empty() || self.url.password().is_some() {
            problems.push(Problem::new(path, "must not hold a credential: use a connection"));
        }
        const OURS: [&str; 8] = [
            "host",
            "content-length",
            "content-type",
            "accept",
            "connection",
            "transfer-encoding",
            "mcp-session-id",
            "mcp-protocol-version",
        ];
        for name in self.headers.keys() {
            if OURS.contains(&name.to_ascii_lowercase().as_str()) {
                problems.push(Problem::new(format!("spec.remote.headers.{name}"), "is set by Portcullis"));
            }
        }
    }
}

/// The names in `${field.NAME}` of a text.
pub fn field_references(text: &str) -> impl Iterator<Item = &str> {
    text.split("${field.").skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name))
}
