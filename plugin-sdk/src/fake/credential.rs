//! Fakes of a credential's target, of connections and of a resolver's answer.

use std::{cell::RefCell, collections::BTreeMap};

/// The server that a credential is wanted for.
#[derive(Clone, Debug)]
pub struct Target {
    server: String,
    url: Option<String>,
    connection: Option<String>,
    settings: BTreeMap<String, String>,
}

impl Target {
    /// A server, of whose assignment nothing is known.
    pub fn new(server: &str) -> Self {
        Self { server: server.into(), url: None, connection: None, settings: BTreeMap::new() }
    }

    /// At this URL; `https://SERVER.example/mcp` where not said.
    #[must_use]
    pub fn at(mut self, url: &str) -> Self {
        self.url = Some(url.into());
        self
    }

    /// The assignment names this connection.
    #[must_use]
    pub fn naming(mut self, connection: &str) -> Self {
        self.connection = Some(connection.into());
        self
    }

    /// The assignment's credential has a setting (JSON text).
    #[must_use]
    pub fn with_setting(mut self, name: &str, json: impl ToString) -> Self {
        self.settings.insert(name.into(), json.to_string());
        self
    }

    /// As the hook gets it.
    pub fn lend(&self) -> crate::Target<'_> {
        crate::Target(self)
    }

    pub(crate) fn server(&self) -> String {
        self.server.clone()
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone().unwrap_or_else(|| format!("https://{}.example/mcp", self.server))
    }

    pub(crate) fn connection(&self) -> Option<String> {
        self.connection.clone()
    }

    pub(crate) fn setting(&self, name: &str) -> Option<String> {
        self.settings.get(name).cloned()
    }
}

/// A connection that the host offers; give it to [`Host::connection`](super::Host::connection).
#[derive(Clone, Debug)]
pub struct Connection {
    pub(crate) id: String,
    pub(crate) owner_kind: String,
    pub(crate) owner: String,
    pub(crate) owner_only: bool,
    pub(crate) healthy: bool,
    pub(crate) created_ms: u64,
}

impl Connection {
    /// A healthy connection for everybody whom its owner's kind allows. The owner is `user:NAME`, `team:NAME`,
    /// `agent:NAME` or `organization`.
    pub fn new(id: &str, owner: &str) -> Self {
        let (kind, name) = owner.split_once(':').unwrap_or((owner, ""));
        Self {
            id: id.into(),
            owner_kind: kind.into(),
            owner: name.into(),
            owner_only: false,
            healthy: true,
            created_ms: 1_000,
        }
    }

    /// For its owner only.
    #[must_use]
    pub fn owner_only(mut self) -> Self {
        self.owner_only = true;
        self
    }

    /// Its last use was refused.
    #[must_use]
    pub fn unhealthy(mut self) -> Self {
        self.healthy = false;
        self
    }

    /// Made at this time, in milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn created_ms(mut self, at: u64) -> Self {
        self.created_ms = at;
        self
    }
}

pub(crate) struct Listing(pub(crate) Vec<Connection>);

impl Listing {
    fn at(&self, at: u32) -> &Connection {
        &self.0[at as usize]
    }

    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn id(&self, at: u32) -> String {
        self.at(at).id.clone()
    }

    pub(crate) fn owner_kind(&self, at: u32) -> String {
        self.at(at).owner_kind.clone()
    }

    pub(crate) fn owner(&self, at: u32) -> String {
        self.at(at).owner.clone()
    }

    pub(crate) fn owner_only(&self, at: u32) -> bool {
        self.at(at).owner_only
    }

    pub(crate) fn healthy(&self, at: u32) -> bool {
        self.at(at).healthy
    }

    pub(crate) fn created_ms(&self, at: u32) -> u64 {
        self.at(at).created_ms
    }
}

/// A resolver's answer, to be filled and then looked at.
#[derive(Clone, Debug, Default)]
pub struct Resolution(RefCell<Answer>);

#[derive(Clone, Debug, Default)]
struct Answer {
    connection: Option<String>,
    none: bool,
    missing: Option<String>,
    headers: BTreeMap<String, String>,
    expires_ms: Option<u64>,
    vary: Vec<String>,
    kept: BTreeMap<String, String>,
}

impl Resolution {
    /// An empty answer.
    pub fn new() -> Self {
        Self::default()
    }

    /// As the hook gets it.
    pub fn lend(&self) -> crate::Resolution<'_> {
        crate::Resolution(self)
    }

    /// The connection that was chosen.
    pub fn chosen(&self) -> Option<String> {
        self.0.borrow().connection.clone()
    }

    /// What is missing, in the plugin's words.
    pub fn missed(&self) -> Option<String> {
        self.0.borrow().missing.clone()
    }

    /// Whether the call needs no credential.
    pub fn needs_none(&self) -> bool {
        self.0.borrow().none
    }

    /// A header that was set, secrets included.
    pub fn header_value(&self, name: &str) -> Option<String> {
        self.0.borrow().headers.get(name).cloned()
    }

    /// Until when the answer may be used again.
    pub fn expiry_ms(&self) -> Option<u64> {
        self.0.borrow().expires_ms
    }

    /// What else the answer depends on.
    pub fn varies_on(&self) -> Vec<String> {
        self.0.borrow().vary.clone()
    }

    /// A secret that the plugin keeps beside the answer.
    pub fn kept(&self, name: &str) -> Option<String> {
        self.0.borrow().kept.get(name).cloned()
    }

    pub(crate) fn keep(&self, name: &str, value: &super::Secret) {
        self.0.borrow_mut().kept.insert(name.into(), value.text().into());
    }

    pub(crate) fn use_connection(&self, id: &str) {
        self.0.borrow_mut().connection = Some(id.into());
    }

    pub(crate) fn header(&self, name: &str, value: &str) {
        self.0.borrow_mut().headers.insert(name.into(), value.into());
    }

    pub(crate) fn none(&self) {
        self.0.borrow_mut().none = true;
    }

    pub(crate) fn missing(&self, need: &str) {
        self.0.borrow_mut().missing = Some(need.into());
    }

    pub(crate) fn expires(&self, at_ms: u64) {
        self.0.borrow_mut().expires_ms = Some(at_ms);
    }

    pub(crate) fn vary(&self, on: &str) {
        self.0.borrow_mut().vary.push(on.into());
    }
}
