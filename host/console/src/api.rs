//! What the admin API says: one set of types for the server, its client and `-o json`.
//!
//! Paths are `/v1/...`; every request names its tenant by `?tenant=`. Where left out it is the token's own, or at the socket the
//! default one. Lists are paged by an
//! opaque `next`. Whatever goes wrong is an [`ApiError`].

mod plugins;

use std::{collections::BTreeMap, fmt};

use portcullis_model::{Name, Resource, Side};
use serde::{Deserialize, Serialize};

pub use plugins::{CandidateItem, PluginItem, QuarantineItem};

use crate::documents::DocumentError;

/// The most items of one page.
pub const MAX_PAGE: usize = 500;
/// The most bytes of a request's body.
pub const MAX_BODY: usize = 16 << 20;

/// A page of a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// What was found.
    pub items: Vec<T>,
    /// Sent back as `after`, it gets the next page; there is none where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What `POST /v1/store/reseal` did.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resealed {
    /// How many records were sealed again.
    pub records: usize,
    /// The id of the key that everything is sealed with now.
    pub key: String,
    /// Ids of keys that nothing needs any more.
    pub unneeded: Vec<String>,
}

/// `POST /v1/apply`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplyRequest {
    /// What is taken: all or nothing.
    pub resources: Vec<Resource>,
    /// Checks and compares, but changes nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was done to one resource.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppliedItem {
    /// `Kind/name`, with the tenant in front where it is not the default one.
    pub resource: String,
    /// `created`, `updated`, `unchanged` or `deleted`.
    pub change: String,
    /// The revision that it has now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// What is likely not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Complaint>,
}

/// The answer to [`ApplyRequest`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplyAnswer {
    /// In the order of the request.
    pub items: Vec<AppliedItem>,
    /// Whether nothing was changed because that was asked for.
    pub dry_run: bool,
}

/// A resource with what is known about it beyond what was written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Described {
    /// The resource.
    pub resource: Resource,
    /// What is known about it.
    pub status: Status,
}

/// What is known about a resource beyond what was written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// What is true of it, the worst first.
    pub conditions: Vec<Condition>,
    /// Facts worth showing, such as the URL of a gateway.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
}

/// Something that is true of a resource or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What, such as `Ready`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: bool,
    /// Why, as one word for programs.
    pub reason: String,
    /// Why, as a sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// `POST /v1/tokens`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    /// `user:NAME`, `team:NAME`, `agent:NAME` or `organization`.
    pub owner: String,
    /// What the owner calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Gateways that take it; all of the tenant where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<Name>,
    /// Whether it is for the admin API, and then for no gateway.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub admin: bool,
    /// How long it lives, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_s: Option<u64>,
}

/// A token as far as it may be shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenItem {
    /// What it is revoked by.
    pub id: String,
    /// Whose it is.
    pub owner: String,
    /// What the owner calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the OAuth client calls itself that it was issued to, by a sign-in; in lists only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Gateways that take it; all of the tenant where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<Name>,
    /// Whether it is for the admin API, and for no gateway.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub admin: bool,
    /// `active`, `expired`, `revoked`, or `orphaned` where its owner is gone.
    pub state: String,
    /// When it was made, in milliseconds since 1970-01-01T00:00:00Z.
    pub created_ms: u64,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// When it was used last, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_ms: Option<u64>,
}

/// `POST /v1/explain`: what a call would meet. The answer is a [`portcullis_model::explain::Explanation`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExplainRequest {
    /// The gateway.
    pub gateway: Name,
    /// The tool, as clients name it; without one, the list of tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Who would call: `user:NAME`, `team:NAME`, `agent:NAME`, `organization`, `external:ISSUER#SUBJECT` or `anonymous`. Whoever asks,
    /// where left out.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// The groups that an identity provider would name of them; what is remembered of their sign-in, where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
    /// The arguments, a JSON object; none where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<serde_json::Value>,
}

