//! What a call carries: the credential, placed as the server wants it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use http::{HeaderName, HeaderValue, header};
use portcullis_model::{
    Name, Secret, Subject,
    spec::{Placement, TokenHeader},
};
use portcullis_plugin::{Guarded, Passed};
use zeroize::Zeroizing;

use crate::{follow::Followed, oauth::Lent};

/// A credential, ready to be carried by calls of one principal to one server. Shared by the calls that use it.
#[derive(Clone, Debug)]
pub struct Carried {
    /// The connection that the call runs under; none where only headers are carried, or nothing.
    pub connection: Option<Name>,
    /// Changes with every value of the connection; 0 without one. Opaque: good for telling apart only.
    pub connection_revision: u64,
    /// Whose account that is, for audits: `connection alice-github of user:alice`, a principal, or `nobody`. Without a
    /// connection it tells holders of different credentials apart.
    pub executed_as: Arc<str>,
    /// Whether the connection belongs to somebody else than the caller (audited durably, security.md 26).
    pub by_another: bool,
    /// Headers of the request; those that hold secrets are marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Values for `${field.NAME}` in a process's arguments. Not secret.
    pub values: BTreeMap<String, String>,
    /// Variables of a process.
    pub env: Vec<(String, Secret)>,
    /// Arguments of a process.
    pub arguments: Vec<Secret>,
    /// Files of a process: the variable that gets the path, and the content.
    pub files: Vec<(String, Secret)>,
    /// Until when it may be used, milliseconds since 1970; none where it does not expire.
    pub expires_ms: Option<u64>,
    /// Where the caller's own token goes on to the server: audited durably at each use (security.md 26).
    pub passed: Option<Passed>,
    pub(crate) health: Option<Arc<Health>>,
    /// The token of a connection with OAuth, which is renewed.
    pub(crate) lent: Option<Lent>,
    /// Whose connection it is; none without one.
    pub(crate) lent_by: Option<Subject>,
    /// How it is followed up; none where its resolver does not.
    pub(crate) followed: Option<Arc<Followed>>,
}

/// Whether a connection's last use was refused by its server.
#[derive(Debug)]
pub(crate) struct Health {
    healthy: AtomicBool,
    /// Counts changes of any connection of the server: answers that were found before one are not used after it.
    epoch: Arc<AtomicU64>,
}

impl Health {
    pub(crate) fn new(epoch: Arc<AtomicU64>) -> Self {
        Self { healthy: AtomicBool::new(true), epoch }
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    pub(crate) fn mark(&self, healthy: bool) {
        if self.healthy.load(Ordering::Relaxed) != healthy && self.healthy.swap(healthy, Ordering::AcqRel) != healthy {
            self.epoch.fetch_add(1, Ordering::Release);
        }
    }
}

impl Carried {
    /// For a server that needs no credential, or a resolver that says so.
    pub(crate) fn nothing() -> Self {
        Self {
            connection: None,
            connection_revision: 0,
            executed_as: Arc::from("nobody"),
            by_another: false,
            headers: Vec::new(),
            values: BTreeMap::new(),
            env: Vec::new(),
            arguments: Vec::new(),
            files: Vec::new(),
            expires_ms: None,
            passed: None,
            health: None,
            lent: None,
            lent_by: None,
            followed: None,
        }
    }

    /// Whether it is the account of another one. A call that was sent is on record under an account, and goes on under no other.
    pub(crate) fn is_account_of(&self, other: &Self) -> bool {
        self.connection == other.connection && self.executed_as == other.executed_as
    }

    /// Whether what it holds is what the connection holds now.
    pub(crate) fn is_current(&self) -> bool {
        self.lent.as_ref().is_none_or(Lent::is_current)
    }

    /// Puts an access token into its header.
    pub(crate) fn place_token(&mut self, header: &TokenHeader, token: &Secret) -> Result<(), String> {
        let name = HeaderName::from_bytes(header.name.as_bytes())
            .map_err(|_| format!("\"{}\" is no header name", header.name))?;
        self.set_header(name, &join(&[header.prefix.as_bytes(), token.expose()]))
    }

    /// Puts a value where the placement says. The error is a sentence for operators.
    pub(crate) fn place(&mut self, place: &Placement, value: &Secret) -> Result<(), String> {
        let prefix = place.prefix.as_deref().unwrap_or_default().as_bytes();
        if let Some(name) = &place.header {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("\"{name}\" is no header name"))?;
            self.set_header(name, &join(&[prefix, value.expose()]))
        } else if let Some(variable) = &place.env {
            self.env.push((variable.clone(), Secret::new(join(&[prefix, value.expose()]).as_slice())));
            Ok(())
        } else if let Some(argument) = &place.argument {
            let (before, after) = argument.split_once("{}").unwrap_or((argument, ""));
            let text = join(&[before.as_bytes(), prefix, value.expose(), after.as_bytes()]);
            self.arguments.push(Secret::new(text.as_slice()));
            Ok(())
        } else if let Some(variable) = &place.file {
            self.files.push((variable.clone(), Secret::new(join(&[prefix, value.expose()]).as_slice())));
            Ok(())
        } else {
            Err(format!("the placement of the field \"{}\" says no place", place.field))
        }
    }

    /// Sets a header that a resolver gave, replacing one of that name.
    pub(crate) fn place_guarded(&mut self, name: HeaderName, value: &Guarded) -> Result<(), String> {
        self.set_header(name, value.value().expose())
    }

    /// Whether something was placed in this header.
    pub(crate) fn holds(&self, name: &HeaderName) -> bool {
        self.headers.iter().any(|(placed, _)| placed == name)
    }

    fn set_header(&mut self, name: HeaderName, value: &[u8]) -> Result<(), String> {
        if is_ours(&name) {
            return Err(format!("the header \"{name}\" is set by Portcullis"));
        }
        let mut value = HeaderValue::from_bytes(value)
            .map_err(|_| format!("the value for the header \"{name}\" can't stand in one"))?;
        value.set_sensitive(true);
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value));
        Ok(())
    }
}

/// Exactly sized, so that no unwiped copy is left behind by growing.
fn join(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let mut whole = Zeroizing::new(Vec::with_capacity(parts.iter().map(|p| p.len()).sum()));
    for part in parts {
        whole.extend_from_slice(part);
    }
    whole
}

/// Headers that belong to the connection (RFC 9110 section 7.6.1), to the message, or to MCP, and never to a credential.
fn is_ours(name: &HeaderName) -> bool {
    const OURS: [HeaderName; 14] = [
        header::CONNECTION,
        header::HOST,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::TRANSFER_ENCODING,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::EXPECT,
        header::ACCEPT,
        header::ACCEPT_ENCODING,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
    ];
    OURS.contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
        || name.as_str().starts_with("mcp-")
}
