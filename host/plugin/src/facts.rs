//! What a hook is told: the request, the call, the target. Cheap to clone, since a store owns what it lends.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use bytes::Bytes;
use http::HeaderMap;
use portcullis_model::{Name, Secret};
use serde_json::Value;

/// The most attributes that the hooks of one call may set together.
pub const MAX_ATTRIBUTES: usize = 16;
/// The most bytes of one attribute: its key and its value as JSON.
pub const MAX_ATTRIBUTE_BYTES: usize = 1024;

/// What the hooks of one call tell each other and the audit record. Clones share their content.
#[derive(Clone, Debug, Default)]
pub struct Attributes(Arc<Mutex<Vec<(String, Value)>>>);

impl Attributes {
    /// The attribute of this name, if an earlier hook set it.
    pub fn get(&self, key: &str) -> Option<Value> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }

    /// Sets an attribute; false where that would exceed [`MAX_ATTRIBUTES`] or [`MAX_ATTRIBUTE_BYTES`].
    pub fn set(&self, key: String, value: Value) -> bool {
        if key.len() + json_len(&value) > MAX_ATTRIBUTE_BYTES {
            return false;
        }
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.iter_mut().find(|(name, _)| *name == key) {
            entry.1 = value;
        } else if entries.len() < MAX_ATTRIBUTES {
            entries.push((key, value));
        } else {
            return false;
        }
        true
    }

    /// The same attributes, to be changed apart from these.
    fn apart(&self) -> Self {
        Self(Arc::new(Mutex::new(self.all())))
    }

    /// All attributes in the order in which they were first set.
    pub fn all(&self) -> Vec<(String, Value)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn json_len(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        other => other.to_string().len(),
    }
}

/// The request that a hook works for.
#[derive(Clone, Debug)]
pub struct RequestFacts {
    /// The gateway that the client spoke to.
    pub gateway: Name,
    /// The request's id in logs, traces and errors.
    pub request_id: Arc<str>,
    /// The request's headers. Those that can carry a credential may be in it: plugins never see them.
    pub headers: Arc<HeaderMap>,
    /// When the call has to be over.
    pub deadline: Instant,
    /// What the hooks of this call tell each other.
    pub attributes: Attributes,
}

impl RequestFacts {
    /// The same request for whoever only watches: what it notes stays with it.
    pub fn apart(&self) -> Self {
        Self { attributes: self.attributes.apart(), ..self.clone() }
    }
}

/// One call of a tool.
#[derive(Clone, Debug)]
pub struct CallFacts {
    /// The `McpServer` resource's name.
    pub server: Name,
    /// The tool's name as its server knows it.
    pub tool: Arc<str>,
    /// The tool's name as the client sees it.
    pub exposed_tool: Arc<str>,
    /// The arguments object: UTF-8 JSON without duplicate keys; `{}` where the client sent none.
    pub arguments: Bytes,
}

/// What a server answered.
#[derive(Clone, Debug)]
pub struct ResultFacts {
    /// Whether the result says that the tool failed.
    pub is_error: bool,
    /// The result object as the server sent it.
    pub content: Bytes,
    /// Whether a plugin has looked into it.
    read: Arc<AtomicBool>,
}

impl ResultFacts {
    /// A result that nobody has looked into.
    pub fn new(is_error: bool, content: Bytes) -> Self {
        Self { is_error, content, read: Arc::default() }
    }

    /// Whether a plugin that was asked about it has looked into it: only then what it says depends on how the text is read.
    pub fn was_read(&self) -> bool {
        self.read.load(Relaxed)
    }

    pub(crate) fn look(&self) {
        self.read.store(true, Relaxed);
    }

    /// The same for a version that decides nothing: what it looks into is not told.
    pub(crate) fn apart(&self) -> Self {
        Self::new(self.is_error, self.content.clone())
    }
}

/// Why a client asks for a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadPurpose {
    /// `resources/read`.
    Read,
    /// `resources/subscribe`, or a URI of `subscriptions/listen`.
    Subscribe,
    /// `completion/complete` of a resource template; the URI is the template's text.
    Complete,
}

impl ReadPurpose {
    /// As plugins read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Subscribe => "subscribe",
            Self::Complete => "complete",
        }
    }
}

/// A resource that a client asks for.
#[derive(Clone, Debug)]
pub struct ReadFacts {
    /// The `McpServer` resource's name.
    pub server: Name,
    /// The URI as its server knows it; of [`ReadPurpose::Complete`] the template's text.
    pub uri: Arc<str>,
    /// The URI as the client sees it.
    pub exposed_uri: Arc<str>,
    /// What for.
    pub purpose: ReadPurpose,
}

/// Why a client asks for a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptPurpose {
    /// `prompts/get`.
    Get,
    /// `completion/complete` of one of its arguments.
    Complete,
}

impl PromptPurpose {
    /// As plugins read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Complete => "complete",
        }
    }
}