/// `POST /v1/render`: what a server becomes in the cluster.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RenderRequest {
    /// One that is there,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Name>,
    /// or one that is not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<Resource>,
    /// One connection of it; all where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Name>,
    /// Asks the cluster whether it would take the objects.
    #[serde(default)]
    pub check: bool,
}

/// The answer to [`RenderRequest`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rendered {
    /// Kubernetes objects. A Secret's values are left out.
    pub objects: Vec<serde_json::Value>,
    /// What of the hardening is given up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relaxed: Vec<String>,
    /// Whether the cluster was asked, and would take them.
    pub checked: bool,
}

/// A token's text, told once to whoever made it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewToken {
    /// The text that clients send as `Authorization: Bearer`.
    pub token: String,
    /// What is known about it.
    #[serde(flatten)]
    pub item: TokenItem,
}

impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewToken").field("item", &self.item).finish_non_exhaustive()
    }
}

/// `DELETE /v1/tokens?owner=OWNER`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revoked {
    /// Whose tokens were revoked.
    pub owner: String,
    /// How many of them still worked or could have.
    pub revoked: usize,
    /// How many clients that renew their tokens can't any more.
    #[serde(default)]
    pub clients: usize,
    /// How many browsers are signed out.
    #[serde(default)]
    pub sessions: usize,
}

/// `POST /v1/signin`: makes a one-time code.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignInRequest {
    /// The `User` who signs in with it.
    pub user: Name,
}

/// A one-time code, told once to whoever made it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignInCode {
    /// The page where it is typed.
    pub url: String,
    /// The code.
    pub code: String,
    /// When it ends, in milliseconds since 1970-01-01T00:00:00Z.
    pub expires_ms: u64,
}

impl fmt::Debug for SignInCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignInCode").field("url", &self.url).finish_non_exhaustive()
    }
}

/// `POST /v1/connections`: connects a server, sealing its secrets.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectRequest {
    /// The `McpServer`.
    pub server: Name,
    /// `user:NAME`, `team:NAME`, `agent:NAME` or `organization`.
    pub owner: String,
    /// The connection's name; made of server and owner where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Values of fields that are not sensitive.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, String>,
    /// Values of sensitive fields. They are sealed before anything is stored, and never shown again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// Whether it serves its owner only.
    pub owner_only: bool,
}

impl Drop for ConnectRequest {
    fn drop(&mut self) {
        for secret in self.secrets.values_mut() {
            zeroize::Zeroize::zeroize(secret);
        }
    }
}

impl fmt::Debug for ConnectRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectRequest")
            .field("server", &self.server)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

/// `POST /v1/connections/oauth`: begins to connect a server with OAuth.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OAuthBegin {
    /// The `McpServer`.
    pub server: Name,
    /// `user:NAME`, `team:NAME`, `agent:NAME` or `organization`.
    pub owner: String,
    /// The connection's name; made of server and owner where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Values of fields that are not sensitive.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, String>,
    /// Values of sensitive fields.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// Whether it serves its owner only. Asked on the page where the answer is a link.
    #[serde(default)]
    pub owner_only: bool,
    /// Whether whoever asks brings the browser's answer back here themselves ([`OAuthFinish`]); else the answer is the link
    /// of the page.
    #[serde(default)]
    pub direct: bool,
}

impl Drop for OAuthBegin {
    fn drop(&mut self) {
        for secret in self.secrets.values_mut() {
            zeroize::Zeroize::zeroize(secret);
        }
    }
}

impl fmt::Debug for OAuthBegin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthBegin").field("server", &self.server).field("owner", &self.owner).finish_non_exhaustive()
    }
}

/// The answer to [`OAuthBegin`].
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OAuthBegun {
    /// The page that connects it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Where the person signs in, where the sign-in is direct.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What [`OAuthFinish`] and [`OAuthSave`] have to bring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The connection's name.
    pub connection: Name,
    /// When it is too late, in milliseconds since 1970-01-01T00:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

/// `POST /v1/connections/oauth/finish`: what the authorization server sent the browser back with.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OAuthFinish {
    /// Of [`OAuthBegun`].
    pub session: String,
    /// The parameter `state`.
    pub state: String,
    /// The parameter `code`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The parameter `error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The parameter `iss`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// What stands behind `/oauth-client/callback/` in the path of the address, if anything does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
}

