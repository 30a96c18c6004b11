//! `Gateway`: what clients connect to.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Name, Problem,
    spec::{PluginUse, exchange, headers},
};

/// One endpoint: which servers it shows, how callers prove who they are, and what they may do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gateway {
    /// What people and clients read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Instructions that clients pass to the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// Auth providers, asked in this order until one knows the caller. Empty means that nobody gets in, unless `anonymous`.
    #[serde(default = "default_auth")]
    pub auth: Vec<PluginUse>,
    /// The header in which programs that can't set `Authorization` send a token of ours; `X-API-Key` where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_header: Option<String>,
    /// Lets callers without a credential in, as `anonymous`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anonymous: bool,
    /// Policies, asked in this order; each has to allow. Without any, every caller may use every assigned tool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PluginUse>,
    /// The servers whose tools, prompts and resources are shown.
    #[serde(default)]
    pub servers: Vec<ServerAssignment>,
    /// How tools are shown.
    #[serde(default, skip_serializing_if = "Disclosure::is_list")]
    pub exposure: Disclosure,
    /// How clients that sign people in by OAuth get their tokens, and what those may do.
    #[serde(default, skip_serializing_if = "GatewayOAuth::is_usual")]
    pub oauth: GatewayOAuth,
    /// The most requests a second by one principal, and the burst; unlimited where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_per_principal: Option<u32>,
}

fn default_auth() -> Vec<PluginUse> {
    vec![PluginUse { plugin: "bearer-token".to_owned(), ..PluginUse::default() }]
}

/// What OAuth means at a gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GatewayOAuth {
    /// Issuers whose authorization servers clients are sent to, in place of our own. Their tokens are taken by the plugin
    /// `jwks` in `auth`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authorization_servers: Vec<String>,
    /// Which tools need which scope of an OAuth token of ours. Tokens made by `portcullis token create` are not limited by
    /// scopes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<ScopeRule>,
}

impl GatewayOAuth {
    /// Whether nothing is said.
    pub fn is_usual(&self) -> bool {
        self.authorization_servers.is_empty() && self.scopes.is_empty()
    }
}

/// A scope, and the tools that can't be called without it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScopeRule {
    /// The scope, such as `files:write`.
    pub scope: String,
    /// The servers whose tools need it; all assigned ones where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<Name>,
    /// Their tools, as globs of their own names; all where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
}

/// How a gateway shows its tools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Disclosure {
    /// Each by itself.
    #[default]
    List,
    /// By two tools in their place: `search_tools` finds them, `call_tool` calls them. For gateways with more tools than a
    /// model should read. Each tool can still be called by its name.
    Search,
}

impl Disclosure {
    /// Whether it is the usual one.
    pub fn is_list(&self) -> bool {
        *self == Self::List
    }
}

/// A server's tools, prompts and resources in a gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerAssignment {
    /// The `McpServer`.
    pub server: Name,
    /// Put before each tool's and prompt's name with two underscores; the server's name where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Shows tools and prompts under their own names. Where two servers show one name, the first server has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bare_names: bool,
    /// How the credential of its calls is chosen; as the `McpServer` says where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialMode>,
    /// Which tools are shown, as globs of their own names; all where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Which tools are not shown, as globs of their own names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Which prompts are shown, by globs of their own names; all where left out.
    #[serde(default, skip_serializing_if = "Shown::is_all")]
    pub prompts: Shown,
    /// Which resources and resource templates are shown, by globs of their URIs as the server writes them; all where left out.
    #[serde(default, skip_serializing_if = "Shown::is_all")]
    pub resources: Shown,
    /// Single tools that are shown otherwise, by their own names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<String, ToolAssignment>,
    /// Headers of the client's request that go on to the server; none where empty. Never over a header that is fixed here, nor
    /// over a credential.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass_headers: Vec<String>,
    /// Headers that every request for a tool, prompt or resource carries to the server. Not for secrets: everybody who may read
    /// this resource sees them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Arguments that are set whatever the caller sends, by glob of tools' own names; they win over the server's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pinned_arguments: BTreeMap<String, BTreeMap<String, Value>>,
}

/// Which of a server's prompts or resources are shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Shown {
    /// Those that match one of these globs; all where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// But none that matches one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
}

impl Shown {
    /// Whether nothing is left out.
    pub fn is_all(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }
}

/// One tool, shown otherwise than its server says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ToolAssignment {
    /// The name it is shown under, without prefix.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// The description it is shown with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// How the credential of its calls is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialMode>,
    /// Headers of the client's request that its calls pass on, besides those of the assignment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass_headers: Vec<String>,
    /// Headers that its calls carry; they win over the assignment's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Arguments that are set whatever the caller sends; they win over the assignment's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pinned_arguments: BTreeMap<String, Value>,
}

