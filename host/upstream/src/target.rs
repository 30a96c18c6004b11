//! Where a request goes, and what may be shared on the way there.

use std::{fmt, sync::Arc};

use http::{HeaderName, HeaderValue};
use portcullis_model::{Name, spec::Traffic};
use portcullis_protocol::Era;
use url::Url;

use crate::{hosts::Hosts, launch::LaunchSpec};

/// Whose credential a request carries. Sessions, connections and children are never shared between accounts
/// (security decision 16).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Account {
    /// Nobody's: the server needs no credential.
    None,
    /// A connection's, at one revision of its values.
    Connection {
        /// The `Connection` resource.
        name: Name,
        /// Its revision: other values are another account.
        revision: u64,
    },
    /// A credential without a connection, such as an exchanged token. The text names its holder and is no secret.
    Holder(Arc<str>),
}

/// One conversation of a client with a server: what asks it back (elicitation, sampling, roots) shares its session or child
/// with nobody else (security decision 16).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conversation {
    /// What tells it from others of the same server and account, such as a session's nonce. No secret.
    pub id: Arc<str>,
    /// What the client can do, as a JSON object: a legacy server is told it in `initialize`.
    pub capabilities: Arc<str>,
}

/// What a pooled session, connection or child belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TargetKey {
    /// The tenant of the server.
    pub tenant: Name,
    /// The `McpServer` resource.
    pub server: Name,
    /// The revision of its spec: an edited server is another target.
    pub generation: u64,
    /// Whose credential is carried. [`Account::None`] for a child that everybody shares.
    pub account: Account,
    /// Whose conversation it is. `None` for a peer that all callers under the account share: it advertises nothing, and
    /// what the server asks is refused.
    pub conversation: Option<Arc<Conversation>>,
    /// The era to speak, for a server that speaks both: a client's own, so that nothing has to be translated. `None` finds
    /// out, and takes the modern one.
    pub era: Option<Era>,
}

impl fmt::Display for TargetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.server)?;
        match &self.account {
            Account::None => {}
            Account::Connection { name, .. } => write!(f, " under {name}")?,
            Account::Holder(holder) => write!(f, " under {holder}")?,
        }
        if let Some(conversation) = &self.conversation {
            write!(f, " in conversation {}", conversation.id)?;
        }
        match self.era {
            None => Ok(()),
            Some(era) => write!(f, " in the {} era", era.as_str()),
        }
    }
}

/// A server behind a URL.
#[derive(Clone, Debug)]
pub struct HttpEndpoint {
    /// The MCP endpoint.
    pub url: Url,
    /// Headers of the registry entry, sent with every request. No secrets.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the name may resolve to loopback, private or link-local addresses. A URL whose host is itself a loopback
    /// address or `localhost` always may, and then only to loopback.
    pub allow_private: bool,
}

/// How a server is reached.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// Streamable HTTP.
    Http(Arc<HttpEndpoint>),
    /// The same, where whoever runs the server knows where its host is.
    Hosted(Arc<HttpEndpoint>, Arc<dyn Hosts>),
    /// Standard input and output of a child process.
    Stdio(Arc<LaunchSpec>),
}

/// A server, how to reach it, and under which account. Made once and shared: [`crate::Upstreams::peer`] looks it up by
/// `key` only, so the rest must follow from the key.
#[derive(Clone, Debug)]
pub struct Target {
    /// What the pool goes by.
    pub key: TargetKey,
    /// How the server is reached.
    pub endpoint: Endpoint,
    /// Time and size limits.
    pub traffic: Arc<Traffic>,
}