/// The answer to [`OAuthFinish`]: whose account it is, before anything is saved.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OAuthAccount {
    /// What saves it, once.
    pub ticket: String,
    /// The server.
    pub server: Name,
    /// The connection's name.
    pub connection: Name,
    /// Whose it will be.
    pub owner: String,
    /// Whether there is a connection of that name, which is connected again.
    pub again: bool,
    /// The account, as far as the authorization server says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The authorization server.
    pub issuer: String,
    /// The scopes that were granted.
    pub scopes: Vec<String>,
    /// Scopes that were asked for and not granted.
    pub refused_scopes: Vec<String>,
    /// Whether it is renewed by itself.
    pub renews: bool,
}

/// `POST /v1/connections/oauth/save`: the account is the right one. Answered with [`Connected`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OAuthSave {
    /// Of [`OAuthBegun`].
    pub session: String,
    /// Of [`OAuthAccount`].
    pub ticket: String,
}

/// The answer to [`ConnectRequest`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connected {
    /// The connection's name.
    pub connection: Name,
    /// `created` or `updated`.
    pub change: String,
    /// The origin that it is bound to; a server at another one gets nothing of it.
    pub origin: String,
    /// What is likely not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Complaint>,
}

/// A line that a server wrote to its standard error, or that was said about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    /// Its number; grows by one with each line of the server.
    pub number: u64,
    /// When it was read, in milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
    /// What it says.
    pub text: String,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// The version of the binary that serves.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started, in milliseconds since 1970-01-01T00:00:00Z.
    pub started_ms: u64,
    /// The URL that clients begin with, such as `http://127.0.0.1:7777`.
    pub url: String,
    /// A URL on this machine, for commands that run here; the certificate may not name it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub local_url: String,
    /// Where metrics and health are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_url: Option<String>,
    /// The state's directory.
    pub data_dir: String,
    /// The revision of the store that is served.
    pub revision: u64,
    /// How many resources there are, by kind.
    pub resources: BTreeMap<String, usize>,
    /// What keeps it from being ready; empty where it is.
    pub missing: Vec<String>,
    /// Files that are watched.
    pub files: Vec<FileStatus>,
}

/// A watched file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileStatus {
    /// Its path.
    pub file: String,
    /// How many resources it holds.
    pub resources: usize,
    /// Why it is refused. What it brought before goes on serving.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<DocumentError>,
    /// What is likely not meant in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<DocumentError>,
}

/// One thing that `doctor` looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What was looked at, such as `McpServer/github`.
    pub subject: String,
    /// How it is.
    pub grade: Grade,
    /// What was found.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Likely not meant.
    Warning,
    /// Does not work.
    Error,
}

/// Something about a place in a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Complaint {
    /// Which resource, as `Kind/name`.
    pub resource: String,
    /// Its place in the request, from 0.
    #[serde(default)]
    pub position: usize,
    /// Where in it, such as `spec.servers[1].prefix`.
    pub path: String,
    /// What.
    pub message: String,
    /// The file and line, where the client knows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: ")?,
            None => write!(f, "{}: ", self.resource)?,
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase")]
pub struct ApiError {
    /// Whose fault it is: `caller`, `policy`, `gateway` or `server`.
    pub side: String,
    /// A short stable word for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Each thing that is wrong, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Complaint>,
}

impl ApiError {
    /// An error with nothing but its essentials.
    pub fn new(side: Side, code: &str, message: impl Into<String>) -> Self {
        Self {
            side: side.as_str().to_owned(),
            code: code.to_owned(),
            message: message.into(),
            next: None,
            problems: Vec::new(),
        }
    }

    /// Adds the next step.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}
