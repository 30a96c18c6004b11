//! Fakes of the caller, of a call and of its outcome.

use std::{cell::RefCell, collections::BTreeMap};

use super::patch;
use crate::Value;

/// A caller. Its kind is read off its subject.
#[derive(Clone, Debug)]
pub struct Caller {
    tenant: String,
    subject: String,
    teams: Vec<String>,
    roles: Vec<String>,
    groups: Vec<String>,
    claims: BTreeMap<String, Value>,
    headers: BTreeMap<String, String>,
    attributes: BTreeMap<String, Value>,
}

impl Caller {
    /// A caller by its subject, such as `user:alice`, in the tenant `default`. A team's token belongs to that team.
    pub fn new(subject: &str) -> Self {
        Self {
            tenant: "default".into(),
            subject: subject.into(),
            teams: subject.strip_prefix("team:").map(str::to_owned).into_iter().collect(),
            roles: Vec::new(),
            groups: Vec::new(),
            claims: BTreeMap::new(),
            headers: BTreeMap::new(),
            attributes: BTreeMap::new(),
        }
    }

    /// In another tenant.
    #[must_use]
    pub fn in_tenant(mut self, tenant: &str) -> Self {
        self.tenant = tenant.into();
        self
    }

    /// A member of a team.
    #[must_use]
    pub fn team(mut self, name: &str) -> Self {
        self.teams.push(name.into());
        self
    }

    /// Holding a role.
    #[must_use]
    pub fn role(mut self, name: &str) -> Self {
        self.roles.push(name.into());
        self
    }

    /// In a group of its identity provider.
    #[must_use]
    pub fn group(mut self, name: &str) -> Self {
        self.groups.push(name.into());
        self
    }

    /// With a claim.
    #[must_use]
    pub fn with_claim(mut self, name: &str, value: Value) -> Self {
        self.claims.insert(name.into(), value);
        self
    }

    /// With a request header (lower-case name).
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// With an attribute that an earlier hook set.
    #[must_use]
    pub fn with_attribute(mut self, key: &str, value: Value) -> Self {
        self.attributes.insert(key.into(), value);
        self
    }

    /// As the hook gets it.
    pub fn lend(&self) -> crate::Caller<'_> {
        crate::Caller(self)
    }

    pub(crate) fn tenant(&self) -> String {
        self.tenant.clone()
    }

    pub(crate) fn subject(&self) -> String {
        self.subject.clone()
    }

    pub(crate) fn kind(&self) -> String {
        self.subject.split(':').next().unwrap_or_default().to_owned()
    }

    pub(crate) fn teams(&self) -> Vec<String> {
        self.teams.clone()
    }

    pub(crate) fn roles(&self) -> Vec<String> {
        self.roles.clone()
    }

    pub(crate) fn groups(&self) -> Vec<String> {
        self.groups.clone()
    }

    pub(crate) fn claim(&self, name: &str) -> Option<Value> {
        self.claims.get(name).cloned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).cloned()
    }

    pub(crate) fn attribute(&self, key: &str) -> Option<Value> {
        self.attributes.get(key).cloned()
    }
}

/// A call of a tool.
#[derive(Clone, Debug)]
pub struct Call {
    gateway: String,
    server: String,
    tool: String,
    arguments: RefCell<String>,
    annotations: RefCell<BTreeMap<String, Value>>,
}

impl Call {
    /// A call of a server's tool without arguments, through the gateway `main`.
    pub fn new(server: &str, tool: &str) -> Self {
        Self {
            gateway: "main".into(),
            server: server.into(),
            tool: tool.into(),
            arguments: RefCell::new("{}".into()),
            annotations: RefCell::default(),
        }
    }

    /// Through another gateway.
    #[must_use]
    pub fn through(mut self, gateway: &str) -> Self {
        self.gateway = gateway.into();
        self
    }

    /// With arguments, as JSON text.
    #[must_use]
    pub fn with_arguments(mut self, json: impl ToString) -> Self {
        self.arguments = RefCell::new(json.to_string());
        self
    }

    /// As the hook gets it.
    pub fn lend(&self) -> crate::Call<'_> {
        crate::Call(self)
    }

    /// The arguments as the plugin's patches have left them.
    pub fn arguments_now(&self) -> String {
        self.arguments.borrow().clone()
    }

    /// An attribute that the plugin set.
    pub fn annotation(&self, key: &str) -> Option<Value> {
        self.annotations.borrow().get(key).cloned()
    }
}

/// What the wrapper asks.
impl Call {
    pub(crate) fn gateway(&self) -> String {
        self.gateway.clone()
    }

    pub(crate) fn server(&self) -> String {
        self.server.clone()
    }

    pub(crate) fn tool(&self) -> String {
        self.tool.clone()
    }

    pub(crate) fn exposed_tool(&self) -> String {
        format!("{}__{}", self.server, self.tool)
    }

    pub(crate) fn arguments(&self) -> Vec<u8> {
        self.arguments_now().into_bytes()
    }

    pub(crate) fn arguments_size(&self) -> u64 {
        self.arguments.borrow().len() as u64
    }

    pub(crate) fn argument(&self, pointer: &str) -> Option<String> {
        let json: serde_json::Value = serde_json::from_str(&self.arguments.borrow()).ok()?;
        json.pointer(pointer).map(ToString::to_string)
    }

    pub(crate) fn deadline_ms(&self) -> u64 {
        30_000
    }

    pub(crate) fn request_id(&self) -> String {
        "fake-request".into()
    }

    pub(crate) fn annotate(&self, key: &str, value: &Value) {
        self.annotations.borrow_mut().insert(key.into(), value.clone());
    }

    pub(crate) fn patch(&self, operations: &str) -> Result<(), String> {
        let patched = patch::apply(&self.arguments.borrow(), operations)?;
        *self.arguments.borrow_mut() = patched;
        Ok(())
    }
}

/// What a server answered.
#[derive(Clone, Debug)]
pub struct ToolOutcome(RefCell<String>);

impl ToolOutcome {
    /// A result object, as JSON text.
    pub fn new(json: impl ToString) -> Self {
        Self(RefCell::new(json.to_string()))
    }

    /// As the hook gets it.
    pub fn lend(&self) -> crate::ToolOutcome<'_> {
        crate::ToolOutcome(self)
    }

    /// The result as the plugin's patches have left it.
    pub fn content_now(&self) -> String {
        self.0.borrow().clone()
    }

    pub(crate) fn value(&self, pointer: &str) -> Option<String> {
        let json: serde_json::Value = serde_json::from_str(&self.0.borrow()).ok()?;
        json.pointer(pointer).map(ToString::to_string)
    }

    pub(crate) fn patch(&self, operations: &str) -> Result<(), String> {
        let patched = patch::apply(&self.0.borrow(), operations)?;
        *self.0.borrow_mut() = patched;
        Ok(())
    }

    pub(crate) fn is_error(&self) -> bool {
        let json: Option<serde_json::Value> = serde_json::from_str(&self.0.borrow()).ok();
        json.and_then(|json| json.get("isError")?.as_bool()).unwrap_or(false)
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        self.content_now().into_bytes()
    }

    pub(crate) fn content_size(&self) -> u64 {
        self.0.borrow().len() as u64
    }
}