/// How the credential of a call is chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialMode {
    /// The resolver: `call-time` (from who is calling), `static` (the connection named here), `idp-exchange` (an identity provider
    /// swaps the caller's token), `passthrough` (the caller's own token), or any credential plugin.
    pub mode: String,
    /// The connection, for `static`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Name>,
    /// Settings that the resolver reads.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, Value>,
}

impl Default for CredentialMode {
    fn default() -> Self {
        Self { mode: "call-time".to_owned(), connection: None, settings: BTreeMap::new() }
    }
}

/// The longest prefix, so that prefix, separator and a reasonable name fit the 64 characters that some clients allow.
pub const MAX_PREFIX: usize = 32;

/// Whether a text can stand in a tool's name (2026-07-28 server/tools "Tool Names": `[A-Za-z0-9_.-]`).
pub fn is_tool_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

impl ServerAssignment {
    /// What stands before each tool's name, separator included; empty for bare names.
    pub fn exposed_prefix(&self) -> String {
        if self.bare_names {
            return String::new();
        }
        format!("{}__", self.prefix.as_deref().unwrap_or(self.server.as_str()))
    }
}

impl Gateway {
    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        for (i, used) in self.auth.iter().enumerate() {
            used.check_provider(&format!("spec.auth[{i}]"), problems);
        }
        for (i, used) in self.policies.iter().enumerate() {
            used.check_policy(&format!("spec.policies[{i}]"), problems);
        }
        let mut prefixes = std::collections::BTreeMap::new();
        for (i, assignment) in self.servers.iter().enumerate() {
            let path = format!("spec.servers[{i}]");
            if let Some(prefix) = &assignment.prefix
                && (!is_tool_name(prefix) || prefix.len() > MAX_PREFIX || prefix.contains("__"))
            {
                problems.push(Problem::new(
                    format!("{path}.prefix"),
                    format!("use 1 to {MAX_PREFIX} of letters, digits, '_', '.' and '-', without \"__\""),
                ));
            }
            if assignment.bare_names && assignment.prefix.is_some() {
                problems.push(Problem::new(path.clone(), "say either prefix or bareNames"));
            }
            if !assignment.bare_names
                && let Some(earlier) = prefixes.insert(assignment.exposed_prefix(), i)
            {
                problems.push(Problem::new(
                    format!("{path}.prefix"),
                    format!("spec.servers[{earlier}] has the same prefix; names would clash"),
                ));
            }
            headers::check(&path, &assignment.pass_headers, &assignment.headers, problems);
            for (tool, how) in &assignment.tools {
                headers::check(&format!("{path}.tools.{tool}"), &how.pass_headers, &how.headers, problems);
                if let Some(alias) = &how.alias
                    && !is_tool_name(alias)
                {
                    problems.push(Problem::new(format!("{path}.tools.{tool}.as"), "is not a tool name"));
                }
                if let Some(mode) = &how.credential {
                    mode.check(&format!("{path}.tools.{tool}.credential"), problems);
                }
            }
            if let Some(mode) = &assignment.credential {
                mode.check(&format!("{path}.credential"), problems);
            }
        }
        for (i, rule) in self.oauth.scopes.iter().enumerate() {
            if !super::oauth_client::is_scope(&rule.scope) {
                problems.push(Problem::new(format!("spec.oauth.scopes[{i}].scope"), "is no scope"));
            }
        }
        if let Some(name) = &self.api_key_header {
            if let Some(why) = headers::refusal(name).filter(|_| !name.eq_ignore_ascii_case("x-api-key")) {
                problems.push(Problem::new("spec.apiKeyHeader", why));
            }
            let passes = |pass: &[String]| pass.iter().any(|p| p.eq_ignore_ascii_case(name));
            for (i, assignment) in self.servers.iter().enumerate() {
                if passes(&assignment.pass_headers) || assignment.tools.values().any(|how| passes(&how.pass_headers)) {
                    let path = format!("spec.servers[{i}].passHeaders");
                    problems.push(Problem::new(path, "holds the apiKeyHeader, which goes to no server"));
                }
            }
        }
        if self.rate_per_principal == Some(0) {
            problems.push(Problem::new("spec.ratePerPrincipal", "must be at least 1"));
        }
    }
}

impl CredentialMode {
    fn check(&self, path: &str, problems: &mut Vec<Problem>) {
        if self.mode == "static" && self.connection.is_none() {
            problems.push(Problem::new(format!("{path}.connection"), "mode static needs a connection"));
        }
        if self.mode == "call-time" && self.connection.is_some() {
            problems.push(Problem::new(format!("{path}.connection"), "mode call-time chooses the connection itself"));
        }
        exchange::check_settings(&self.mode, path, self, problems);
    }
}