/// A prompt that a client asks for.
#[derive(Clone, Debug)]
pub struct PromptFacts {
    /// The `McpServer` resource's name.
    pub server: Name,
    /// The prompt's name as its server knows it.
    pub prompt: Arc<str>,
    /// The prompt's name as the client sees it.
    pub exposed_prompt: Arc<str>,
    /// The arguments object: UTF-8 JSON without duplicate keys; `{}` where the client sent none.
    pub arguments: Bytes,
    /// What for.
    pub purpose: PromptPurpose,
}

/// A request of a server to the client.
#[derive(Clone, Debug)]
pub struct QuestionFacts {
    /// The `McpServer` resource's name.
    pub server: Name,
    /// The method, such as `elicitation/create`.
    pub method: Arc<str>,
    /// The params object: UTF-8 JSON without duplicate keys; `{}` where the server sent none.
    pub params: Bytes,
    /// The tool in whose call the server asks, as the server knows it; none outside of a tool's call.
    pub tool: Option<Arc<str>>,
}

/// A client that comes in.
#[derive(Clone, Debug)]
pub struct SessionFacts {
    /// `initialize` or `request`.
    pub occasion: &'static str,
    /// The revision of the protocol that it speaks.
    pub protocol: &'static str,
    /// The name that it gives itself.
    pub client_name: Option<Arc<str>>,
    /// The version that it gives itself.
    pub client_version: Option<Arc<str>>,
    /// What it says that it can be asked: a JSON object.
    pub capabilities: Arc<str>,
}

/// Which list is filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// `tools/list`.
    Tools,
    /// `resources/list`.
    Resources,
    /// `resources/templates/list`.
    Templates,
    /// `prompts/list`.
    Prompts,
}

impl ListKind {
    /// As plugins read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Resources => "resources",
            Self::Templates => "templates",
            Self::Prompts => "prompts",
        }
    }
}

/// One entry of a list that is filtered.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// The `McpServer` resource's name.
    pub server: &'a str,
    /// The entry's name as its server knows it; of a resource the URI, of a template the URI template.
    pub name: &'a str,
}

/// The server that a credential is wanted for.
#[derive(Clone, Debug)]
pub struct TargetFacts {
    /// The `McpServer` resource's name.
    pub server: Name,
    /// The server's URL; empty for a server that has none.
    pub url: Arc<str>,
    /// The connection that the tool assignment names.
    pub connection: Option<Name>,
    /// The settings of the assignment's credential.
    pub settings: Arc<serde_json::Map<String, Value>>,
}

/// A request to authenticate.
#[derive(Clone, Debug)]
pub struct AuthRequest {
    /// The tenant whose gateway was asked.
    pub tenant: Name,
    /// The gateway that was asked.
    pub gateway: Name,
    /// The HTTP method.
    pub method: Arc<str>,
    /// The path, without query.
    pub path: Arc<str>,
    /// The client's address, without port.
    pub peer: Arc<str>,
    /// The request's headers; those that can carry a credential are hidden from the plugin.
    pub headers: Arc<HeaderMap>,
    /// The token of `Authorization: Bearer`.
    pub bearer: Option<Secret>,
    /// The certificate that the client proved in the TLS handshake.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// A client certificate (RFC 5280) that the TLS handshake verified: signed by an authority that the operator trusts, and the client
/// has its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// SHA-256 of the whole certificate in DER.
    pub fingerprint: [u8; 32],
    /// Attributes of the subject's name, in order: short name (RFC 4514 section 3) or dotted OID, and value.
    pub subject: Vec<(String, String)>,
    /// Attributes of the issuer's name.
    pub issuer: Vec<(String, String)>,
    /// Subject alternative names that are URIs, such as SPIFFE IDs.
    pub uris: Vec<String>,
    /// Subject alternative names that are DNS names.
    pub dns_names: Vec<String>,
    /// Subject alternative names that are e-mail addresses.
    pub emails: Vec<String>,
    /// When it ends, in milliseconds since 1970-01-01T00:00:00Z.
    pub expires_ms: u64,
}

/// Whether a header can carry a credential, so that no plugin reads it as text. `name` is in lower case.
pub fn carries_credential(name: &str) -> bool {
    matches!(
        name,
        "authorization"
            | "proxy-authorization"
            | "cookie"
            | "set-cookie"
            | "x-api-key"
            | "x-forwarded-client-cert"
            | "client-cert"
            | "client-cert-chain"
            | "mcp-session-id"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_bounded() {
        let attributes = Attributes::default();
        assert!(!attributes.set("k".into(), Value::String("x".repeat(MAX_ATTRIBUTE_BYTES))));
        for i in 0..MAX_ATTRIBUTES {
            assert!(attributes.set(format!("k{i}"), Value::Bool(true)));
        }
        assert!(!attributes.set("one-more".into(), Value::Bool(true)));
        assert!(attributes.set("k0".into(), Value::Bool(false)), "an existing key may change");
        assert_eq!(attributes.get("k0"), Some(Value::Bool(false)));
        assert_eq!(attributes.all().len(), MAX_ATTRIBUTES);
    }
}
