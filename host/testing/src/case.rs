//! One case: what a plugin is asked, by whom, and what the house answers it meanwhile. Written as YAML or JSON.

use std::collections::BTreeMap;

use portcullis_model::spec::{Grants, Limits};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A case. What is left out is nothing, or what is usual.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Case {
    /// What it is about, for whoever reads it.
    pub description: String,
    /// The plugin's configuration.
    pub config: Option<Value>,
    /// What it is granted; where left out, what it asks for, as far as the case holds answers.
    pub grants: Option<Grants>,
    /// How much a call may use; what is usual where left out. Time is not measured here: it may have 50 milliseconds of the processor.
    pub limits: Option<Limits>,
    /// The time, in milliseconds since 1970; 2026-01-01T00:00:00Z where left out.
    pub now_ms: Option<u64>,
    /// Where its random numbers begin.
    pub seed: u64,
    /// Secrets that it is granted, by the name it asks for. Made up for the case: they show in what it is told.
    pub secrets: BTreeMap<String, String>,
    /// What other services answer, in order; of several for one method and URL the last one stays.
    pub http: Vec<Exchange>,
    /// Connections of the server that the caller may run under.
    pub connections: Vec<Offered>,
    /// Tokens of Portcullis: whose each is, or why it is not accepted.
    pub tokens: BTreeMap<String, Known>,
    /// Signed tokens of others, by the text that stands for each.
    pub jwts: BTreeMap<String, Signed>,
    /// Who calls.
    pub caller: Who,
    /// What is asked.
    pub ask: Option<Ask>,
    /// What it has to say: each field that stands here has to be as it stands here.
    pub expect: Option<Map<String, Value>>,
}

/// A case that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum InvalidCase {
    /// Not of the form of a case.
    #[error("{0}")]
    Form(String),
    /// A name or an address in it that is none.
    #[error("{what}: {problem}")]
    Value {
        /// Where.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl Case {
    /// Reads a case (YAML, and so JSON too).
    ///
    /// # Errors
    /// Where it is none, with the place.
    pub fn read(text: &str) -> Result<Self, InvalidCase> {
        serde_saphyr::from_str(text).map_err(|e| InvalidCase::Form(e.to_string()))
    }

    /// The configuration as the plugin reads it.
    pub fn config_text(&self) -> String {
        self.config.as_ref().map_or_else(|| "{}".to_owned(), Value::to_string)
    }
}

/// A request to another service, and its answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Exchange {
    /// The method; `GET` where left out.
    pub method: Option<String>,
    /// The whole URL.
    pub url: String,
    /// The status; 200 where left out.
    pub status: Option<u16>,
    /// Headers of the answer.
    pub headers: BTreeMap<String, String>,
    /// The answer's body as JSON.
    pub json: Option<Value>,
    /// The answer's body as text, where it is no JSON.
    pub body: Option<String>,
    /// There is no answer.
    pub failure: Option<NoAnswer>,
}

/// Why another service gives no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoAnswer {
    /// Too late.
    Timeout,
    /// Nobody listens.
    Connect,
    /// The name has no address.
    Dns,
    /// No TLS.
    Tls,
    /// Too much.
    TooLarge,
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Offered {
    /// Its name.
    pub id: String,
    /// `user:NAME`, `team:NAME`, `agent:NAME` or `organization`.
    pub owner: String,
    /// Whether it may serve its owner only.
    #[serde(default)]
    pub owner_only: bool,
    /// Whether its last use was refused.
    #[serde(default)]
    pub unhealthy: bool,
    /// When it was made.
    #[serde(default)]
    pub created_ms: u64,
}

/// What is known of a token of Portcullis.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Known {
    /// Whose it is, such as `user:ann`.
    pub subject: Option<String>,
    /// When it ends.
    pub expires_ms: Option<u64>,
    /// Why it is not accepted: `unknown`, `expired`, `revoked`, `wrong-gateway` or `unavailable`.
    pub refused: Option<String>,
}

/// A signed token of somebody else.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Signed {
    /// Its claims, `iss`, `sub` and `exp` (seconds) among them.
    pub claims: Map<String, Value>,
    /// Its algorithm; RS256 where left out.
    pub algorithm: Option<String>,
    /// Its `typ`.
    pub token_type: Option<String>,
    /// What is wrong with it: `signature`, `unknown-key`, `expired`, `not-yet-valid`, `malformed` or `unavailable`.
    pub broken: Option<String>,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Who {
    /// `user:NAME`, `team:NAME`, `agent:NAME`, `organization`, `anonymous` or `external:ISSUER#SUBJECT`.
    pub subject: String,
    /// The tenant.
    pub tenant: String,
    /// Teams.
    pub teams: Vec<String>,
    /// Roles.
    pub roles: Vec<String>,
    /// Groups of the identity provider.
    pub groups: Vec<String>,
    /// Claims.
    pub claims: BTreeMap<String, Value>,
    /// Headers of the request.
    pub headers: BTreeMap<String, String>,
    /// Attributes that earlier hooks set.
    pub attributes: BTreeMap<String, Value>,
    /// The token of an identity provider that the caller came with.
    pub token: Option<Bearer>,
}

