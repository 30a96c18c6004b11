//! Fakes of what policies are asked about beside calls of tools.

use std::{cell::RefCell, collections::BTreeMap};

use super::patch;
use crate::Value;

/// Attributes that a plugin set.
#[derive(Clone, Debug, Default)]
struct Annotations(RefCell<BTreeMap<String, Value>>);

impl Annotations {
    fn set(&self, key: &str, value: &Value) {
        self.0.borrow_mut().insert(key.into(), value.clone());
    }

    fn get(&self, key: &str) -> Option<Value> {
        self.0.borrow().get(key).cloned()
    }
}

fn pointed(json: &str, pointer: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(json).ok()?;
    json.pointer(pointer).map(ToString::to_string)
}

/// What every request has.
macro_rules! common {
    () => {
        /// An attribute that the plugin set.
        pub fn annotation(&self, key: &str) -> Option<Value> {
            self.annotations.get(key)
        }

        pub(crate) fn gateway(&self) -> String {
            "main".into()
        }

        pub(crate) fn server(&self) -> String {
            self.server.clone()
        }

        pub(crate) fn deadline_ms(&self) -> u64 {
            30_000
        }

        pub(crate) fn request_id(&self) -> String {
            "fake-request".into()
        }

        pub(crate) fn annotate(&self, key: &str, value: &Value) {
            self.annotations.set(key, value);
        }
    };
}

/// A resource that a client wants to read.
#[derive(Clone, Debug)]
pub struct Read {
    server: String,
    uri: String,
    purpose: &'static str,
    annotations: Annotations,
}

impl Read {
    /// A server's resource, to be read.
    pub fn new(server: &str, uri: &str) -> Self {
        Self { server: server.into(), uri: uri.into(), purpose: "read", annotations: Annotations::default() }
    }

    /// To be subscribed to instead.
    #[must_use]
    pub fn subscribing(mut self) -> Self {
        self.purpose = "subscribe";
        self
    }

    /// A template whose variable is completed instead.
    #[must_use]
    pub fn completing(mut self) -> Self {
        self.purpose = "complete";
        self
    }

    /// As the hook gets it.
    pub fn lend(&self) -> crate::Read<'_> {
        crate::Read(self)
    }

    pub(crate) fn uri(&self) -> String {
        self.uri.clone()
    }

    pub(crate) fn exposed_uri(&self) -> String {
        self.uri.clone()
    }

    pub(crate) fn purpose(&self) -> String {
        self.purpose.to_owned()
    }

    common!();
}

/// A prompt that a client wants.
#[derive(Clone, Debug)]
pub struct Prompt {
    server: String,
    name: String,
    arguments: RefCell<String>,
    purpose: &'static str,
    annotations: Annotations,
}

impl Prompt {
    /// A server's prompt, without arguments.
    pub fn new(server: &str, name: &str) -> Self {
        Self {
            server: server.into(),
            name: name.into(),
            arguments: RefCell::new("{}".into()),
            purpose: "get",
            annotations: Annotations::default(),
        }
    }

    /// With arguments, as JSON text.
    #[must_use]
    pub fn with_arguments(mut self, json: impl ToString) -> Self {
        self.arguments = RefCell::new(json.to_string());
        self
    }

    /// One of its arguments is completed instead.
    #[must_use]
    pub fn completing(mut self) -> Self {
        self.purpose = "complete";
        self
    }

    /// As the hook gets it.
    pub fn lend(&self) -> crate::Prompt<'_> {
        crate::Prompt(self)
    }

    /// The arguments as the plugin's patches have left them.
    pub fn arguments_now(&self) -> String {
        self.arguments.borrow().clone()
    }

    pub(crate) fn patch(&self, operations: &str) -> Result<(), String> {
        let patched = patch::apply(&self.arguments.borrow(), operations)?;
        *self.arguments.borrow_mut() = patched;
        Ok(())
    }

    pub(crate) fn name(&self) -> String {
        self.name.clone()
    }

    pub(crate) fn exposed_name(&self) -> String {
        format!("{}__{}", self.server, self.name)
    }

    pub(crate) fn purpose(&self) -> String {
        self.purpose.to_owned()
    }

    pub(crate) fn arguments(&self) -> Vec<u8> {
        self.arguments_now().into_bytes()
    }

    pub(crate) fn arguments_size(&self) -> u64 {
        self.arguments.borrow().len() as u64
    }

    pub(crate) fn argument(&self, pointer: &str) -> Option<String> {
        pointed(&self.arguments.borrow(), pointer)
    }

    common!();
}

/// What a server wants of a client.
#[derive(Clone, Debug)]
pub struct Question {
    server: String,
    method: String,
    params: RefCell<String>,
    tool: Option<String>,
    annotations: Annotations,
}

impl Question {
    /// A server's request without params, such as `roots/list`, outside of any call.
    pub fn new(server: &str, method: &str) -> Self {
        Self {
            server: server.into(),
            method: method.into(),
            params: RefCell::new("{}".into()),
            tool: None,
            annotations: Annotations::default(),
        }
    }

    /// With params, as JSON text.
    #[must_use]
    pub fn with_params(mut self, json: impl ToString) -> Self {
        self.params = RefCell::new(json.to_string());
        self
    }

    /// In the call of a tool.
    #[must_use]
    pub fn during(mut self, tool: &str) -> Self {
        self.tool = Some(tool.into());
        self
    }

    /// As the hook gets it.
    pub fn lend(&self) -> crate::Question<'_> {
        crate::Question(self)
    }

    /// The params as the plugin's patches have left them.
    pub fn params_now(&self) -> String {
        self.params.borrow().clone()
    }

    pub(crate) fn patch(&self, operations: &str) -> Result<(), String> {
        let patched = patch::apply(&self.params.borrow(), operations)?;
        *self.params.borrow_mut() = patched;
        Ok(())
    }

    pub(crate) fn method(&self) -> String {
        self.method.clone()
    }

    pub(crate) fn params(&self) -> Vec<u8> {
        self.params_now().into_bytes()
    }

    pub(crate) fn params_size(&self) -> u64 {
        self.params.borrow().len() as u64
    }

    pub(crate) fn param(&self, pointer: &str) -> Option<String> {
        pointed(&self.params.borrow(), pointer)
    }

    pub(crate) fn tool(&self) -> Option<String> {
        self.tool.clone()
    }

    common!();
}
