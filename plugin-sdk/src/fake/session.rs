//! A fake of a client that comes in, and of what a provider fills in about itself.

use std::cell::RefCell;

use crate::Occasion;

/// A client that comes in, by default with a request of the latest revision.
#[derive(Clone, Debug)]
pub struct Session {
    occasion: Occasion,
    protocol: String,
    name: Option<String>,
    version: Option<String>,
    capabilities: String,
}

impl Default for Session {
    fn default() -> Self {
        Self::new(Occasion::Request)
    }
}

impl Session {
    /// A client without a name.
    pub fn new(occasion: Occasion) -> Self {
        Self { occasion, protocol: "2026-07-28".into(), name: None, version: None, capabilities: "{}".into() }
    }

    /// With the name and version that it gives itself.
    #[must_use]
    pub fn client(mut self, name: &str, version: &str) -> Self {
        (self.name, self.version) = (Some(name.into()), Some(version.into()));
        self
    }

    /// Speaking another revision.
    #[must_use]
    pub fn speaking(mut self, protocol: &str) -> Self {
        self.protocol = protocol.into();
        self
    }

    /// With what it can be asked, as JSON text.
    #[must_use]
    pub fn with_capabilities(mut self, json: impl ToString) -> Self {
        self.capabilities = json.to_string();
        self
    }

    /// As the hook gets it.
    pub fn lend(&self) -> crate::Session<'_> {
        crate::Session(self)
    }

    pub(crate) fn gateway(&self) -> String {
        "main".into()
    }

    pub(crate) fn occasion(&self) -> String {
        if self.occasion == Occasion::Initialize { "initialize" } else { "request" }.into()
    }

    pub(crate) fn protocol(&self) -> String {
        self.protocol.clone()
    }

    pub(crate) fn client_name(&self) -> Option<String> {
        self.name.clone()
    }

    pub(crate) fn client_version(&self) -> Option<String> {
        self.version.clone()
    }

    pub(crate) fn client_capabilities(&self) -> String {
        self.capabilities.clone()
    }

    pub(crate) fn deadline_ms(&self) -> u64 {
        30_000
    }

    pub(crate) fn request_id(&self) -> String {
        "fake-request".into()
    }
}

/// What a provider says of itself.
#[derive(Clone, Debug, Default)]
pub struct Metadata(RefCell<Vec<(&'static str, String)>>);

impl Metadata {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// As the hook gets it.
    pub fn lend(&self) -> crate::Metadata<'_> {
        crate::Metadata(self)
    }

    /// What was said, in order: `authorization-server`, `scope` or `documentation`, and the text.
    pub fn said(&self) -> Vec<(&'static str, String)> {
        self.0.borrow().clone()
    }

    pub(crate) fn authorization_server(&self, issuer: &str) {
        self.0.borrow_mut().push(("authorization-server", issuer.into()));
    }

    pub(crate) fn scope(&self, name: &str) {
        self.0.borrow_mut().push(("scope", name.into()));
    }

    pub(crate) fn documentation(&self, url: &str) {
        self.0.borrow_mut().push(("documentation", url.into()));
    }
}