impl Default for Who {
    fn default() -> Self {
        Self {
            subject: "user:ann".to_owned(),
            tenant: "default".to_owned(),
            teams: Vec::new(),
            roles: Vec::new(),
            groups: Vec::new(),
            claims: BTreeMap::new(),
            headers: BTreeMap::new(),
            attributes: BTreeMap::new(),
            token: None,
        }
    }
}

/// A caller's own token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Bearer {
    /// The token, made up.
    pub text: String,
    /// Its issuer.
    pub issuer: String,
    /// Whom it is for.
    pub audiences: Vec<String>,
    /// When it ends.
    pub expires_ms: Option<u64>,
    /// Whether it is bound to a key.
    pub bound: bool,
    /// Whether it was kept since the caller signed in here, rather than having come with the request.
    pub from_sign_in: bool,
}

/// What is asked: one hook, and what it is lent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Ask {
    /// `policy/tool-call`.
    ToolCall(ToolCall),
    /// `policy/tool-result`.
    ToolResult(ToolResult),
    /// `policy/resource-read`.
    ResourceRead(ResourceRead),
    /// `policy/prompt-get`.
    PromptGet(PromptGet),
    /// `policy/server-request`.
    ServerRequest(ServerRequest),
    /// `policy/list-filter`.
    ListFilter(ListFilter),
    /// `credential/resolver`.
    Resolve(Target),
    /// `credential/refresher`.
    Refresh(FollowUp),
    /// `credential/on-rejected`.
    Rejected(FollowUp),
    /// `auth/provider`.
    Authenticate(Request),
}

fn server() -> String {
    "files".to_owned()
}

/// A call of a tool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ToolCall {
    /// The server; `files` where left out.
    #[serde(default = "server")]
    pub server: String,
    /// The tool.
    pub tool: String,
    /// The arguments.
    #[serde(default)]
    pub arguments: Map<String, Value>,
}

/// A call, and what came back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ToolResult {
    /// The server.
    #[serde(default = "server")]
    pub server: String,
    /// The tool.
    pub tool: String,
    /// The arguments.
    #[serde(default)]
    pub arguments: Map<String, Value>,
    /// The result object.
    pub result: Map<String, Value>,
}

/// A resource that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResourceRead {
    /// The server.
    #[serde(default = "server")]
    pub server: String,
    /// The URI.
    pub uri: String,
    /// `read`, `subscribe` or `complete`; `read` where left out.
    #[serde(default)]
    pub purpose: Option<String>,
}

/// A prompt that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PromptGet {
    /// The server.
    #[serde(default = "server")]
    pub server: String,
    /// The prompt.
    pub prompt: String,
    /// The arguments.
    #[serde(default)]
    pub arguments: Map<String, Value>,
    /// `get` or `complete`; `get` where left out.
    #[serde(default)]
    pub purpose: Option<String>,
}

/// A request of a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerRequest {
    /// The server.
    #[serde(default = "server")]
    pub server: String,
    /// The method, such as `elicitation/create`.
    pub method: String,
    /// The params.
    #[serde(default)]
    pub params: Map<String, Value>,
    /// The tool in whose call it is asked.
    #[serde(default)]
    pub tool: Option<String>,
}

/// A list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListFilter {
    /// `tools`, `resources`, `templates` or `prompts`; `tools` where left out.
    #[serde(default)]
    pub kind: Option<String>,
    /// The entries: names by server.
    pub entries: BTreeMap<String, Vec<String>>,
}

/// The server that a credential is wanted for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// The server.
    #[serde(default = "server")]
    pub server: String,
    /// Its URL; `https://SERVER.example/mcp` where left out, empty for a local one.
    #[serde(default)]
    pub url: Option<String>,
    /// The connection that the assignment names.
    #[serde(default)]
    pub connection: Option<String>,
    /// The settings of the assignment's credential.
    #[serde(default)]
    pub settings: Map<String, Value>,
}

/// A target, and the answer that was given before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FollowUp {
    /// For which server.
    pub target: Target,
    /// Until when the earlier answer held.
    #[serde(default)]
    pub expires_ms: Option<u64>,
    /// What was kept beside it, made up.
    #[serde(default)]
    pub kept: BTreeMap<String, String>,
}

/// A request to authenticate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Request {
    /// The token of `Authorization: Bearer`, made up.
    pub bearer: Option<String>,
    /// Headers.
    pub headers: BTreeMap<String, String>,
    /// The certificate of the client.
    pub certificate: Option<Certificate>,
}

/// A client certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Certificate {
    /// Attributes of the subject's name, such as `CN`.
    pub subject: BTreeMap<String, String>,
    /// Attributes of the issuer's name.
    pub issuer: BTreeMap<String, String>,
    /// Alternative names: URIs.
    pub uris: Vec<String>,
    /// Alternative names: DNS names.
    pub dns_names: Vec<String>,
    /// Alternative names: e-mail addresses.
    pub emails: Vec<String>,
}
